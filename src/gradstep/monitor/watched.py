"""What a monitor watches, such as a stepper, its outcome and a scheduler; and the header that describes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

import gradstep
from gradstep.monitor.record import Group, Header, Parameter
from gradstep.monitor.statistics import list_parameters
from gradstep.optimizers.arguments import parameter_names
from gradstep.schedules import Schedule


class Outcome(Protocol):
    """The outcome of an update: :class:`gradstep.UpdateOutcome`, or an object with the same attributes."""

    @property
    def stepped(self) -> bool:
        """False if the update was skipped."""

    @property
    def loss(self) -> float:
        """The loss."""

    @property
    def grad_norm(self) -> float:
        """The global 2-norm of the gradient before clipping, without any scale."""

    @property
    def loss_scale(self) -> float:
        """The factor that multiplied the loss."""

    @property
    def reason(self) -> str:
        """Why the update was skipped, else empty."""

    @property
    def parameter(self) -> str | None:
        """The first parameter whose gradient was not finite."""

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches in the window."""


@runtime_checkable
class StepperLike(Protocol):
    """An object that steps an optimizer at the end of each window: :class:`gradstep.Stepper`."""

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that is stepped."""

    @property
    def schedule(self) -> Any:
        """The scheduler of the learning rate."""

    @property
    def accumulate(self) -> int:
        """Micro-batches in a full window."""

    @property
    def precision(self) -> str:
        """Precision of the forward pass."""


@runtime_checkable
class HasLrSchedules(Protocol):
    """A scheduler made of pure schedules: :class:`gradstep.Scheduler`."""

    @property
    def lr_schedules(self) -> Sequence[Schedule | None]:
        """The learning-rate schedule of each group."""


def lr_schedules(driver: Any) -> tuple[Schedule, ...]:
    """Return the learning-rate schedules of a schedule or scheduler; empty for other objects."""
    if isinstance(driver, Schedule):
        return (driver,)
    return tuple(filter(None, driver.lr_schedules)) if isinstance(driver, HasLrSchedules) else ()


def schedule_length(schedules: Sequence[Schedule]) -> int | None:
    """Return the update at which the last schedule ends; None if one has no end, or without schedules.

    >>> from gradstep.schedules import constant, cosine
    >>> schedule_length([cosine(0.1, updates=100), cosine(0.1, updates=80)])
    100
    >>> schedule_length([constant(0.1)]), schedule_length([])
    (None, None)
    """
    ends = [schedule.updates for schedule in schedules]
    finite = [end for end in ends if end is not None]
    return max(finite, default=None) if len(finite) == len(ends) else None


def describe_schedule(driver: Any) -> str:
    """Return the text of a schedule or scheduler, or the name of its class."""
    if driver is None or isinstance(driver, str):
        return driver or ""
    return "; ".join(dict.fromkeys(map(str, lr_schedules(driver)))) or type(driver).__name__


class LossScaler(Protocol):
    """The part of ``torch.amp.GradScaler`` that a monitor uses."""

    def get_scale(self) -> float:
        """Return the factor that multiplies the loss."""


def skip_reason(optimizer: torch.optim.Optimizer) -> str:
    """Return why a call of a torch optimizer's ``step()`` changed nothing; empty if it made an update."""
    # GradScaler sets this during a step, for optimizers that skip the update themselves (torch's fused ones).
    found_inf = vars(optimizer).get("found_inf")
    return "a gradient is not finite (found by GradScaler)" if found_inf is not None and float(found_inf) > 0 else ""


def make_header(
    optimizer: Optimizer, model: nn.Module | None, others: Iterable[Optimizer] = (), **fields: Any
) -> Header:
    """Make the header of a run.

    Args:
        optimizer: the optimizer to monitor.
        model: gives names and module classes; its parameters that no group holds are listed as unregistered.
        others: optimizers that train other parameters of the model, which are then not listed.
        fields: further fields of :class:`Header`.
    """
    names = {} if model is None else _names_and_modules(model)
    groups = [Group(_group_name(group, i), _json_settings(group)) for i, group in enumerate(optimizer.param_groups)]
    registered: set[Tensor] = {p for other in others for p in list_parameters(other)}
    parameters = []
    for index, group in enumerate(optimizer.param_groups):
        for name, p in zip(parameter_names(group, index), group["params"], strict=True):
            registered.add(p)
            parameters.append(_describe_parameter(p, *names.get(p, (name, "")), index))
    return Header(
        optimizer=type(optimizer).__name__,
        package=type(optimizer).__module__.partition(".")[0],
        rule=optimizer.rule().__name__ if isinstance(optimizer, gradstep.Optimizer) else None,
        groups=tuple(groups),
        parameters=tuple(parameters),
        unregistered=tuple(_describe_parameter(p, *name, None) for p, name in names.items() if p not in registered),
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


def _describe_parameter(p: Tensor, name: str, module: str, group: int | None) -> Parameter:
    shape = () if is_lazy(p) else tuple(p.shape)
    return Parameter(name, shape, str(p.dtype).removeprefix("torch."), group, p.requires_grad, module)


def _group_name(group: Mapping[str, Any], index: int) -> str:
    return str(group.get("name") or f"group {index}")


def _json_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a group as JSON values; a value of another type becomes text."""
    return {key: _json_value(value) for key, value in group.items() if key not in {"params", "param_names", "name"}}


def _json_value(value: Any) -> Any:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (tuple, list)):
        return [_json_value(one) for one in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
