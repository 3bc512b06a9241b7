"""Unscale, check, clip and step: fused where the optimizer is ours, torch's classic sequence where it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from gradstep.optimizers import Optimizer
from gradstep.optimizers.table import parameter_names
from gradstep.optimizers.wrapped import innermost


@final
@dataclass(frozen=True)
class Applied:
    """What happened to the gradients.

    Attributes:
        stepped: False if one was not finite, and nothing was changed.
        grad_norm: the global 2-norm of the divided gradients, before clipping.
        clip: what clipping multiplied them by.
    """

    stepped: bool
    grad_norm: float
    clip: float = 1.0


@torch.no_grad()
def apply(optimizer: torch.optim.Optimizer, *, divisor: float, max_grad_norm: float | None) -> Applied:
    """Divide the gradients, and unless one is not finite, clip them and step.

    A gradstep optimizer does all of it in two passes over memory and leaves ``p.grad`` as it was; for others the
    gradients are read for their norm, and written to only if there is something to divide by or to clip.

    Args:
        optimizer: any of torch's kind.
        divisor: what the gradients are multiplied by, > 0.
        max_grad_norm: clip to this global 2-norm of the divided gradients.

    Returns:
        What happened.

    Raises:
        RuntimeError: there is no gradient at all.
    """
    found = gradients(optimizer)
    if not found:
        raise RuntimeError(
            "no parameter of the optimizer has a gradient at the window's end: the stepper clears gradients by "
            "itself, so do not call zero_grad(); and the loss must depend on the optimizer's parameters"
        )
    if isinstance(optimizer, Optimizer):
        optimizer.step(max_grad_norm=max_grad_norm, grad_scale=divisor)
        inner = innermost(optimizer)  # Lightning's wrapper says that it is one of ours, but the report is the other's
        assert isinstance(inner, Optimizer)
        report = inner.last_step
        assert report is not None
        assert report.grad_norm is not None
        return Applied(report.stepped, report.grad_norm, report.clip)
    norm = _norm(found) / divisor
    if not math.isfinite(norm):
        return Applied(stepped=False, grad_norm=norm)
    clip = 1.0 if max_grad_norm is None else min(1.0, max_grad_norm / (norm + 1e-6))  # torch's 1e-6
    if clip != divisor:
        torch._foreach_mul_(found, clip / divisor)
    optimizer.step()
    return Applied(stepped=True, grad_norm=norm, clip=clip)


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters of an optimizer, group by group."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients that there are, in the same order; of a sparse one, the numbers that it stores."""
    return [_values(p) for p in parameters(optimizer) if p.grad is not None]


def first_not_finite(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """The name of the first parameter whose gradient is not finite, in the model's order; then the optimizer's."""
    trained = set(parameters(optimizer))
    named = [(name, p) for name, p in model.named_parameters() if p in trained]
    known = {p for _, p in named}
    for index, group in enumerate(optimizer.param_groups):
        pairs = zip(parameter_names(group, index), group["params"], strict=True)
        named += [(name, p) for name, p in pairs if p not in known]
    return next(name for name, p in named if p.grad is not None and not bool(_values(p).isfinite().all()))


def _values(p: Tensor) -> Tensor:
    assert p.grad is not None
    if not p.grad.is_sparse:
        return p.grad
    p.grad = p.grad.coalesce()
    return p.grad._values()


def _norm(tensors: list[Tensor]) -> float:
    norms = torch._foreach_norm(tensors)
    norm = float(torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms])))
    if math.isinf(norm) and all(bool(g.isfinite().all()) for g in tensors):  # the squares left the range
        largest = max(float(g.abs().max()) for g in tensors if g.numel())
        return largest * math.sqrt(sum(float((g / largest).abs().square().sum()) for g in tensors))
    return norm
