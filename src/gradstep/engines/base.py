"""The interface of engines: the update that they compute, and the batch of parameters that they receive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, Literal, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.statistics import Tally
from gradstep.rules import Rule, Slot
from gradstep.storage.codecs import Codec, Elementwise, Field, Nearest
from gradstep.storage.noise import PARAMETER, SLOTS

T = TypeVar("T")
Int64s = NDArray[np.int64]

Pieces = Int64s
"""(pieces, 3) parts of parameters: the parameter's position in the batch, the first element, one after the last."""


@final
@dataclass(frozen=True, eq=False)
class UpdateSpec:
    """The rule and the storage of an update: everything that determines its code.

    :meth:`of` makes one, and returns the same object for the same contents, so that engines can cache kernels by it.

    Attributes:
        rule: the rule class.
        slots: the names of its slots.
        coefficients: the names of its coefficients, in the order of their row. The last is always ``"gradient"``, the
            factor that unscales, clips and (for maximize) negates the gradient.
        gradient, parameter: their codecs.
        state: the codec of each slot.
        second: the name of the first slot that is never negative, or empty.
    """

    rule: type[Rule]
    slots: tuple[str, ...]
    coefficients: tuple[str, ...]
    gradient: Nearest
    parameter: Elementwise
    state: tuple[Codec, ...]
    second: str = ""

    @staticmethod
    def of(
        rule: Rule, slots: Sequence[Slot], gradient: Nearest, parameter: Elementwise, state: Sequence[Codec]
    ) -> UpdateSpec:
        """Return the spec of a rule and the codecs of gradient, parameter and slots.

        Raises:
            TypeError: a codec packs its codes.
        """
        for codec in state:
            if any(field.per > 1 for field in codec.fields[:-1]):
                raise TypeError(
                    f"{codec.name} packs the codes of several elements into a number, which no engine reads"
                )
        names = tuple(slot.name for slot in slots)
        coefficients = (*rule.coefficients(1, **type(rule).scalars), "gradient")
        second = next((slot.name for slot in slots if not slot.signed), "")
        return _spec(type(rule), names, coefficients, gradient, parameter, tuple(state), second)

    @cached_property
    def arithmetic(self) -> type[np.floating[Any]]:
        """The type that the rule computes in: float64 for float64 parameters, float32 for all others."""
        return self.parameter.arithmetic

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """The codecs of gradient, parameter and slots, in this order."""
        return (self.gradient, self.parameter, *self.state)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The columns of memory: the fields of every codec in order. The gradient is column 0."""
        return tuple(field for codec in self.codecs for field in codec.fields)

    def split_by_codec(self, columns: Sequence[T]) -> list[Sequence[T]]:
        """Split a sequence with one item per field into one sequence per codec."""
        items = iter(columns)
        return [[next(items) for _ in codec.fields] for codec in self.codecs]

    @cached_property
    def noise(self) -> dict[int, int]:
        """The stream of random numbers of each noisy codec, by its position in :attr:`codecs`."""
        return {i: SLOTS if i > 1 else PARAMETER for i, codec in enumerate(self.codecs) if codec.noisy}


_spec = cache(UpdateSpec)


LENGTH, ROW, KEY = -3, -2, -1
"""The last columns of a batch's table."""


class Batch(ABC):
    """Parameters that share one :class:`UpdateSpec`, with their gradients and slots, for one step.

    Attributes:
        spec: the update to compute.
        table: (n, fields + 3) one row per parameter: the address of the first element of each field (all dense, in the
            same order of elements), then in column LENGTH its number of elements, in ROW its row of coefficients, and
            in KEY the key of its noise (see :mod:`gradstep.storage.noise`).
        coefficients: (rows, names) in float64.
        threads: the largest number of threads to use.
        pieces: the parts of parameters to update; None for everything.
        starts: (n,) if the batch holds parts of parameters, the first element of each, which determines its noise.
        owners: (n,) the row of statistics that each parameter counts for, ascending from 0; None for no statistics.
        owners_key: the owners as bytes, like :attr:`lengths_key`; None for no statistics.
        tally: the statistics of the last update, if it collected any.
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

    @property
    def lengths(self) -> Int64s:
        """(n,) elements of each parameter."""
        return self.table[:, LENGTH]

    @cached_property
    def lengths_key(self) -> bytes:
        """The lengths as bytes, the key by which an engine caches its division of the work."""
        return self.lengths.tobytes()

    @property
    def rows(self) -> Int64s:
        """(n,) each parameter's row of coefficients."""
        return self.table[:, ROW]

    @property
    def keys(self) -> Int64s:
        """(n,) each parameter's key of noise."""
        return self.table[:, KEY]

    def iterate_parameters(self, columns: Sequence[Sequence[Any]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield (position, its entry of each column) of every parameter to update, for engines without ``parts``."""
        every = range(len(self.table)) if self.pieces is None else map(int, self.pieces[:, 0])
        return ((k, tuple(column[k] for column in columns)) for k in every)

    @property
    @abstractmethod
    def columns(self) -> Sequence[Sequence[Any]]:
        """The gradients, the parameters, and each further field, as the front's own objects."""

    @abstractmethod
    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        """Return :attr:`columns` as NumPy arrays of the stored types, sharing memory."""


ANOTHER_FAILED = "another rank could not take this step, and its own error says why; nothing was changed on any rank"
"""The error of the ranks that could have taken a step."""


class Ranks(ABC):
    """The processes among which the parameters of an optimizer, or their elements, are divided."""

    @abstractmethod
    def fail(self, *, measured: bool) -> None:
        """Join the first exchange of a step that this rank cannot take, so that all ranks raise an error.

        Args:
            measured: whether the step takes the norm.
        """

    @abstractmethod
    def agree(self, batches: Sequence[Batch]) -> None:
        """Exchange errors, before an update that exchanges or is followed by an exchange; all ranks must call it.

        Args:
            batches: this rank's part of each batch.

        Raises:
            RuntimeError: a rank cannot take this step.
        """

    @abstractmethod
    def combine(self, batches: Sequence[Batch], values: Sequence[float], how: Literal["sum", "max"]) -> float:
        """Return the sum or the largest of the values of all batches on all ranks; all ranks must call it.

        Args:
            batches: this rank's part of each batch.
            values: one per batch, of this rank's part.
            how: what to return.

        Raises:
            RuntimeError: a rank cannot take this step, which a sum tells the others.
        """

    @abstractmethod
    def first_name(self, name: str | None) -> str:
        """Return the first of every rank's names in the order of the whole optimizer; all ranks must call it."""

    @abstractmethod
    def combine_statistics(self, batches: Sequence[Batch]) -> None:
        """Replace the tally of each batch by that of all ranks' parts of it; all ranks must call it."""


@final
@dataclass(frozen=True)
class Traits:
    """The properties of a parameter by which an engine accepts or refuses it.

    Attributes:
        dtype: name of the element type (``"float32"``).
        device: type of the device (``"cpu"``).
        dense: its memory has no gaps and no overlaps.
        plain: it is a plain tensor or array, not a subclass that computes differently.
        noisy: the parameter or a slot is rounded at random.
    """

    dtype: str
    device: str
    dense: bool
    plain: bool
    noisy: bool = False


class Engine(ABC):
    """The executor of a rule.

    Attributes:
        name: the name that users give.
        parts: whether it can update a part of a parameter (in multiples of 16,384 elements).
        by_address: whether it reads only a batch's table, never its arrays.
    """

    name: ClassVar[str]
    parts: ClassVar[bool]
    by_address: ClassVar[bool] = False

    @abstractmethod
    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        """Return why this engine cannot update such a parameter, in words that fit after "because"; None if it can."""

    def prepare(self, spec: UpdateSpec) -> None:
        """Do everything that may fail, such as compiling, before a step changes anything."""
        del spec

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """Update parameters and slots in place; gradients are only read. Collect statistics if the batch has owners."""

    @abstractmethod
    def sum_squares(self, batch: Batch) -> float:
        """Return the sum of the squares of all gradients of the batch, in float64; not finite if a gradient is not."""


def check_engine(name: str, engines: Mapping[str, Engine]) -> None:
    """Refuse an engine that does not exist.

    Args:
        name: ``"auto"``, or the name of an engine.
        engines: all engines by name.

    Raises:
        ValueError: no engine has this name.
    """
    if name != "auto" and name not in engines:
        raise ValueError(f"Unknown engine: {name!r} (choose auto, {', '.join(engines)})")


def choose_engine(
    name: str, engines: Mapping[str, Engine], rule: type[Rule], traits: Traits, label: str, kind: str
) -> tuple[Engine, str]:
    """Return the engine for one parameter, and the reason.

    Args:
        name: the user's choice: ``"auto"`` or an engine's name.
        engines: all engines by name, the fastest first; the last or the last but one accepts everything.
        rule: the rule class.
        traits: the parameter's.
        label: the parameter's name in an error.
        kind: a description for the reason: ``"tensor on the CPU"``.

    Raises:
        ValueError: the chosen engine cannot update this parameter.
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
