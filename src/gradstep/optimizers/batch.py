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

from gradstep.engines.base import Batch, Engine, Int64s, Pieces, UpdateSpec
from gradstep.engines.statistics import SUMS
from gradstep.optimizers import survey
from gradstep.optimizers.gradients import usable


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
    def positions(self) -> list[int]:
        """The members as Python numbers, which index lists ten times faster."""
        return [int(i) for i in self.members]

    @cached_property
    def only_group(self) -> int | None:
        """The group of all members, if it is one."""
        return int(self.groups[0]) if (self.groups == self.groups[0]).all() else None

    @cached_property
    def lengths(self) -> Int64s:
        """(n,) elements of each parameter."""
        return np.ascontiguousarray(self.known[: len(self.params), survey.NUMEL])

    @cached_property
    def addresses(self) -> Int64s:
        """(n, fields) with the gradients' column, the first, to be filled in."""
        known = np.split(self.known[:, survey.POINTER], 1 + len(self.slots))
        return np.column_stack((np.zeros_like(known[0]), *known))

    @cached_property
    def gradient_facts(self) -> Int64s:
        """What a gradient must be to need no closer look: (n, all but the pointer)."""
        facts: Int64s = self.known[: len(self.params), survey.POINTER + 1 :].copy()
        facts[:, survey.DTYPE - 1] = survey.facts([[torch.empty(0, dtype=self.dtype)]])[0, survey.DTYPE]
        return facts

    def moved(self, *, slots: bool) -> bool:
        """Whether a parameter (or a slot, if they are to be asked) is no longer what this table says."""
        count = len(self.known) if slots else len(self.params)
        asked = [self.params, *self.slots] if slots else [self.params]
        return not (survey.facts(asked, self.handles[:count]) == self.known[:count]).all()


@final
class TorchBatch(Batch):
    """Parameters of one part that have a gradient in this step."""

    def __init__(self, part: Part, gradients: list[Tensor], active: Int64s | None) -> None:
        self.part = part
        self.spec = part.spec
        self.active = active  # None: all of them
        self.gradients = gradients
        self.facts: Int64s
        self.members = part.members if active is None else part.members[active]
        self.threads = torch.get_num_threads()

    def _taken(self, column: Sequence[Any]) -> Sequence[Any]:
        return column if self.active is None else [column[i] for i in self.active]

    @property
    def names(self) -> Sequence[str]:
        """What the parameters are called."""
        return self._taken(self.part.names)

    @property
    def groups(self) -> Int64s:
        """(n,) the number of each one's group."""
        return self.part.groups if self.active is None else self.part.groups[self.active]

    @property
    def lengths(self) -> Int64s:
        return self.part.lengths if self.active is None else self.part.lengths[self.active]

    @property
    def addresses(self) -> Int64s:
        result = self.part.addresses if self.active is None else self.part.addresses[self.active]
        result[:, 0] = self.facts[:, survey.POINTER]
        return result

    @property
    def columns(self) -> Sequence[Sequence[Tensor]]:
        return [self.gradients, self._taken(self.part.params), *map(self._taken, self.part.slots)]

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        return [[_array(t) for t in column] for column in self.columns]

    def run(self, walk: Iterable[Pieces | None]) -> None:
        """Update the parameters, piece by piece.

        Args:
            walk: the pieces whose state is in memory together, one after the other; None stands for everything.
        """
        found = []
        for self.pieces in walk:
            self.part.engine.update(self)
            found.append(self.statistics)
        if self.watched and len(found) > 1:
            every = np.stack(found)
            self.statistics = np.column_stack(
                (every[..., :SUMS].sum(0), np.fmin.reduce(every[..., SUMS]), np.fmax.reduce(every[..., SUMS + 1]))
            )

    def check(self) -> None:
        """Look at every gradient closely where needed; raise before anything is changed."""
        self.facts = survey.facts([self.gradients])
        expected = self.part.gradient_facts if self.active is None else self.part.gradient_facts[self.active]
        different = self.facts[:, survey.POINTER + 1 :] != expected
        odd = np.flatnonzero(different.any(axis=1)).tolist() if different.any() else []
        # A lazily negated gradient (the imaginary part of a conjugate) has other strides, unless it is one number.
        single = np.flatnonzero(self.facts[:, survey.NUMEL] == 1).tolist()
        lazy = [k for k in single if self.gradients[k].is_neg()]
        if self.part.dtype.is_complex:
            lazy += [k for k, g in enumerate(self.gradients) if g.is_conj() or g.is_neg()]
        if not odd and not lazy:
            return
        params, names = self._taken(self.part.params), self._taken(self.part.names)
        for k in {*odd, *lazy}:
            g = usable(params[k], self.gradients[k], names[k])
            if g.dtype != self.part.dtype:
                raise RuntimeError(f"the gradient of {names[k]} changed from {self.part.dtype} to {g.dtype}")
            self.gradients[k] = g
        self.facts = survey.facts([self.gradients])


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
