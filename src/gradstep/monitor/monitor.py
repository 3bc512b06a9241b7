"""The monitor: records every update of an optimizer and writes the records to sinks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import Any, final

import torch
from torch import Tensor, nn

from gradstep.monitor.describe import header_of
from gradstep.monitor.outbox import Outbox
from gradstep.monitor.record import Header, Update
from gradstep.monitor.sinks.base import RESERVED, Sink
from gradstep.monitor.sinks.files import JsonLines
from gradstep.monitor.steps import Steps
from gradstep.monitor.watched import LossScaler, Outcome, Scheduled, Window, length, lr_schedules, words
from gradstep.optimizers.wrapped import innermost
from gradstep.schedules import Schedule


@final
class Monitor:
    """Records what every update does, while it does it.

    Attached to a gradstep optimizer it has the numbers collected in the very pass that updates; to any other
    ``torch.optim.Optimizer``, by torch operations around the step (a copy of the weights, about six passes over them).
    Use it as a context manager, or call :meth:`close` at the end.

    What is recorded of an update is listed in :mod:`gradstep.monitor.record`. Sums are over the parameters that had a
    gradient. A monitor never changes what is trained: weights, gradients and state stay bit for bit what they were.

    Records go to the sinks about once a second, as long as updates are made, and at once where an update was skipped
    or something is not finite. What waits is written by :meth:`flush`, :meth:`state_dict` and :meth:`close`, and when
    the optimizer is collected as garbage or the process ends; one that is killed loses that second.

    Args:
        target: a ``torch.optim.Optimizer``, also as Lightning or Accelerate wraps it, or a :class:`gradstep.Stepper`,
            whose model, schedule, window and precision are then known.
        every: record each so many updates, ≥ 1; those in between cost nothing. Skipped updates are always recorded.
        per_parameter: record the norms of every single parameter as well.
        sinks: where records go (see :mod:`gradstep.monitor.sinks`); by default ``JsonLines("runs/<name>")``.
        model: gives parameters their names, and finds those that no group of the optimizer holds.
        name: of the run, for the default sink; by default the optimizer's class and the time.
        planned_updates: how long the run is to be, ≥ 1.
        schedule: of the learning rate: one of :mod:`gradstep.schedules`, a :class:`gradstep.Scheduler`, or words.
        accumulate: micro-batches per update.
        precision: of the forward pass.
        scaler: the ``GradScaler`` of a loop without stepper, by which skipped updates are recognised.
        fine_tuning: whether the model was trained before: the doctor then knows which settings are unusual.

    Raises:
        TypeError: neither an optimizer nor a stepper.
        ValueError: a setting out of its bounds.

    Example:
        >>> import torch, gradstep
        >>> from tempfile import mkdtemp
        >>> from gradstep.monitor import JsonLines, read_run
        >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> optimizer = gradstep.SGD([weight], lr=0.5)
        >>> folder = mkdtemp()
        >>> with gradstep.Monitor(optimizer, sinks=[JsonLines(folder)]) as monitor:
        ...     for _ in range(2):
        ...         optimizer.zero_grad()
        ...         loss = weight.square().sum() / 2
        ...         loss.backward()
        ...         optimizer.step()
        ...         monitor.log(loss=loss)
        >>> for update in read_run(folder).updates:
        ...     print(update.update, update.loss, update.grad_norm, update.update_norm, update.weight_norm)
        0 12.5 5.0 2.5 2.5
        1 3.125 2.5 1.25 1.25
    """

    def __init__(
        self,
        target: torch.optim.Optimizer | Window,
        *,
        every: int = 1,
        per_parameter: bool = False,
        sinks: Sequence[Sink] | None = None,
        model: nn.Module | None = None,
        name: str | None = None,
        planned_updates: int | None = None,
        schedule: Schedule | Scheduled | str | None = None,
        accumulate: int | None = None,
        precision: str | None = None,
        scaler: LossScaler | None = None,
        fine_tuning: bool = False,
    ) -> None:
        given: Any = schedule
        if isinstance(target, torch.optim.Optimizer):
            optimizer = target
        elif isinstance(target, Window):
            optimizer, model, given = target.optimizer, model or target.model, schedule or target.schedule
            accumulate, precision = accumulate or target.accumulate, precision or target.precision
        else:
            raise TypeError(f"Monitor watches a torch.optim.Optimizer or a gradstep.Stepper, not {target!r}")
        optimizer = innermost(optimizer)
        for setting, value in (("every", every), ("planned_updates", planned_updates)):
            if value is not None and (value < 1 or value != int(value)):
                raise ValueError(f"Invalid {setting}: {value} (must be a whole number of at least 1)")
        started = datetime.now().astimezone()
        if sinks is None:
            if name is not None and (Path(name).is_absolute() or ".." in Path(name).parts):
                raise ValueError(f"Invalid name: {name!r} (must be a folder inside runs/, without '..')")
            sinks = [JsonLines(Path("runs") / (name or f"{type(optimizer).__name__}-{started:%Y-%m-%d-%H%M%S}"))]
        self.optimizer = optimizer
        self._outbox = Outbox(sinks, single=per_parameter)

        def header(first_update: int) -> Header:
            return header_of(
                optimizer,
                model,
                first_update=first_update,
                every=int(every),
                planned_updates=planned_updates,
                schedule=words(given),
                schedule_updates=length(lr_schedules(given)),
                accumulate=accumulate,
                precision=precision,
                fine_tuning=fine_tuning,
                started=started.isoformat(timespec="seconds"),
            )

        self._steps = Steps(
            optimizer,
            self._outbox,
            header,
            every=int(every),
            detail="parameters" if per_parameter else "groups",
            scaler=scaler,
        )

    @property
    def updates(self) -> int:
        """Updates made so far; skipped ones are not counted."""
        return self._steps.updates

    # -- what the user tells --------------------------------------------------------------------------------------

    def log(
        self,
        outcome: Outcome | EllipsisType | None = ...,
        *,
        loss: float | Tensor | None = None,
        grad_norm: float | Tensor | None = None,
        **extra: float | Tensor,
    ) -> None:
        """Tell about the update just made, and write its record; without this, records lack the loss.

        Call it after ``optimizer.step()``, and with a GradScaler after ``scaler.update()``. What is logged later about
        the same update is added to its record.

        Args:
            outcome: what ``stepper.backward`` returned. None, as inside a window, does nothing, so that
                ``monitor.log(stepper.backward(loss))`` can stand in every micro-batch.
            loss: of this update; a tensor is read only if the update is recorded.
            grad_norm: what ``torch.nn.utils.clip_grad_norm_`` returned, if gradients were clipped by it: all norms are
                then recorded as they were before.
            extra: further numbers, by name.

        Raises:
            RuntimeError: before the first step, or after :meth:`close`.
            ValueError: a name that the record has already.
        """
        steps, outbox = self._steps, self._outbox
        if steps.closed:
            raise RuntimeError("the monitor was closed: make a new one, and load the old one's state_dict() to go on")
        if extra and (clash := extra.keys() & RESERVED):
            raise ValueError(f"the record has {', '.join(sorted(clash))} already: log it under another name")
        if outcome is None:
            return
        scale = steps.scale()
        if not isinstance(outcome, EllipsisType):
            reason = outcome.reason
        elif scale is not None and steps.loss_scale is not None and scale < steps.loss_scale:
            reason = "a gradient is not finite (found by GradScaler)"
        else:
            reason = ""
        if reason and outbox.current is None:
            steps.skip(reason)
        if steps.last is None:
            raise RuntimeError(
                "log() tells about the update just made, and there was none: call it after optimizer.step(); if a "
                "GradScaler skipped that, give the monitor scaler="
            )
        current = outbox.current
        if current is not None:
            if not isinstance(outcome, EllipsisType):
                current.tell(outcome)
            if loss is not None:
                current.loss = _number(loss)
            if grad_norm is not None:
                current.grad_norm = _number(grad_norm)
            if extra:
                current.extra = _numbers(extra)
            outbox.put_current()
        elif extra or (steps.due and loss is not None):
            known = None if loss is None else _number(loss)
            outbox.put(Update(steps.last, time.time(), loss=known, extra=_numbers(extra)))
        steps.loss_scale = scale

    # -- the end, and going on ------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what waits now, as before a long pause; the update just made still waits for its :meth:`log`."""
        self._outbox.flush()

    def close(self) -> None:
        """Write what is left, close the sinks, and let go of the optimizer. Once is enough; more does no harm."""
        if not self._steps.closed:
            self._steps.close()
            self._outbox.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """The number of updates made: keep it with the optimizer's state. What waits is written, so that a resume finds
        the record of all that the checkpoint holds.
        """
        self.flush()
        return {"updates": self._steps.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting where :meth:`state_dict` was taken; a record at the same path is added to.

        What the record holds of later updates, made after the checkpoint and lost, counts no more.

        Raises:
            KeyError: not the state of a monitor.
            RuntimeError: after the first step.
        """
        if self._steps.announced:
            raise RuntimeError("the monitor has recorded already: load its state before the first step")
        if "updates" not in state:
            raise KeyError("not the state_dict() of a Monitor: updates missing")
        self._steps.updates = int(state["updates"])


def _number(value: float | Tensor) -> float:
    if type(value) is float:  # after a step, when nothing is in the caches, to ask a Tensor's class takes microseconds
        return value
    return float(value.detach() if isinstance(value, Tensor) else value)


def _numbers(values: Mapping[str, float | Tensor]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}
