"""The kernels: one pass over every chunk of every tensor, with a rule's own lines as its body."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import final

import numpy as np
from llvmlite import ir

from gradstep.engines.base import UpdateSpec
from gradstep.engines.fused.access import STREAMS
from gradstep.engines.fused.skeleton import LANES, Kernel, Piece, integer
from gradstep.engines.fused.trace import Value, added, largest, llvm_type, ramp, splat
from gradstep.engines.fused.watch import Watch, add_up
from gradstep.rules import State
from gradstep.storage.codecs import BLOCK, NOT_FINITE, Blocks, Elementwise
from gradstep.storage.elements import Element
from gradstep.storage.noise import SLOTS, STRIDE, mixed, placed

SUMS = max(STREAMS)
"""Sums that the squares of a piece are added up in: one for each stream, if there are as many as possible. Where fewer
are read, each of these adds to several sums, one after the other: the result does not depend on their number."""


def build_update(spec: UpdateSpec, *, watched: bool = False) -> ir.Module:
    """The kernel that updates parameters and slots in place.

    Args:
        spec: what to compute.
        watched: whether to collect statistics, per run, in ``results``.
    """
    kernel = Kernel(columns=len(spec.fields))
    with kernel.every_run(then=partial(add_up, kernel) if watched else None) as run:
        watch = Watch(kernel, spec, run) if watched else None
        with kernel.every_piece(run) as piece:
            _Update(kernel, spec, piece, watch).write()
        if watch is not None:
            watch.finish()
    return kernel.module


def build_squares(gradient: Element, columns: int) -> ir.Module:
    """The kernel that sums the squares of the first column in float64, one partial sum per run.

    A float32 squared cannot overflow in float64, so the sum is finite exactly if every element is.

    Args:
        gradient: what the column holds.
        columns: how many there are.
    """
    kernel = Kernel(columns)
    b = kernel.builder

    def add(to: ir.Value, i: ir.Value, lanes: int) -> None:
        address = kernel.element(piece.addresses[0], i, gradient)
        x = gradient.decode(kernel.read(address, gradient, lanes)).astype(np.float64)
        if lanes > 1:
            kernel.fetch(kernel.element(address, kernel.job["prefetch"], gradient))
        b.store((kernel.get(to, np.float64, lanes) + x * x).ir, to)

    with kernel.every_run() as run:
        sums = [kernel.zero(np.float64, LANES) for _ in range(SUMS)]
        single = kernel.zero(np.float64, 1)
        with kernel.every_piece(run) as piece:
            middle = kernel.whole(piece.start, piece.stop, LANES)
            part = kernel.part(piece.start, middle, SUMS, [gradient.itemsize])
            for streams in STREAMS:
                with b.if_then(b.icmp_signed("==", kernel.job["streams"], integer(streams))):
                    for first in range(SUMS // streams):
                        mine = range(first, SUMS, SUMS // streams)
                        with kernel.loop(integer(0), part, LANES) as i:
                            for k in mine:
                                begin = b.add(piece.start, b.mul(part, integer(k)))
                                add(sums[k], b.add(begin, i), LANES)
            rest = b.add(piece.start, b.mul(part, integer(SUMS)))
            with kernel.loop(rest, middle, LANES) as i:
                add(sums[0], i, LANES)
            with kernel.loop(middle, piece.stop, 1) as i:
                add(single, i, 1)
        total = kernel.get(single, np.float64, 1)
        for place in sums:
            total = total + added(kernel.get(place, np.float64, LANES))
        target = b.gep(kernel.job["results"], [run.index], source_etype=llvm_type(np.float64))
        b.store(total.ir, target)
    return kernel.module


@final
class _Update:
    """The body of the update kernel for one piece.

    Values that are stored element by element are read, updated and written in one pass. Where a slot is stored in
    blocks, that pass goes block by block: it keeps the slot's new values on the stack, and a second pass, which knows
    the largest of them by then, encodes them. That of one block runs together with the first of the next: the one waits
    for square roots and divisions, the other does not.
    """

    def __init__(self, kernel: Kernel, spec: UpdateSpec, piece: Piece, watch: Watch | None) -> None:
        self.kernel, self.spec, self.piece, self.watch = kernel, spec, piece, watch
        self.builder = b = kernel.builder
        first = b.mul(piece.row, integer(len(spec.coefficients)))
        self.coefficients = [
            kernel.load(kernel.job["coefficients"], b.add(first, integer(j)), llvm_type(spec.arithmetic))
            for j in range(len(spec.coefficients))
        ]
        self.addresses = spec.grouped(piece.addresses)
        self.blocks = {i: codec for i, codec in enumerate(spec.codecs) if isinstance(codec, Blocks)}
        self.kept = {i: kernel.room(np.float32, 2 * BLOCK) for i in self.blocks}
        self.scales = {i: kernel.zero(np.int32, 1) for i in self.blocks}  # of the block that was updated last

    def write(self) -> None:
        """Update the piece."""
        kernel, piece, b = self.kernel, self.piece, self.builder
        if not self.blocks:
            itemsizes = [field.element.itemsize for field in self.spec.fields]

            def body(i: ir.Value, lanes: int) -> None:
                self._vector(i, lanes, {}, {})

            if self.watch is None:
                kernel.every_vector_in_streams(piece.start, piece.stop, body, itemsizes)
            else:  # sums are added up, in this order
                kernel.every_vector(piece.start, piece.stop, body)
            return
        block = integer(BLOCK)
        whole = kernel.whole(piece.start, piece.stop, BLOCK)
        with kernel.loop(piece.start, whole, BLOCK) as start, self._scaled(start) as (old, peaks):
            last = {j: self._scale(j) for j in self.blocks}
            follows = b.icmp_signed(">", start, piece.start)
            place = kernel.zero(np.int32, LANES)
            b.store(self._place(b.sub(start, block), LANES).ir, place)
            with kernel.loop(start, b.add(start, block), LANES) as i:
                self._vector(i, LANES, old, peaks)
                with b.if_then(follows, likely=True):
                    self._encode(b.sub(i, block), LANES, last, place)
        with kernel.loop(
            b.select(b.icmp_signed(">", whole, piece.start), b.sub(whole, block), whole), whole, LANES
        ) as i:
            self._encode(i, LANES, {j: self._scale(j) for j in self.blocks})
        with kernel.loop(whole, piece.stop, BLOCK) as start:  # once or never: what is left over
            with self._scaled(start) as (old, peaks):
                kernel.every_vector(start, piece.stop, lambda i, lanes: self._vector(i, lanes, old, peaks))
            last = {j: self._scale(j) for j in self.blocks}
            kernel.every_vector(start, piece.stop, lambda i, lanes: self._encode(i, lanes, last))

    @contextmanager
    def _scaled(self, start: ir.Value) -> Iterator[tuple[dict[int, Value], dict[tuple[int, int], ir.Value]]]:
        """Read the scales of the block at ``start``; after the ``with``, in which it is updated, write the new ones."""
        kernel = self.kernel
        number = kernel.builder.sdiv(start, integer(BLOCK))
        where = {j: kernel.element(self.addresses[j][1], number, c.fields[1].element) for j, c in self.blocks.items()}
        peaks = {(j, lanes): kernel.zero(np.int32, lanes) for j in self.blocks for lanes in (LANES, 1)}
        yield {j: self._read(j, 1, where[j], 1) for j in self.blocks}, peaks
        for j, codec in self.blocks.items():
            peak = largest(kernel.get(peaks[j, LANES], np.int32, LANES)).clamp(min=kernel.get(peaks[j, 1], np.int32, 1))
            scale = codec.scale(peak)
            kernel.builder.store(scale.ir, self.scales[j])
            element = codec.fields[1].element
            kernel.write(where[j], element, element.encode(scale))
            with kernel.builder.if_then((scale == NOT_FINITE).ir, likely=False):
                self._steady(j, start)

    def _steady(self, j: int, start: ir.Value) -> None:
        """See :meth:`gradstep.storage.codecs.Blocks.steady`: for once, not for every vector."""
        kernel, b = self.kernel, self.builder
        scale = self._wide(self._scale(j), LANES)
        with kernel.loop(start, b.add(start, integer(BLOCK)), LANES) as i:
            b.store(self.blocks[j].steady(self._waiting(j, i, LANES), scale).ir, self._kept(j, i), align=4)

    def _scale(self, j: int) -> Value:
        return self.kernel.get(self.scales[j], np.int32, 1)

    def _vector(
        self,
        i: ir.Value,
        lanes: int,
        scales: dict[int, Value],
        peaks: dict[tuple[int, int], ir.Value],
    ) -> None:
        """Update one vector; what is stored in blocks is only kept, and its magnitude noted."""
        kernel, spec, b = self.kernel, self.spec, self.builder
        if lanes > 1:
            ahead = b.add(i, kernel.job["prefetch"])
            for address in chain.from_iterable(self._at(j, ahead) for j in range(len(spec.codecs))):
                kernel.fetch(address)
        values = []
        for j, codec in enumerate(spec.codecs):
            at = self._at(j, i)
            if isinstance(codec, Blocks):
                value = codec.join(self._read(j, 0, at[0], lanes), self._wide(scales[j], lanes))
            else:
                assert isinstance(codec, Elementwise)
                value = kernel.value(codec, self.addresses[j], i, lanes)
            values.append(value.astype(spec.arithmetic))
        c = SimpleNamespace(
            **{
                name: Value(b, splat(b, scalar, lanes))
                for name, scalar in zip(spec.coefficients, self.coefficients, strict=True)
            }
        )
        g, p, *slots = values
        state = State(**dict(zip(spec.slots, slots, strict=True)))
        g = g * c.gradient
        new = [spec.rule.update(p, g, state, c), *(getattr(state, name) for name in spec.slots)]
        if self.watch is not None:
            self.watch.see(g, p, new, lanes)
        random: dict[int, Value] = {}
        for j, x in enumerate(new, 1):
            codec = spec.codecs[j]
            if isinstance(codec, Blocks):
                x = codec.bare(x)
                b.store(x.ir, self._kept(j, i), align=4)
                peak = peaks[j, lanes]
                b.store(codec.magnitude(x).clamp(min=kernel.get(peak, np.int32, lanes)).ir, peak)
            else:
                assert isinstance(codec, Elementwise)
                x = x.astype(codec.arithmetic)
                codes = codec.split(x, self._noise(j, i, lanes, random) if codec.noisy else None)
                for code, address, f in zip(codes, self._at(j, i), codec.fields, strict=True):
                    kernel.write(address, f.element, code)
        if self.watch is not None and lanes > 1:
            self.watch.settle()

    def _encode(self, i: ir.Value, lanes: int, scales: dict[int, Value], place: ir.Value | None = None) -> None:
        """Write one vector of what is stored in blocks.

        Args:
            i: its first element.
            lanes: how many it has.
            scales: of its block.
            place: where its place in the noise is counted, if it is one of a row; else that is worked out.
        """
        if place is None:
            here = self._place(i, lanes)
        else:
            here = self.kernel.get(place, np.int32, lanes)
            self.builder.store((here + lanes * STRIDE % 2**32).ir, place)
        noise = mixed(here, self._key(32, lanes), SLOTS)
        for j, codec in self.blocks.items():
            code = codec.split(self._waiting(j, i, lanes), self._wide(scales[j], lanes), noise)
            self.kernel.write(self._at(j, i)[0], codec.fields[0].element, code)

    # -- where things are -----------------------------------------------------------------------------------------

    def _at(self, j: int, i: ir.Value) -> list[ir.Value]:
        """The addresses of element ``i`` in the fields of codec ``j`` that have one number for each."""
        fields = self.spec.codecs[j].fields
        return [
            self.kernel.element(base, i, f.element)
            for base, f in zip(self.addresses[j], fields, strict=True)
            if f.per == 1
        ]

    def _read(self, j: int, k: int, address: ir.Value, lanes: int) -> Value:
        """The numbers of field ``k`` of codec ``j``."""
        element = self.spec.codecs[j].fields[k].element
        number: Value = element.decode(self.kernel.read(address, element, lanes))
        return number

    def _kept(self, j: int, i: ir.Value) -> ir.Value:
        """Where the new value of element ``i`` waits: there is room for two blocks."""
        place = self.builder.and_(i, integer(2 * BLOCK - 1))
        return self.builder.gep(self.kept[j], [place], source_etype=llvm_type(np.float32))

    def _waiting(self, j: int, i: ir.Value, lanes: int) -> Value:
        """The new values from element ``i`` on."""
        return Value(self.builder, self.builder.load(self._kept(j, i), typ=llvm_type(np.float32, lanes), align=4))

    def _wide(self, scalar: Value, lanes: int) -> Value:
        return Value(self.builder, splat(self.builder, scalar.ir, lanes))

    # -- noise ----------------------------------------------------------------------------------------------------

    def _noise(self, j: int, i: ir.Value, lanes: int, random: dict[int, Value]) -> Value:
        """That of codec ``j`` for a vector; ``random`` keeps the streams that were made already."""
        stream = self.spec.noise[j]
        if stream not in random:
            random[stream] = mixed(self._place(i, lanes), self._key(32, lanes), stream)
        return random[stream]

    def _place(self, i: ir.Value, lanes: int) -> Value:
        """The place of every lane in the noise."""
        element = ramp(self.builder, self.builder.trunc(i, ir.IntType(32)), lanes)
        place: Value = placed(element, self._key(0, lanes))
        return place

    def _key(self, first: int, lanes: int) -> Value:
        """The half of the key that begins at this bit."""
        b = self.builder
        half = b.trunc(b.lshr(self.piece.key, integer(first)), ir.IntType(32))
        return Value(b, splat(b, half, lanes))
