"""Unscale, check, clip and step: fused where the optimizer is ours, torch's classic sequence where it is not."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from gradstep.engines.step import StepReport, clip_factor, norm_by_largest
from gradstep.optimizers import Optimizer
from gradstep.optimizers.arguments import parameter_names
from gradstep.optimizers.wrapped import innermost

Optimizers: TypeAlias = Sequence[torch.optim.Optimizer]
"""The optimizers that share one window, none of whose parameters is in two of them."""


@torch.no_grad()
def apply(optimizers: Optimizers, *, divisor: float, max_grad_norm: float | None) -> StepReport:
    """Divide the gradients, and unless one is not finite, clip them and step every optimizer.

    A single gradstep optimizer does all of it in two passes over memory and leaves ``p.grad`` as it was. Else the
    gradients are read once for the norm over all optimizers, and those of torch's optimizers are written to only if
    there is something to divide by or to clip.

    Args:
        optimizers: any of torch's kind; one norm is taken over all their gradients.
        divisor: what the gradients are divided by, > 0.
        max_grad_norm: clip to this global 2-norm of the divided gradients.

    Returns:
        What happened, with its ``grad_norm``.

    Raises:
        RuntimeError: there is no gradient at all.
    """
    found = gradients(optimizers)
    if not found:
        raise RuntimeError(
            "no parameter of the optimizer has a gradient at the window's end: the loss must depend on the "
            "optimizer's parameters, and they must require gradients"
        )
    if len(optimizers) == 1 and isinstance(optimizers[0], Optimizer):
        optimizers[0].step(max_grad_norm=max_grad_norm, grad_scale=divisor)
        inner = innermost(optimizers[0])  # Lightning's wrapper takes over our class, but the report is the inner one's
        assert isinstance(inner, Optimizer)
        report = inner.last_step
        assert report is not None
        return report
    norm = _norm(found) / divisor
    if not math.isfinite(norm):
        return StepReport(stepped=False, grad_norm=norm)
    clip = 1.0 if max_grad_norm is None else clip_factor(norm, max_grad_norm)
    for optimizer in optimizers:
        if isinstance(optimizer, Optimizer):
            optimizer.step(grad_scale=divisor / clip)
            continue
        if clip != divisor and (own := gradients([optimizer])):
            torch._foreach_mul_(own, clip / divisor)
        optimizer.step()
    return StepReport(stepped=True, grad_norm=norm, clip=clip)


def parameters(optimizers: Optimizers) -> list[Tensor]:
    """All parameters, optimizer by optimizer and group by group."""
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


def checked_parameters(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    """All parameters of the optimizers, which are known to be of the kind that a stepper can step.

    Raises:
        TypeError: no optimizer, or one that needs a closure.
        ValueError: none at all, or a parameter in two of them.
    """
    if not optimizers:
        raise ValueError("the list of optimizers is empty: give at least one")
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer or a list of them, not {optimizer!r}")
        kind = type(innermost(optimizer))
        closure = inspect.signature(kind.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise TypeError(
                f"{kind.__name__}.step needs a closure that computes the loss again, as often as it likes, and a "
                "window is computed once: call optimizer.step(closure) in a loop of your own"
            )
    params = parameters(optimizers)
    if len(optimizers) > 1 and len(set(params)) < len(params):
        twice = next(p for k, p in enumerate(params) if p in set(params[:k]))
        raise ValueError(f"{names_of(model, optimizers)[twice]} is in two optimizers, and would be updated by both")
    return params


def gradients(optimizers: Optimizers) -> list[Tensor]:
    """The gradients that there are, in the same order; of a sparse one, the numbers that it stores."""
    return [_values(p) for p in parameters(optimizers) if p.grad is not None]


@torch.no_grad()
def gradient_norms(optimizers: Optimizers) -> Tensor:
    """The 2-norm of the gradient of every parameter, 0 where there is none; shape (number of parameters,)."""
    params = parameters(optimizers)
    present = [k for k, p in enumerate(params) if p.grad is not None]
    norms = torch.zeros(len(params), device=params[0].device)
    if present:
        found = torch._foreach_norm([_values(params[k]) for k in present])
        norms[present] = torch.stack([n.to(norms) for n in found])
    return norms


def find_cleared(model: nn.Module, optimizers: Optimizers, before: Tensor | None) -> list[str]:
    """The names of the parameters whose gradient was not zero and is zero, or gone.

    It does not matter whether ``zero_grad`` of the optimizer or of the model did it, nor whether it set gradients to
    None or to zero. Any other change is the user's own affair.

    Args:
        model: gives the names.
        optimizers: whose parameters.
        before: what :func:`gradient_norms` found earlier; None if there was nothing to clear.
    """
    if before is None:
        return []
    gone = (before != 0) & (gradient_norms(optimizers) == 0)
    if not bool(gone.any()):
        return []
    names = names_of(model, optimizers)
    return [names[p] for p, lost in zip(parameters(optimizers), gone.tolist(), strict=True) if lost]


def names_of(model: nn.Module, optimizers: Optimizers) -> dict[Tensor, str]:
    """The name of every parameter that is trained, in the model's order, then in the optimizers'."""
    trained = set(parameters(optimizers))
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters() if p in trained}
    for optimizer in optimizers:
        for index, group in enumerate(optimizer.param_groups):
            for name, p in zip(parameter_names(group, index), group["params"], strict=True):
                names.setdefault(p, name)
    return names


def first_not_finite(model: nn.Module, optimizers: Optimizers) -> str:
    """The name of the first parameter whose gradient is not finite, in the model's order; then the optimizers'."""
    named = names_of(model, optimizers).items()
    return next(name for p, name in named if p.grad is not None and not bool(_values(p).isfinite().all()))


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
        return norm_by_largest(largest, lambda by: sum(float((g / by).abs().square().sum()) for g in tensors))
    return norm
