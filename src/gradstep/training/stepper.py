"""The stepper: one object owns the window from the first micro-batch to the cleared gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import copy, deepcopy
from typing import Any, Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from gradstep.optimizers.wrapped import innermost
from gradstep.schedules import Schedule
from gradstep.training.applying import apply, first_not_finite, gradients, parameters
from gradstep.training.driver import Driver, driver_of
from gradstep.training.outcome import UpdateOutcome
from gradstep.training.peers import Peers
from gradstep.training.scaling import LossScale, fp16_scale
from gradstep.training.window import Window

Precision: TypeAlias = Literal["float32", "bf16", "fp16"]

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What the forward pass computes in, by name."""


@final
class Stepper:
    r"""Accumulate, unscale, check, clip, step, advance the schedule, clear: in this order, and in no other.

    A *window* is the micro-batches of one update. With losses :math:`\ell_k`, each the mean over :math:`w_k` items,
    the update uses the gradient of

    .. math:: L = \frac{\sum_k w_k\,\ell_k}{\sum_k w_k}

    over the micro-batches that there *were*: unequal ones, and a last window that is not full, give the very gradient
    of one large batch. (Dividing each loss by the planned number of micro-batches does not.) Under
    DistributedDataParallel both sums run over all processes, and gradients are exchanged in the last micro-batch only.

    A window whose gradient is not finite is skipped: weights, optimizer state and schedule stay bit for bit.

    Args:
        model: what is trained; its parameters say the device, and give names to the gradients that are not finite.
        optimizer: any ``torch.optim.Optimizer``. gradstep's do the window's end in two passes over memory.
        schedule: of the learning rate, by the number of the update (see :mod:`gradstep.schedules`); or a
            :class:`gradstep.Scheduler` or any ``LRScheduler`` of torch. It is advanced once per update that was made.
        accumulate: micro-batches in a full window, ≥ 1.
        max_grad_norm: clip the gradient of L to this global 2-norm, > 0; None does not clip.
        precision: of the forward pass: ``"float32"`` (the model's own), ``"bf16"``, or ``"fp16"``, which scales the
            loss by ``torch.amp.GradScaler``. The weights stay what they are: float32.
        scaler: a GradScaler with settings of your own; only with ``"fp16"``.

    Raises:
        ValueError: a setting out of its bounds, weights in fp16, a schedule made for another optimizer, or one
            schedule for groups whose learning rates differ.
        TypeError: something that is no schedule, or one that needs a metric.
        NotImplementedError: a sharded model (FSDP).

    Example:
        >>> import torch, gradstep
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> stepper = gradstep.Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), accumulate=2)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(0.0)
        >>> for x in (torch.tensor([[1.0]]), torch.tensor([[2.0], [3.0], [4.0]])):  # one item, then three
        ...     with stepper.autocast():
        ...         loss = (model(x) - 1).square().mean()
        ...     outcome = stepper.backward(loss, weight=len(x))
        >>> print(outcome)  # the gradient is -2 times the mean of 1, 2, 3 and 4
        update 0: loss 1, gradient norm 5, lr 0.1
        >>> model.weight.item()
        0.5

    Source: Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, for loss scaling; Pascanu et al., "On the
    difficulty of training recurrent neural networks", arXiv:1211.5063, for clipping by the global norm.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Schedule | Driver | None = None,
        accumulate: int = 1,
        max_grad_norm: float | None = None,
        precision: Precision = "float32",
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        params = parameters(optimizer)
        if accumulate < 1 or accumulate != int(accumulate):
            raise ValueError(f"Invalid accumulate: {accumulate} (must be a whole number of at least 1)")
        if max_grad_norm is not None and not (max_grad_norm > 0 and math.isfinite(max_grad_norm)):
            raise ValueError(f"Invalid max_grad_norm: {max_grad_norm} (must be finite and greater than 0, or None)")
        if precision not in PRECISIONS:
            raise ValueError(f"Invalid precision: {precision!r} (choose from {', '.join(map(repr, PRECISIONS))})")
        if precision == "fp16":
            self._scale = fp16_scale(params, scaler)
        elif scaler is not None:
            raise ValueError(f"a scaler is of use with precision='fp16' only, not with {precision!r}")
        self._peers = Peers(model)
        self._device = params[0].device
        self._precision = precision
        self._model = model
        self._optimizer = optimizer
        self._schedule = driver_of(schedule, optimizer)
        self._max_grad_norm = max_grad_norm
        self._window = Window(int(accumulate))
        self._updates = 0

    _scale: LossScale | None = None
    _unit: float | None = None
    """The weight of the run's first micro-batch: weights are taken relative to it, so that the gradients of fp16 have
    the size that they have with the loss divided by the number of micro-batches."""

    # -- what there is to see ------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether there are micro-batches that no update has used yet."""
        return self._window.open

    @property
    def updates(self) -> int:
        """Updates made so far; skipped ones are not counted."""
        return self._updates

    @property
    def model(self) -> nn.Module:
        """The model that it trains."""
        return self._model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that it steps."""
        return self._optimizer

    @property
    def schedule(self) -> Driver | None:
        """What moves the learning rate; a pure schedule has become a :class:`gradstep.Scheduler`."""
        return self._schedule

    @property
    def accumulate(self) -> int:
        """Micro-batches in a full window."""
        return self._window.size

    @property
    def precision(self) -> Precision:
        """Of the forward pass."""
        return self._precision

    def rehearsal(self) -> Stepper:
        """A stepper of the same settings, model and optimizer, with a window, a count and a loss scale of its own.

        It has no schedule: who rehearses sets the learning rate. What it does changes model and optimizer, but nothing
        of this stepper; :func:`gradstep.lr_find` works with it, and puts them back.
        """
        other = copy(self)
        other._window, other._scale, other._schedule = Window(self.accumulate), deepcopy(self._scale), None
        return other

    # -- the window ----------------------------------------------------------------------------------------------

    @contextmanager
    def autocast(self, *, last: bool = False) -> Iterator[None]:
        """Compute one micro-batch's loss in here: ``with stepper.autocast(): loss = ...``.

        Sets the precision, and keeps DistributedDataParallel from exchanging gradients before the window's end. For
        evaluation in the same precision, ``with torch.no_grad(), stepper.autocast():``.

        Args:
            last: the window ends with this micro-batch though it is not full. Who does not know calls
                :meth:`finish` afterwards; gradients of several processes then have to be exchanged on their own.

        Raises:
            RuntimeError: called inside itself, or after a failure that left the window in pieces.
        """
        dtype = PRECISIONS[self._precision]
        cast = nullcontext() if dtype is None else torch.autocast(self._device.type, dtype)
        with self._window.forward(last=last), self._peers.syncing(last=self._window.ending), cast:
            yield

    def backward(self, loss: Tensor, weight: float | Tensor = 1.0) -> UpdateOutcome | None:
        """Add one micro-batch to the window; at the window's end, update.

        Args:
            loss: one number, the mean over the micro-batch's items, computed inside :meth:`autocast`. In float32, as
                torch's losses are under autocast.
            weight: how many items that mean is over, > 0: examples, or the tokens that count.

        Returns:
            None inside the window; at its end, what happened.

        Raises:
            RuntimeError: out of order; the message says what to do.
            ValueError: a loss that is not one number, or a weight that is not a positive one; nothing was changed.
        """
        number = self._window.check_backward(loss, weight)
        if not self._window.open and any(bool(g.any()) for g in gradients(self._optimizer)):
            raise RuntimeError(
                "there are gradients from before the window, which would be added to it: clear them with "
                "stepper.discard() or optimizer.zero_grad()"
            )
        if self._unit is None:
            (self._unit,) = self._peers.mean(number)
        scaled = loss * (number / (self._window.size * self._unit))
        if self._scale is not None:
            scaled = self._scale.scaled(scaled)
        with self._window.changing(), self._peers.syncing(last=self._window.ending):
            scaled.backward()
        self._window.add(loss, number)
        return self._update(self._unit) if self._window.ending else None

    def finish(self) -> UpdateOutcome | None:
        """Update with a window that is not full, dividing by the weight that is there: for the end of the data.

        Under DistributedDataParallel every process must call it after the same number of micro-batches.

        Returns:
            What happened, or None if no window is open.

        Raises:
            RuntimeError: out of order; the message says what to do.
        """
        self._window.check_finish()
        if self._unit is None or not self._window.open:
            return None
        with self._window.changing():
            self._peers.exchange_late()
        return self._update(self._unit)

    def discard(self) -> None:
        """Throw the open window away: its gradients are cleared, and nothing is updated."""
        self._optimizer.zero_grad()
        self._window.clear()

    def _update(self, unit: float) -> UpdateOutcome:
        window, scale = self._window, 1.0 if self._scale is None else self._scale.value
        lr = float(self._optimizer.param_groups[0]["lr"])
        with window.changing():
            weight, weighted_loss = self._peers.mean(window.weight, window.weighted_loss)
            divisor = scale * (weight / (window.size * unit))
            done = apply(self._optimizer, divisor=divisor, max_grad_norm=self._max_grad_norm)
            culprit = None if done.stepped else first_not_finite(self._model, self._optimizer)
            if self._scale is not None:
                self._scale.settle(overflow=not done.stepped)
        outcome = UpdateOutcome(
            stepped=done.stepped,
            update=self._updates,
            micro_batches=len(window),
            weight=weight,
            loss=weighted_loss / weight,
            lr=lr,
            grad_norm=done.grad_norm,
            clip=done.clip,
            loss_scale=scale,
            reason="" if culprit is None else f"the gradient of {culprit} is not finite",
            parameter=culprit,
        )
        if done.stepped:
            self._updates += 1
            if self._schedule is not None:
                self._schedule.step()
        self.discard()
        return outcome

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's weights: optimizer, schedule, scaler and the number of updates.

        Raises:
            RuntimeError: in the middle of a window, whose gradients no checkpoint holds.
        """
        self._window.check_closed("save")
        return {
            "updates": self._updates,
            "unit": self._unit,
            "optimizer": innermost(self._optimizer).state_dict(),
            "schedule": None if self._schedule is None else self._schedule.state_dict(),
            "scaler": None if self._scale is None else self._scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken. The model's weights are loaded on their own.

        Raises:
            RuntimeError: in the middle of a window.
            KeyError: not the state of a stepper.
            ValueError: saved with a schedule or in fp16, and this stepper has none or is in another, or the reverse.
        """
        self._window.check_closed("load")
        missing = {"updates", "unit", "optimizer", "schedule", "scaler"} - state.keys()
        if missing:
            raise KeyError(f"not the state_dict() of a Stepper: {', '.join(sorted(missing))} missing")
        parts: list[tuple[str, Driver | LossScale | None]] = [("schedule", self._schedule), ("scaler", self._scale)]
        for name, own in parts:
            if (own is None) != (state[name] is None):
                has, other = ("no", "one") if own is None else ("a", "none")
                raise ValueError(f"this stepper has {has} {name}, and the checkpoint has {other}: make it as it was")
        innermost(self._optimizer).load_state_dict(state["optimizer"])
        for name, own in parts:
            if own is not None:
                own.load_state_dict(state[name])
        self._updates, self._unit = int(state["updates"]), state["unit"]
        self.discard()
