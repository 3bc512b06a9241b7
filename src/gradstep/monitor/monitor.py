"""The monitor: records every update of an optimizer and writes the records to sinks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import gradstep
from gradstep.engines.statistics import Detail
from gradstep.monitor.outbox import Outbox
from gradstep.monitor.record import Group, Header, ParameterInfo, Update
from gradstep.monitor.sinks import RESERVED, JsonLines, Sink
from gradstep.monitor.statistics import list_parameters
from gradstep.monitor.steps import GRAD_SCALER_SKIP, StepRecorder
from gradstep.optimizers import Optimizer
from gradstep.optimizers.arguments import parameter_names
from gradstep.optimizers.memory import is_distributed
from gradstep.optimizers.wrapped import innermost
from gradstep.schedules import Schedule
from gradstep.storage.policy import SHORT_NAMES
from gradstep.training.scheduler import Scheduler

if TYPE_CHECKING:
    from gradstep.training.outcome import UpdateOutcome
    from gradstep.training.stepper import Stepper


@final
class Monitor:
    """Records the numbers of every update of an optimizer.

    A gradstep optimizer collects the numbers in the same pass that updates the parameters; around any other
    ``torch.optim.Optimizer``, torch operations collect them (a copy of the weights, about six passes over them).
    Use it as a context manager, or call :meth:`close` at the end.

    :mod:`gradstep.monitor.record` lists the numbers. Sums are over the parameters that had a gradient. A monitor never
    changes the training: weights, gradients and state stay the same bit for bit.

    Records are written to the sinks about once a second while updates are made, and immediately when an update was
    skipped or a number is not finite. :meth:`flush`, :meth:`state_dict` and :meth:`close` write the waiting records, as
    do the garbage collection of the optimizer and the end of the process; a killed process loses the last second.

    Of distributed parameters (FSDP2, tensor parallelism) the numbers are those of all processes, and the first of them
    writes the record. Every process must make a monitor with the same settings, since they add up the numbers together.

    Args:
        target: a ``torch.optim.Optimizer``, also as Lightning or Accelerate wraps it, or a :class:`gradstep.Stepper`,
            which also gives its model, schedule, window and precision.
        every: record every so many updates, ≥ 1; the others cost nothing. Skipped updates are always recorded.
        per_parameter: also record the norms of every single parameter.
        sinks: the destinations of records (see :mod:`gradstep.monitor.sinks`); by default ``JsonLines("runs/<name>")``.
        model: gives the names of parameters, and shows which of them no group of the optimizer holds.
        name: the name of the run for the default sink; by default the optimizer's class and the time.
        planned_updates: the planned number of updates, ≥ 1.
        schedule: the learning-rate schedule: one of :mod:`gradstep.schedules`, a :class:`gradstep.Scheduler`, or text.
        accumulate: micro-batches per update.
        precision: the precision of the forward pass.
        scaler: the ``GradScaler`` of a loop without stepper, to recognise skipped updates.
        fine_tuning: whether the model was trained before; the doctor then checks the settings for fine-tuning.

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
        target: torch.optim.Optimizer | Stepper,
        *,
        every: int = 1,
        per_parameter: bool = False,
        sinks: Sequence[Sink] | None = None,
        model: nn.Module | None = None,
        name: str | None = None,
        planned_updates: int | None = None,
        schedule: Schedule | Scheduler | str | None = None,
        accumulate: int | None = None,
        precision: str | None = None,
        scaler: torch.amp.GradScaler | None = None,
        fine_tuning: bool = False,
    ) -> None:
        driver: Any = schedule
        if isinstance(target, torch.optim.Optimizer):
            optimizer = target
        else:
            from gradstep.training.stepper import Stepper  # a tenth of a second, which a loop without it saves

            if not isinstance(target, Stepper):
                raise TypeError(f"Monitor watches a torch.optim.Optimizer or a gradstep.Stepper, not {target!r}")
            optimizer, model, driver = target.optimizer, model or target.model, schedule or target.schedule
            accumulate, precision = accumulate or target.accumulate, precision or target.precision
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
        self._outbox = Outbox(sinks if _keeps_record(optimizer) else [], single=per_parameter)
        schedule_text, schedule_updates = describe_schedule(driver)
        header = partial(
            make_header,
            optimizer,
            model,
            every=int(every),
            planned_updates=planned_updates,
            schedule=schedule_text,
            schedule_updates=schedule_updates,
            accumulate=accumulate,
            precision=SHORT_NAMES.get(precision or "", precision),
            fine_tuning=fine_tuning,
            started=started.isoformat(timespec="seconds"),
        )
        detail: Detail = "parameters" if per_parameter else "groups"
        self._steps = StepRecorder(optimizer, self._outbox, header, every=int(every), detail=detail, scaler=scaler)

    @property
    def updates(self) -> int:
        """The number of updates made so far, without skipped ones."""
        return self._steps.updates

    def log(
        self,
        outcome: UpdateOutcome | EllipsisType | None = ...,
        *,
        loss: float | Tensor | None = None,
        grad_norm: float | Tensor | None = None,
        **extra: float | Tensor,
    ) -> None:
        """Add the loss and other numbers to the record of the last update; without this, records lack the loss.

        Call it after ``optimizer.step()``, and with a GradScaler after ``scaler.update()``. Further calls after the
        same update add to its record.

        Args:
            outcome: the result of ``stepper.backward``. None, as inside a window, does nothing, so that you can call
                ``monitor.log(stepper.backward(loss))`` in every micro-batch.
            loss: the loss of this update; a tensor is read only if the update is recorded.
            grad_norm: the result of ``torch.nn.utils.clip_grad_norm_``, if it clipped the gradients: all norms are then
                recorded as they were before clipping.
            extra: further numbers, by name.

        Raises:
            RuntimeError: before the first step, or after :meth:`close`.
            ValueError: a name that the record already uses.
        """
        steps, outbox = self._steps, self._outbox
        if steps.closed:
            raise RuntimeError("the monitor was closed: make a new one, and load the old one's state_dict() to go on")
        if extra and (clash := extra.keys() & RESERVED):
            raise ValueError(f"the record has {', '.join(sorted(clash))} already: log it under another name")
        if outcome is None:
            return
        scale = steps.read_scale()
        if not isinstance(outcome, EllipsisType):
            reason = outcome.reason
        elif scale is not None and steps.loss_scale is not None and scale < steps.loss_scale:
            reason = GRAD_SCALER_SKIP
        else:
            reason = ""
        if reason and outbox.current is None:
            steps.record_skip(reason)
        if steps.last is None:
            raise RuntimeError(
                "log() tells about the update just made, and there was none: call it after optimizer.step(); if a "
                "GradScaler skipped that, give the monitor scaler="
            )
        current = outbox.current
        if current is not None:
            if not isinstance(outcome, EllipsisType):
                current.add_outcome(outcome)
            if loss is not None:
                current.fields["loss"] = _to_float(loss)
            if grad_norm is not None:
                current.grad_norm = _to_float(grad_norm)
            if extra:
                current.fields["extra"] = {name: _to_float(value) for name, value in extra.items()}
            outbox.put_current()
        elif extra or (steps.due and loss is not None):
            numbers = {name: _to_float(value) for name, value in extra.items()}
            late_loss = None if loss is None else _to_float(loss)
            outbox.put(Update(steps.last, time.time(), loss=late_loss, extra=numbers))
        steps.loss_scale = scale

    def flush(self) -> None:
        """Write the waiting records now; the record of the last update still waits for its :meth:`log`."""
        self._outbox.flush()

    def close(self) -> None:
        """Write all records, close the sinks, and remove the hooks from the optimizer; further calls do nothing."""
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
        """Return the number of updates made, and write the waiting records; save it with the optimizer's state."""
        self.flush()
        return {"updates": self._steps.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the count in ``state``, a :meth:`state_dict`; new records are appended to a record at the same path.

        Records of updates after the checkpoint become void.

        Raises:
            KeyError: not the state of a monitor.
            RuntimeError: after the first step.
        """
        if self._steps.has_header:
            raise RuntimeError("the monitor has recorded already: load its state before the first step")
        if "updates" not in state:
            raise KeyError("not the state_dict() of a Monitor: updates missing")
        self._steps.updates = int(state["updates"])


def _to_float(value: float | Tensor) -> float:
    if type(value) is float:  # isinstance(value, Tensor) takes microseconds after a step, with cold caches
        return value
    return float(value.detach() if isinstance(value, Tensor) else value)


def _keeps_record(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether this process writes the record: of distributed parameters only the first does."""
    meshes = [p.device_mesh for p in list_parameters(optimizer) if is_distributed(p)]
    return not meshes or not any(max(meshes, key=lambda mesh: mesh.size()).get_coordinate() or [])


def describe_schedule(driver: Any) -> tuple[str, int | None]:
    """Return the text of a schedule or scheduler, and the update at which its last schedule ends; None without an end.

    >>> from gradstep.schedules import constant, cosine
    >>> describe_schedule(cosine(0.1, updates=80))[1], describe_schedule(constant(0.1))[1]
    (80, None)
    """
    if driver is None or isinstance(driver, str):
        return driver or "", None
    schedules: tuple[Schedule, ...] = (driver,) if isinstance(driver, Schedule) else ()
    if isinstance(driver, Scheduler):
        schedules = tuple(filter(None, driver.lr_schedules))
    ends = [schedule.updates for schedule in schedules]
    finite = [end for end in ends if end is not None]
    length = max(finite, default=None) if len(finite) == len(ends) else None
    return "; ".join(dict.fromkeys(map(str, schedules))) or type(driver).__name__, length


def make_header(
    optimizer: torch.optim.Optimizer,
    model: nn.Module | None,
    first_update: int,
    others: Iterable[torch.optim.Optimizer],
    **fields: Any,
) -> Header:
    """Make the header of a run; ``fields`` are further fields of it.

    Parameters of the model in no group are listed as unregistered, unless one of the other optimizers has them.
    """
    names = {} if model is None else _names_and_modules(model)
    registered: set[Tensor] = {p for other in others for p in list_parameters(other)}
    groups, parameters = [], []
    for index, group in enumerate(optimizer.param_groups):
        settings = {key: _json_value(v) for key, v in group.items() if key not in {"params", "param_names", "name"}}
        groups.append(Group(str(group.get("name") or f"group {index}"), settings))
        for name, p in zip(parameter_names(group, index), group["params"], strict=True):
            registered.add(p)
            parameters.append(_describe_parameter(p, *names.get(p, (name, "")), index))
    return Header(
        optimizer=type(optimizer).__name__,
        package=type(optimizer).__module__.partition(".")[0],
        rule=optimizer.rule().__name__ if isinstance(optimizer, Optimizer) else None,
        groups=tuple(groups),
        parameters=tuple(parameters),
        unregistered=tuple(_describe_parameter(p, *name, None) for p, name in names.items() if p not in registered),
        first_update=first_update,
        version=gradstep.__version__,
        **fields,
    )


def _names_and_modules(model: nn.Module) -> dict[Tensor, tuple[str, str]]:
    """Return the first name of every parameter, and the class of the module that holds it under this name."""
    names: dict[Tensor, tuple[str, str]] = {}
    for prefix, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            names.setdefault(p, (f"{prefix}.{name}" if prefix else name, type(module).__name__))
    return names


def _describe_parameter(p: Tensor, name: str, module: str, group: int | None) -> ParameterInfo:
    shape = () if is_lazy(p) else tuple(p.shape)
    return ParameterInfo(name, shape, str(p.dtype).removeprefix("torch."), group, p.requires_grad, module)


def _json_value(value: Any) -> Any:
    """Return a setting as a JSON value; a value of another type becomes text."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (tuple, list)):
        return [_json_value(one) for one in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
