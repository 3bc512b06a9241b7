"""What the engines get: parameters that one of them updates at once, with what is known of their memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import LENGTH, Batch, Engine, Int64s, Pieces, UpdateSpec
from gradstep.engines.statistics import SUMS, Tally
from gradstep.optimizers import survey
from gradstep.optimizers.gradients import usable
from gradstep.optimizers.who import DETAILS, Detail, Who


@final
@dataclass(frozen=True)
class Part:
    """Parameters that one engine updates with one spec.

    Attributes:
        engine: who executes.
        spec: what is computed.
        members: (n,) positions in the table, and ``groups`` the number of each one's group.
        params, names, states: the parameters, what they are called, and where their state is kept.
        slots: the tensors of every further field of memory: the parameters' own, then the slots'.
        aliases: the same tensors once more, so that their memory lives even if somebody gives a slot other memory.
        handles: by which to ask about all parameters, then all of the first slot, and so on.
        known: the facts of the same when this was made.
        dtype: the gradients' type.
    """

    engine: Engine
    spec: UpdateSpec
    members: Int64s
    groups: Int64s
    params: list[Tensor]
    names: list[str]
    slots: list[list[Tensor]]
    aliases: list[Tensor]
    handles: Int64s
    known: Int64s
    dtype: torch.dtype

    @cached_property
    def only_group(self) -> int | None:
        """The group of all members, if it is one."""
        return int(self.groups[0]) if (self.groups == self.groups[0]).all() else None

    @cached_property
    def table(self) -> Int64s:
        """(n, fields + 3) as engines take it; the first column, where the gradients are, is filled in at each step."""
        known = np.split(self.known, 1 + len(self.slots))
        nothing = np.zeros(len(self.params), np.int64)
        addresses = (facts[:, survey.POINTER] for facts in known)
        return np.column_stack((nothing, *addresses, known[0][:, survey.NUMEL], nothing, nothing))

    @cached_property
    def who(self) -> dict[Detail, Who]:
        """All members, and their groups."""
        known = (self.names, self.members, self.groups, self.table[:, LENGTH].copy())
        return {detail: Who.of(detail, *known) for detail in DETAILS}

    @cached_property
    def sizes(self) -> bytes:
        """The lengths, as in :attr:`Batch.sizes <gradstep.engines.base.Batch.sizes>`."""
        return self.table[:, LENGTH].tobytes()

    @cached_property
    def wanted(self) -> Int64s:
        """(n, 5) the facts of a gradient that needs no closer look; of the POINTER nothing is wanted."""
        facts: Int64s = self.known[: len(self.params)].copy()
        facts[:, survey.DTYPE] = survey.facts([[torch.empty(0, dtype=self.dtype)]])[0, survey.DTYPE]
        return facts

    @cached_property
    def lazy(self) -> list[int]:
        """Whose gradient may be conjugated or negated lazily, which its facts do not show.

        A lazily negated gradient (the imaginary part of a conjugate) has other strides, unless it is one number.
        """
        if self.dtype.is_complex:
            return list(range(len(self.params)))
        single: list[int] = np.flatnonzero(self.table[:, LENGTH] == 1).tolist()
        return single

    @cached_property
    def look(self) -> survey.Look:
        """Asks whether the parameters are where they were, and fills in where the gradients are."""
        return survey.Look(self.members, self.params, self.known[: len(self.params)], self.wanted, self.table)

    @cached_property
    def versioned(self) -> Int64s | None:
        """The parameters' handles, unless one has no version to raise."""
        return None if any(p.is_inference() for p in self.params) else self.handles[: len(self.params)]

    def slots_moved(self) -> bool:
        """Whether the memory of a slot is no longer what this table says."""
        count = len(self.params)
        return not (survey.facts(self.slots, self.handles[count:]) == self.known[count:]).all()


@final
class TorchBatch(Batch):
    """Parameters of one part that have a gradient in this step.

    Args:
        part: what they are of.
        odd: whether a gradient may be missing, or other than :attr:`Part.wanted`, or not in the part's table yet.

    Attributes:
        active: which of the part they are; None for all.
        who: whose rows the statistics have, if some are to be collected.

    Raises:
        RuntimeError: a gradient that does not fit.
    """

    who: Who

    def __init__(self, part: Part, *, odd: bool) -> None:
        self.part = part
        self.spec = part.spec
        self.active: Int64s | None = None
        self.members, self.table = part.members, part.table
        self.threads = torch.get_num_threads()
        self._held, part.look.held = part.look.held, None
        if part.engine.by_address and not odd and not part.lazy:
            return  # to read a thousand gradients from Python takes as long as to update them
        given = [p.grad for p in part.params]
        self.gradients = [g for g in given if g is not None]
        if len(self.gradients) < len(given):
            self.active = np.array([k for k, g in enumerate(given) if g is not None], dtype=np.int64)
            self.members, self.table = part.members[self.active], part.table[self.active]
        if odd or part.lazy:
            self._check()

    @cached_property
    def gradients(self) -> list[Tensor]:
        """Of all parameters of the batch."""
        return [g for p in self.part.params if (g := p.grad) is not None]

    def _taken(self, column: Sequence[Any]) -> Sequence[Any]:
        return column if self.active is None else [column[i] for i in self.active]

    @property
    def params(self) -> Sequence[Tensor]:
        """The parameters."""
        return self._taken(self.part.params)

    @property
    def names(self) -> Sequence[str]:
        """What the parameters are called."""
        return self._taken(self.part.names)

    def watch(self, detail: Detail) -> None:
        """Have statistics collected."""
        if self.active is None:
            self.who = self.part.who[detail]
        else:
            self.who = Who.of(detail, self.names, self.members, self.part.groups[self.active], self.lengths)
        self.owners = self.who.owners

    @property
    def sizes(self) -> bytes:
        return self.part.sizes if self.active is None else super().sizes

    @property
    def owned(self) -> bytes | None:
        return None if self.owners is None else self.who.key

    @property
    def columns(self) -> Sequence[Sequence[Tensor]]:
        return [self.gradients, self.params, *map(self._taken, self.part.slots)]

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        return [[array_of(t) for t in column] for column in self.columns]

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
        survey.count_written(self.params, self.part.versioned if self.active is None else None)
        if len(found) > 1:
            every = np.stack([tally.table for tally in found])
            least, most = np.fmin.reduce(every[..., SUMS]), np.fmax.reduce(every[..., SUMS + 1])
            self.tally = Tally.of(np.column_stack((every[..., :SUMS].sum(0), least, most)))

    def _check(self) -> None:
        """Look at every gradient closely where needed."""
        facts = survey.facts([self.gradients])
        wanted = self.part.wanted if self.active is None else self.part.wanted[self.active]
        different = (facts[:, survey.NUMEL :] != wanted[:, survey.NUMEL :]).any(axis=1)
        lazy = set(self.part.lazy)
        where = range(len(self.gradients)) if self.active is None else self.active.tolist()
        doubtful = {k for k, i in enumerate(where) if i in lazy and _is_lazy(self.gradients[k])}
        for k in doubtful.union(np.flatnonzero(different).tolist()):
            name = self.names[k]
            g = usable(self.params[k], self.gradients[k], name)
            if g.dtype != self.part.dtype:
                raise RuntimeError(f"the gradient of {name} changed from {self.part.dtype} to {g.dtype}")
            self.gradients[k] = g
            facts[k, survey.POINTER] = g.data_ptr()
        self.table[:, 0] = facts[:, survey.POINTER]


def _is_lazy(g: Tensor) -> bool:
    return g.is_conj() or g.is_neg()


def array_of(tensor: Tensor) -> NDArray[Any]:
    """The memory of a tensor as NumPy sees it, bfloat16 as 16 bits.

    Raises:
        TypeError: the tensor is on a device, whose memory NumPy does not reach.
    """
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
