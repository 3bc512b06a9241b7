"""The reference: NumPy, one tensor after the other, as the rule is written. Slow, and the oracle of the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import final

import numpy as np

from gradstep.engines.base import Batch, Engine, Traits
from gradstep.rules import Rule, State
from gradstep.storage.elements import ELEMENTS


@final
class Reference(Engine):
    """NumPy, in the parameter's arithmetic: float64 parameters make it the float64 oracle."""

    name = "reference"

    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        if traits.device != "cpu":
            return f"it is on {traits.device} and NumPy reads the CPU's memory"
        if not traits.plain:
            return "it is a tensor subclass"
        if traits.dtype not in ELEMENTS:
            return f"NumPy has no codec for {traits.dtype} (it has {', '.join(ELEMENTS)})"
        return None

    def update(self, batch: Batch) -> None:
        spec = batch.spec
        rows = [
            SimpleNamespace(**dict(zip(spec.coefficients, row.astype(spec.arithmetic), strict=True)))
            for row in batch.coefficients
        ]
        # Overflow and 0/0 are what the numbers say; the kernel does not warn of them either.
        with np.errstate(all="ignore"):
            for row, *stored in zip(batch.rows, *batch.arrays(), strict=True):
                p, g, *slots = (
                    e.decode(a).astype(spec.arithmetic, copy=False) for e, a in zip(spec.columns, stored, strict=True)
                )
                if p.size == 0:
                    continue
                c = rows[row]
                state = State(**dict(zip(spec.slots, slots, strict=True)))
                p = spec.rule.update(p, g * c.gradient, state, c)
                new = [p, *(getattr(state, name) for name in spec.slots)]
                kinds = [spec.columns[0], *spec.columns[2:]]
                # A rule may hand an old value on (s.before = s.last): copy before any place is written.
                codes = [np.array(element.encode(value)) for value, element in zip(new, kinds, strict=True)]
                for code, array in zip(codes, [stored[0], *stored[2:]], strict=True):
                    array[...] = code

    def squares(self, batch: Batch) -> float:
        element = batch.spec.columns[1]
        with np.errstate(all="ignore"):
            return float(sum(np.sum(element.decode(g).astype(np.float64) ** 2) for g in batch.arrays()[1]))
