"""The kernels: one pass over every chunk of every tensor, with a rule's own lines as its body.

A kernel is one function ``void task(const int64 *job)`` that any number of threads run at once on the same job. Each
takes the next chunk from a shared counter until none is left, so a late or slow thread delays nobody.
What a job is, `job.py` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import final

import numpy as np
from llvmlite import ir

from gradstep.engines.base import UpdateSpec
from gradstep.engines.fused.job import CHUNK, FIELDS
from gradstep.engines.fused.trace import Value, llvm_type, splat
from gradstep.rules import State
from gradstep.storage.elements import Element

LANES = 16
"""Elements per vector: 64 bytes of float32, one AVX-512 register; LLVM splits it where registers are narrower."""

_I64 = ir.IntType(64)
_POINTER = ir.PointerType()


def build_update(spec: UpdateSpec) -> ir.Module:
    """The kernel that updates parameters and slots in place."""
    kernel = _Kernel(columns=len(spec.columns))
    builder = kernel.builder
    with kernel.every_chunk() as chunk:
        scalars = [
            kernel.load(
                kernel.job["coefficients"],
                builder.add(
                    builder.mul(chunk.row, _int(len(spec.coefficients))),
                    _int(j),
                ),
                llvm_type(spec.arithmetic),
            )
            for j in range(len(spec.coefficients))
        ]

        def body(i: ir.Value, lanes: int) -> None:
            c = SimpleNamespace(
                **{
                    name: Value(builder, splat(builder, scalar, lanes))
                    for name, scalar in zip(spec.coefficients, scalars, strict=True)
                }
            )
            at = [kernel.element(base, i, element) for base, element in zip(chunk.addresses, spec.columns, strict=True)]
            codes = [kernel.read(a, e, lanes) for a, e in zip(at, spec.columns, strict=True)]
            values = [e.decode(code) for e, code in zip(spec.columns, codes, strict=True)]
            p, g, *slots = (value.astype(spec.arithmetic) for value in values)
            state = State(**dict(zip(spec.slots, slots, strict=True)))
            new = [spec.rule.update(p, g * c.gradient, state, c)]
            new += [getattr(state, name) for name in spec.slots]
            for value, address, element in zip(
                new, [at[0], *at[2:]], [spec.columns[0], *spec.columns[2:]], strict=True
            ):
                kernel.write(address, element, value)

        kernel.every_vector(chunk, body)
    return kernel.module


def build_squares(gradient: Element) -> ir.Module:
    """The kernel that sums the squares of one column in float64, one partial sum per chunk.

    A float32 squared cannot overflow in float64, so the sum is finite exactly if every element is.
    """
    kernel = _Kernel(columns=1)
    builder = kernel.builder
    with kernel.every_chunk() as chunk:
        sums = {lanes: kernel.accumulator(lanes) for lanes in (LANES, 1)}

        def body(i: ir.Value, lanes: int) -> None:
            address = kernel.element(chunk.addresses[0], i, gradient)
            x = gradient.decode(kernel.read(address, gradient, lanes)).astype(np.float64)
            kind = llvm_type(np.float64, lanes)
            builder.store(builder.fadd(builder.load(sums[lanes], typ=kind), (x * x).ir), sums[lanes])

        kernel.every_vector(chunk, body)
        vector = builder.load(sums[LANES], typ=llvm_type(np.float64, LANES))
        total = builder.load(sums[1], typ=llvm_type(np.float64))
        for lane in range(LANES):
            total = builder.fadd(total, builder.extract_element(vector, ir.Constant(ir.IntType(32), lane)))
        target = builder.gep(kernel.job["results"], [chunk.index], source_etype=llvm_type(np.float64))
        builder.store(total, target)
    return kernel.module


def _int(number: int) -> ir.Constant:
    return ir.Constant(_I64, number)


@final
@dataclass(frozen=True)
class _Chunk:
    index: ir.Value
    start: ir.Value
    stop: ir.Value
    addresses: Sequence[ir.Value]
    row: ir.Value


@final
class _Kernel:
    """The skeleton that every kernel shares: claim a chunk, look its tensor up, loop over its vectors."""

    def __init__(self, columns: int) -> None:
        self.module = ir.Module("gradstep")
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [_POINTER]), "task")
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.columns = columns
        fields = [self.load(self.function.args[0], _int(j), _I64) for j in range(len(FIELDS))]
        self.job = {
            name: field if name == "chunk_count" else self.builder.inttoptr(field, _POINTER)
            for name, field in zip(FIELDS, fields, strict=True)
        }
        self._entry = self.builder.block

    def load(self, base: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
        """``base[index]`` of an array of ``kind``."""
        return self.builder.load(self.builder.gep(base, [index], source_etype=kind), typ=kind)

    def element(self, base: ir.Value, index: ir.Value, element: Element) -> ir.Value:
        """The address of one stored element."""
        return self.builder.gep(base, [index], source_etype=llvm_type(element.stored))

    def read(self, address: ir.Value, element: Element, lanes: int) -> Value:
        """Stored elements, still encoded."""
        kind = llvm_type(element.stored, lanes)
        return Value(self.builder, self.builder.load(address, typ=kind, align=element.itemsize))

    def write(self, address: ir.Value, element: Element, value: Value) -> None:
        """Encode and store."""
        code = element.encode(value.astype(element.arithmetic))
        self.builder.store(code.ir, address, align=element.itemsize)

    def accumulator(self, lanes: int) -> ir.Value:
        """A float64 sum on the stack, 0 at the start of every chunk."""
        kind = llvm_type(np.float64, lanes)
        with self.builder.goto_block(self._entry):
            place = self.builder.alloca(kind)
        self.builder.store(ir.Constant(kind, None), place)
        return place

    @contextmanager
    def every_chunk(self) -> Iterator[_Chunk]:
        """Claim chunks until none is left; the body stands inside the ``with``."""
        b = self.builder
        claim, work, done = (self.function.append_basic_block(n) for n in ("claim", "work", "done"))
        b.branch(claim)
        b.position_at_end(claim)
        index = b.atomic_rmw("add", self.job["counter"], _int(1), "monotonic")
        b.cbranch(b.icmp_signed("<", index, self.job["chunk_count"]), work, done)

        b.position_at_end(work)
        pair = b.mul(index, _int(2))
        tensor = self.load(self.job["chunks"], pair, _I64)
        start = self.load(self.job["chunks"], b.add(pair, _int(1)), _I64)
        first = b.mul(tensor, _int(self.columns + 2))
        fields = [self.load(self.job["tensors"], b.add(first, _int(j)), _I64) for j in range(self.columns + 2)]
        end, length = b.add(start, _int(CHUNK)), fields[self.columns]
        stop = b.select(b.icmp_signed("<", end, length), end, length)
        addresses = [b.inttoptr(field, _POINTER) for field in fields[: self.columns]]
        yield _Chunk(index, start, stop, addresses, row=fields[self.columns + 1])
        b.branch(claim)

        b.position_at_end(done)
        b.ret_void()

    def every_vector(self, chunk: _Chunk, body: Callable[[ir.Value, int], None]) -> None:
        """Run ``body(first_element, lanes)`` over a chunk: whole vectors, then what is left one by one."""
        b = self.builder
        whole = b.and_(b.sub(chunk.stop, chunk.start), _int(-LANES))
        middle = b.add(chunk.start, whole)
        with self._loop(chunk.start, middle, LANES) as i:
            body(i, LANES)
        with self._loop(middle, chunk.stop, 1) as i:
            body(i, 1)

    @contextmanager
    def _loop(self, start: ir.Value, stop: ir.Value, step: int) -> Iterator[ir.Value]:
        b = self.builder
        before = b.block
        head, inside, after = (self.function.append_basic_block(n) for n in ("head", "inside", "after"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(_I64)
        i.add_incoming(start, before)
        b.cbranch(b.icmp_signed("<", i, stop), inside, after)
        b.position_at_end(inside)
        yield i
        i.add_incoming(b.add(i, _int(step)), b.block)
        b.branch(head)
        b.position_at_end(after)
