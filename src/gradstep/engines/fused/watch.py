"""The statistics of a chunk, collected by the kernel that updates it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, final

import numpy as np
from llvmlite import ir

from gradstep.engines.base import UpdateSpec
from gradstep.engines.fused.skeleton import LANES, Chunk, Kernel, integer
from gradstep.engines.fused.trace import Value, added, lanes_of, llvm_type
from gradstep.engines.statistics import STATISTICS, SUMS


@final
class Watch:
    """Accumulators beside an update, one for each statistic and width of vector.

    Squares are summed in float64: those of float32 numbers neither overflow nor vanish there.
    """

    def __init__(self, kernel: Kernel, spec: UpdateSpec) -> None:
        self.kernel, self.spec = kernel, spec
        self.sums = {(k, lanes): kernel.zero(np.float64, lanes) for k in range(SUMS) for lanes in (LANES, 1)}
        kind = spec.arithmetic
        start = {"min": np.inf, "max": -np.inf}
        self.bounds = {(k, lanes): kernel.zero(kind, lanes) for k in start for lanes in (LANES, 1)}
        for (k, lanes), place in self.bounds.items():
            same = llvm_type(kind, lanes)
            number: Any = [start[k]] * lanes if lanes > 1 else start[k]
            kernel.builder.store(ir.Constant(same, number), place)

    def see(self, g: Value, p: Value, new: Sequence[Value], lanes: int) -> None:
        """Take one vector into account."""
        stored = self.spec.parameter.kept(new[0])
        made = stored.astype(np.float64) - p.astype(np.float64)
        for k, x in enumerate((g, stored, made)):
            double = x.astype(np.float64)
            self._add(k, lanes, double * double)
        unmoved = (stored == p) & (g != 0.0)
        nothing = Value(self.kernel.builder, ir.Constant(llvm_type(np.float64, lanes), None))
        self._add(3, lanes, unmoved.select(1.0, nothing))
        if self.spec.second:
            x = new[1 + self.spec.slots.index(self.spec.second)]
            for bound in ("min", "max"):
                place = self.bounds[bound, lanes]
                self.kernel.builder.store(
                    _further(bound, x, self.kernel.get(place, self.spec.arithmetic, lanes)).ir, place
                )

    def _add(self, k: int, lanes: int, x: Value) -> None:
        place = self.sums[k, lanes]
        self.kernel.builder.store((self.kernel.get(place, np.float64, lanes) + x).ir, place)

    def finish(self, chunk: Chunk) -> None:
        """Write the chunk's row of results."""
        kernel, b, kind = self.kernel, self.kernel.builder, self.spec.arithmetic
        found = [
            added(kernel.get(self.sums[k, LANES], np.float64, LANES)) + kernel.get(self.sums[k, 1], np.float64, 1)
            for k in range(SUMS)
        ]
        for bound in ("min", "max"):
            wide, single = (kernel.get(self.bounds[bound, lanes], kind, lanes) for lanes in (LANES, 1))
            found.append(reduce(partial(_further, bound), lanes_of(wide), single).astype(np.float64))
        first = b.mul(chunk.index, integer(len(STATISTICS)))
        for k, x in enumerate(found):
            place = b.gep(kernel.job["results"], [b.add(first, integer(k))], source_etype=llvm_type(np.float64))
            b.store(x.ir, place)


def _further(bound: str, x: Value, y: Value) -> Value:
    """The smaller or the larger; ``y`` if ``x`` is NaN."""
    return x.where(x < y if bound == "min" else x > y, y)
