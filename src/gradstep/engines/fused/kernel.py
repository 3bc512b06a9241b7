"""The kernel of the update: a rule's own lines, traced for vectors of elements, in one pass over all chunks.

:class:`TracedUpdate` is what kernels of every processor share; :class:`UpdateBody` is the CPU's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast, final

import numpy as np
from llvmlite import ir

from gradstep.engines.fused.skeleton import LANES, Column, Kernel, KernelPiece, integer
from gradstep.engines.fused.trace import (
    Value,
    Variable,
    allocate,
    llvm_type,
    max_lane,
    ramp,
    splat,
    whole_tensor,
)
from gradstep.rules import State
from gradstep.storage.elements import ELEMENTS, STRIDE, draw_noise, sequence_position, to_bits
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
class _Slots:
    """The :class:`State` that a rule receives; it replaces the last value that the rule assigns to a slot.

    Only the last assignment is replaced: a rule may assign a slot twice and use both values.

    Args:
        slots: the slots before the step.
        replacements: the values to use in place of assigned ones, by slot.
        total: how often the rule assigns each slot in all.

    Attributes:
        assigned: how often each slot was assigned so far.
    """

    def __init__(self, slots: Mapping[str, Value], replacements: Mapping[str, Value], total: Mapping[str, int]) -> None:
        self.__dict__.update(slots, _replacements=replacements, _total_assigned=total, assigned=Counter())

    def __setattr__(self, name: str, value: Any) -> None:
        self.assigned[name] += 1
        is_last = self.assigned[name] == self._total_assigned.get(name)
        self.__dict__[name] = self._replacements.get(name, value) if is_last else value

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__

    if TYPE_CHECKING:
        assigned: Counter[str]
        _replacements: Mapping[str, Value]
        _total_assigned: Mapping[str, int]


@final
class MissingMeanError(Exception):
    """A rule asks for a mean that has not been computed yet."""

    def __init__(self, value: Value) -> None:
        self.value = value


@final
class _WholeTensor:
    """What a rule asks about its whole tensor, with the answers in vectors.

    Args:
        elements: the number of elements.
        means: the known means, in the order in which the rule asks for them.
    """

    def __init__(self, elements: Value, means: Sequence[Value]) -> None:
        self.elements, self._means = elements, iter(means)

    def mean(self, value: Value) -> Value:
        for mean in self._means:
            return mean
        raise MissingMeanError(value)


@final
class _Elements:
    """What a rule that sees elements may ask about its whole tensor: nothing."""

    @property
    def elements(self) -> Value:
        return self.mean()

    def mean(self, *_: Any) -> Value:
        raise TypeError("a rule that asks for the mean or the number of all elements sets sees = 'means'")


class TracedUpdate:
    """The update of vectors of elements of one piece: read and decode, apply the rule, encode and write.

    Args:
        builder: of the kernel.
        spec: the update to compute.
        columns: the array of every field.
        numbers: the coefficients; for a rule that sees means also the number of elements, and the known means.
        key: the key of the piece's noise, int64.

    Attributes:
        columns: by codec, the arrays of its fields, without the scales.
        scales: by position in ``spec.codecs``, the scales of a codec with blocks.
        blocks: these codecs, by position.
        block: elements per block; 1 without blocks.

    Raises:
        ValueError: slots are stored in blocks of several sizes.
    """

    def __init__(
        self,
        builder: ir.IRBuilder,
        spec: UpdateSpec,
        columns: Sequence[Column],
        numbers: Sequence[ir.Value],
        key: ir.Value,
    ) -> None:
        self.builder, self.spec, self.key = builder, spec, key
        count = len(spec.coefficients)
        self.coefficients, self.whole = numbers[:count], numbers[count:]
        by_codec = list(zip(spec.codecs, spec.split_by_codec(columns), strict=True))
        self.columns = [each if codec.block == 1 else each[:-1] for codec, each in by_codec]
        self.blocks = {i: codec for i, codec in enumerate(spec.codecs) if codec.block > 1}
        sizes = sorted({codec.block for codec in self.blocks.values()})
        if len(sizes) > 1:
            raise ValueError(f"the fused kernel stores slots in blocks of one size, not {sizes}: use engine='eager'")
        self.block = max(sizes, default=1)
        self.scales = {i: by_codec[i][1][-1] for i in self.blocks}
        self.assigned: Mapping[str, int] = {}  # how often the rule assigns each slot

    def read_values(self, i: ir.Value, lanes: int, scales: Mapping[int, Value]) -> list[Value]:
        """Return gradient times coefficient, parameter and slots, from element ``i`` on, in the rule's type."""
        values = []
        for j, codec in enumerate(self.spec.codecs):
            numbers = [column.read(i, lanes) for column in self.columns[j]]
            if j in self.blocks:
                numbers.append(self.broadcast(scales[j], lanes))
            values.append(codec.join(*numbers).astype(self.spec.arithmetic))
        values[0] = values[0] * self.name_coefficients(lanes).gradient
        return values

    def apply_rule(self, values: Sequence[Value], replacements: Mapping[str, Value], lanes: int) -> list[Value]:
        """Return the new parameter and slots; a slot in ``replacements`` has that value, not the rule's."""
        g, p, *slots = values
        state = _Slots(dict(zip(self.spec.slots, slots, strict=True)), replacements, self.assigned)
        numbers = [Value(self.builder, splat(self.builder, x, lanes)) for x in self.whole]
        token = whole_tensor.set(_WholeTensor(numbers[0], numbers[1:]) if numbers else _Elements())
        try:
            new = self.spec.rule.update(p, g, cast(State, state), self.name_coefficients(lanes))
        finally:
            whole_tensor.reset(token)
        self.assigned = state.assigned  # the same in every pass: no rule branches on data
        return [new, *(getattr(state, name) for name in self.spec.slots)]

    def write_elements(self, i: ir.Value, lanes: int, new: Sequence[Value]) -> None:
        """Write the new parameter and slots that are stored element by element, from element ``i`` on."""
        random: dict[int, Value] = {}
        for j, x in enumerate(new, 1):
            codec = self.spec.codecs[j]
            if j not in self.blocks:
                noise = self.noise(j, i, lanes, random) if codec.noisy else None
                self.write_codes(j, i, codec.split(x.astype(codec.arithmetic), noise))

    def write_codes(self, j: int, i: ir.Value, codes: Sequence[Value]) -> None:
        """Write codes of codec ``j``, one sequence for each field but the scale, from element ``i`` on."""
        for column, code in zip(self.columns[j], codes, strict=True):
            column.write(i, code)

    def name_coefficients(self, lanes: int) -> SimpleNamespace:
        """Return the coefficients by name, in every lane."""
        named = zip(self.spec.coefficients, self.coefficients, strict=True)
        return SimpleNamespace(**{name: Value(self.builder, splat(self.builder, c, lanes)) for name, c in named})

    def broadcast(self, scalar: Value, lanes: int) -> Value:
        """Return a vector with the scalar in every lane."""
        return Value(self.builder, splat(self.builder, scalar.ir, lanes))

    # -- noise ----------------------------------------------------------------------------------------------------

    def noise(self, j: int, i: ir.Value, lanes: int, random: dict[int, Value]) -> Value:
        """Return codec ``j``'s noise for a vector; ``random`` caches the streams of this vector."""
        stream = self.spec.noise[j]
        if stream not in random:
            random[stream] = draw_noise(self.position(i, lanes), self.half_key(32, lanes), stream)
        return random[stream]

    def position(self, i: ir.Value, lanes: int) -> Value:
        """Return the position of every lane in the noise."""
        element = ramp(self.builder, self.builder.trunc(i, ir.IntType(32)), lanes)
        place: Value = sequence_position(element, self.half_key(0, lanes))
        return place

    def half_key(self, first: int, lanes: int) -> Value:
        """Return the 32 bits of the key that begin at this bit, in every lane."""
        b = self.builder
        half = b.trunc(b.lshr(self.key, integer(first)), ir.IntType(32))
        return Value(b, splat(b, half, lanes))


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
            high, random = self.half_key(32, lanes), dict[int, Value]()
            for j, codec in self.blocks.items():
                stream = codec.stream
                if stream not in random:
                    random[stream] = draw_noise(here, high, stream)
                x = sources[j].read(self._in_block(i), lanes)
                self.write_codes(j, i, codec.split(x, random[stream], self.broadcast(scales[j], lanes)))
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
