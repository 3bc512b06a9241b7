"""Gradients released in the backward pass: each parameter is updated, and its gradient freed, as it is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, final
from weakref import ReferenceType, WeakKeyDictionary, finalize, ref

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from gradstep.optimizers.arguments import parameter_names
from gradstep.optimizers.front import Optimizer
from gradstep.optimizers.memory import is_distributed
from gradstep.optimizers.wrapped import innermost
from gradstep.warn import warn_user

_RELEASES: WeakKeyDictionary[Optimizer, ReferenceType[GradientRelease]] = WeakKeyDictionary()
# Weak references: the hooks of the parameters keep a release. It does not keep its optimizer, with which it ends.


@final
class GradientRelease:
    """The handle of :func:`release_gradients`; as a context manager it ends the release with its block.

    The release also ends with its optimizer, when nothing refers to that any more.

    Args:
        optimizer: the optimizer; :func:`release_gradients` has checked that its gradients can be released.
        names: its parameters, with their names for messages.
        measured: measure each gradient, and do not update its parameter if it is not finite.

    Attributes:
        norms: the 2-norms of the measured gradients since the last ``optimizer.step()``, by their parameters' names.

    >>> import torch, gradstep
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = gradstep.SGD(model.parameters(), lr=0.1)
    >>> with gradstep.release_gradients(model, optimizer):
    ...     model(torch.ones(3, 2)).sum().backward()
    ...     print(model.weight.grad)
    ...     optimizer.step()
    None
    """

    def __init__(self, optimizer: Optimizer, names: Mapping[Tensor, str], *, measured: bool = False) -> None:
        self._optimizer, self._names = ref(optimizer), names
        self._grad_scale = 1.0 if measured else None
        self.norms: dict[str, float] = {}
        self._updated: set[Tensor] = set()
        self._is_complete = self._ends = False
        self._hidden: dict[Tensor, Tensor] = {}
        self._handles: list[Any] = []
        params = [p for p in names if p.requires_grad]
        if not params:
            raise ValueError("no parameter of the optimizer requires a gradient, so there is none to release")
        # torch promises no sign of the end of a backward pass, but a hook that is called when all gradients have been
        # computed. It keeps them until then: it is given placeholders without memory, so that they can be freed.
        add = self._handles.append
        for p in params:
            add(p.register_hook(self._hider(p)))
        add(register_multi_grad_hook(params, self._expect_last, mode="all"))
        for p in params:
            add(p.register_hook(self._shower(p)))
            add(p.register_post_accumulate_grad_hook(self._update))
        add(optimizer.register_step_pre_hook(self._before_step))
        add(optimizer.register_step_post_hook(self._after_step))
        add(optimizer.register_state_dict_pre_hook(self._before_save))
        finalize(optimizer, _remove_hooks, self._handles).atexit = False

    @staticmethod
    def of(optimizer: torch.optim.Optimizer) -> GradientRelease | None:
        """Return the handle of an optimizer whose gradients are released, or None.

        Args:
            optimizer: any optimizer, or a wrapper of one.
        """
        inside = innermost(optimizer)
        release = _RELEASES.get(inside) if isinstance(inside, Optimizer) else None
        return None if release is None else release()

    def __enter__(self) -> GradientRelease:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """End the release: later backward passes leave their gradients to ``optimizer.step()`` again."""
        _remove_hooks(self._handles)
        if (optimizer := self._optimizer()) is not None:
            _RELEASES.pop(optimizer, None)

    def discard(self) -> None:
        """Discard the rest of an update whose backward pass raised: clear the gradients, keep the weights as they are.

        The parameters that were updated stay one update ahead of the others. To have none ahead, also load the model
        and the optimizer from a checkpoint.
        """
        self._updated.clear()
        self._hidden.clear()
        self.norms.clear()
        self._is_complete = self._ends = False
        if (optimizer := self._optimizer()) is not None:
            optimizer.zero_grad()

    # -- hooks of the backward pass ------------------------------------------------------------------------------

    def _hider(self, p: Tensor) -> Callable[[Tensor], Tensor]:
        def hide(gradient: Tensor) -> Tensor:
            self._hidden[p] = gradient
            return gradient.new_zeros(()).expand_as(gradient)

        return hide

    def _shower(self, p: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda _: self._hidden.pop(p)

    def _expect_last(self, _: Sequence[Tensor | None]) -> None:
        self._ends = True

    def _update(self, p: Tensor) -> None:
        ends, self._ends = self._ends, False
        optimizer = self._optimizer()
        if optimizer is None:
            return
        try:
            self._check_update(p, optimizer)
            optimizer._step(grad_scale=self._grad_scale)  # of all parameters only this one has a gradient now
            if (report := optimizer.last_step) is not None and report.grad_norm is not None:
                self.norms[self._names[p]] = report.grad_norm
        finally:  # also after an error: the next backward pass would add to the gradient of this one
            p.grad = None
        self._updated.add(p)
        self._is_complete = ends

    def _check_update(self, p: Tensor, optimizer: Optimizer) -> None:
        """Refuse a second gradient, statistics, and gradients that were not released."""
        name = self._names[p]
        if p in self._updated:
            self._check_whole("take another backward pass")
            raise RuntimeError(
                f"{name} has a second gradient since the last optimizer.step(), and its first has updated it already: "
                "call optimizer.step() after every backward pass; to add up gradients of several, do not release them; "
                f"if another optimizer steps in place of this {type(optimizer).__name__}, end the release with "
                "gradstep.GradientRelease.of(optimizer).remove()"
            )
        if optimizer.watch is not None or optimizer._observers:
            raise RuntimeError(_WATCHED)
        for group in optimizer.param_groups:  # also parameters that were added since
            for other in group["params"]:
                if other is not p and other.grad is not None:
                    its = self._names.get(other, f"a parameter of shape {tuple(other.shape)} that was added later")
                    raise RuntimeError(
                        f"{its} has a gradient that was not released: clear it with optimizer.zero_grad(); if it "
                        "required no gradient before or was added later, remove() the release and call "
                        "release_gradients() again"
                    )

    # -- hooks of the optimizer ----------------------------------------------------------------------------------

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._check_whole("call optimizer.step()")
        scale = optimizer.grad_scale
        if any(value is not None for value in named.values() if value is not named.get("closure")) or scale != 1.0:
            raise ValueError(
                "gradients are released one by one, so they cannot be clipped by their global norm, unscaled or "
                "skipped together: call step() without max_grad_norm and grad_scale, and without a GradScaler"
            )

    def _after_step(self, *_: Any) -> None:
        self._updated.clear()
        self.norms.clear()
        self._is_complete = False

    def _before_save(self, _: Any) -> None:
        self._check_whole("save")

    def _check_whole(self, verb: str) -> None:
        if self._updated and not self._is_complete:
            count, last = len(self._updated), self._names[next(iter(self._updated))]
            raise RuntimeError(
                f"cannot {verb}: the backward pass did not reach its end, and {count} of {len(self._names)} parameters "
                f"(such as {last}) are one update ahead of the others. Call discard() of the release to go on from "
                "these weights, and load model and optimizer from a checkpoint to go back. If nothing was raised: "
                "torch.utils.checkpoint hides the end of the pass, unless it is called with use_reentrant=False"
            )


def _remove_hooks(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()


_WATCHED = (
    "statistics of a step (watch, gradstep.Monitor) are of all parameters together, and released gradients are gone "
    "one by one: set watch to None and remove the monitor, or do not release gradients"
)


def release_gradients(model: nn.Module, optimizer: torch.optim.Optimizer) -> GradientRelease:
    """Update each parameter, and free its gradient, as soon as the backward pass has completed that gradient.

    Only the gradients that the backward pass works on are in memory, not those of all parameters. The result is bit
    for bit that of ``backward()`` and ``step()``, for every rule, engine and precision of state. ``optimizer.step()``
    is called after each backward pass as always and ends the update: hooks of the step and schedulers see one step.
    Call it once per backward pass. A parameter without a gradient is not updated.

    What needs all gradients at once is refused: clipping by the global norm, ``GradScaler``, several backward passes
    per step, statistics (``watch``, :class:`gradstep.Monitor`), several processes, and paged state.
    :class:`gradstep.Stepper` releases them itself: ``Stepper(..., release_gradients=True)``.

    ``torch.utils.checkpoint`` works with ``use_reentrant=False``. ``torch.autograd.grad`` for the parameters themselves
    raises an error of torch while they are released.

    If a backward pass raises half-way, the parameters that it reached are one update ahead. The next step, save or
    backward pass then raises an error that says so; :meth:`GradientRelease.discard` goes on.

    Args:
        model: the model whose parameters the optimizer updates, all or some; it gives the names in messages.
        optimizer: a gradstep optimizer.

    Returns:
        The handle, whose ``remove()`` undoes the release, as do the end of its ``with`` block and the optimizer's end.

    Raises:
        TypeError: not a module, or not an optimizer of gradstep.
        ValueError: the optimizer has no parameter of the model; its gradients cannot be released, or are released
            already, or are there from before.

    >>> import torch, gradstep
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = gradstep.AdamW(model.named_parameters())
    >>> release = gradstep.release_gradients(model, optimizer)
    >>> model(torch.ones(3, 2)).sum().backward()
    >>> model.weight.grad is None, int(optimizer.state[model.weight]["step"])
    (True, 1)
    >>> optimizer.step()
    >>> release.remove()
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {model!r}")
    inside = innermost(optimizer)
    if not isinstance(inside, Optimizer):
        raise TypeError(f"release_gradients() is for gradstep's optimizers, not for {type(inside).__name__}")
    own: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    if own.keys().isdisjoint(p for group in inside.param_groups for p in group["params"]):
        raise ValueError("the optimizer has no parameter of this model: make it with model.named_parameters()")
    return start_release(inside, own)


def start_release(
    optimizer: Optimizer, names: Mapping[Tensor, str] = MappingProxyType({}), *, measured: bool = False
) -> GradientRelease:
    """Release the gradients of an optimizer, for :func:`release_gradients`.

    Args:
        optimizer: the optimizer.
        names: names of its parameters for messages; the groups' own names stand for those that are missing.
        measured: as for :class:`GradientRelease`.

    A release of another optimizer that has one of the parameters ends, with a warning.

    Raises:
        ValueError: its gradients cannot be released, or are released already, or are there from before.
    """
    if GradientRelease.of(optimizer) is not None:
        raise ValueError("the gradients of this optimizer are released already: call remove() of that release first")
    names = {
        p: names.get(p, name)
        for index, group in enumerate(optimizer.param_groups)
        for name, p in zip(parameter_names(group, index), group["params"], strict=True)
    }
    if any(map(is_distributed, names)) or (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        raise ValueError(
            "gradients cannot be released with several processes, which exchange them after they have been computed"
        )
    if optimizer._paged is not None:
        raise ValueError("gradients cannot be released with paged state, whose files are written once per step")
    if optimizer.watch is not None or optimizer._observers:
        raise ValueError(_WATCHED)
    if present := [name for p, name in names.items() if p.grad is not None]:
        raise ValueError(
            f"{present[0]} has a gradient from before: call zero_grad() of the model or the optimizer first"
        )
    for other in [release for reference in _RELEASES.values() if (release := reference()) is not None]:
        if shared := [name for p, name in names.items() if p in other._names]:
            other.remove()
            warn_user(
                f"{shared[0]} was updated in the backward pass by another {type(other._optimizer()).__name__}: that "
                "release has ended, and this one takes its place"
            )
    release = GradientRelease(optimizer, names, measured=measured)
    _RELEASES[optimizer] = ref(release)
    return release
