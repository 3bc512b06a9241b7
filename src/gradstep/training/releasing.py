"""Updates of a stepper whose gradients are released: each parameter's is made in the backward pass."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from gradstep.optimizers import Optimizer
from gradstep.optimizers.released import GradientRelease, start_release
from gradstep.optimizers.wrapped import innermost
from gradstep.training.outcome import UpdateOutcome


def check_released(
    optimizers: Sequence[torch.optim.Optimizer], accumulate: int, max_grad_norm: float | None, precision: str
) -> None:
    """Raise ValueError for what needs all gradients at once, and TypeError for other libraries' optimizers."""
    refused = {
        f"accumulate={accumulate}": accumulate > 1,
        f"max_grad_norm={max_grad_norm}": max_grad_norm is not None,
        f"precision={precision!r}": precision == "float16",
        f"{len(optimizers)} optimizers": len(optimizers) > 1,
    }
    if wrong := [what for what, is_refused in refused.items() if is_refused]:
        raise ValueError(
            f"release_gradients=True does not work with {' and '.join(wrong)}: each gradient is gone when the next one "
            "is computed, so they cannot be added up, clipped by their global norm, or skipped together. One "
            "gradstep optimizer may hold several rules; RMS-clipped rules (StableAdamW, Adafactor) bound each "
            "parameter's own update; bfloat16 needs no loss scale"
        )
    if not isinstance(inside := innermost(optimizers[0]), Optimizer):
        raise TypeError(f"release_gradients=True is for gradstep's optimizers, not for {type(inside).__name__}")


@final
class Releaser:
    """The release of the gradients of a stepper's optimizer.

    Args:
        model: gives the names in messages.
        optimizer: a gradstep optimizer, or a wrapper of one; a release that it has already ends.

    Raises:
        ValueError: the gradients cannot be released; see :func:`gradstep.release_gradients`.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        inside = innermost(optimizer)
        assert isinstance(inside, Optimizer), "check_released() has refused others"
        if (before := GradientRelease.of(inside)) is not None:
            before.remove()
        names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self._names = list(names.values())
        self._release = start_release(inside, names, measured=True)

    def check(self) -> None:
        """Raise RuntimeError if the release has ended."""
        if GradientRelease.of(self._optimizer) is not self._release:
            raise RuntimeError(
                "the gradients are not released any more (remove() was called, or another release took its place): "
                "make the stepper anew"
            )

    def update(self, loss: Tensor, weight: float, update: int) -> UpdateOutcome:
        """Compute the gradients of a loss, and update each parameter with its own at once.

        A loss that is not finite has no backward pass. A parameter whose gradient is not finite keeps its weights and
        state; the update counts if any parameter was updated.

        Args:
            loss: one number.
            weight, update: for the outcome.
        """
        lr, value = float(self._optimizer.param_groups[0]["lr"]), float(loss.detach())
        if not math.isfinite(value):
            reason = "the loss is not finite"
            return UpdateOutcome(False, update, 1, weight, value, lr, grad_norm=math.nan, reason=reason)
        loss.backward()
        norms = dict(self._release.norms)
        self._optimizer.step()
        if not norms:
            raise RuntimeError(
                "no parameter of the optimizer has a gradient: the loss must depend on the optimizer's parameters, "
                "and they must require gradients"
            )
        bad = {name for name, norm in norms.items() if not math.isfinite(norm)}
        first = next((name for name in self._names if name in bad), next(iter(bad), None))
        reason = "" if first is None else f"the gradient of {first} is not finite"
        norm = math.hypot(*norms.values())
        stepped = len(bad) < len(norms)
        return UpdateOutcome(stepped, update, 1, weight, value, lr, norm, reason=reason, parameter=first)

    def discard(self) -> None:
        """Discard the rest of an update whose backward pass raised."""
        self._release.discard()
