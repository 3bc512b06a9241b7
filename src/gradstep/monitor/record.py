"""The record of a monitored run: a header about model and optimizer, then the numbers of every update, and how they are
shown.

:func:`gradstep.monitor.lines.read_run` reads a file into a :class:`Run`, without torch. Numbers that were not collected
are None (in arrays: NaN); numbers that are not finite are recorded unchanged.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from gradstep.report.words import seconds, short


@final
@dataclass(frozen=True)
class ParameterInfo:
    """One parameter of the optimizer or the model.

    Attributes:
        name: its name in the model if the model is known, otherwise in the optimizer.
        shape: its shape.
        dtype: ``"float32"``, ``"bfloat16"``, ...
        group: index of its group in :attr:`Header.groups`; None if no group of the optimizer holds it.
        requires_grad: False if it is frozen.
        module: class of the module that holds it, ``"Linear"``; empty if unknown.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    group: int | None
    requires_grad: bool = True
    module: str = ""

    @property
    def elements(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)


@final
@dataclass(frozen=True)
class Group:
    """A parameter group: its name (``"group 0"`` without one) and its settings at the start of the run."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Header:
    """The description of model and optimizer: the first line of a record, and one more line for every resume.

    Attributes:
        optimizer: class name, ``"AdamW"``.
        package: the package of that class, ``"torch"`` or ``"gradstep"``.
        rule: name of the gradstep rule, None for other optimizers.
        groups: the parameter groups.
        parameters: every parameter of the optimizer, group by group; per-parameter numbers refer to its index here.
        unregistered: parameters of the model that are in no group of the optimizer; empty if the model is unknown.
        every: statistics were collected at every so many updates.
        planned_updates: planned length of the run, if known.
        schedule: the learning-rate schedule as text; empty if there is none or it is unknown.
        schedule_updates: length of the schedule; None if it has no end or is unknown.
        accumulate: micro-batches per update, if known.
        fine_tuning: whether the model was trained before; False if unknown.
        precision: precision of the forward pass, if known: ``"float32"``, ``"bfloat16"``, ``"float16"``.
        started: date and time, ISO 8601 with zone.
        first_update: 0; after a resume, the number of the next update. Earlier records of this update and of later
            ones are void.
        version: version of gradstep.
    """

    optimizer: str
    package: str
    rule: str | None
    groups: tuple[Group, ...]
    parameters: tuple[ParameterInfo, ...]
    unregistered: tuple[ParameterInfo, ...] = ()
    every: int = 1
    planned_updates: int | None = None
    schedule: str = ""
    schedule_updates: int | None = None
    accumulate: int | None = None
    precision: str | None = None
    fine_tuning: bool = False
    started: str = ""
    first_update: int = 0
    version: str = ""


_Number = TypeVar("_Number", int, float)


@final
@dataclass(frozen=True)
class Numbers:
    """The numbers of one parameter group in one update. All sums are over its parameters that had a gradient.

    Attributes:
        lr, weight_decay, betas, momentum: the settings of this update; None where the optimizer has no such setting.
        elements: elements of parameters that had a gradient; 0 if there were none, or the update was skipped.
        grad_norm: 2-norm of the gradient before clipping, without any loss scale.
        weight_norm: 2-norm of the weights after the update.
        update_norm: 2-norm of the change of the stored weights, decay and rounding included;
            with stochastic rounding, of the expected change.
        unmoved: elements with a nonzero gradient and an unchanged stored weight.
        root_min, root_max: the smallest and the largest √v, v being the second moment; None if there is none.
        non_finite: elements whose gradient is not finite.
    """

    lr: float | None = None
    weight_decay: float | None = None
    betas: tuple[float, float] | None = None
    momentum: float | None = None
    elements: int = 0
    grad_norm: float | None = None
    weight_norm: float | None = None
    update_norm: float | None = None
    unmoved: int | None = None
    root_min: float | None = None
    root_max: float | None = None
    non_finite: int | None = None

    @property
    def update_ratio(self) -> float | None:
        """Norm of the update over norm of the weights; 1e-3 is usual."""
        return _ratio(self.update_norm, self.weight_norm)

    @property
    def unmoved_share(self) -> float | None:
        """Share of the elements that their gradient did not change, because of rounding."""
        return _ratio(self.unmoved, self.elements)


@final
@dataclass(frozen=True, eq=False)
class PerParameter:
    """The numbers of :class:`Numbers` for single parameters: columns of shape (n,); NaN where there is none.

    Attributes:
        index: the entries of :attr:`Header.parameters` that had a gradient in this update, one for each row.
    """

    index: NDArray[np.int32]
    grad_norm: NDArray[np.float32]
    weight_norm: NDArray[np.float32]
    update_norm: NDArray[np.float32]
    unmoved: NDArray[np.float32]
    root_min: NDArray[np.float32]
    root_max: NDArray[np.float32]
    non_finite: NDArray[np.float32]


@final
@dataclass(frozen=True)
class Update:
    """One update, made or skipped.

    Attributes:
        update: its number, 0 for the first; after a skipped update the same number is tried again.
        time: its end, in seconds since 1970.
        loss: the logged loss; None without one.
        groups: the numbers of each of :attr:`Header.groups`.
        clip: the factor that clipping multiplied the gradients by; None if unknown.
        seconds: duration of ``optimizer.step()``.
        loss_scale: the loss scale of float16.
        skipped: why the update was skipped, else empty.
        culprit: the first parameter whose gradient was not finite, if known.
        micro_batches: number of micro-batches, if known.
        parameters: numbers of single parameters, if they were requested.
        uncleared: whether the previous step's gradients were still present in every backward pass since; None if
            unknown.
        other_optimizer: class of another optimizer that has stepped some of the same parameters since the last step.
        extra: further numbers that were logged, by name.
    """

    update: int
    time: float
    loss: float | None = None
    groups: tuple[Numbers, ...] = ()
    clip: float | None = None
    seconds: float | None = None
    loss_scale: float | None = None
    skipped: str = ""
    culprit: str | None = None
    micro_batches: int | None = None
    parameters: PerParameter | None = None
    uncleared: bool | None = None
    other_optimizer: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def lr(self) -> float | None:
        """The learning rate of the first group."""
        return self.groups[0].lr if self.groups else None

    @property
    def elements(self) -> int:
        """Elements of parameters that had a gradient."""
        return sum(group.elements for group in self.groups)

    @property
    def grad_norm(self) -> float | None:
        """The global 2-norm of the gradient before clipping, without any loss scale."""
        return _root_of_squares(group.grad_norm for group in self.groups)

    @property
    def weight_norm(self) -> float | None:
        """The global 2-norm of the weights that had a gradient."""
        return _root_of_squares(group.weight_norm for group in self.groups)

    @property
    def update_norm(self) -> float | None:
        """The global 2-norm of the change of the weights."""
        return _root_of_squares(group.update_norm for group in self.groups)

    @property
    def update_ratio(self) -> float | None:
        """Norm of the update over norm of the weights."""
        return _ratio(self.update_norm, self.weight_norm)

    @property
    def unmoved_share(self) -> float | None:
        """Share of the elements that their gradient did not change."""
        return _ratio(_sum(group.unmoved for group in self.groups), self.elements)

    @property
    def root_min(self) -> float | None:
        """The smallest √v."""
        return min(_without_none(group.root_min for group in self.groups), default=None)

    @property
    def root_max(self) -> float | None:
        """The largest √v."""
        return max(_without_none(group.root_max for group in self.groups), default=None)

    @property
    def non_finite(self) -> int | None:
        """Elements whose gradient is not finite."""
        return _sum(group.non_finite for group in self.groups)


def _without_none(values: Iterable[_Number | None]) -> list[_Number]:
    return [value for value in values if value is not None]


def _sum(values: Iterable[int | None]) -> int | None:
    numbers = _without_none(values)
    return sum(numbers) if numbers else None


def _root_of_squares(norms: Iterable[float | None]) -> float | None:
    numbers = _without_none(norms)
    return math.hypot(*numbers) if numbers else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


@final
@dataclass(frozen=True)
class Run:
    """A whole record.

    Attributes:
        headers: the headers of the start and of every resume; at least one.
        updates: made and skipped updates in order, without those that a resume made void.
    """

    headers: tuple[Header, ...]
    updates: tuple[Update, ...]

    @property
    def header(self) -> Header:
        """The last header."""
        return self.headers[-1]

    @property
    def made(self) -> tuple[Update, ...]:
        """The updates that were not skipped."""
        return tuple(update for update in self.updates if not update.skipped)


HEALTHY_GRADIENT = (0.1, 10.0)
"""Gradient norms of a healthy run: a rule of thumb from fine-tuning, for a loss that is a mean."""

ALARMING_GRADIENT = 100.0
"""A gradient norm above this is alarming; the same rule of thumb. Measured in benchmarks/doctor.py: healthy runs stay
below 10."""

USUAL_RATIO = 1e-3
"""Norm of the update over norm of the weights. Karpathy, CS231n notes, "Ratio of weights:updates"."""


@final
@dataclass(frozen=True)
class Metric:
    """A number of every update that is shown, with its title for readers.

    ``of_group`` returns the number of one group, unless it is not shown by group; ``log`` asks for a logarithmic axis.
    """

    name: str
    title: str
    value: Callable[[Update], float | None]
    of_group: Callable[[Numbers], float | None] | None
    log: bool
    text: Callable[[float], str]


def share(value: float) -> str:
    """Format a share in percent.

    >>> share(0.0), share(0.12345)
    ('0 %', '12.3 %')
    """
    return f"{100 * value:.3g} %"


METRICS = (
    Metric("loss", "Loss", lambda u: u.loss, None, False, short),
    Metric("lr", "Learning rate", lambda u: u.lr, lambda g: g.lr, False, short),
    Metric("grad_norm", "Gradient norm, before clipping", lambda u: u.grad_norm, lambda g: g.grad_norm, True, short),
    Metric("weight_norm", "Weight norm", lambda u: u.weight_norm, lambda g: g.weight_norm, False, short),
    Metric("update_ratio", "Update over weight", lambda u: u.update_ratio, lambda g: g.update_ratio, True, short),
    Metric("root_min", "Smallest √v", lambda u: u.root_min, None, True, short),
    Metric("root_max", "Largest √v", lambda u: u.root_max, None, True, short),
    Metric("unmoved_share", "Unmoved by rounding", lambda u: u.unmoved_share, None, False, share),
    Metric("clip", "Clipped to", lambda u: u.clip, None, False, share),
    Metric("seconds", "Time of the step", lambda u: u.seconds, None, False, seconds),
)  # fmt: skip


def reading(name: str, value: float) -> tuple[str, str]:
    """Return a remark about a value and its level: ``"good"``, ``"notable"``, ``"bad"`` or empty.

    >>> reading("grad_norm", 250.0)
    ('alarming: over 100', 'bad')
    """
    if not math.isfinite(value):
        return "not finite", "bad"
    low, high = HEALTHY_GRADIENT
    if name == "grad_norm":
        if value > ALARMING_GRADIENT:
            return f"alarming: over {ALARMING_GRADIENT:g}", "bad"
        if low <= value <= high:
            return f"healthy: {low:g} to {high:g}", "good"
        return f"healthy is {low:g} to {high:g}", "notable"
    if name == "update_ratio":
        near = USUAL_RATIO / 10 <= value <= USUAL_RATIO * 10
        return f"usual: about {USUAL_RATIO:g}", "good" if near else "notable"
    if name == "unmoved_share" and value > 0.1:
        return "rounding swallows updates", "bad" if value > 0.5 else "notable"
    return "", ""
