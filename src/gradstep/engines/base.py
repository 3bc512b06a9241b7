"""What an engine is asked to do, and what it may ask of the one who asks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.statistics import Tally
from gradstep.rules import Rule, Slot
from gradstep.storage.codecs import Codec, Elementwise, Field
from gradstep.storage.noise import PARAMETER, SLOTS

T = TypeVar("T")
Int64s = NDArray[np.int64]

Pieces = Int64s
"""(pieces, 3) part of the work of a batch: the position of a parameter, its first element, and where it stops."""


@final
@dataclass(frozen=True, eq=False)
class UpdateSpec:
    """What is computed on which storage: all that decides the code of an update.

    Made by :meth:`of`, which returns the same object for the same contents: engines keep kernels by it.

    Attributes:
        rule: the rule class.
        slots: the names of its slots.
        coefficients: the names of its coefficients, in the order of their row. The last is always ``"gradient"``, the
            factor that unscales, clips and (for maximize) negates the gradient.
        gradient, parameter: how these are stored.
        state: how each slot is stored.
        second: the name of the first slot that is never negative, or empty.
    """

    rule: type[Rule]
    slots: tuple[str, ...]
    coefficients: tuple[str, ...]
    gradient: Elementwise
    parameter: Elementwise
    state: tuple[Codec, ...]
    second: str = ""

    @staticmethod
    def of(
        rule: Rule, slots: Sequence[Slot], gradient: Elementwise, parameter: Elementwise, state: Sequence[Codec]
    ) -> UpdateSpec:
        """The spec of a rule with these settings, on such storage."""
        names = tuple(slot.name for slot in slots)
        coefficients = (*rule.coefficients(1, **type(rule).scalars), "gradient")
        second = next((slot.name for slot in slots if not slot.signed), "")
        return _spec(type(rule), names, coefficients, gradient, parameter, tuple(state), second)

    @cached_property
    def arithmetic(self) -> type[np.floating[Any]]:
        """What the rule computes in: float64 for float64 parameters, float32 for all others."""
        return self.parameter.arithmetic

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """How gradient, parameter and slots are stored, in this order."""
        return (self.gradient, self.parameter, *self.state)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The columns of memory: the fields of every codec in order. The gradient is column 0."""
        return tuple(field for codec in self.codecs for field in codec.fields)

    def split_by_codec(self, columns: Sequence[T]) -> list[Sequence[T]]:
        """One thing per field, as one sequence per codec."""
        left = iter(columns)
        return [[next(left) for _ in codec.fields] for codec in self.codecs]

    @cached_property
    def noise(self) -> dict[int, int]:
        """Which stream of random numbers each noisy codec takes, by its position in :attr:`codecs`."""
        return {i: SLOTS if i > 1 else PARAMETER for i, codec in enumerate(self.codecs) if codec.noisy}


_spec = cache(UpdateSpec)


LENGTH, ROW, KEY = -3, -2, -1
"""The last columns of a batch's table."""


class Batch(ABC):
    """Parameters that share one :class:`UpdateSpec`, with their gradients and slots, for one step.

    Attributes:
        spec: what to compute.
        table: (n, fields + 3) for each parameter the addresses at which its fields begin, each dense and in the same
            order of elements, and then under LENGTH its elements, under ROW its row of coefficients and under KEY that
            of its noise (see :mod:`gradstep.storage.noise`).
        coefficients: (rows, names) in float64.
        threads: how many threads may work.
        pieces: what to update of it; None for everything.
        starts: (n,) where these are parts of parameters, the first element of each: their noise goes by it.
        owners: (n,) which row of the statistics each parameter counts for, from 0 on and ascending; None if there are
            to be no statistics.
        tally: the statistics of the last update, if there are.
    """

    spec: UpdateSpec
    table: Int64s
    coefficients: NDArray[np.float64]
    threads: int
    pieces: Pieces | None = None
    starts: Int64s | None = None
    owners: Int64s | None = None
    tally: Tally
    owners_key: bytes | None = None
    """The owners as a key, like :attr:`sizes`, if there are any."""

    @property
    def lengths(self) -> Int64s:
        """(n,) elements of each parameter."""
        return self.table[:, LENGTH]

    @cached_property
    def lengths_key(self) -> bytes:
        """The lengths as a key by which an engine may remember how it divides the work."""
        return self.lengths.tobytes()

    @property
    def rows(self) -> Int64s:
        """(n,) the row of coefficients of each parameter."""
        return self.table[:, ROW]

    @property
    def keys(self) -> Int64s:
        """(n,) the key of each one's noise."""
        return self.table[:, KEY]

    def iterate_parameters(self, columns: Sequence[Sequence[Any]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """The position and the entries of every parameter that is to be updated, for engines that take it whole."""
        every = range(len(self.table)) if self.pieces is None else map(int, self.pieces[:, 0])
        return ((k, tuple(column[k] for column in columns)) for k in every)

    @property
    @abstractmethod
    def columns(self) -> Sequence[Sequence[Any]]:
        """The gradients, the parameters, and each further field, as the front's own objects."""

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
        noisy: something of it is rounded at random.
    """

    dtype: str
    device: str
    dense: bool
    plain: bool
    noisy: bool = False


class Engine(ABC):
    """Who executes a rule.

    Attributes:
        name: what users call it.
        parts: whether it can update a part of a parameter (in multiples of 16,384 elements).
        by_address: whether a batch's table is all that it reads.
    """

    name: ClassVar[str]
    parts: ClassVar[bool]
    by_address: ClassVar[bool] = False

    @abstractmethod
    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        """Why this engine cannot serve such a parameter, in words that fit after "because"; None if it can."""

    def prepare(self, spec: UpdateSpec) -> None:
        """Do what may fail before anything is changed."""
        del spec

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """Update parameters and slots in place; gradients are only read. Collect statistics if the batch has owners."""

    @abstractmethod
    def sum_squares(self, batch: Batch) -> float:
        """The sum of the squares of all gradients of the batch, in float64; not finite if one of them is not."""


def check_engine(name: str, engines: Mapping[str, Engine]) -> None:
    """Refuse an engine that does not exist.

    Args:
        name: ``"auto"``, or an engine's.
        engines: those that exist, by name.

    Raises:
        ValueError: naming those that do.
    """
    if name != "auto" and name not in engines:
        raise ValueError(f"Unknown engine: {name!r} (choose auto, {', '.join(engines)})")


def choose_engine(
    name: str, engines: Mapping[str, Engine], rule: type[Rule], traits: Traits, label: str, kind: str
) -> tuple[Engine, str]:
    """The engine for one parameter, with the reason.

    Args:
        name: what the user asks for: ``"auto"`` or an engine's name.
        engines: those that there are, the fastest first; the last but one or the last serves everything.
        rule: the rule class.
        traits: of the parameter.
        label: what to call the parameter in an error.
        kind: what it is, for the reason: ``"tensor on the CPU"``.

    Raises:
        ValueError: the engine that was asked for cannot serve this parameter.
    """
    if name == "auto":
        refused: list[str] = []
        for engine in engines.values():
            refusal = engine.refuse(rule, traits)
            if refusal is None:
                return engine, ", ".join(refused) or f"a dense {traits.dtype} {kind}"
            refused.append(f"not {engine.name} because {refusal}")
        raise ValueError(f"no engine can serve {label}: {', '.join(refused)}")
    refusal = engines[name].refuse(rule, traits)
    if refusal is not None:
        able = [e.name for e in engines.values() if e.refuse(rule, traits) is None]
        raise ValueError(
            f"engine={name!r} cannot serve {label} because {refusal}; "
            f"engine='auto' chooses one that can ({', '.join(able)})"
        )
    return engines[name], f"engine={name!r} was asked for"
