"""What an engine is asked to do, and what it may ask of the one who asks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from gradstep.rules import Rule
from gradstep.storage.elements import Element

Int64s = NDArray[np.int64]


@final
@dataclass(frozen=True)
class UpdateSpec:
    """What is computed on which element types: all that decides the code of an update.

    Attributes:
        rule: the rule class.
        slots: the names of its slots, in the order of their columns.
        coefficients: the names of its coefficients, in the order of their row. The last is always ``"gradient"``, the
            factor that unscales, clips and (for maximize) negates the gradient.
        columns: the element types of parameter, gradient and slots, in this order.
    """

    rule: type[Rule]
    slots: tuple[str, ...]
    coefficients: tuple[str, ...]
    columns: tuple[Element, ...]

    @property
    def arithmetic(self) -> type[np.floating[Any]]:
        """What the rule computes in: float64 for float64 parameters, float32 for all others."""
        return self.columns[0].arithmetic


class Batch(ABC):
    """Parameters that share one :class:`UpdateSpec`, with their gradients and slots, for one step.

    Attributes:
        spec: what to compute.
        rows: (n,) the row of coefficients that each parameter takes.
        coefficients: (rows, names) in float64.
        threads: how many threads may work.
    """

    spec: UpdateSpec
    rows: Int64s
    coefficients: NDArray[np.float64]
    threads: int

    @property
    @abstractmethod
    def lengths(self) -> Int64s:
        """(n,) elements of each parameter."""

    @property
    @abstractmethod
    def addresses(self) -> Int64s:
        """(n, columns) where the memory of parameter, gradient and slots begins; each dense, in the same order."""

    @property
    @abstractmethod
    def columns(self) -> Sequence[Sequence[Any]]:
        """The parameters, the gradients, and each slot, as the front's own objects."""

    @abstractmethod
    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        """The same as NumPy arrays of the stored types, sharing memory."""


@final
@dataclass(frozen=True)
class Traits:
    """What an engine needs to know of a parameter to say whether it can serve it.

    Attributes:
        dtype: name of the element type (``"float32"``).
        device: type of the device (``"cpu"``).
        dense: its memory has no gaps and no overlaps.
        plain: it is a tensor or array itself, no subclass with a mind of its own.
    """

    dtype: str
    device: str
    dense: bool
    plain: bool


class Engine(ABC):
    """Who executes a rule."""

    name: ClassVar[str]

    @abstractmethod
    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        """Why this engine cannot serve such a parameter, in words that fit after "because"; None if it can."""

    def prepare(self, spec: UpdateSpec) -> None:
        """Do what may fail before anything is changed."""
        del spec

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """Update parameters and slots in place; gradients are only read."""

    @abstractmethod
    def squares(self, batch: Batch) -> float:
        """The sum of the squares of all gradients of the batch, in float64; not finite if one of them is not."""
