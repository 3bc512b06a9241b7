"""The skeleton of all kernels: claim a chunk, look its tensors up, loop over their vectors, read and write; compile.

A kernel is one function ``void task(const int64 *job)`` that any number of threads run at once on the same job
(`job.py`). Each thread takes the next chunk from a shared counter until none is left, so that no thread waits for a
late or slow one. Compiling takes 0.05 to 0.3 s, so nothing is cached on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, final

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from gradstep.engines.fused.job import COUNTS, FIELDS, PER_CHUNK, PER_PIECE, PER_RUN, PER_TENSOR
from gradstep.engines.fused.trace import POINTER, Value, Variable, llvm_type, prefetch
from gradstep.storage.elements import Element

LANES = 16
"""Elements per vector: 64 bytes of float32, one AVX-512 register; LLVM splits it where registers are narrower."""

MIN_STREAM_BYTES = 6_144
"""Minimum bytes per read stream, averaged over the arrays: starting a shorter stream costs more than it saves."""

STREAM_GAP = 256
"""Streams are an odd multiple of this number of elements apart, never whole pages: if the addresses of a read and a
recent write agree in the last 12 bits, a processor may confuse them and wait.
"""

I64 = ir.IntType(64)


def integer(number: int) -> ir.Constant:
    """Return an int64 constant."""
    return ir.Constant(I64, number)


@contextmanager
def count_up(builder: ir.IRBuilder, start: ir.Value, stop: ir.Value, step: int | ir.Value) -> Iterator[ir.Value]:
    """Count from ``start`` to ``stop``; the ``with`` block builds the loop's body."""
    before = builder.block
    head, inside, after = (builder.function.append_basic_block(n) for n in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(I64)
    i.add_incoming(start, before)
    builder.cbranch(builder.icmp_signed("<", i, stop), inside, after)
    builder.position_at_end(inside)
    yield i
    i.add_incoming(builder.add(i, integer(step) if isinstance(step, int) else step), builder.block)
    builder.branch(head)
    builder.position_at_end(after)


@final
@dataclass(frozen=True)
class PieceRun:
    """Consecutive pieces with one owner: the run's number, its first piece and the one after its last."""

    index: ir.Value
    first: ir.Value
    stop: ir.Value


@final
@dataclass(frozen=True)
class KernelPiece:
    """Elements ``start`` to ``stop`` of a tensor, with the tensor's addresses, row of coefficients and key of noise."""

    start: ir.Value
    stop: ir.Value
    addresses: Sequence[ir.Value]
    row: ir.Value
    key: ir.Value


@final
class Kernel:
    """A kernel being built, with the loops over chunks, runs, pieces and vectors."""

    def __init__(self, columns: int) -> None:
        self.module = ir.Module("gradstep")
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [POINTER]), "task")
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.columns = columns
        self.job = {
            name: self.builder.gep(self.function.args[0], [integer(j)], source_etype=I64)
            for j, name in enumerate(FIELDS)
        }
        for name in FIELDS[2:]:  # threads change the first two
            self.job[name] = self.builder.load(self.job[name], typ=I64 if name in COUNTS else POINTER)

    def load(self, base: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
        """Load ``base[index]`` from an array of ``kind``."""
        return self.builder.load(self.builder.gep(base, [index], source_etype=kind), typ=kind)

    def row(self, table: str, index: ir.Value, width: int) -> list[ir.Value]:
        """Load a row of one of the job's int64 tables, which has ``width`` columns."""
        first = self.builder.mul(index, integer(width))
        return [self.load(self.job[table], self.builder.add(first, integer(j)), I64) for j in range(width)]

    @contextmanager
    def every_run(self, then: Callable[[], None] | None = None) -> Iterator[PieceRun]:
        """Claim chunks until none is left, and loop over their runs; the ``with`` block builds the loop's body.

        Args:
            then: builds code that the last thread to finish runs once, after all chunks.
        """
        b = self.builder
        mine = None if then is None else Variable(b, np.int64, 1)  # chunks that this thread has done
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
        if mine is not None:
            mine.set(mine.get() + 1)
        b.branch(claim)

        b.position_at_end(done)
        if then is not None and mine is not None:
            count = mine.get().ir
            others = b.atomic_rmw("add", self.job["done"], count, "acq_rel")
            last = b.icmp_signed("==", b.add(others, count), self.job["chunk_count"])
            with b.if_then(b.and_(last, b.icmp_signed("!=", count, integer(0)))):
                then()
        b.ret_void()

    @contextmanager
    def every_piece(self, run: PieceRun) -> Iterator[KernelPiece]:
        """Loop over the pieces of a run; the ``with`` block builds the loop's body."""
        with self.loop(run.first, run.stop, 1) as k:
            tensor, start, stop = self.row("pieces", k, len(PER_PIECE))
            entries = self.row("tensors", tensor, self.columns + len(PER_TENSOR))
            _, row, key = entries[self.columns :]
            addresses = [self.builder.inttoptr(entry, POINTER) for entry in entries[: self.columns]]
            yield KernelPiece(start, stop, addresses, row, key)

    def end_of_whole_steps(self, start: ir.Value, stop: ir.Value, step: int) -> ir.Value:
        """Return the end of the last whole step from ``start`` that ends by ``stop``; ``step`` is a power of 2."""
        b = self.builder
        return b.add(start, b.and_(b.sub(stop, start), integer(-step)))

    def every_vector(self, start: ir.Value, stop: ir.Value, body: Callable[[ir.Value, int], None]) -> None:
        """Build ``body(first_element, lanes)`` for all elements: whole vectors, then the rest one by one."""
        middle = self.end_of_whole_steps(start, stop, LANES)
        with self.loop(start, middle, LANES) as i:
            body(i, LANES)
        with self.loop(middle, stop, 1) as i:
            body(i, 1)

    def every_vector_in_streams(
        self, start: ir.Value, stop: ir.Value, body: Callable[[ir.Value, int], None], itemsizes: Sequence[int]
    ) -> None:
        """Like :meth:`every_vector`, but read in turns from as many streams as the job says.

        The order of elements depends on the number of streams, so ``body`` must not add anything up.

        Args:
            start, stop, body: as in :meth:`every_vector`.
            itemsizes: bytes per element of every array that ``body`` reads.
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
        """Return the number of elements per stream; 0 for one stream, or if there are too few elements.

        Args:
            start, stop: the first element, and the one after the last.
            streams: the number of streams.
            itemsizes: bytes per element of every array that is read.
        """
        b = self.builder
        count = integer(streams) if isinstance(streams, int) else streams
        least = max(STREAM_GAP, MIN_STREAM_BYTES * len(itemsizes) // sum(itemsizes))
        most = b.sub(b.sdiv(b.sub(stop, start), count), integer(STREAM_GAP))
        part = b.add(b.and_(most, integer(-2 * STREAM_GAP)), integer(STREAM_GAP))
        few = b.or_(b.icmp_signed("<", part, integer(least)), b.icmp_signed("<", count, integer(2)))
        return b.select(few, integer(0), part)

    def loop(self, start: ir.Value, stop: ir.Value, step: int | ir.Value) -> AbstractContextManager[ir.Value]:
        """Count from ``start`` to ``stop``; the ``with`` block builds the loop's body."""
        return count_up(self.builder, start, stop, step)


# -- memory ------------------------------------------------------------------------------------------------------------

_INDEX = ir.IntType(32)
_NIBBLE = 0xF


@final
class Column:
    """The array of one field of a tensor. Two codes in a byte are read and written as int32, one for each element.

    Args:
        builder: of the kernel.
        address: of the tensor's first element.
        element: the type of its elements.
        most: the largest alignment of a vector, in bytes; None if vectors begin at any element.
    """

    __slots__ = ("address", "builder", "element", "most")

    def __init__(self, builder: ir.IRBuilder, address: ir.Value, element: Element, most: int | None = None) -> None:
        self.builder, self.address, self.element, self.most = builder, address, element, most

    def read(self, i: ir.Value, lanes: int) -> Value:
        """Load elements from ``i`` on, and decode them; a vector of packed codes begins at an even one."""
        if self.element.packs > 1:
            return self._read_packed(i, lanes)
        kind = llvm_type(self.element.stored, lanes)
        code = Value(self.builder, self.builder.load(self._address_of(i), typ=kind, align=self._align(lanes)))
        value: Value = self.element.decode(code)
        return value

    def write(self, i: ir.Value, code: Value) -> None:
        """Store encoded elements from ``i`` on."""
        if self.element.packs > 1:
            self._write_packed(i, code)
        else:
            self.builder.store(code.ir, self._address_of(i), align=self._align(code.lanes))

    def prefetch(self, i: ir.Value) -> None:
        """Prefetch the cache line of an element, which need not exist."""
        prefetch(self.builder, self._address_of(i))

    def _align(self, lanes: int) -> int:
        itemsize = self.element.itemsize
        return itemsize if self.most is None else min(self.most, itemsize * max(1, lanes // self.element.packs))

    def _address_of(self, i: ir.Value) -> ir.Value:
        number = self.builder.ashr(i, ir.Constant(i.type, self.element.packs.bit_length() - 1))
        return self.builder.gep(self.address, [number], source_etype=llvm_type(self.element.stored))

    # -- two codes in a byte --------------------------------------------------------------------------------------

    def _read_packed(self, i: ir.Value, lanes: int) -> Value:
        b = self.builder
        if lanes == 1:
            byte = Value(b, b.load(self._address_of(i), typ=llvm_type(np.uint8), align=1))
            return Value(b, b.lshr(byte.astype(np.int32).ir, self._first_bit(i).ir)) & _NIBBLE
        pairs = b.load(self._address_of(i), typ=llvm_type(np.uint8, lanes // 2), align=self._align(lanes))
        # A byte becomes 64 bits, and its upper half is moved to the upper 32 of them.
        wide = Value(b, b.zext(pairs, llvm_type(np.int64, lanes // 2)))
        apart = (wide | wide << 28) & (_NIBBLE << 32 | _NIBBLE)
        return Value(b, b.bitcast(apart.ir, llvm_type(np.int32, lanes)))

    def _write_packed(self, i: ir.Value, code: Value) -> None:
        b, lanes = self.builder, code.lanes
        if lanes == 1:
            self._write_part_of_byte(i, code)
            return
        bytes_ = code.astype(np.uint8)
        apart = Value(b, b.bitcast(bytes_.ir, llvm_type(np.uint16, lanes // 2)))
        pairs = (apart | Value(b, b.lshr(apart.ir, ir.Constant(apart.ir.type, [4] * (lanes // 2))))) & 0xFF
        b.store(b.trunc(pairs.ir, llvm_type(np.uint8, lanes // 2)), self._address_of(i), align=self._align(lanes))

    def _write_part_of_byte(self, i: ir.Value, code: Value) -> None:
        """Replace the code of one element, and leave its neighbour in the same byte, which the same thread writes."""
        b, first, address, kind = self.builder, self._first_bit(i), self._address_of(i), llvm_type(np.uint8)
        mask, put = (Value(b, b.shl(x, first.ir)) for x in (ir.Constant(_INDEX, _NIBBLE), code.ir))
        old = Value(b, b.load(address, typ=kind, align=1)).astype(np.int32)
        b.store(b.trunc((old & (mask ^ -1) | put).ir, kind), address, align=1)

    def _first_bit(self, i: ir.Value) -> Value:
        """Return the number of the first bit of an element's code in its byte, int32."""
        b = self.builder
        return Value(b, b.and_(b.trunc(i, _INDEX), ir.Constant(_INDEX, 1))) * 4


# -- compilation ------------------------------------------------------------------------------------------------------

llvm_lock = threading.Lock()  # LLVM's tools are not safe to use from two threads at once
_engines: list[Any] = []  # the machine code lives as long as its engine


def _target_machine() -> Any:
    """Return a new target machine: each LLVM engine owns the one that it was made with."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)


def optimize(module: ir.Module | str, machine: Any = None) -> Any:
    """Parse, check and optimize a module or its text.

    Args:
        module: the module.
        machine: LLVM's target machine, which must be the module's; None for this processor's.
    """
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    machine = machine or _target_machine()
    tuning = llvm.create_pipeline_tuning_options(speed_level=1)
    # Kernels are written in vectors; vectorizing the loop over the remaining elements would double the compile time.
    tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = False
    passes = llvm.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(parsed, passes)
    return parsed


def compile_module(module: ir.Module | str) -> int:
    """Compile a module for this processor; return the address of its function ``task``."""
    with llvm_lock:
        optimized = optimize(module)
        engine = llvm.create_mcjit_compiler(optimized, _target_machine())
        engine.finalize_object()
        _engines.append(engine)
        return int(engine.get_function_address("task"))


def emit_assembly(module: ir.Module | str) -> str:
    """Compile a module for this processor; return its assembly."""
    with llvm_lock:
        return str(_target_machine().emit_assembly(optimize(module)))


def converts_float16() -> bool:
    """Return whether this processor converts half precision; else LLVM would call a function that does not exist."""
    features = llvm.get_host_cpu_features()
    return bool(features.get("f16c") or not llvm.get_default_triple().startswith(("x86", "i686", "amd64")))
