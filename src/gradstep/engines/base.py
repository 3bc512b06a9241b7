"""The interfaces of a step: engines, the batches of parameters that they update, the table of all parameters, ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.statistics import Detail, Int64s, RowLabels, Tally
from gradstep.rules import Rule
from gradstep.storage.policy import UpdateSpec

Pieces = Int64s
"""(pieces, 3) parts of parameters: the parameter's position in the batch, the first element, one after the last."""


LENGTH, ROW, KEY = -3, -2, -1
"""The last columns of a batch's table."""


class Batch(ABC):
    """Parameters that share one :class:`UpdateSpec`, with their gradients and slots, for one step.

    Attributes:
        spec: the update to compute.
        table: (n, fields + 3) one row per parameter: the address of the first element of each field (all dense, in the
            same order of elements), then in column LENGTH its number of elements, in ROW its row of coefficients, and
            in KEY the key of its noise (from :func:`gradstep.storage.elements.keys`).
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

    compares: bool = False
    """Whether all ranks compare settings and noise in this step, also if nothing else is exchanged."""

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
    def combine(
        self,
        batches: Sequence[Batch],
        values: Sequence[float],
        how: Literal["sum", "max"],
        settings: Sequence[float] | None = None,
    ) -> float:
        """Return the sum or the largest of the values of all batches on all ranks; all ranks must call it.

        Args:
            batches: this rank's part of each batch.
            values: one per batch, of this rank's part.
            how: what to return.
            settings: arguments of this step. If given, ranks with parts of the same parameters must have the same
                arguments and coefficients.

        Raises:
            RuntimeError: a rank cannot take this step, or ranks have other settings; a sum carries that to all ranks.
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
        sharded: this process has a part of it.
        number: number of the device among those of its type.
        spec: the update to compute; None if only the rule is known.
    """

    dtype: str
    device: str
    dense: bool
    plain: bool
    noisy: bool = False
    sharded: bool = False
    number: int = 0
    spec: UpdateSpec | None = None


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

    def prepare(self, spec: UpdateSpec, *, watched: bool) -> None:
        """Do everything that may fail, such as compiling, before a step changes anything.

        Args:
            spec: the update that the step will compute.
            watched: whether the step collects statistics, for which there may be another kernel.
        """
        del spec, watched

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """Update parameters and slots in place; gradients are only read. Collect statistics if the batch has owners."""

    @abstractmethod
    def sum_squares(self, batch: Batch) -> float:
        """Return the sum of the squares of all gradients of the batch, in float64; not finite if a gradient is not."""


class StepBatch(Batch, ABC):
    """Parameters that one engine updates in one step, all with one :class:`~gradstep.storage.policy.UpdateSpec`.

    Attributes:
        engine: the engine that updates them.
        members: (n,) their numbers among all parameters of the optimizer.
        group: the number of their group; None if they are in several groups.
        labels: row labels of the statistics, if some are collected.
    """

    engine: Engine
    members: Int64s
    group: int | None
    labels: RowLabels

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names of the parameters, for messages."""

    @abstractmethod
    def watch(self, detail: Detail) -> None:
        """Switch the collection of statistics on: set :attr:`labels` and ``owners``."""

    @abstractmethod
    def find_nonfinite(self) -> Iterator[int]:
        """Yield the positions in the batch of the parameters whose gradient is not finite, ascending."""

    @abstractmethod
    def largest_gradient(self) -> float:
        """Return the largest magnitude of all gradients, which must be finite; 0 without elements."""

    @abstractmethod
    def sum_squares(self, divisor: float) -> float:
        """Return Σ (g / divisor)² over all gradients, in float64."""


class StepTable(ABC):
    """All parameters of an optimizer that have state.

    Attributes:
        groups: (parameters,) the number of each parameter's group.
        numbers: (parameters, 1 + scalars) the number of updates of each parameter, then the scalars of all rules; a
            number that its rule does not have stays as it is.
        scalar_names: names of the columns of ``numbers``.
        streams: (parameters,) streams of rounding noise (:func:`gradstep.storage.elements.streams`).
    """

    groups: Int64s
    numbers: NDArray[np.floating[Any]]
    scalar_names: tuple[str, ...]
    streams: NDArray[np.uint64]

    @abstractmethod
    def install(self) -> None:
        """Add new state to the optimizer's state; called when nothing can fail any more."""

    @abstractmethod
    def open_for_update(self) -> AbstractContextManager[None]:
        """Return the context in which all batches of a step are updated."""

    @abstractmethod
    def update(self, batch: Any) -> None:
        """Update parameters and slots with the batch's engine."""

    @abstractmethod
    def commit(self, batch: Any, numbers: NDArray[np.floating[Any]]) -> None:
        """Write the numbers after the update: (n, 1 + scalars), or (1, 1 + scalars) if all are equal."""

    @abstractmethod
    def finish(self) -> None:
        """Called after all batches, inside :meth:`open_for_update`."""
