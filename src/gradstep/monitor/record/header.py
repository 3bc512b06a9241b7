"""Who is trained and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final


@final
@dataclass(frozen=True)
class Parameter:
    """One tensor that is trained, or could have been.

    Attributes:
        name: the model's name for it where the model is known, else the optimizer's.
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
        """How many numbers it holds."""
        return math.prod(self.shape)


@final
@dataclass(frozen=True)
class Group:
    """A parameter group: its name (``"group 0"`` if it was given none) and its settings at the start of the run."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Header:
    """Who is trained and how: the first line of a record, and one more for every resume.

    Attributes:
        optimizer: class name, ``"AdamW"``.
        package: where that class comes from, ``"torch"`` or ``"gradstep"``.
        rule: name of the gradstep rule, None for other optimizers.
        groups: the parameter groups.
        parameters: every parameter of the optimizer, group by group; per-parameter numbers refer to its index here.
        unregistered: parameters of the model that are in no group of the optimizer; empty if the model is unknown.
        every: statistics were collected at every so many updates.
        planned_updates: length of the run, if it was told.
        schedule: of the learning rate, in words; empty if there is none or it is unknown.
        schedule_updates: length of the schedule; None if it has no end or is unknown.
        accumulate: micro-batches per update, if it was told.
        fine_tuning: whether a model is trained on that was trained before, if it was told.
        precision: of the forward pass, if it was told: ``"float32"``, ``"bf16"``, ``"fp16"``.
        started: date and time, ISO 8601 with zone.
        first_update: 0; after a resume, the number of the first update that follows. What the file holds of it and
            of later ones from before is void.
        version: of gradstep.
    """

    optimizer: str
    package: str
    rule: str | None
    groups: tuple[Group, ...]
    parameters: tuple[Parameter, ...]
    unregistered: tuple[Parameter, ...] = ()
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
