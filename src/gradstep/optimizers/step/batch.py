"""Parameters that one engine updates at once, with the addresses of their memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import LENGTH, ROW, Engine, Int64s, Pieces, UpdateSpec
from gradstep.engines.statistics import DETAILS, SUMS, Detail, RowLabels, Tally
from gradstep.engines.step import StepBatch
from gradstep.optimizers.step.memory import PLAIN, Layouts, array_of, conform_gradient, is_freed
from gradstep.optimizers.step.memory_native import NativeLayouts, is_native


@final
@dataclass(frozen=True)
class Part:
    """Parameters that one engine updates with one spec.

    Attributes:
        engine: who executes.
        spec: what is computed.
        members: (n,) positions in the table, and ``groups`` the number of each one's group.
        params, names: the parameters, and what they are called.
        fields: the keys of every further field of memory: the parameters' own, then the slots'.
        slots: the tensors of each field.
        dtype: the gradients' type.
        plain: whether the parameters are plain tensors, whose memory can be compared with what it was.
    """

    engine: Engine
    spec: UpdateSpec
    members: Int64s
    groups: Int64s
    params: list[Tensor]
    names: list[str]
    fields: tuple[str, ...]
    slots: list[list[Tensor]]
    dtype: torch.dtype
    plain: bool

    def __post_init__(self) -> None:
        """Read the layouts now: whatever changes later is compared with them."""
        self.table  # noqa: B018  # fills the caches

    @cached_property
    def layouts(self) -> Sequence[Layouts | NativeLayouts]:
        """The layouts of the parameters, then of each field; of tensor subclasses nothing is known."""
        if not self.plain:
            return []
        kind = NativeLayouts if self.engine.by_address and is_native() else Layouts
        return [kind.of(column) for column in (self.params, *self.slots)]

    @cached_property
    def _storages(self) -> list[torch.UntypedStorage]:
        """The state's memory, which lives as long as its addresses even if somebody gives a slot other memory."""
        return [t.untyped_storage() for t in chain(*self.slots)] if self.plain else []

    @cached_property
    def only_group(self) -> int | None:
        """The number of the group of all members; None if there are several."""
        return int(self.groups[0]) if (self.groups == self.groups[0]).all() else None

    @cached_property
    def table(self) -> Int64s:
        """(n, fields + 3) as engines take it; the first column, where the gradients are, is filled in at each step."""
        self._storages  # noqa: B018
        nothing = np.zeros(len(self.params), np.int64)
        addresses = [layouts.pointers for layouts in self.layouts] or [nothing] * (1 + len(self.slots))
        return np.column_stack((nothing, *addresses, [p.numel() for p in self.params], nothing, nothing))

    @cached_property
    def labels(self) -> dict[Detail, RowLabels]:
        """Labels of the rows of statistics: all members, or their groups."""
        known = (self.names, self.members, self.groups, self.table[:, LENGTH].copy())
        return {detail: RowLabels.of(detail, *known) for detail in DETAILS}

    @cached_property
    def lengths_key(self) -> bytes:
        """The lengths, as in :attr:`Batch.sizes <gradstep.engines.base.Batch.sizes>`."""
        return self.table[:, LENGTH].tobytes()

    @cached_property
    def _kinds(self) -> list[tuple[Any, ...]]:
        return list(map(_kind, self.params))

    @cached_property
    def versioned(self) -> list[Tensor]:
        """The parameters that have a version to raise; those made in inference mode have none."""
        return [p for p in self.params if not p.is_inference()]

    @property
    def has_memory(self) -> bool:
        """Whether the state is in plain tensors whose elements have addresses."""
        missing = (self.table[:, 1:LENGTH] == 0) & (self.table[:, LENGTH:ROW] != 0)
        return PLAIN.issuperset(map(type, chain(*self.slots))) and not missing.any()

    def params_moved(self) -> bool:
        """Return whether a parameter is no longer where, or what, it was when this was made."""
        if self.plain:
            return not self.layouts[0].still_hold(self.params)
        return list(map(_kind, self.params)) != self._kinds or any(map(is_freed, self.params))

    def slots_moved(self) -> bool:
        """Return whether the memory of a slot is no longer what the table says."""
        return not all(layouts.still_hold(slot) for layouts, slot in zip(self.layouts[1:], self.slots))

    def batch(self) -> TorchBatch | None:
        """Return the parameters that have a gradient now; None if a gradient has another type than before.

        Raises:
            RuntimeError: a gradient that does not fit its parameter.
        """
        given = [p.grad for p in self.params]
        gradients = cast("list[Tensor]", given)  # a None among them differs from any tensor
        pointers = self.layouts[0].pointers_of_likes(gradients, self.dtype) if self.plain else None
        owners: Sequence[int] = range(len(given))
        active: list[int] | None = None
        if pointers is None:  # one is unlike its parameter, or there is none
            owners = [k for k, g in enumerate(given) if g is not None]
            if len(owners) < len(given):
                active, gradients = owners, [gradients[k] for k in owners]
                if self.plain:
                    pointers = self.layouts[0].select(active).pointers_of_likes(gradients, self.dtype)
        if pointers is None:
            gradients = [
                conform_gradient(self.params[k], g, self.names[k]) for k, g in zip(owners, gradients, strict=True)
            ]
            if any(g.dtype != self.dtype for g in gradients):
                return None
            pointers = [g.data_ptr() for g in gradients] if self.plain else [0] * len(gradients)
        batch = TorchBatch(self, gradients, None if active is None else np.array(active, dtype=np.int64))
        batch.table[:, 0] = pointers
        return batch


def _kind(p: Tensor) -> tuple[Any, ...]:
    return type(p), p.shape, p.dtype, p.device


@final
class TorchBatch(StepBatch):
    """Parameters of one part that have a gradient in this step.

    Args:
        part: what they are of.
        gradients: of the parameters, in their layouts of memory; kept, so that nobody frees them meanwhile.
        active: which of the part they are; None for all.
    """

    def __init__(self, part: Part, gradients: list[Tensor], active: Int64s | None) -> None:
        self.part, self.spec, self.engine, self.group = part, part.spec, part.engine, part.only_group
        self.gradients, self.active = gradients, active
        self.members, self.table = part.members, part.table
        if active is None:
            self.lengths_key = part.lengths_key
        else:
            self.members, self.table = part.members[active], part.table[active]
        self.threads = torch.get_num_threads()

    def _select_active(self, column: Sequence[Any]) -> Sequence[Any]:
        return column if self.active is None else [column[i] for i in self.active]

    @property
    def params(self) -> Sequence[Tensor]:
        """The parameters."""
        return self._select_active(self.part.params)

    @property
    def names(self) -> Sequence[str]:
        return self._select_active(self.part.names)

    def watch(self, detail: Detail) -> None:
        if self.active is None:
            self.labels = self.part.labels[detail]
        else:
            groups = self.part.groups[self.active]
            self.labels = RowLabels.of(detail, self.names, self.members, groups, self.lengths)
        self.owners, self.owners_key = self.labels.owners, self.labels.key

    @property
    def columns(self) -> Sequence[Sequence[Tensor]]:
        return [self.gradients, self.params, *map(self._select_active, self.part.slots)]

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        return [[array_of(t) for t in column] for column in self.columns]

    def find_nonfinite(self) -> Iterator[int]:
        return (k for k, g in enumerate(self.gradients) if not bool(g.isfinite().all()))

    def largest_gradient(self) -> float:
        return max((float(g.abs().max()) for g in self.gradients if g.numel()), default=0.0)

    def sum_squares(self, divisor: float) -> float:
        return sum(float((g / divisor).abs().square().sum()) for g in self.gradients)

    def run(self, walk: Iterable[Pieces | None]) -> None:
        """Update the parameters, piece by piece.

        Args:
            walk: the pieces whose state is in memory together, one after the other; None stands for everything.
        """
        found = []
        for self.pieces in walk:
            self.part.engine.update(self)
            if self.owners is not None:
                found.append(self.tally)
        # A backward pass over values that are no more shall notice it, as after any write by torch.
        versioned = self.part.versioned
        if self.active is not None:
            versioned = [p for p in self.params if not p.is_inference()]
        torch.autograd.graph.increment_version(versioned)
        if len(found) > 1:
            every = np.stack([tally.table for tally in found])
            least, most = np.fmin.reduce(every[..., SUMS]), np.fmax.reduce(every[..., SUMS + 1])
            self.tally = Tally.of(np.column_stack((every[..., :SUMS].sum(0), least, most)))
