"""Unscale, check, clip and step: inside a gradstep optimizer's step, or by torch operations for other optimizers."""

import inspect
import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from gradstep.engines.statistics import StepReport
from gradstep.engines.step import compute_clip_factor, correct_overflow
from gradstep.optimizers import Optimizer
from gradstep.optimizers.arguments import parameter_names
from gradstep.optimizers.memory import is_distributed, local_tensor
from gradstep.optimizers.released import GradientRelease
from gradstep.optimizers.sharded import ShardedParameter
from gradstep.optimizers.wrapped import innermost
from gradstep.training.peers import Peers

Optimizers: TypeAlias = Sequence[torch.optim.Optimizer]
"""The optimizers that share one window; no parameter is in two of them."""


@torch.no_grad()
def apply(optimizers: Optimizers, peers: Peers, *, divisor: float, max_grad_norm: float | None) -> StepReport:
    """Divide the gradients; if all of them are finite, clip them and step every optimizer.

    A single gradstep optimizer does all of it in two passes over memory and leaves ``p.grad`` unchanged. Otherwise the
    gradients are read once for the norm over all optimizers, and gradients of torch's optimizers are written to only
    if they have to be divided or clipped. Of distributed parameters, one number is then added up over all processes.

    Args:
        optimizers: instances of ``torch.optim.Optimizer``; one norm is taken over all their gradients.
        peers: the processes that have the other parts of distributed parameters.
        divisor: what the gradients are divided by, > 0.
        max_grad_norm: clip to this global 2-norm of the divided gradients.

    Returns:
        The report of the step, with its ``grad_norm``.

    Raises:
        RuntimeError: no parameter has a gradient.
    """
    grads = list_gradients(optimizers)
    if not grads:
        raise RuntimeError(
            "no parameter of the optimizer has a gradient at the window's end: the loss must depend on the "
            "optimizer's parameters, and they must require gradients"
        )
    if len(optimizers) == 1 and isinstance(optimizers[0], Optimizer):
        optimizers[0].step(max_grad_norm=max_grad_norm, grad_scale=divisor)
        inner = innermost(optimizers[0])  # Lightning's wrapper has our class, but the inner optimizer has the report
        assert isinstance(inner, Optimizer)
        report = inner.last_step
        assert report is not None
        return report
    norm = (_compute_norm_of_all(optimizers, peers) if peers.sharded else _compute_norm(grads)) / divisor
    if not math.isfinite(norm):
        return StepReport(stepped=False, grad_norm=norm)
    clip = 1.0 if max_grad_norm is None else compute_clip_factor(norm, max_grad_norm)
    for optimizer in optimizers:
        if isinstance(optimizer, Optimizer):
            optimizer.step(grad_scale=divisor / clip)
            continue
        if clip != divisor and (own_grads := list_gradients([optimizer])):
            torch._foreach_mul_(own_grads, clip / divisor)
        optimizer.step()
    return StepReport(stepped=True, grad_norm=norm, clip=clip)


def list_all_parameters(optimizers: Optimizers) -> list[Tensor]:
    """Return all parameters, optimizer by optimizer and group by group."""
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


def check_optimizers(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], *, released: bool = False
) -> list[Tensor]:
    """Check that a stepper can step these optimizers, and return all their parameters.

    Args:
        model: the model that they train.
        optimizers: a stepper's optimizers.
        released: whether the stepper releases their gradients.

    Raises:
        TypeError: not an optimizer, or one that needs a closure.
        ValueError: an empty list, a parameter in two optimizers, or an optimizer whose gradients are released.
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
        if not released and GradientRelease.of(optimizer) is not None:
            raise ValueError(
                "the gradients of this optimizer are released (gradstep.release_gradients), and this stepper checks "
                "all gradients together: make it with release_gradients=True, or call remove() of the release first"
            )
    params = list_all_parameters(optimizers)
    if len(optimizers) > 1 and len(set(params)) < len(params):
        twice = next(p for k, p in enumerate(params) if p in set(params[:k]))
        raise ValueError(
            f"{name_parameters(model, optimizers)[twice]} is in two optimizers, and would be updated by both"
        )
    return params


def list_gradients(optimizers: Optimizers) -> list[Tensor]:
    """Return this process's gradients that are not None, in the order of the parameters; the values of sparse ones."""
    return [_gradient_values(p) for p in list_all_parameters(optimizers) if p.grad is not None]


@torch.no_grad()
def gradient_norms(optimizers: Optimizers) -> Tensor:
    """Return the 2-norm of every parameter's gradient, 0 where it is None; shape (number of parameters,)."""
    params = list_all_parameters(optimizers)
    present = [k for k, p in enumerate(params) if p.grad is not None]
    norms = torch.zeros(len(params), device=params[0].device)
    if present:
        present_norms = torch._foreach_norm([_gradient_values(params[k]) for k in present])
        norms[present] = torch.stack([n.to(norms) for n in present_norms])
    return norms


def find_cleared(model: nn.Module, optimizers: Optimizers, before: Tensor | None) -> list[str]:
    """Return the names of the parameters that had a nonzero gradient and now have a gradient of zero or None.

    This finds ``zero_grad`` of the optimizer and of the model, with and without ``set_to_none``. Other changes to
    gradients are allowed. ``before`` is an earlier result of :func:`gradient_norms`, shape (number of parameters,), or
    None if there were no gradients yet.
    """
    if before is None:
        return []
    is_cleared = (before != 0) & (gradient_norms(optimizers) == 0)
    if not bool(is_cleared.any()):
        return []
    names = name_parameters(model, optimizers)
    return [names[p] for p, lost in zip(list_all_parameters(optimizers), is_cleared.tolist(), strict=True) if lost]


def name_parameters(model: nn.Module, optimizers: Optimizers) -> dict[Tensor, str]:
    """Return the name of every trained parameter: the model's in its order, then those only the optimizers hold."""
    trained = set(list_all_parameters(optimizers))
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters() if p in trained}
    for optimizer in optimizers:
        for index, group in enumerate(optimizer.param_groups):
            for name, p in zip(parameter_names(group, index), group["params"], strict=True):
                names.setdefault(p, name)
    return names


def find_first_nonfinite(model: nn.Module, optimizers: Optimizers, peers: Peers) -> str:
    """Return the name of the first parameter with a non-finite gradient, in the order of :func:`name_parameters`.

    Some process must have one; all return the same.
    """
    names = name_parameters(model, optimizers)
    bad = (k for k, p in enumerate(names) if p.grad is not None and not bool(_gradient_values(p).isfinite().all()))
    return list(names.values())[int(peers.smallest(next(bad, len(names))))]


def _gradient_values(p: Tensor) -> Tensor:
    """Return the gradient in the shape of p: of a distributed one, this process's part; of a sparse one, its values."""
    assert p.grad is not None
    if not p.grad.is_sparse:
        return local_tensor(p.grad)
    p.grad = p.grad.coalesce()
    return p.grad._values()


def _compute_norm(tensors: list[Tensor]) -> float:
    """Return the global 2-norm of tensors of any shapes."""
    norms = torch._foreach_norm(tensors)
    norm = float(torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms])))
    return correct_overflow(
        norm,
        lambda: max(float(g.abs().max()) for g in tensors if g.numel()),
        lambda divisor: sum(float((g / divisor).abs().square().sum()) for g in tensors),
    )


def _compute_norm_of_all(optimizers: Optimizers, peers: Peers) -> float:
    """Return the global 2-norm of gradients of which each process has parts; the same number in all of them.

    Where several processes have the same part, each of them counts its share of it.
    """
    params = [p for p in list_all_parameters(optimizers) if p.grad is not None]
    for p in params:  # gradients of tensor parallelism may be summands
        g = p.grad
        if is_distributed(p) and g is not None and is_distributed(g) and g.placements != p.placements:
            p.grad = g.redistribute(placements=p.placements)
    grads = [_gradient_values(p) for p in params]
    grads = [torch.view_as_real(g) if g.is_complex() else g for g in grads]
    places = [ShardedParameter(p, "", {}).place if is_distributed(p) else None for p in params]
    parts = [1 if place is None else math.prod(map(place.mesh.size, place.dims)) for place in places]
    shares = torch.tensor([n / peers.count for n in parts], dtype=torch.float64, device=grads[0].device)

    def sum_squares(divisor: float) -> float:
        norms = [torch.linalg.vector_norm(g if divisor == 1 else g / divisor, dtype=torch.float64) for g in grads]
        return peers.add_up(float(torch.stack(norms).square() @ shares))

    def find_largest() -> float:
        return -peers.smallest(-max((float(g.abs().max()) for g in grads if g.numel()), default=0.0))

    return correct_overflow(math.sqrt(sum_squares(1.0)), find_largest, sum_squares)
