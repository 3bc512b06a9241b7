"""The statistics of a run, collected by the kernel that updates it.

The update needs all registers. So it only stores the numbers for the statistics on the stack, for a tile of 448
elements; a separate loop then adds the tile up, from the fastest cache.

Squares of float32 numbers are added up in float32 within a tile, and tiles in float64. A square leaves the range of
float32 long before its number does: if the sum of a tile shows that this may have happened, the tile is added up again
in float64.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import final

import numpy as np
from llvmlite import ir

from gradstep.engines.fused.job import PER_RUN, ROW_WIDTH
from gradstep.engines.fused.skeleton import LANES, Kernel, PieceRun, integer
from gradstep.engines.fused.trace import (
    Value,
    Variable,
    allocate,
    fold_lanes,
    intrinsic,
    lanes_of,
    llvm_type,
    max_lane,
    prefetch,
)
from gradstep.engines.statistics import EMPTY_ROW, SUMS
from gradstep.storage.policy import UpdateSpec

SQUARES = 3
"""The first columns of the statistics, which are sums of squares."""

TILE = 448
"""Elements whose squares are added up in float32: 28 in each lane. With two sums across lanes and the rounding of a
difference, which counts twice in its square, the relative error of a sum is at most 32 times 2⁻²⁴, or 1.9e-6."""

HALF = LANES // 2
"""Lanes for counts and bounds, whose order does not matter: half as many, so that all stay in registers."""

MIN_EXACT_SUM = 1e-28
"""The least float32 sum of squares that is exact enough. A smaller sum may lack squares that are too small for float32
(a processor may replace those under 2⁻¹²⁶ by 0); in a tile these are together less than 6e-36."""


_MAGNITUDE_BITS = 0x7FFFFFFF
"""All bits of a float32 except its sign."""


@final
class Watch:
    """Accumulators of statistics beside an update; most exist twice, for vectors and for single elements."""

    def __init__(self, kernel: Kernel, spec: UpdateSpec, run: PieceRun) -> None:
        self.kernel, self.spec = kernel, spec
        b, kind = kernel.builder, spec.arithmetic
        row = b.mul(run.index, integer(ROW_WIDTH))
        self.results = b.gep(kernel.job["results"], [row], source_etype=llvm_type(np.float64))
        prefetch(b, self.results, to_write=True)  # the end of a run waits until its writes are done
        self.totals = [Variable(b, np.float64, 1) for _ in range(SQUARES)]
        self.partial_sums = Variable(b, np.float64, LANES)  # as _partial_sums() leaves them
        # Columns of the tile: gradient, stored new parameter, old parameter and, if there is one, the second moment.
        self.tile = [allocate(b, kind, TILE) for _ in range(4 if spec.second else 3)]
        self.count = Variable(b, np.int64, 1)  # elements in the tile
        # In float32, which is exact up to 2²⁴, counting takes one instruction less than in int32.
        self.unmoved = {lanes: Variable(b, np.float32, lanes) for lanes in (HALF, 1)}
        self.bounds = {
            (least, lanes): Variable(b, kind, lanes, np.inf if least else -np.inf)
            for least in (True, False)
            for lanes in (HALF, 1)
        }

    def add_vector(self, g: Value, p: Value, new: Sequence[Value], lanes: int) -> None:
        """Add a vector (or one element) of gradient, old parameter, and new parameter and slots to the statistics."""
        numbers = [g, self.spec.parameter.expected_value(new[0]), p]
        if self.spec.second:
            numbers.append(new[1 + self.spec.slots.index(self.spec.second)])
        if lanes == 1:
            self._add_exactly(numbers, self.totals)
            self._compare(numbers, lanes)
            return
        count = self.count.get()
        for room, x in zip(self.tile, numbers, strict=True):
            self.kernel.builder.store(x.ir, self._place_in(room, count.ir), align=64)
        self.count.set(count + lanes)

    def every_vector(self, start: ir.Value, stop: ir.Value, body: Callable[[ir.Value, int], None]) -> None:
        """Like :meth:`Kernel.every_vector`, tile by tile, for a body that calls :meth:`add_vector`."""
        kernel, b = self.kernel, self.kernel.builder
        middle = kernel.end_of_whole_steps(start, stop, LANES)
        with kernel.loop(b.sub(start, self.count.get().ir), middle, TILE) as block:
            end = b.add(block, integer(TILE))
            first = b.select(b.icmp_signed("<", block, start), start, block)
            last = b.select(b.icmp_signed("<", end, middle), end, middle)
            with kernel.loop(first, last, LANES) as i:
                body(i, LANES)
            with b.if_then((self.count.get() == TILE).ir):
                self._add_up_tile()
        with kernel.loop(middle, stop, 1) as i:
            body(i, 1)

    def _add_up_tile(self) -> None:
        """Add the tile to the statistics, and begin a new tile."""
        kernel, kind, b = self.kernel, self.spec.arithmetic, self.kernel.builder
        count = self.count.get()
        sums = [Variable(b, kind, LANES) for _ in range(SQUARES)]
        with kernel.loop(integer(0), count.ir, LANES) as i:
            numbers = self._numbers(i)
            g, stored, p = numbers[:3]
            for place, x in zip(sums, (g, stored, stored - p), strict=True):
                place.set(_plus_square(place.get(), x))
            for half in zip(*map(_halves, numbers)):
                self._compare(half, HALF)
        self.count.set(Value(b, integer(0)))
        new = _partial_sums(*(place.get() for place in sums))
        if kind is not np.float32:
            self.partial_sums.set(self.partial_sums.get() + new)
            return
        mask = ir.IntType(LANES)  # a bit for each sum: whether it is right
        right = Variable(b, np.uint16, 1)
        right.set(Value(b, b.bitcast(((new >= MIN_EXACT_SUM) & (new < np.inf)).ir, mask)))
        full = ir.Constant(mask, 2**LANES - 1)
        with b.if_then(b.icmp_unsigned("!=", right.get().ir, full), likely=False):
            right.set(right.get() | Value(b, self._find_zero_sums(count)))
        every = b.icmp_unsigned("==", right.get().ir, full)
        with b.if_else(every, likely=True) as (good, doubtful):
            with good:
                self.partial_sums.set(self.partial_sums.get() + new.astype(np.float64))
            with doubtful:
                exact = [Variable(b, np.float64, LANES) for _ in range(SQUARES)]
                with kernel.loop(integer(0), count.ir, LANES) as i:
                    self._add_exactly(self._numbers(i), exact)
                for total, place in zip(self.totals, exact, strict=True):
                    total.set(total.get() + fold_lanes(place.get(), operator.add))

    def _find_zero_sums(self, count: Value) -> ir.Value:
        """Return as bits which lanes of :func:`_partial_sums` add only zeros, in the first ``count`` elements."""
        kernel, b = self.kernel, self.kernel.builder
        magnitudes = [Variable(b, np.int32, LANES) for _ in range(SQUARES)]
        with kernel.loop(integer(0), count.ir, LANES) as i:
            g, stored, p = self._numbers(i)[:3]
            for place, x in zip(magnitudes, (g, stored, stored - p), strict=True):
                place.set(place.get() | (x.view(np.int32) & _MAGNITUDE_BITS))
        mask = ir.IntType(LANES)
        result = ir.Constant(mask, 0)
        for place, lanes in zip(magnitudes, (0x000F, 0x00F0, 0xFF00), strict=True):
            only = max_lane(place.get()) == 0
            result = b.or_(result, b.select(only.ir, ir.Constant(mask, lanes), ir.Constant(mask, 0)))
        return result

    def _compare(self, numbers: Sequence[Value], lanes: int) -> None:
        """Count the elements that the step did not move, and update the bounds of the second moment."""
        g, stored, p, *second = numbers
        # Conditions are not combined: for AVX2 LLVM would narrow each to 16 bits, and widen the result.
        before, unmoved = p.where(g != 0.0, np.nan), self.unmoved[lanes]
        unmoved.set(unmoved.get() + self._constant(np.float32, 1.0, lanes).where(stored == before, 0.0))
        for x in second:
            for least in (True, False):
                bound = self.bounds[least, lanes]
                bound.set(_min_or_max(x, bound.get(), least=least))

    def finish(self) -> None:
        """Write the run's row of results."""
        b = self.kernel.builder
        with b.if_then((self.count.get() != 0).ir):
            self._add_up_tile()
        parts = lanes_of(self.partial_sums.get())
        results = [sum(parts[4 * k : 4 * k + 4], start=total.get()) for k, total in enumerate(self.totals)]
        results.append(fold_lanes(self.unmoved[HALF].get(), operator.add) + self.unmoved[1].get())
        ends = []
        for least in (True, False):
            further = partial(_min_or_max, least=least)
            ends.append(further(fold_lanes(self.bounds[least, HALF].get(), further), self.bounds[least, 1].get()))
        # Without a second moment, or if all of it is NaN, the bounds still have their initial values.
        results += [end.where(ends[0] <= ends[1], np.nan) for end in ends]
        for j, x in enumerate(results):
            place = b.gep(self.results, [integer(j)], source_etype=llvm_type(np.float64))
            b.store(x.astype(np.float64).ir, place)

    # -- memory -----------------------------------------------------------------------------------------------------

    def _add_exactly(self, numbers: Sequence[Value], totals: Sequence[Variable]) -> None:
        """Add the squares of the gradient, the parameter and its change to their totals, in float64."""
        g, stored, p = (x.astype(np.float64) for x in numbers[:3])
        for total, x in zip(totals, (g, stored, stored - p), strict=True):
            total.set(total.get() + x * x)

    def _numbers(self, i: ir.Value) -> list[Value]:
        """Load a vector of each of the tile's columns, from its element ``i`` on."""
        b, kind = self.kernel.builder, llvm_type(self.spec.arithmetic, LANES)
        return [Value(b, b.load(self._place_in(room, i), typ=kind, align=64)) for room in self.tile]

    def _place_in(self, room: ir.Value, i: ir.Value) -> ir.Value:
        return self.kernel.builder.gep(room, [i], source_etype=llvm_type(self.spec.arithmetic))

    def _constant(self, dtype: type, number: float, lanes: int) -> Value:
        kind = llvm_type(dtype, lanes)
        return Value(self.kernel.builder, ir.Constant(kind, [number] * lanes if lanes > 1 else number))


def write_totals(kernel: Kernel) -> None:
    """Write the totals of each owner, and of all together, added in the order of runs, whichever thread ran them."""
    b, kind = kernel.builder, llvm_type(np.float64, ROW_WIDTH)
    results, totals, owners = (kernel.job[name] for name in ("results", "totals", "owner_count"))
    with kernel.loop(integer(0), b.add(owners, integer(1)), 1) as i:
        b.store(ir.Constant(kind, [*EMPTY_ROW, 0.0, 0.0]), b.gep(totals, [i], source_etype=kind), align=8)
    with kernel.loop(integer(0), kernel.job["run_count"], 1) as k:
        new = b.load(b.gep(results, [k], source_etype=kind), typ=kind, align=8)
        for i in (kernel.row("runs", k, len(PER_RUN))[-1], owners):
            place = b.gep(totals, [i], source_etype=kind)
            old = b.load(place, typ=kind, align=8)
            total = b.fadd(old, new)
            for lane, further in ((SUMS, "llvm.minnum"), (SUMS + 1, "llvm.maxnum")):  # a number, beside NaN
                lanes = [ROW_WIDTH + k if k == lane else k for k in range(ROW_WIDTH)]
                which = ir.Constant(llvm_type(np.int32, ROW_WIDTH), lanes)
                total = b.shuffle_vector(total, intrinsic(b, further, old, new), which)
            b.store(total, place, align=8)


def _halves(x: Value) -> list[Value]:
    """Split a vector into its lower and its upper lanes."""
    ends = (ir.Constant(llvm_type(np.int32, HALF), list(range(first, first + HALF))) for first in (0, HALF))
    return [Value(x.builder, x.builder.shuffle_vector(x.ir, x.ir, end)) for end in ends]


def _plus_square(total: Value, x: Value) -> Value:
    """Return ``total + x · x``, in one instruction if the processor has one."""
    return Value(x.builder, intrinsic(x.builder, "llvm.fmuladd", x.ir, x.ir, total.ir))


def _partial_sums(x: Value, y: Value, z: Value) -> Value:
    """Return one vector of partial sums: 4 lanes add up to the sum of ``x``, 4 to that of ``y``, 8 to twice ``z``'s."""
    return _sum_neighbours(_sum_neighbours(x, y, LANES // 2), _sum_neighbours(z, z, LANES // 2), LANES // 4)


def _sum_neighbours(x: Value, y: Value, width: int) -> Value:
    """Cut the lanes of ``x``, then ``y``, into groups of this width; return the sums of neighbouring groups."""
    b, both = x.builder, np.arange(2 * LANES).reshape(-1, 2, width)
    one, other = (
        Value(b, b.shuffle_vector(x.ir, y.ir, ir.Constant(llvm_type(np.int32, LANES), both[:, k].ravel().tolist())))
        for k in (0, 1)
    )
    return one + other


def _min_or_max(x: Value, y: Value, *, least: bool) -> Value:
    """Return the smaller or the larger of both; ``y`` if ``x`` is NaN."""
    return x.where(x < y if least else x > y, y)
