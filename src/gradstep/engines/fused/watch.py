"""The statistics of a run, collected by the kernel that updates it.

Three sums of squares beside an update that waits for memory may cost hardly any instructions. So those of float32
numbers are added up in float32, for no longer than a block of 448 elements, and blocks in float64. A square leaves the
range of float32 long before its number does. Where a block's sum says that this may have happened, the changes of the
block, which were kept, are added up once more, in float64, and so are the run's gradients and parameters, which are
still there.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import final

import numpy as np
from llvmlite import ir

from gradstep.engines.base import UpdateSpec
from gradstep.engines.fused.job import PER_RUN
from gradstep.engines.fused.results import ROW
from gradstep.engines.fused.skeleton import LANES, Kernel, Run, integer
from gradstep.engines.fused.trace import Value, folded, intrinsic, lanes_of, llvm_type, splat
from gradstep.engines.statistics import NOTHING, SUMS

SQUARES = 3
"""How many of the statistics are sums of squares; they come first."""

BLOCK = 448
"""Elements whose squares are added up in float32: 28 in each lane. With two sums across lanes and the rounding of a
difference, which counts twice in its square, that is 32 times 2⁻²⁴: a sum errs by 1.9e-6 of itself at most."""

LEAST = 1e-28
"""A sum of squares in float32 that is less may lack some: single ones that are too small for float32, which a
processor may take to be 0 under 2⁻¹²⁶, are together less than 6e-36 in a block."""


@final
class Watch:
    """Accumulators beside an update. Of most there are two, for vectors and for what is left over."""

    def __init__(self, kernel: Kernel, spec: UpdateSpec, run: Run) -> None:
        self.kernel, self.spec = kernel, spec
        b, kind = kernel.builder, spec.arithmetic
        row = b.mul(run.index, integer(ROW))
        self.results = b.gep(kernel.job["results"], [row], source_etype=llvm_type(np.float64))
        kernel.fetch(self.results, to_write=True)  # the end of a run waits for all that was written
        self.run = run
        self.totals = [kernel.zero(np.float64, 1) for _ in range(SQUARES)]
        self.parts = kernel.zero(np.float64, LANES)  # as _quarters() leaves them
        self.sums = [kernel.zero(kind, LANES) for _ in range(SQUARES)]  # of the block in hand
        self.moves = kernel.room(kind, BLOCK)  # what its numbers changed by
        self.count = kernel.zero(np.int64, 1)  # how many there are so far
        self.doubt = kernel.zero(np.int64, 1)  # not 0 if a block could not be added up
        # Exact to 2²⁴, in float32 it takes an instruction less than in int32.
        self.unmoved = {lanes: kernel.zero(np.float32, lanes) for lanes in (LANES, 1)}
        self.bounds = {(least, lanes): kernel.zero(kind, lanes) for least in (True, False) for lanes in (LANES, 1)}
        for (least, lanes), place in self.bounds.items():
            self._put(place, self._constant(kind, np.inf if least else -np.inf, lanes))

    def see(self, g: Value, p: Value, new: Sequence[Value], lanes: int) -> None:
        """Take a vector into account."""
        get, kind = self.kernel.get, self.spec.arithmetic
        stored = self.spec.parameter.kept(new[0])
        if lanes == 1:
            self._add_exactly(self.totals, (g, stored), lanes)
            self._add_exactly(self.totals[2:], (stored.astype(np.float64) - p.astype(np.float64),), lanes)
        else:
            move = stored - p
            for place, x in zip(self.sums, (g, stored, move), strict=True):
                self._put(place, _plus_square(get(place, kind, lanes), x))
            count = get(self.count, np.int64, 1)
            if kind is np.float32:
                self.kernel.builder.store(move.ir, self._move(count.ir), align=64)
            self._put(self.count, count + lanes)
        so_far = get(self.unmoved[lanes], np.float32, lanes)
        self._put(self.unmoved[lanes], (so_far + 1.0).where((stored == p) & (g != 0.0), so_far))
        if self.spec.second:
            x = new[1 + self.spec.slots.index(self.spec.second)]
            for least in (True, False):
                place = self.bounds[least, lanes]
                self._put(place, _further(x, get(place, kind, lanes), least=least))

    def settle(self) -> None:
        """After a vector has been written: add up the block in hand if it is full."""
        with self.kernel.builder.if_then((self._counted() == BLOCK).ir, likely=False):
            self._settle()

    def _settle(self) -> None:
        """Add up the block in hand, and begin another."""
        kernel, kind, b = self.kernel, self.spec.arithmetic, self.kernel.builder
        found, count = _quarters(*(kernel.get(place, kind, LANES) for place in self.sums)), self._counted()
        for place in self.sums:
            self._put(place, self._constant(kind, 0.0, LANES))
        self._put(self.count, Value(b, integer(0)))
        if kind is not np.float32:
            self._put(self.parts, kernel.get(self.parts, np.float64, LANES) + found)
            return
        right = b.bitcast(((found >= LEAST) & (found < np.inf)).ir, ir.IntType(LANES))
        every = b.icmp_unsigned("==", right, ir.Constant(ir.IntType(LANES), 2**LANES - 1))
        with b.if_else(every, likely=True) as (good, doubtful):
            with good:
                self._put(self.parts, kernel.get(self.parts, np.float64, LANES) + found.astype(np.float64))
            with doubtful:
                b.store(integer(1), self.doubt)
                total = kernel.zero(np.float64, LANES)
                with kernel.loop(integer(0), count.ir, LANES) as i:
                    move = Value(b, b.load(self._move(i), typ=llvm_type(np.float32, LANES), align=64))
                    self._add_exactly([total], [move], LANES)
                self._add(self.totals[2], folded(kernel.get(total, np.float64, LANES), operator.add))

    def _counted(self) -> Value:
        return self.kernel.get(self.count, np.int64, 1)

    def _again(self) -> list[Value]:
        """The sums of squares of the run's gradients and parameters, in float64."""
        kernel, spec, b = self.kernel, self.spec, self.kernel.builder
        totals = {lanes: [kernel.zero(np.float64, lanes) for _ in range(2)] for lanes in (LANES, 1)}
        stored = (spec.gradient, spec.parameter)
        with kernel.every_piece(self.run) as piece:
            last = b.sub(b.mul(b.add(piece.row, integer(1)), integer(len(spec.coefficients))), integer(1))
            factor = kernel.load(kernel.job["coefficients"], last, llvm_type(spec.arithmetic))
            columns = spec.grouped(piece.addresses)

            def body(i: ir.Value, lanes: int) -> None:
                g, p = (
                    kernel.value(codec, bases, i, lanes).astype(spec.arithmetic)
                    for codec, bases in zip(stored, columns)
                )
                self._add_exactly(totals[lanes], (g * Value(b, splat(b, factor, lanes)), p), lanes)

            kernel.every_vector(piece.start, piece.stop, body)
        return [
            folded(kernel.get(wide, np.float64, LANES), operator.add) + kernel.get(single, np.float64, 1)
            for wide, single in zip(totals[LANES], totals[1], strict=True)
        ]

    def finish(self) -> None:
        """Write the run's row of results."""
        kernel, b, kind = self.kernel, self.kernel.builder, self.spec.arithmetic
        with b.if_then((self._counted() != 0).ir):
            self._settle()
        parts = lanes_of(kernel.get(self.parts, np.float64, LANES))
        for k, total in enumerate(self.totals):
            self._put(total, sum(parts[4 * k : 4 * k + 4], start=kernel.get(total, np.float64, 1)))
        if kind is np.float32:
            with b.if_then((kernel.get(self.doubt, np.int64, 1) != 0).ir, likely=False):
                for total, exact in zip(self.totals, self._again()):
                    self._put(total, exact)
        results = [kernel.get(total, np.float64, 1) for total in self.totals]
        unmoved = folded(kernel.get(self.unmoved[LANES], np.float32, LANES), operator.add)
        results.append(unmoved + kernel.get(self.unmoved[1], np.float32, 1))
        for least in (True, False):
            wide, single = (kernel.get(self.bounds[least, lanes], kind, lanes) for lanes in (LANES, 1))
            further = partial(_further, least=least)
            found = further(folded(wide, further), single)
            results.append(found if self.spec.second else self._constant(kind, np.nan, 1))
        for j, x in enumerate(results):
            place = b.gep(self.results, [integer(j)], source_etype=llvm_type(np.float64))
            b.store(x.astype(np.float64).ir, place)

    # -- memory -----------------------------------------------------------------------------------------------------

    def _put(self, place: ir.Value, x: Value) -> None:
        self.kernel.builder.store(x.ir, place)

    def _add(self, total: ir.Value, x: Value, lanes: int = 1) -> None:
        self._put(total, self.kernel.get(total, np.float64, lanes) + x)

    def _add_exactly(self, totals: Sequence[ir.Value], numbers: Sequence[Value], lanes: int) -> None:
        """Add the square of each number to its total, in float64."""
        for total, x in zip(totals, numbers):
            wide = x.astype(np.float64)
            self._add(total, wide * wide, lanes)

    def _move(self, i: ir.Value) -> ir.Value:
        return self.kernel.builder.gep(self.moves, [i], source_etype=llvm_type(self.spec.arithmetic))

    def _constant(self, dtype: type, number: float, lanes: int) -> Value:
        kind = llvm_type(dtype, lanes)
        return Value(self.kernel.builder, ir.Constant(kind, [number] * lanes if lanes > 1 else number))


def add_up(kernel: Kernel) -> None:
    """Write the rows of all owners, and that of all together: in the order of the runs, whoever did them."""
    b, kind = kernel.builder, llvm_type(np.float64, ROW)
    results, totals, owners = (kernel.job[name] for name in ("results", "totals", "owner_count"))
    with kernel.loop(integer(0), b.add(owners, integer(1)), 1) as i:
        b.store(ir.Constant(kind, [*NOTHING, 0.0, 0.0]), b.gep(totals, [i], source_etype=kind), align=8)
    with kernel.loop(integer(0), kernel.job["run_count"], 1) as k:
        new = b.load(b.gep(results, [k], source_etype=kind), typ=kind, align=8)
        for i in (kernel.row("runs", k, len(PER_RUN))[-1], owners):
            place = b.gep(totals, [i], source_etype=kind)
            old = b.load(place, typ=kind, align=8)
            found = b.fadd(old, new)
            for lane, further in ((SUMS, "llvm.minnum"), (SUMS + 1, "llvm.maxnum")):  # a number, beside NaN
                lanes = [ROW + k if k == lane else k for k in range(ROW)]
                which = ir.Constant(llvm_type(np.int32, ROW), lanes)
                found = b.shuffle_vector(found, intrinsic(b, further, old, new), which)
            b.store(found, place, align=8)


def _plus_square(total: Value, x: Value) -> Value:
    """In one instruction where the processor has it."""
    return Value(x.builder, intrinsic(x.builder, "llvm.fmuladd", x.ir, x.ir, total.ir))


def _quarters(x: Value, y: Value, z: Value) -> Value:
    """Sums of the lanes in one vector: four that together are that of ``x``, four for ``y``, and for ``z`` twice."""
    return _by_pairs(_by_pairs(x, y, LANES // 2), _by_pairs(z, z, LANES // 2), LANES // 4)


def _by_pairs(x: Value, y: Value, width: int) -> Value:
    """Lanes of ``x``, then ``y``, in groups of this width: the first of each two added to the second."""
    b, both = x.builder, np.arange(2 * LANES).reshape(-1, 2, width)
    one, other = (
        Value(b, b.shuffle_vector(x.ir, y.ir, ir.Constant(llvm_type(np.int32, LANES), both[:, k].ravel().tolist())))
        for k in (0, 1)
    )
    return one + other


def _further(x: Value, y: Value, *, least: bool) -> Value:
    """The smaller or the larger; ``y`` if ``x`` is NaN."""
    return x.where(x < y if least else x > y, y)
