"""What every kernel shares: claim a chunk, look its tensor up, loop over its vectors.

A kernel is one function ``void task(const int64 *job)`` that any number of threads run at once on the same job. Each
takes the next chunk from a shared counter until none is left, so a late or slow thread delays nobody.
What a job is, `job.py` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from llvmlite import ir

from gradstep.engines.fused.job import COUNTS, FIELDS, PER_CHUNK, PER_PIECE, PER_RUN, PER_TENSOR
from gradstep.engines.fused.trace import Value, llvm_type
from gradstep.storage.codecs import Elementwise
from gradstep.storage.elements import Element

LANES = 16
"""Elements per vector: 64 bytes of float32, one AVX-512 register; LLVM splits it where registers are narrower."""

MIN_STREAM_BYTES = 6_144
"""Bytes that a stream reads at least, averaged over the arrays: starting a shorter one costs more than it saves."""

STREAM_GAP = 256
"""Elements: streams are an odd number of them apart. Where the addresses of a read and of a recent write agree in the
last 12 bits, a processor may take the one for the other and wait; so streams are not whole pages apart.
"""

I64 = ir.IntType(64)
_POINTER = ir.PointerType()


def integer(number: int) -> ir.Constant:
    """An int64 of the kernel."""
    return ir.Constant(I64, number)


@final
@dataclass(frozen=True)
class PieceRun:
    """Pieces that follow each other and have one owner: its number, its first piece and the one after its last."""

    index: ir.Value
    first: ir.Value
    stop: ir.Value


@final
@dataclass(frozen=True)
class Piece:
    """Which elements of a tensor, and what the tensor table says of it."""

    start: ir.Value
    stop: ir.Value
    addresses: Sequence[ir.Value]
    row: ir.Value
    key: ir.Value


@final
class Kernel:
    """The skeleton that every kernel shares: claim a chunk, look its tensor up, loop over its vectors."""

    def __init__(self, columns: int) -> None:
        self.module = ir.Module("gradstep")
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [_POINTER]), "task")
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.columns = columns
        self.job = {
            name: self.builder.gep(self.function.args[0], [integer(j)], source_etype=I64)
            for j, name in enumerate(FIELDS)
        }
        for name in FIELDS[2:]:  # threads count in the first two
            self.job[name] = self.builder.load(self.job[name], typ=I64 if name in COUNTS else _POINTER)
        self._entry = self.builder.block  # the function's first: its end is where room on the stack is made

    def load(self, base: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
        """``base[index]`` of an array of ``kind``."""
        return self.builder.load(self.builder.gep(base, [index], source_etype=kind), typ=kind)

    def row(self, table: str, index: ir.Value, width: int) -> list[ir.Value]:
        """A row of a table of the job that has so many int64 in each."""
        first = self.builder.mul(index, integer(width))
        return [self.load(self.job[table], self.builder.add(first, integer(j)), I64) for j in range(width)]

    def element(self, base: ir.Value, index: ir.Value, element: Element) -> ir.Value:
        """The address of one stored element."""
        return self.builder.gep(base, [index], source_etype=llvm_type(element.stored))

    def read(self, address: ir.Value, element: Element, lanes: int) -> Value:
        """Stored elements, still encoded."""
        kind = llvm_type(element.stored, lanes)
        return Value(self.builder, self.builder.load(address, typ=kind, align=element.itemsize))

    def value(self, codec: Elementwise, bases: Sequence[ir.Value], i: ir.Value, lanes: int) -> Value:
        """The values from element ``i`` on, of which a field is stored from each of ``bases`` on."""
        fields = ((self.element(base, i, f.element), f.element) for base, f in zip(bases, codec.fields, strict=True))
        value: Value = codec.join(*(element.decode(self.read(at, element, lanes)) for at, element in fields))
        return value

    def write(self, address: ir.Value, element: Element, code: Value) -> None:
        """Store what is encoded."""
        self.builder.store(code.ir, address, align=element.itemsize)

    def prefetch(self, address: ir.Value, *, to_write: bool = False) -> None:
        """Have the line of the cache at an address fetched; it need not be anybody's."""
        word, name = ir.IntType(32), "llvm.prefetch.p0"
        kind = ir.FunctionType(ir.VoidType(), [_POINTER, word, word, word])
        function = self.module.globals.get(name) or ir.Function(self.module, kind, name)
        near, data = ir.Constant(word, 3), ir.Constant(word, 1)
        self.builder.call(function, [address, ir.Constant(word, int(to_write)), near, data])

    def allocate(self, dtype: Any, count: int) -> ir.Value:
        """The address of room for ``count`` numbers on the stack, aligned for vectors."""
        with self.builder.goto_block(self._entry):
            array = self.builder.alloca(ir.ArrayType(llvm_type(dtype), count))
        array.align = 64
        array.type = _POINTER  # llvmlite still gives it a typed one
        return array

    def allocate_zero(self, dtype: Any, lanes: int) -> ir.Value:
        """Room for one value, which is 0 from here on."""
        with self.builder.goto_block(self._entry):
            place = self.builder.alloca(llvm_type(dtype, lanes))
        self.builder.store(ir.Constant(llvm_type(dtype, lanes), None), place)
        return place

    def get(self, place: ir.Value, dtype: Any, lanes: int) -> Value:
        """What is in such a place."""
        return Value(self.builder, self.builder.load(place, typ=llvm_type(dtype, lanes)))

    @contextmanager
    def every_run(self, then: Callable[[], None] | None = None) -> Iterator[PieceRun]:
        """Claim chunks until none is left, and go through their runs; the body stands inside the ``with``.

        Args:
            then: builds what is done once, when all chunks are done, by the thread that is the last to leave.
        """
        b = self.builder
        mine = self.allocate_zero(np.int64, 1)
        claim, work, done = (self.function.append_basic_block(n) for n in ("claim", "work", "done"))
        b.branch(claim)
        b.position_at_end(claim)
        index = b.atomic_rmw("add", self.job["claimed"], integer(1), "monotonic")
        b.cbranch(b.icmp_signed("<", index, self.job["chunk_count"]), work, done)

        b.position_at_end(work)
        begin, end = self.row("chunks", index, len(PER_CHUNK))
        with self.loop(begin, end, 1) as run:
            first, stop, _ = self.row("runs", run, len(PER_RUN))
            yield PieceRun(run, first, stop)
        b.store(b.add(b.load(mine, typ=I64), integer(1)), mine)
        b.branch(claim)

        b.position_at_end(done)
        if then is not None:
            count = b.load(mine, typ=I64)
            others = b.atomic_rmw("add", self.job["done"], count, "acq_rel")
            last = b.icmp_signed("==", b.add(others, count), self.job["chunk_count"])
            with b.if_then(b.and_(last, b.icmp_signed("!=", count, integer(0)))):
                then()
        b.ret_void()

    @contextmanager
    def every_piece(self, run: PieceRun) -> Iterator[Piece]:
        """Go through the pieces of a run; the body stands inside the ``with``."""
        with self.loop(run.first, run.stop, 1) as k:
            tensor, start, stop = self.row("pieces", k, len(PER_PIECE))
            entries = self.row("tensors", tensor, self.columns + len(PER_TENSOR))
            _, row, key = entries[self.columns :]
            addresses = [self.builder.inttoptr(entry, _POINTER) for entry in entries[: self.columns]]
            yield Piece(start, stop, addresses, row, key)

    def end_of_whole_steps(self, start: ir.Value, stop: ir.Value, step: int) -> ir.Value:
        """Where the last whole step from start that fits before stop ends; a step is a power of 2."""
        b = self.builder
        return b.add(start, b.and_(b.sub(stop, start), integer(-step)))

    def every_vector(self, start: ir.Value, stop: ir.Value, body: Callable[[ir.Value, int], None]) -> None:
        """Run ``body(first_element, lanes)`` from start to stop: whole vectors, then what is left one by one."""
        middle = self.end_of_whole_steps(start, stop, LANES)
        with self.loop(start, middle, LANES) as i:
            body(i, LANES)
        with self.loop(middle, stop, 1) as i:
            body(i, 1)

    def every_vector_in_streams(
        self, start: ir.Value, stop: ir.Value, body: Callable[[ir.Value, int], None], itemsizes: Sequence[int]
    ) -> None:
        """Like :meth:`every_vector`, but reading as many streams in turns as the job says.

        The order of the elements depends on their number: ``body`` must not add anything up.

        Args:
            start, stop, body: as there.
            itemsizes: bytes of an element of every array that it reads.
        """
        b, streams = self.builder, self.job["streams"]
        middle = self.end_of_whole_steps(start, stop, LANES)
        part = self.stream_length(start, middle, streams, itemsizes)
        whole = b.mul(part, streams)
        rest = b.add(start, whole)
        # Two turns of one loop, so that the body is compiled once: the streams, and the rest as the only stream.
        with self.loop(integer(0), integer(2), 1) as turn:
            first = b.icmp_signed("==", turn, integer(0))
            begin, end, stride, length = (
                b.select(first, *either)
                for either in (
                    (start, rest),
                    (b.add(start, part), middle),
                    (part, b.sub(middle, rest)),
                    (whole, b.sub(middle, rest)),
                )
            )
            with self.loop(begin, end, LANES) as i, self.loop(i, b.add(i, length), stride) as j:
                body(j, LANES)
        with self.loop(middle, stop, 1) as i:
            body(i, 1)

    def stream_length(
        self, start: ir.Value, stop: ir.Value, streams: int | ir.Value, itemsizes: Sequence[int]
    ) -> ir.Value:
        """How many elements each stream reads; 0 if there are too few for so many streams, or only one is asked for.

        Args:
            start, stop: the first element, and the one after the last.
            streams: how many there are.
            itemsizes: bytes of an element of every array that is read.
        """
        b = self.builder
        count = integer(streams) if isinstance(streams, int) else streams
        least = max(STREAM_GAP, MIN_STREAM_BYTES * len(itemsizes) // sum(itemsizes))
        most = b.sub(b.sdiv(b.sub(stop, start), count), integer(STREAM_GAP))
        part = b.add(b.and_(most, integer(-2 * STREAM_GAP)), integer(STREAM_GAP))
        few = b.or_(b.icmp_signed("<", part, integer(least)), b.icmp_signed("<", count, integer(2)))
        return b.select(few, integer(0), part)

    @contextmanager
    def loop(self, start: ir.Value, stop: ir.Value, step: int | ir.Value) -> Iterator[ir.Value]:
        """Count from start to stop; the body stands inside the ``with``."""
        b = self.builder
        before = b.block
        head, inside, after = (self.function.append_basic_block(n) for n in ("head", "inside", "after"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(start, before)
        b.cbranch(b.icmp_signed("<", i, stop), inside, after)
        b.position_at_end(inside)
        yield i
        i.add_incoming(b.add(i, integer(step) if isinstance(step, int) else step), b.block)
        b.branch(head)
        b.position_at_end(after)
