"""The stepper: one object owns the window from the first micro-batch to the cleared gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from copy import copy, deepcopy
from typing import Any, final

import torch
from torch import Tensor, nn

from gradstep.optimizers.checkpoint.matching import LoadReport
from gradstep.optimizers.wrapped import innermost
from gradstep.training.applying import (
    apply,
    checked_parameters,
    find_cleared,
    first_not_finite,
    gradient_norms,
    gradients,
)
from gradstep.training.driver import Schedules, cover_new_groups, drivers_of
from gradstep.training.loading import load
from gradstep.training.outcome import MOST_SKIPPED, UpdateOutcome, why_all_are_skipped
from gradstep.training.peers import Peers
from gradstep.training.scaling import PRECISIONS, LossScale, Precision, check_fp16_weights, fp16_scale
from gradstep.training.window import Window


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
    Several optimizers that share one loss step together: one window, one norm, one clip, one decision to skip.

    Args:
        model: what is trained; its parameters say the device, and give names to the gradients that are not finite.
        optimizer: any ``torch.optim.Optimizer`` that needs no closure, or a list of them, each with parameters of its
            own. A single one of gradstep's does the window's end in two passes over memory.
        schedule: of the learning rate, by the number of the update (see :mod:`gradstep.schedules`); or a
            :class:`gradstep.Scheduler` or any ``LRScheduler`` of torch; of several optimizers, one schedule for all,
            or a list with one or None for each. It is advanced once per update that was made. Parameter groups that
            are added in mid-run, between windows, follow a single schedule.
        accumulate: micro-batches in a full window, ≥ 1.
        max_grad_norm: clip the gradient of L to this global 2-norm, > 0; None does not clip.
        precision: of the forward pass: ``"float32"`` (the model's own), ``"bf16"``, or ``"fp16"``, which scales the
            loss by ``torch.amp.GradScaler``. The weights stay what they are: float32.
        scaler: a GradScaler with settings of your own; only with ``"fp16"``.

    Raises:
        ValueError: a setting out of its bounds, weights in fp16, a schedule made for another optimizer, one
            schedule for groups whose learning rates differ, or a parameter in two optimizers.
        TypeError: something that is no schedule, or one that needs a metric; no optimizer, or one whose step needs a
            closure (LBFGS).
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
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        schedule: Schedules = None,
        accumulate: int = 1,
        max_grad_norm: float | None = None,
        precision: Precision = "float32",
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        optimizers = (optimizer,) if isinstance(optimizer, torch.optim.Optimizer) else tuple(optimizer)
        params = checked_parameters(model, optimizers)
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
        self._optimizers = optimizers
        self._groups = sum(len(optimizer.param_groups) for optimizer in optimizers)
        self._drivers = drivers_of(schedule, optimizers, 0)
        self._max_grad_norm = max_grad_norm
        self._window = Window(int(accumulate))
        self._updates = self._skipped = 0

    # -- what there is to see ------------------------------------------------------------------------------------

    _scale: LossScale | None = None
    _unit: float | None = None
    """The weight of the run's first micro-batch: weights are taken relative to it, so that the gradients of fp16 have
    the size that they have with the loss divided by the number of micro-batches."""

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
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """The optimizers that it steps."""
        return self._optimizers

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that it steps.

        Raises:
            RuntimeError: there are several, in :attr:`optimizers`.
        """
        if len(self._optimizers) > 1:
            raise RuntimeError(f"this stepper has {len(self._optimizers)} optimizers: take one of stepper.optimizers")
        return self._optimizers[0]

    @property
    def schedule(self) -> Any:
        """What moves the learning rate: a :class:`Driver` or None; of several optimizers, a list of them.

        A pure schedule has become a :class:`gradstep.Scheduler`. It can be replaced between windows
        (``stepper.schedule = ...``); a pure schedule then goes on at the number of the update that comes next.
        """
        return _one_or_all(self._drivers)

    @schedule.setter
    def schedule(self, schedule: Schedules) -> None:
        self._window.check_closed("replace the schedule")
        self._drivers = drivers_of(schedule, self._optimizers, self._updates)

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

        It has no schedule. What it does changes model and optimizer, but nothing of this stepper;
        :func:`gradstep.lr_find` works with it, and puts them back.
        """
        other = copy(self)
        other._window, other._scale = Window(self.accumulate), deepcopy(self._scale)
        other._drivers = (None,) * len(self._optimizers)
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
            RuntimeError: out of order, gradients cleared inside the window, or 30 updates skipped in a row, which
                neither the loss scale nor a bad batch explains; the message says what to do.
            ValueError: a loss that is not one number, a weight that is not a positive one, or a parameter group that
                was added and that the schedule cannot drive; nothing was changed.
        """
        number = self._window.check_backward(loss, weight)
        self._cover_new_groups()
        self._check_gradients()
        if not self._window.open and any(bool(g.any()) for g in gradients(self._optimizers)):
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
        if self._window.ending:
            return self._update(self._unit)
        self._window.norms = gradient_norms(self._optimizers)
        return None

    def finish(self) -> UpdateOutcome | None:
        """Update with a window that is not full, dividing by the weight that is there: for the end of the data.

        Under DistributedDataParallel every process must call it after the same number of micro-batches.

        Returns:
            What happened, or None if no window is open.

        Raises:
            RuntimeError: as :meth:`backward`.
        """
        self._window.check_finish()
        if self._unit is None or not self._window.open:
            return None
        self._cover_new_groups()
        self._check_gradients()
        with self._window.changing():
            self._peers.exchange_late()
        return self._update(self._unit)

    def discard(self) -> None:
        """Throw the open window away: its gradients are cleared, and nothing is updated."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        self._window.clear()

    def _cover_new_groups(self) -> None:
        """Take in parameter groups that were added between windows, or refuse them before anything has changed."""
        groups = sum(len(optimizer.param_groups) for optimizer in self._optimizers)
        if groups == self._groups:
            return
        if self._window.open:
            raise RuntimeError(
                "a parameter group was added inside a window: call stepper.finish() or stepper.discard() before "
                "optimizer.add_param_group(), so that all micro-batches of an update train the same parameters"
            )
        params = checked_parameters(self._model, self._optimizers)
        if self._scale is not None:
            check_fp16_weights(params)
        for driver in self._drivers:
            cover_new_groups(driver)
        self._groups = groups

    def _check_gradients(self) -> None:
        """Raise if gradients were cleared inside the window, as by the usual zero_grad() before each backward."""
        if lost := find_cleared(self._model, self._optimizers, self._window.norms):
            self._window.refuse_cleared(lost)

    def _update(self, unit: float) -> UpdateOutcome:
        window, scale = self._window, 1.0 if self._scale is None else self._scale.value
        lr = float(self._optimizers[0].param_groups[0]["lr"])
        with window.changing():
            weight, weighted_loss = self._peers.mean(window.weight, window.weighted_loss)
            divisor = scale * (weight / (window.size * unit))
            done = apply(self._optimizers, divisor=divisor, max_grad_norm=self._max_grad_norm)
            assert done.grad_norm is not None, "it is measured at every update"
            culprit = None if done.stepped else first_not_finite(self._model, self._optimizers)
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
            for driver in self._drivers:
                if driver is not None:
                    driver.step()
        self._skipped = 0 if done.stepped else self._skipped + 1
        self.discard()
        if self._skipped >= MOST_SKIPPED and scale <= 1:
            self._skipped = 0
            raise RuntimeError(why_all_are_skipped(self._model, outcome, self._precision))
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
            "optimizer": _one_or_all([innermost(optimizer).state_dict() for optimizer in self._optimizers]),
            "schedule": _one_or_all([None if one is None else one.state_dict() for one in self._drivers]),
            "scaler": None if self._scale is None else self._scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> LoadReport | None:
        """Go on where :meth:`state_dict` was taken. The model's weights are loaded on their own.

        Args:
            state: the state.
            strict: False loads of gradstep's optimizers what matches by name and shape, and returns a report of it.

        Raises:
            RuntimeError: in the middle of a window.
            KeyError: not the state of a stepper.
            ValueError: another number of optimizers, or a schedule or scaler on one side only.
            Exception: what the optimizer, schedule or scaler raises. Nothing was changed.
        """
        self._window.check_closed("load")
        if missing := {"updates", "unit", "optimizer", "schedule", "scaler"} - state.keys():
            raise KeyError(f"not the state_dict() of a Stepper: {', '.join(sorted(missing))} missing")
        saved, schedules = (
            state[name] if isinstance(state[name], list) else [state[name]] for name in ("optimizer", "schedule")
        )
        if not len(saved) == len(schedules) == len(self._optimizers):
            count = len(self._optimizers)
            raise ValueError(
                f"optimizers: this stepper has {count}, and the checkpoint {len(saved)}: make it as it was"
            )
        parts: list[tuple[str, Any, Any]]
        parts = [("schedule", own, other) for own, other in zip(self._drivers, schedules, strict=True)]
        parts.append(("scaler", self._scale, state["scaler"]))
        for name, own, other in parts:
            if (own is None) != (other is None):
                has, its = ("no", "one") if own is None else ("a", "none")
                raise ValueError(f"this stepper has {has} {name}, and the checkpoint has {its}: make it as it was")
        report = LoadReport()
        with ExitStack() as undo:
            for own, other in zip(self._optimizers, saved, strict=True):
                report += load(own, other, undo, strict=strict)
            for _, own, other in parts:
                if own is not None:
                    load(own, other, undo, strict=True)
            self._updates, self._unit = int(state["updates"]), state["unit"]
            undo.pop_all()
        self.discard()
        return None if strict else report


def _one_or_all(each: Sequence[Any]) -> Any:
    """What there is one of for each optimizer, as users see it: a list only if there are several optimizers."""
    return list(each) if len(each) > 1 else each[0]
