"""The stepper: one object does an update, from the first micro-batch to clearing the gradients."""

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
from gradstep.storage.policy import check_precision
from gradstep.training.applying import (
    apply,
    check_optimizers,
    find_cleared,
    find_first_nonfinite,
    gradient_norms,
    list_gradients,
)
from gradstep.training.driver import Schedules, cover_new_groups, make_drivers
from gradstep.training.loading import load_parts, unwrap_single
from gradstep.training.outcome import MOST_SKIPPED, UpdateOutcome, explain_skipped_updates
from gradstep.training.peers import Peers
from gradstep.training.releasing import Releaser, check_released
from gradstep.training.scaling import AUTOCAST_TYPES, LossScale, Precision, check_float16_weights, make_loss_scale
from gradstep.training.window import Window


@final
class Stepper:
    r"""Accumulates, unscales, checks, clips, steps, advances the schedule and clears, always in this order.

    A *window* is the micro-batches of one update. With losses :math:`\ell_k`, each the mean over :math:`w_k` items,
    the update uses the gradient of

    .. math:: L = \frac{\sum_k w_k\,\ell_k}{\sum_k w_k}

    over the *actual* micro-batches: with unequal ones, and in a last window that is not full, the gradient is that of
    one large batch. (Dividing each loss by the planned number of micro-batches does not give it.) Under
    DistributedDataParallel and FSDP2 both sums run over all processes, and the last micro-batch exchanges gradients.
    A window with a non-finite gradient is skipped: weights, optimizer state and schedule stay unchanged bit for bit.
    Several optimizers that share one loss step together: one window, one norm, one clip, one decision to skip.

    Args:
        model: the model to train; its parameters define the device and the names in messages.
        optimizer: any ``torch.optim.Optimizer`` that needs no closure, or a list of them with separate parameters. A
            single gradstep optimizer checks, clips and steps in two passes over memory.
        schedule: the learning rate by the number of the update (see :mod:`gradstep.schedules`); or a
            :class:`gradstep.Scheduler` or any ``LRScheduler`` of torch; for several optimizers, one schedule for all,
            or a list with one or None for each. It advances once per update, but not for skipped updates. Parameter
            groups that are added during the run, between windows, follow a single schedule.
        accumulate: micro-batches in a full window, ≥ 1.
        max_grad_norm: clip the gradient of L to this global 2-norm, > 0; None does not clip.
        precision: the precision of the forward pass: ``"float32"`` (the model's own), ``"bfloat16"``, or ``"float16"``,
            which scales the loss by ``torch.amp.GradScaler``. The weights stay float32.
        scaler: a GradScaler with settings of your own; only with ``"float16"``.
        release_gradients: update each parameter in the backward pass, as :func:`gradstep.release_gradients`; without
            clipping and accumulation. An update whose loss is not finite is skipped; a parameter whose gradient is not
            finite keeps its weights and state, and the outcome names it.

    Raises:
        ValueError: a setting out of its bounds or not possible with released gradients, weights in float16, a schedule
            made for another optimizer, one schedule for different learning rates, or a parameter in two optimizers.
        TypeError: not a schedule, or one that needs a metric; not an optimizer, or one that needs a closure (LBFGS).
        NotImplementedError: FSDP1: each process would compute the gradient norm of its own flat shards only.

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
        release_gradients: bool = False,
    ) -> None:
        optimizers = (optimizer,) if isinstance(optimizer, torch.optim.Optimizer) else tuple(optimizer)
        params = check_optimizers(model, optimizers, released=release_gradients)
        if accumulate < 1 or accumulate != int(accumulate):
            raise ValueError(f"Invalid accumulate: {accumulate} (must be a whole number of at least 1)")
        if max_grad_norm is not None and not (max_grad_norm > 0 and math.isfinite(max_grad_norm)):
            raise ValueError(f"Invalid max_grad_norm: {max_grad_norm} (must be finite and greater than 0, or None)")
        self._precision = check_precision("precision", precision, tuple(AUTOCAST_TYPES))
        if self._precision == "float16":
            self._scale = make_loss_scale(params, scaler)
        elif scaler is not None:
            raise ValueError(f"a scaler is of use with precision='float16' only, not with {precision!r}")
        self._peers = Peers(model, params)
        self._model = model
        self._device = params[0].device
        self._optimizers = optimizers
        self._group_count = sum(len(optimizer.param_groups) for optimizer in optimizers)
        self._drivers = make_drivers(schedule, optimizers, 0)
        self._max_grad_norm = max_grad_norm
        self._window = Window(int(accumulate))
        self._updates = self._skipped = 0
        if release_gradients:
            check_released(optimizers, accumulate, max_grad_norm, precision)
            self._releaser = Releaser(model, optimizers[0])

    # -- properties ----------------------------------------------------------------------------------------------

    _releaser: Releaser | None = None
    _scale: LossScale | None = None
    _unit: float | None = None
    """The weight of the run's first micro-batch, by which all weights are divided: gradients in float16 then have the
    same size as with the loss divided by the number of micro-batches."""

    @property
    def open(self) -> bool:
        """Whether the window has micro-batches that no update has used yet."""
        return self._window.open

    @property
    def updates(self) -> int:
        """The number of updates made so far, without skipped ones."""
        return self._updates

    @property
    def model(self) -> nn.Module:
        """The model that this stepper trains."""
        return self._model

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """The optimizers that this stepper steps."""
        return self._optimizers

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that this stepper steps.

        Raises:
            RuntimeError: there are several; see :attr:`optimizers`.
        """
        if len(self._optimizers) > 1:
            raise RuntimeError(f"this stepper has {len(self._optimizers)} optimizers: take one of stepper.optimizers")
        return self._optimizers[0]

    @property
    def schedule(self) -> Any:
        """The scheduler of the learning rate, a :class:`Driver` or None; for several optimizers, a list.

        A pure schedule has become a :class:`gradstep.Scheduler`. It can be replaced between windows
        (``stepper.schedule = ...``); a pure schedule then continues at the number of the next update.
        """
        return unwrap_single(self._drivers)

    @schedule.setter
    def schedule(self, schedule: Schedules) -> None:
        self._window.check_closed("replace the schedule")
        self._drivers = make_drivers(schedule, self._optimizers, self._updates)

    @property
    def accumulate(self) -> int:
        """Micro-batches in a full window."""
        return self._window.size

    @property
    def precision(self) -> str:
        """The precision of the forward pass, by its documented name."""
        return self._precision

    def rehearsal(self) -> Stepper:
        """Return a stepper with the same settings, model and optimizer, and its own window, count and loss scale.

        It has no schedule. Its updates change model and optimizer, but nothing else of this stepper;
        :func:`gradstep.lr_find` uses it, and restores them.
        """
        other = copy(self)
        other._window, other._scale = Window(self.accumulate), deepcopy(self._scale)
        other._drivers = (None,) * len(self._optimizers)
        return other

    # -- the window ----------------------------------------------------------------------------------------------

    @contextmanager
    def autocast(self, *, last: bool = False) -> Iterator[None]:
        """Return the context to compute one micro-batch's loss in: ``with stepper.autocast(): loss = ...``.

        It sets the precision, and keeps DistributedDataParallel and FSDP2 from exchanging gradients before the window's
        end. For evaluation in the same precision, write ``with torch.no_grad(), stepper.autocast():``.

        Args:
            last: the window ends with this micro-batch even if it is not full. FSDP2 must know it now. Without FSDP2
                you can call :meth:`finish` afterwards; DistributedDataParallel exchanges gradients in a separate step.

        Raises:
            RuntimeError: called inside itself, or after an error that left incomplete gradients in the window.
        """
        dtype = AUTOCAST_TYPES[self._precision]
        cast = nullcontext() if dtype is None else torch.autocast(self._device.type, dtype)
        with self._window.forward(last=last), self._peers.forward(last=self._window.ending), cast:
            yield

    def backward(self, loss: Tensor, weight: float | Tensor = 1.0) -> UpdateOutcome | None:
        """Add one micro-batch to the window; at the window's end, update.

        Args:
            loss: one number, the mean over the micro-batch's items, computed inside :meth:`autocast`. In float32, as
                torch's losses are under autocast.
            weight: number of items in that mean, > 0: examples, or the tokens that count.

        Returns:
            None inside the window; at its end, the outcome of the update.

        Raises:
            RuntimeError: a wrong order of calls, gradients cleared inside the window, or 30 updates skipped in a row,
                which neither the loss scale nor a bad batch explains; the message says what to do.
            ValueError: a loss that is not one number, a weight that is not a positive number, or an added parameter
                group that the schedule cannot drive; nothing was changed.
        """
        with self._peers.failing_together(last=self._window.ending):
            number = self._window.check_backward(loss, weight)
            self._cover_new_groups()
            self._check_gradients()
            if not self._window.open and any(bool(g.any()) for g in list_gradients(self._optimizers)):
                raise RuntimeError(
                    "there are gradients from before the window, which would be added to it: clear them with "
                    "stepper.discard() or optimizer.zero_grad()"
                )
        if self._releaser is not None:
            self._releaser.check()
            with self._window.changing_gradients():
                outcome = self._releaser.update(loss, number, self._updates)
            return self._close(outcome)
        if self._unit is None:
            (self._unit,) = self._peers.mean(number)
        scaled_loss = loss * (number / (self._window.size * self._unit))
        if self._scale is not None:
            scaled_loss = self._scale.scaler.scale(scaled_loss)
        with self._window.changing_gradients(), self._peers.backward(last=self._window.ending):
            scaled_loss.backward()
        self._window.add(loss, number)
        if self._window.ending:
            return self._update(self._unit)
        self._window.norms = gradient_norms(self._optimizers)
        return None

    def finish(self) -> UpdateOutcome | None:
        """Update with a window that is not full, divided by its actual weight: for the end of the data.

        Under DistributedDataParallel every process must call it after the same number of micro-batches. FSDP2 cannot
        end a window late: announce its last micro-batch with ``autocast(last=True)``, which updates by itself.

        Returns:
            The outcome of the update, or None if no window is open.

        Raises:
            RuntimeError: as in :meth:`backward`; or FSDP2 has gradients that it did not exchange.
        """
        self._window.check_finish()
        if self._unit is None or not self._window.open:
            return None
        self._peers.check_exchanged()
        self._cover_new_groups()
        self._check_gradients()
        with self._window.changing_gradients():
            self._peers.exchange_late()
        return self._update(self._unit)

    def discard(self) -> None:
        """Discard the open window: clear its gradients without an update; RuntimeError where FSDP2 keeps them."""
        self._peers.discard()
        if self._releaser is not None:
            self._releaser.discard()
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        self._window.clear()

    def _cover_new_groups(self) -> None:
        """Check parameter groups that were added between windows, and let the schedule drive them."""
        group_count = sum(len(optimizer.param_groups) for optimizer in self._optimizers)
        if group_count == self._group_count:
            return
        if self._window.open:
            raise RuntimeError(
                "a parameter group was added inside a window: call stepper.finish() or stepper.discard() before "
                "optimizer.add_param_group(), so that all micro-batches of an update train the same parameters"
            )
        params = check_optimizers(self._model, self._optimizers, released=self._releaser is not None)
        if self._releaser is not None:
            self._releaser = Releaser(self._model, self._optimizers[0])
        if self._scale is not None:
            check_float16_weights(params)
        for driver in self._drivers:
            cover_new_groups(driver)
        self._group_count = group_count

    def _check_gradients(self) -> None:
        """Raise if gradients were cleared inside the window, as by the usual zero_grad() before each backward."""
        if names := find_cleared(self._model, self._optimizers, self._window.norms):
            self._window.refuse_cleared(names)

    def _update(self, unit: float) -> UpdateOutcome:
        window, scale = self._window, 1.0 if self._scale is None else self._scale.value
        lr = float(self._optimizers[0].param_groups[0]["lr"])
        with window.changing_gradients():
            weight, weighted_loss = self._peers.mean(window.weight, window.weighted_loss)
            divisor = scale * (weight / (window.size * unit))
            report = apply(self._optimizers, self._peers, divisor=divisor, max_grad_norm=self._max_grad_norm)
            assert report.grad_norm is not None, "every step here measures it"
            culprit = None if report.stepped else find_first_nonfinite(self._model, self._optimizers, self._peers)
            if self._scale is not None:
                self._scale.update(overflow=not report.stepped)
        outcome = UpdateOutcome(
            stepped=report.stepped,
            update=self._updates,
            micro_batches=len(window),
            weight=weight,
            loss=weighted_loss / weight,
            lr=lr,
            grad_norm=report.grad_norm,
            clip=report.clip,
            loss_scale=scale,
            reason="" if culprit is None else f"the gradient of {culprit} is not finite",
            parameter=culprit,
        )
        return self._close(outcome)

    def _close(self, outcome: UpdateOutcome) -> UpdateOutcome:
        """Count an update, advance the schedules and clear the window; raise after many skipped updates in a row."""
        if outcome.stepped:
            self._updates += 1
            for driver in self._drivers:
                if driver is not None:
                    driver.step()
        self._skipped = 0 if outcome.stepped else self._skipped + 1
        self.discard()
        if self._skipped >= MOST_SKIPPED and outcome.loss_scale <= 1:
            self._skipped = 0
            raise RuntimeError(explain_skipped_updates(self._model, outcome, self._precision))
        return outcome

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the model's weights: optimizer, schedule, scaler and the number of updates.

        Raises:
            RuntimeError: in the middle of a window, since checkpoints do not contain gradients.
        """
        self._window.check_closed("save")
        return {
            "updates": self._updates,
            "unit": self._unit,
            "optimizer": unwrap_single([innermost(optimizer).state_dict() for optimizer in self._optimizers]),
            "schedule": unwrap_single([None if one is None else one.state_dict() for one in self._drivers]),
            "scaler": None if self._scale is None else self._scale.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> LoadReport | None:
        """Load a state of :meth:`state_dict`; load the model's weights separately.

        Args:
            state: the state.
            strict: False loads the entries of gradstep's optimizers that match by name and shape, and returns a report.

        Raises:
            RuntimeError: in the middle of a window.
            KeyError: not the state of a stepper.
            ValueError: another number of optimizers, or a schedule or scaler on one side only.
            Exception: an error of the optimizer, schedule or scaler. Nothing was changed.
        """
        self._window.check_closed("load")
        scaler = None if self._scale is None else self._scale.scaler
        with ExitStack() as undo:
            report = load_parts(state, self._optimizers, self._drivers, scaler, undo, strict=strict)
            self._updates, self._unit = int(state["updates"]), state["unit"]
            undo.pop_all()
        self.discard()
        return None if strict else report
