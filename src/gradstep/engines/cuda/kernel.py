"""The update as a kernel for devices: a thread takes a few neighbouring elements, or its share of a block.

The body of the kernel gets the numbers of the thread and of its thread block as *arguments*. :func:`build_kernel` wraps
it for the device, where they come from registers; :func:`build_host_loop` wraps the same body for the CPU, in a loop
over all threads, so that it can be compared with the reference where there is no device.

The tables are those of a batch and of its division into pieces (:mod:`gradstep.engines.fused.job`), in the device's
memory. Thread blocks share the pieces: block k takes pieces k, k + blocks, …
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import numpy as np
from llvmlite import ir

from gradstep.engines.cuda import THREADS
from gradstep.engines.fused.job import PER_PIECE, PER_TENSOR
from gradstep.engines.fused.kernel import TracedUpdate
from gradstep.engines.fused.skeleton import I64, Column, count_up, integer
from gradstep.engines.fused.trace import Value, Variable, llvm_type, max_lane
from gradstep.storage.elements import to_bits
from gradstep.storage.policy import UpdateSpec

WARP = 32
"""Threads that run together: they find the largest value of a block among themselves."""

ELEMENTS_PER_THREAD = 4
"""Neighbouring elements that a thread updates at a time: 16 bytes of float32, the widest access of a thread."""

CODES_PER_THREAD = 8
"""The same for state in blocks: a warp's share of a block of 256."""

WIDEST = 16
"""Bytes of the widest access of a thread, which begins at a multiple of its size."""

I32 = ir.IntType(32)
DEVICE_POINTER = ir.PointerType(addrspace=1)
"""A pointer to global memory; for the CPU the same as any other."""

PARAMETERS = ("tensors", "pieces", "coefficients", "piece_count")
"""The parameters of the kernel: three addresses, then the number of pieces."""

THREAD_NUMBERS = ("block", "blocks", "thread", "threads")
"""The thread block's number and how many there are; the thread's number in it and how many there are."""


def build_kernel(spec: UpdateSpec) -> ir.Module:
    """Build the kernel ``task(PARAMETERS)`` of a device, for blocks of ``THREADS`` threads.

    The assembler learns from the number of threads how many registers each may have; more threads cannot be launched.

    Raises:
        TypeError: the rule sees more than single elements.
        ValueError: slots are stored in blocks of several sizes.
    """
    module = ir.Module("gradstep")
    body = _build_body(module, spec, WARP)
    kinds = [DEVICE_POINTER] * 3 + [I64]
    task = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "task")
    task.calling_convention = "ptx_kernel"
    b = ir.IRBuilder(task.append_basic_block("entry"))

    def special(register: str) -> ir.Value:
        name = f"llvm.nvvm.read.ptx.sreg.{register}.x"
        return b.zext(b.call(ir.Function(module, ir.FunctionType(I32, []), name), []), I64)

    b.call(body, [*task.args, *(special(register) for register in ("ctaid", "nctaid", "tid", "ntid"))])
    b.ret_void()
    # With the number of threads alone, ptxas aims at more blocks on a multiprocessor than one, and spills registers.
    for name, number in (("maxntidx", THREADS), ("minctasm", 1)):
        limit = module.add_metadata([task, ir.MetaDataString(module, name), ir.Constant(I32, number)])
        module.add_named_metadata("nvvm.annotations", limit)
    return module


def build_host_loop(spec: UpdateSpec) -> ir.Module:
    """Build ``task(PARAMETERS, blocks, threads)`` for the CPU, which runs the body for each thread of each block.

    One thread after the other, they could not compare values, so each is a warp by itself.

    Raises:
        TypeError, ValueError: as :func:`build_kernel`.
    """
    module = ir.Module("gradstep")
    body = _build_body(module, spec, 1)
    task = ir.Function(module, ir.FunctionType(ir.VoidType(), [DEVICE_POINTER] * 3 + [I64] * 3), "task")
    b = ir.IRBuilder(task.append_basic_block("entry"))
    *parameters, blocks, threads = task.args
    with count_up(b, integer(0), blocks, 1) as block, count_up(b, integer(0), threads, 1) as thread:
        b.call(body, [*parameters, block, blocks, thread, threads])
    b.ret_void()
    return module


def _build_body(module: ir.Module, spec: UpdateSpec, warp: int) -> ir.Function:
    """Build the function that one thread runs, with (PARAMETERS, THREAD_NUMBERS) as its arguments."""
    if spec.rule.sees != "elements":
        raise TypeError(
            f"{spec.rule.__name__} looks at whole tensors (means, rows, products), and a kernel for devices at "
            "single elements"
        )
    kinds = [DEVICE_POINTER] * 3 + [I64] * 5
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "update")
    function.linkage = "internal"
    function.attributes.add("alwaysinline")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    tensors, pieces, coefficients, piece_count, *numbers = function.args
    block, blocks, thread, threads = numbers
    with count_up(b, block, piece_count, blocks) as k:
        tensor, start, stop = _load_row(b, pieces, k, I64, len(PER_PIECE))
        columns = len(spec.fields)
        entries = _load_row(b, tensors, tensor, I64, columns + len(PER_TENSOR))
        _, row, key = entries[columns:]
        values = _load_row(b, coefficients, row, llvm_type(spec.arithmetic), len(spec.coefficients))
        DeviceUpdate(b, spec, entries[:columns], values, key, Share(thread, threads, warp)).write(start, stop)
    b.ret_void()
    return function


def _load_row(b: ir.IRBuilder, table: ir.Value, index: ir.Value, kind: ir.Type, width: int) -> list[ir.Value]:
    """Load a row of a table that has ``width`` columns."""
    first = b.mul(index, integer(width))
    places = [b.gep(table, [b.add(first, integer(j))], source_etype=kind) for j in range(width)]
    return [b.load(place, typ=kind, align=8 if kind is I64 else None) for place in places]


@final
class Share:
    """A thread's number in its thread block, the threads of the block, and how many of them are a warp."""

    def __init__(self, thread: ir.Value, threads: ir.Value, warp: int) -> None:
        self.thread, self.threads, self.warp = thread, threads, warp


@final
class DeviceUpdate(TracedUpdate):
    """A thread's share of the update of one piece.

    Threads read vectors where all arrays begin at a multiple of 16 bytes, or of a thread's vector if that is less;
    elsewhere, and at the end of a piece, they read single elements.

    Values that are stored element by element are independent. Slots that are stored in blocks need two passes over a
    block, because codes are relative to the block's largest new value: in the first a warp finds it; in the second it
    writes all, and computes the values again where a thread has more than one vector of them.
    """

    def __init__(
        self,
        builder: ir.IRBuilder,
        spec: UpdateSpec,
        addresses: Sequence[ir.Value],
        coefficients: Sequence[ir.Value],
        key: ir.Value,
        share: Share,
    ) -> None:
        columns = [
            Column(builder, builder.inttoptr(address, DEVICE_POINTER), field.element, WIDEST)
            for address, field in zip(addresses, spec.fields, strict=True)
        ]
        super().__init__(builder, spec, columns, coefficients, key)
        self.addresses, self.share = addresses, share

    def write(self, start: ir.Value, stop: ir.Value) -> None:
        """Update elements ``start`` to ``stop``; ``start`` is a multiple of the block and of a thread's vector."""
        if self.blocks:
            self._write_blocks(start, stop)
        else:
            self._write_elements(start, stop)

    def _write_elements(self, start: ir.Value, stop: ir.Value) -> None:
        b, thread, threads, lanes = self.builder, self.share.thread, self.share.threads, ELEMENTS_PER_THREAD
        middle = self._end_of_vectors(start, stop, lanes, lanes)
        first = b.add(start, b.mul(thread, integer(lanes)))
        with count_up(b, first, middle, b.mul(threads, integer(lanes))) as i:
            self._update_vector(i, lanes)
        with count_up(b, b.add(middle, thread), stop, threads) as i:
            self._update_vector(i, 1)

    def _update_vector(self, i: ir.Value, lanes: int) -> None:
        self.write_elements(i, lanes, self.apply_rule(self.read_values(i, lanes, {}), {}, lanes))

    def _end_of_vectors(self, start: ir.Value, stop: ir.Value, step: int, lanes: int) -> ir.Value:
        """Return the end of the last whole step that can be read in vectors: ``start`` if an array is not aligned."""
        b, off = self.builder, integer(0)
        for address, field in zip(self.addresses, self.spec.fields, strict=True):
            if field.per == field.element.packs:
                multiple = min(WIDEST, field.element.itemsize * max(1, lanes // field.per))
                off = b.or_(off, b.and_(address, integer(multiple - 1)))
        whole = b.add(start, b.and_(b.sub(stop, start), integer(-step)))
        return b.select(b.icmp_signed("==", off, integer(0)), whole, start)

    # -- blocks -----------------------------------------------------------------------------------------------------

    def _write_blocks(self, start: ir.Value, stop: ir.Value) -> None:
        b, warp, block = self.builder, integer(self.share.warp), integer(self.block)
        lanes = max(1, min(CODES_PER_THREAD, self.block // self.share.warp))
        middle = self._end_of_vectors(start, stop, self.block, lanes)
        offset = b.mul(b.udiv(self.share.thread, warp), block)
        stride = b.mul(b.udiv(self.share.threads, warp), block)
        with count_up(b, b.add(start, offset), middle, stride) as first:
            self._update_block(first, b.add(first, block), lanes)
        with count_up(b, b.add(middle, offset), stop, stride) as first:
            end = b.add(first, block)
            self._update_block(first, b.select(b.icmp_signed("<", end, stop), end, stop), 1)

    def _update_block(self, first: ir.Value, stop: ir.Value, lanes: int) -> None:
        """Update a block by a warp; the last block of a tensor may be shorter than others."""
        b = self.builder
        number = b.udiv(first, integer(self.block))
        old = {j: column.read(number, 1) for j, column in self.scales.items()}
        peaks = {j: Variable(b, np.int32, lanes) for j in self.blocks}
        with self._every_vector(first, stop, lanes) as i:
            new = self.apply_rule(self.read_values(i, lanes, old), {}, lanes)
            for j, peak in peaks.items():
                peak.set((to_bits(new[j - 1]) & 0x7FFFFFFF).clamp(min=peak.get()))
        # All that threads say to each other is said here, before any branch: one that only some of them take would let
        # the compiler move the next exchange into it.
        scales = {j: codec.scale(self._largest_in_warp(peaks[j].get())) for j, codec in self.blocks.items()}
        with self._every_vector(first, stop, lanes) as i:
            if not self._has_one_vector(lanes):
                new = self.apply_rule(self.read_values(i, lanes, old), {}, lanes)
            random: dict[int, Value] = {}
            codes = {j: self._encode(j, new[j - 1], scales[j], i, random) for j in self.blocks}
            self.write_elements(i, lanes, new)
            for j in self.blocks:
                self.write_codes(j, i, codes[j])
        self._wait_for_warp()  # until every thread has read the old scales
        with b.if_then(b.icmp_signed("==", self._lane(), integer(0))):
            for j, column in self.scales.items():
                column.write(number, column.element.encode(scales[j]))

    def _encode(self, j: int, x: Value, scale: Value, i: ir.Value, random: dict[int, Value]) -> Sequence[Value]:
        """Return the codes of a slot's new values from element ``i`` on; ``random`` caches the noise."""
        codec, wide = self.blocks[j], self.broadcast(scale, x.lanes)
        noise = self.noise(j, i, x.lanes, random) if codec.noisy else None
        return codec.split(codec.cut_noise_bits(x, wide), noise, wide)

    @contextmanager
    def _every_vector(self, first: ir.Value, stop: ir.Value, lanes: int) -> Iterator[ir.Value]:
        """Loop over this thread's vectors of a block; without a loop, if it has one."""
        b = self.builder
        begin = b.add(first, b.mul(self._lane(), integer(lanes)))
        if self._has_one_vector(lanes):
            yield begin
        elif lanes == 1 and self._packs > 1:  # one thread writes all codes of a byte
            packs, lane = self._packs, self._lane()
            with count_up(b, b.add(first, b.mul(lane, integer(packs))), stop, packs * self.share.warp) as start:
                end = b.add(start, integer(packs))
                with count_up(b, start, b.select(b.icmp_signed("<", end, stop), end, stop), 1) as i:
                    yield i
        else:
            with count_up(b, begin, stop, lanes * self.share.warp) as i:
                yield i

    @property
    def _packs(self) -> int:
        """The largest number of codes in a byte."""
        return max(field.element.packs for field in self.spec.fields)

    def _has_one_vector(self, lanes: int) -> bool:
        """Return whether each thread has one vector of a whole block."""
        return lanes > 1 and lanes * self.share.warp == self.block

    def _lane(self) -> ir.Value:
        """Return the number of this thread in its warp."""
        return self.builder.and_(self.share.thread, integer(self.share.warp - 1))

    def _largest_in_warp(self, x: Value) -> Value:
        """Return the largest of the non-negative int32 in the lanes of all threads of the warp."""
        largest = x if x.lanes == 1 else max_lane(x)
        if self.share.warp == 1:
            return largest
        return Value(self.builder, self._call("llvm.nvvm.redux.sync.max", I32, [largest.ir, ir.Constant(I32, -1)]))

    def _wait_for_warp(self) -> None:
        if self.share.warp > 1:
            self._call("llvm.nvvm.bar.warp.sync", ir.VoidType(), [ir.Constant(I32, -1)])

    def _call(self, name: str, kind: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        module = self.builder.module
        signature = ir.FunctionType(kind, [argument.type for argument in arguments])
        return self.builder.call(module.globals.get(name) or ir.Function(module, signature, name), arguments)
