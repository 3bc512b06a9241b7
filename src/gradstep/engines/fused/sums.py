"""The kernels that add numbers up: the squares of gradients, and the means that a rule asks for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from llvmlite import ir

from gradstep.engines.fused.kernel import UpdateBody
from gradstep.engines.fused.skeleton import LANES, Column, Kernel, integer
from gradstep.engines.fused.trace import Value, Variable, llvm_type, sum_lanes
from gradstep.storage.elements import Element
from gradstep.storage.policy import UpdateSpec

ACCUMULATORS = 4
"""Accumulators for the squares of a piece, one for each quarter. The quarters are read in turns, as streams, or one
after the other, with the same result."""


def build_squares(gradient: Element, columns: int) -> ir.Module:
    """Build the kernel that sums the squares of the first column in float64, one partial sum per run.

    A float32 squared cannot overflow in float64, so the sum is finite exactly if every element is.

    Args:
        gradient: the element type of the first column.
        columns: the number of columns.
    """
    kernel = Kernel(columns)
    b = kernel.builder

    def add(to: Variable, k: ir.Value | None, i: ir.Value, lanes: int) -> None:
        column = Column(b, piece.addresses[0], gradient)
        x = column.read(i, lanes).astype(np.float64)
        to.set(to.get(k) + x * x, k)
        if lanes > 1:
            column.prefetch(b.add(i, kernel.job["prefetch"]))

    with kernel.every_run() as run:
        sums = Variable(b, np.float64, LANES, length=ACCUMULATORS)
        single = Variable(b, np.float64, 1)
        with kernel.every_piece(run) as piece:
            middle = kernel.end_of_whole_steps(piece.start, piece.stop, LANES)
            part = kernel.stream_length(piece.start, middle, ACCUMULATORS, [gradient.itemsize])
            zero, quarters = integer(0), integer(ACCUMULATORS)
            in_turns = b.icmp_signed(">", kernel.job["streams"], integer(1))
            with b.if_then(in_turns), kernel.loop(zero, part, LANES) as i, kernel.loop(zero, quarters, 1) as k:
                add(sums, k, b.add(piece.start, b.add(b.mul(part, k), i)), LANES)
            # What is left after the quarters is like a fifth one, and counts for the first.
            with kernel.loop(b.select(in_turns, quarters, zero), integer(ACCUMULATORS + 1), 1) as k:
                begin = b.add(piece.start, b.mul(part, k))
                end = b.select(b.icmp_signed("<", k, quarters), b.add(begin, part), middle)
                with kernel.loop(begin, end, LANES) as i:
                    add(sums, b.and_(k, integer(ACCUMULATORS - 1)), i, LANES)
            with kernel.loop(middle, piece.stop, 1) as i:
                add(single, None, i, 1)
        total = sum(map(sum_lanes, sums.vectors()), start=single.get())
        target = b.gep(kernel.job["results"], [run.index], source_etype=llvm_type(np.float64))
        b.store(total.ir, target)
    return kernel.module


def build_mean(spec: UpdateSpec, known: int) -> ir.Module | None:
    """Build the kernel that adds up the next mean that a rule asks for, in float64, one sum per run.

    The order of the additions is that of :func:`gradstep.rules.ops.mean`.

    Args:
        spec: the update.
        known: how many means are known; they follow the coefficients.

    Returns:
        The kernel; None if the rule asks for no further mean.
    """
    kernel = Kernel(columns=len(spec.fields))
    b = kernel.builder
    missing: list[Value] = []
    with kernel.every_run() as run:
        sums = {lanes: Variable(b, np.float64, lanes) for lanes in (LANES, 1)}
        with kernel.every_piece(run) as piece:
            update = UpdateBody(kernel, spec, piece, None, known)

            def add(i: ir.Value, lanes: int, scales: Mapping[int, Value]) -> None:
                x = update.find_missing_mean(i, lanes, scales)
                if x is not None:
                    missing.append(x)
                    sums[lanes].set(sums[lanes].get() + x.astype(np.float64))

            update.every_vector(add)
        total = sum_lanes(sums[LANES].get()) + sums[1].get()
        target = b.gep(kernel.job["results"], [run.index], source_etype=llvm_type(np.float64))
        b.store(total.ir, target)
    return kernel.module if missing else None
