"""The statistics of a chunk, collected by the kernel that updates it.

Three sums of squares beside an update that waits for memory may cost hardly any instructions. So those of float32
numbers are added up in float32, for no longer than a block of 256 elements, and blocks in float64. A square leaves the
range of float32 long before its number does; a block whose sum says that this may have happened is added up once more,
in float64.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import final

import numpy as np
from llvmlite import ir

from gradstep.engines.base import UpdateSpec
from gradstep.engines.fused.skeleton import LANES, Chunk, Kernel, integer
from gradstep.engines.fused.trace import Value, folded, intrinsic, llvm_type
from gradstep.storage.codecs import BLOCK

SQUARES = 3
"""How many of the statistics are sums of squares; they come first."""

LEAST = 1e-28
"""A sum of squares in float32 that is less may lack some: single ones that are too small for float32, which a
processor may take to be 0 under 2⁻¹²⁶, are together less than 3e-36 in a block."""


@final
class Watch:
    """Accumulators beside an update. Of sums and bounds there are two, for vectors and for what is left over."""

    def __init__(self, kernel: Kernel, spec: UpdateSpec) -> None:
        self.kernel, self.spec = kernel, spec
        kind = spec.arithmetic
        self.totals = [kernel.zero(np.float64, 1) for _ in range(SQUARES)]
        self.sums = [kernel.zero(kind, LANES) for _ in range(SQUARES)]  # of the block in hand
        self.seen = [kernel.room(kind, BLOCK) for _ in range(SQUARES)]  # gradient, parameter after and before
        self.unmoved = kernel.zero(np.int32, 1)
        self.bounds = {(least, lanes): kernel.zero(kind, lanes) for least in (True, False) for lanes in (LANES, 1)}
        for (least, lanes), place in self.bounds.items():
            self._put(place, self._constant(kind, np.inf if least else -np.inf, lanes))

    def see(self, i: ir.Value, g: Value, p: Value, new: Sequence[Value], lanes: int) -> None:
        """Take the vector at ``i`` into account."""
        get, kind = self.kernel.get, self.spec.arithmetic
        stored = self.spec.parameter.kept(new[0])
        if lanes == 1:
            for total, x in zip(self.totals, _exact(g, stored, p), strict=True):
                self._put(total, get(total, np.float64, 1) + x * x)
        else:
            for place, x in zip(self.sums, (g, stored, stored - p), strict=True):
                self._put(place, _plus_square(get(place, kind, lanes), x))
            if kind is np.float32:
                for room, x in zip(self.seen, (g, stored, p), strict=True):
                    self.kernel.builder.store(x.ir, self._at(room, i), align=64)
        unmoved = _counted((stored == p) & (g != 0.0), lanes)
        self._put(self.unmoved, get(self.unmoved, np.int32, 1) + unmoved)
        if self.spec.second:
            x = new[1 + self.spec.slots.index(self.spec.second)]
            for least in (True, False):
                place = self.bounds[least, lanes]
                self._put(place, _further(x, get(place, kind, lanes), least=least))

    @contextmanager
    def block(self, start: ir.Value, stop: ir.Value) -> Iterator[None]:
        """Around the vectors of one block, or of what there is of it."""
        kind, b = self.spec.arithmetic, self.kernel.builder
        for place in self.sums:
            self._put(place, self._constant(kind, 0.0, LANES))
        yield
        for k, total in enumerate(self.totals):
            found = folded(self.kernel.get(self.sums[k], kind, LANES), operator.add)
            before = self.kernel.get(total, np.float64, 1)
            self._put(total, before + found.astype(np.float64))
            if kind is np.float32:
                right = (found >= LEAST) & (found < np.inf)
                with b.if_then(b.not_(right.ir), likely=False):
                    self._put(total, before + self._again(k, start, self.kernel.whole(start, stop, LANES)))

    def _again(self, k: int, start: ir.Value, stop: ir.Value) -> Value:
        """A sum of squares of the block in hand, in float64."""
        place = self.kernel.zero(np.float64, LANES)
        with self.kernel.loop(start, stop, LANES) as i:
            x = _exact(*(self._seen(room, i) for room in self.seen))[k]
            self._put(place, self.kernel.get(place, np.float64, LANES) + x * x)
        return folded(self.kernel.get(place, np.float64, LANES), operator.add)

    def finish(self, chunk: Chunk) -> None:
        """Write the chunk's column of results."""
        kernel, b, kind = self.kernel, self.kernel.builder, self.spec.arithmetic
        unmoved = kernel.get(self.unmoved, np.int32, 1).astype(np.float32)
        results = [*(kernel.get(total, np.float64, 1) for total in self.totals), unmoved]
        for least in (True, False):
            wide, single = (kernel.get(self.bounds[least, lanes], kind, lanes) for lanes in (LANES, 1))
            further = partial(_further, least=least)
            results.append(further(folded(wide, further), single))
        for j, x in enumerate(results):
            at = b.add(chunk.index, b.mul(kernel.job["chunk_count"], integer(j)))
            place = b.gep(kernel.job["results"], [at], source_etype=llvm_type(np.float64))
            b.store(x.astype(np.float64).ir, place)

    # -- memory -----------------------------------------------------------------------------------------------------

    def _put(self, place: ir.Value, x: Value) -> None:
        self.kernel.builder.store(x.ir, place)

    def _at(self, room: ir.Value, i: ir.Value) -> ir.Value:
        b = self.kernel.builder
        return b.gep(room, [b.and_(i, integer(BLOCK - 1))], source_etype=llvm_type(self.spec.arithmetic))

    def _seen(self, room: ir.Value, i: ir.Value) -> Value:
        b = self.kernel.builder
        return Value(b, b.load(self._at(room, i), typ=llvm_type(self.spec.arithmetic, LANES), align=64))

    def _constant(self, dtype: type, number: float, lanes: int) -> Value:
        kind = llvm_type(dtype, lanes)
        return Value(self.kernel.builder, ir.Constant(kind, [number] * lanes if lanes > 1 else number))


def _exact(g: Value, stored: Value, p: Value) -> tuple[Value, Value, Value]:
    """Whose squares are added up, in float64."""
    g, stored, p = (x.astype(np.float64) for x in (g, stored, p))
    return g, stored, stored - p


def _plus_square(total: Value, x: Value) -> Value:
    """In one instruction where the processor has it."""
    return Value(x.builder, intrinsic(x.builder, "llvm.fmuladd", x.ir, x.ir, total.ir))


def _counted(condition: Value, lanes: int) -> Value:
    """In how many lanes a condition holds."""
    b = condition.builder
    bits = b.zext(b.bitcast(condition.ir, ir.IntType(lanes)), llvm_type(np.int32))
    return Value(b, intrinsic(b, "llvm.ctpop", bits))


def _further(x: Value, y: Value, *, least: bool) -> Value:
    """The smaller or the larger; ``y`` if ``x`` is NaN."""
    return x.where(x < y if least else x > y, y)
