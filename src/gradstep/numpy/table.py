"""The parameters of an optimizer sorted by who updates them: made at the first step, kept while it tells the truth.

Everything here follows from the parameters, the state and the rule, which stay the only truth. An array may be
replaced, reshaped or moved between two steps, so each is asked anew where and how it lies; what follows from the
answers is kept as long as they are the same. No array is held here: what its owner lets go of is gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from gradstep.engines.base import LENGTH, Engine, Int64s, UpdateSpec
from gradstep.numpy.base import Floats, HasGradient, array_of
from gradstep.numpy.gather import Buffers, Member, fitting
from gradstep.numpy.memory import LAYOUT, Facts, address, facts
from gradstep.rules import Rule

_NUMBERS = 3
"""What a table holds of a parameter beside addresses: its elements, its row of coefficients, the key of its noise."""


@final
@dataclass(frozen=True, eq=False)
class Part:
    """Parameters that one engine updates with one spec.

    Attributes:
        engine, spec: who updates them, and what is computed.
        members: their places in the list of parameters.
        known: the facts of their arrays: of every parameter, then of every array of the first slot, and so on.
        table: what the engine is told of them (see :class:`gradstep.engines.base.Batch`); the gradients' addresses and
            the rows are those of the last step.
    """

    engine: Engine
    spec: UpdateSpec
    members: list[int]
    known: list[Facts]
    table: Int64s

    @staticmethod
    def of(engine: Engine, spec: UpdateSpec, members: Sequence[Member]) -> Part:
        """These members, whose engine and spec these are."""
        columns = [[m.param for m in members], *([m.slots[name] for m in members] for name in spec.slots)]
        known = [facts(a) for column in columns for a in column]
        table = np.zeros((len(members), 1 + len(columns) + _NUMBERS), dtype=np.int64)
        table[:, 1:-_NUMBERS] = np.reshape([at for at, *_ in known], (len(columns), len(members))).T
        table[:, LENGTH] = [m.param.size for m in members]
        return Part(engine, spec, [m.index for m in members], known, table)

    def columns(self, params: Sequence[HasGradient], buffers: Mapping[str, Buffers]) -> list[list[Any]]:
        """The parameters, and each slot; None for a slot that is not there."""
        slots = [buffers.get(name) for name in self.spec.slots]
        return [
            [params[i].data for i in self.members],
            *([None if held is None else held[i] for i in self.members] for held in slots),
        ]

    def gradients(self, params: Sequence[HasGradient]) -> list[Floats]:
        """The gradients in the parameters' layout; their addresses are put into :attr:`table`.

        Raises:
            ValueError: a gradient of another shape.
            TypeError: one that holds no real numbers.
        """
        found = []
        for i, own in zip(self.members, self.known):
            given = params[i].grad
            g = given if type(given) is np.ndarray else array_of(given)
            if not g.flags.aligned or (g.shape, g.strides, g.dtype) != own[LAYOUT]:
                data = params[i].data
                g = fitting(g, data, data.shape, f"the gradient of parameter {i}")
            found.append(g)
        self.table[:, 0] = list(map(address, found))
        return found


@final
class Table:
    """The parameters that have a gradient.

    Args:
        members: those parameters.
        rule: what is computed.
    """

    def __init__(self, members: Sequence[Member], rule: Rule) -> None:
        sorted_: defaultdict[tuple[Engine, UpdateSpec], list[Member]] = defaultdict(list)
        for member in members:
            sorted_[member.engine, member.spec].append(member)
        self.active = [m.index for m in members]
        self.rule = rule
        self.parts = [Part.of(engine, spec, found) for (engine, spec), found in sorted_.items()]

    def holds(
        self, active: Sequence[int], params: Sequence[HasGradient], rule: Rule, buffers: Mapping[str, Buffers]
    ) -> bool:
        """Whether it still tells the truth of the parameters ``active``."""
        return (
            active == self.active
            and (rule is self.rule or _structure(rule) == _structure(self.rule))
            and all(_known(part.columns(params, buffers)) == part.known for part in self.parts)
        )


def _known(columns: Iterable[Iterable[Any]]) -> list[Facts | None]:
    return [facts(a) if isinstance(a, np.ndarray) else None for column in columns for a in column]


def _structure(rule: Rule) -> tuple[Any, ...]:
    return tuple(rule.slots(ndim) for ndim in (1, 2))
