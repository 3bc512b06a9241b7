"""The kernel of the update: one pass over all chunks; its body is a rule's own lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, final

import numpy as np
from llvmlite import ir

from gradstep.engines.fused.skeleton import LANES, Kernel, KernelPiece, integer
from gradstep.engines.fused.trace import (
    Column,
    Value,
    Variable,
    allocate,
    llvm_type,
    max_lane,
)
from gradstep.engines.fused.update import MissingMeanError, TracedUpdate
from gradstep.storage.elements import ELEMENTS, SLOTS, STRIDE, draw_noise, to_bits
from gradstep.storage.policy import UpdateSpec

if TYPE_CHECKING:
    from gradstep.engines.fused.watch import Watch


def build_update(spec: UpdateSpec, *, watched: bool = False, means: int = 0) -> ir.Module:
    """Build the kernel that updates parameters and slots in place.

    Args:
        spec: the update to compute.
        watched: whether to collect statistics, per run, in ``results``.
        means: the number of means over its tensor that the rule asks for; they follow the coefficients.
    """
    kernel = Kernel(columns=len(spec.fields))
    if not watched:
        with kernel.every_run() as run, kernel.every_piece(run) as piece:
            UpdateBody(kernel, spec, piece, None, means).write()
        return kernel.module
    from gradstep.engines.fused.watch import Watch, write_totals  # most optimizers collect no statistics

    with kernel.every_run(then=partial(write_totals, kernel)) as run:
        watch = Watch(kernel, spec, run)
        with kernel.every_piece(run) as piece:
            UpdateBody(kernel, spec, piece, watch, means).write()
        watch.finish()
    return kernel.module


@final
class UpdateBody(TracedUpdate):
    """The body of the update kernel for one piece.

    Values that are stored element by element are read, updated and written in one pass. Slots that are stored in blocks
    need two passes over each block, because codes are relative to the block's largest new value. The first pass
    computes the new values of these slots, stores them on the stack and finds the largest. The second pass encodes
    these values and runs the rule again, with them in place of the slots that it assigns, to get the new parameter: so
    its slow square roots and divisions run beside the integer arithmetic of the codes.
    """

    def __init__(
        self, kernel: Kernel, spec: UpdateSpec, piece: KernelPiece, watch: Watch | None, means: int = 0
    ) -> None:
        self.kernel, self.piece, self.watch = kernel, piece, watch
        b = kernel.builder
        width = len(spec.coefficients) + (1 + means if spec.rule.sees == "means" else 0)
        first = b.mul(piece.row, integer(width))
        numbers = [
            kernel.load(kernel.job["coefficients"], b.add(first, integer(j)), llvm_type(spec.arithmetic))
            for j in range(width)
        ]
        columns = [Column(b, at, field.element) for at, field in zip(piece.addresses, spec.fields, strict=True)]
        super().__init__(b, spec, columns, numbers, piece.key)
        # Two (block,) buffers on the stack for each slot in blocks.
        self.new_values = {i: self._buffer(allocate(b, np.float32, self.block)) for i in self.blocks}
        self.cut_values = {i: self._buffer(allocate(b, np.float32, self.block)) for i in self.blocks}

    def write(self) -> None:
        """Update the piece."""
        kernel, piece = self.kernel, self.piece
        if self.blocks:
            with kernel.loop(piece.start, piece.stop, self.block) as start:
                self._update_block(start)
        elif self.watch is None:
            itemsizes = [field.element.itemsize for field in self.spec.fields]
            kernel.every_vector_in_streams(piece.start, piece.stop, self._update_vector, itemsizes)
        else:  # in one stream: statistics are added up in this order
            self.watch.every_vector(piece.start, piece.stop, self._update_vector)

    def every_vector(self, body: Callable[[ir.Value, int, Mapping[int, Value]], None]) -> None:
        """Build ``body(first_element, lanes, scales)`` for all elements of the piece, in their order."""
        if not self.blocks:
            self.kernel.every_vector(self.piece.start, self.piece.stop, lambda i, lanes: body(i, lanes, {}))
            return
        with self.kernel.loop(self.piece.start, self.piece.stop, self.block) as start:
            number = self.builder.sdiv(start, integer(self.block))
            scales = {j: column.read(number, 1) for j, column in self.scales.items()}
            self.kernel.every_vector(start, self._end_of_block(start), lambda i, lanes: body(i, lanes, scales))

    def find_missing_mean(self, i: ir.Value, lanes: int, scales: Mapping[int, Value]) -> Value | None:
        """Return the vector of which the rule asks for a mean that is not known; None if it has all."""
        try:
            self.apply_rule(self.read_values(i, lanes, scales), {}, lanes)
        except MissingMeanError as error:
            return error.value
        return None

    def _update_vector(self, i: ir.Value, lanes: int) -> None:
        """Read, update and write one vector."""
        self._prefetch(i, lanes)
        values = self.read_values(i, lanes, {})
        self._write_values(i, lanes, values, self.apply_rule(values, {}, lanes))

    def _update_block(self, start: ir.Value) -> None:
        """Update the block that begins at ``start``; the last one may be shorter than others."""
        stop = self._end_of_block(start)
        old, new = self._compute_block(start, stop)
        self._encode_block(start, stop, old, new)

    def _end_of_block(self, start: ir.Value) -> ir.Value:
        b = self.builder
        end = b.add(start, integer(self.block))
        return b.select(b.icmp_signed("<", end, self.piece.stop), end, self.piece.stop)

    def _compute_block(self, start: ir.Value, stop: ir.Value) -> tuple[dict[int, Value], dict[int, Value]]:
        """Store the new values of a block on the stack, and write its scales; return its old and its new scales."""
        kernel, b = self.kernel, self.builder
        number = b.sdiv(start, integer(self.block))
        old = {j: column.read(number, 1) for j, column in self.scales.items()}
        peaks = {(j, lanes): Variable(b, np.int32, lanes) for j in self.blocks for lanes in (LANES, 1)}

        def compute(i: ir.Value, lanes: int) -> None:
            self._prefetch(i, lanes)
            new = self.apply_rule(self.read_values(i, lanes, old), {}, lanes)
            for j in self.blocks:
                self.new_values[j].write(self._in_block(i), new[j - 1])
                size, peak = to_bits(new[j - 1]) & 0x7FFFFFFF, peaks[j, lanes]
                peak.set(size.clamp(min=peak.get()))

        kernel.every_vector(start, stop, compute)
        scales = {}
        for j, codec in self.blocks.items():
            scales[j] = codec.scale(max_lane(peaks[j, LANES].get()).clamp(min=peaks[j, 1].get()))
            self.scales[j].write(number, self.scales[j].element.encode(scales[j]))
        return old, scales

    def _encode_block(self, start: ir.Value, stop: ir.Value, old: dict[int, Value], scales: dict[int, Value]) -> None:
        """Write the codes of a block's new values, and its parameters."""
        sources = {j: self._choose_source(j, scales[j]) for j in self.blocks}
        place = Variable(self.builder, np.int32, LANES)
        place.set(self.position(start, LANES))

        def encode(i: ir.Value, lanes: int) -> None:
            values = self.read_values(i, lanes, old)  # before their codes are overwritten
            new = {self.spec.slots[j - 2]: self.new_values[j].read(self._in_block(i), lanes) for j in self.blocks}
            if lanes == 1:
                here = self.position(i, lanes)
            else:
                here = place.get()
                place.set(here + lanes * STRIDE % 2**32)
            noise = draw_noise(here, self.half_key(32, lanes), SLOTS)
            for j, codec in self.blocks.items():
                x = sources[j].read(self._in_block(i), lanes)
                self.write_codes(j, i, codec.split(x, noise, self.broadcast(scales[j], lanes)))
            self._write_values(i, lanes, values, self.apply_rule(values, new, lanes))

        every_vector = self.kernel.every_vector if self.watch is None else self.watch.every_vector
        every_vector(start, stop, encode)

    def _choose_source(self, j: int, scale: Value) -> Column:
        """Return the values to encode: the new ones or, rarely, results of ``codec.cut_noise_bits``."""
        kernel, b, codec = self.kernel, self.builder, self.blocks[j]
        new, cut, has_bits = self.new_values[j], self.cut_values[j], codec.has_noise_bits_to_cut(scale)
        if has_bits is None:
            return new
        with b.if_then(has_bits.ir, likely=False), kernel.loop(integer(0), integer(self.block), LANES) as i:
            cut.write(i, codec.cut_noise_bits(new.read(i, LANES), self.broadcast(scale, LANES)))
        return self._buffer(b.select(has_bits.ir, cut.address, new.address))

    def _write_values(self, i: ir.Value, lanes: int, values: Sequence[Value], new: Sequence[Value]) -> None:
        """Write all values that are stored element by element, and pass the vector to the watch."""
        g, p = values[:2]
        if self.watch is not None:
            self.watch.add_vector(g, p, new, lanes)
        self.write_elements(i, lanes, new)

    def _prefetch(self, i: ir.Value, lanes: int) -> None:
        """Prefetch the memory that a later vector reads."""
        if lanes > 1:
            ahead = self.builder.add(i, self.kernel.job["prefetch"])
            for column in chain.from_iterable(self.columns):
                column.prefetch(ahead)

    # -- vectors --------------------------------------------------------------------------------------------------

    def _buffer(self, address: ir.Value) -> Column:
        return Column(self.builder, address, ELEMENTS["float32"])

    def _in_block(self, i: ir.Value) -> ir.Value:
        """Return the position of element ``i`` in its block."""
        return self.builder.and_(i, integer(self.block - 1))
