"""Traced values: a rule's own Python lines, run once on them, become instructions of the fused kernel.

A :class:`Value` stands for one element or for a vector of elements. It has the operations of NumPy arrays that rules
and codecs use (arithmetic, comparison, ``sqrt``, ``astype``, ``view``), and each use appends one LLVM instruction. No
flag allows LLVM to contract or reorder them, so the kernel computes the same bits as NumPy. Values are read from and
written to a :class:`~gradstep.engines.fused.skeleton.Column` of a tensor, or a :class:`Variable` on the kernel's stack.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partialmethod
from typing import Any, final

import numpy as np
from llvmlite import ir

_SCALARS: dict[Any, ir.Type] = {
    np.float16: ir.HalfType(),
    np.float32: ir.FloatType(),
    np.float64: ir.DoubleType(),
    np.uint8: ir.IntType(8),
    np.uint16: ir.IntType(16),
    np.uint32: ir.IntType(32),
    np.int32: ir.IntType(32),
    np.int64: ir.IntType(64),
}
_INDEX = ir.IntType(32)


def llvm_type(dtype: Any, lanes: int = 1) -> ir.Type:
    """Return the LLVM type of ``lanes`` elements of a NumPy type: a vector, or a scalar for one lane."""
    scalar = _SCALARS[dtype]
    return scalar if lanes == 1 else ir.VectorType(scalar, lanes)


def _scalar(kind: ir.Type) -> ir.Type:
    return kind.element if isinstance(kind, ir.VectorType) else kind


def _constant(kind: ir.Type, number: float) -> ir.Constant:
    whole = isinstance(_scalar(kind), ir.IntType)
    value: Any = int(number) if whole else float(number)
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def splat(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    """Return a vector with the scalar in every lane."""
    if lanes == 1:
        return scalar
    kind = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_INDEX, 0))
    zeros = ir.Constant(ir.VectorType(_INDEX, lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def intrinsic(builder: ir.IRBuilder, name: str, *arguments: ir.Value) -> ir.Value:
    """Call LLVM's intrinsic ``name`` for the type of its arguments (``llvm.sqrt`` → ``llvm.sqrt.v16f32``)."""
    kind = arguments[0].type
    suffix = _scalar(kind).intrinsic_name
    if isinstance(kind, ir.VectorType):
        suffix = f"v{kind.count}{suffix}"
    full = f"{name}.{suffix}"
    function = builder.module.globals.get(full)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(kind, [a.type for a in arguments]), full)
    return builder.call(function, arguments)


def ramp(builder: ir.IRBuilder, first: ir.Value, lanes: int) -> Value:
    """Return a vector with ``first``, ``first + 1``, … in the lanes."""
    if lanes == 1:
        return Value(builder, first)
    steps = ir.Constant(ir.VectorType(first.type, lanes), list(range(lanes)))
    return Value(builder, builder.add(splat(builder, first, lanes), steps))


def lanes_of(vector: Value) -> list[Value]:
    """Return each lane as a scalar."""
    b = vector.builder
    return [Value(b, b.extract_element(vector.ir, ir.Constant(_INDEX, i))) for i in range(vector.ir.type.count)]


def sum_lanes(vector: Value) -> Value:
    """Return the sum of the lanes, added from the first to the last."""
    first, *others = lanes_of(vector)
    return sum(others, start=first)


def fold_lanes(vector: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """Combine the lanes by halves until one is left; their number is a power of 2."""
    count = vector.ir.type.count
    if count == 2:
        return combine(*lanes_of(vector))
    b, half = vector.builder, count // 2
    kind = ir.VectorType(_INDEX, half)
    ends = (ir.Constant(kind, list(range(first, first + half))) for first in (0, half))
    return fold_lanes(combine(*(Value(b, b.shuffle_vector(vector.ir, vector.ir, end)) for end in ends)), combine)


def max_lane(vector: Value) -> Value:
    """Return the largest of the int32 in the lanes."""
    kind = vector.ir.type
    name = f"llvm.vector.reduce.smax.v{kind.count}i32"
    module = vector.builder.module
    function = module.globals.get(name) or ir.Function(module, ir.FunctionType(kind.element, [kind]), name)
    return Value(vector.builder, vector.builder.call(function, [vector.ir]))


whole_tensor: ContextVar[Any] = ContextVar("whole_tensor")
"""What a rule that is traced may ask about its whole tensor: an object with ``mean(value)`` and ``elements``."""


@final
class Value:
    """One element, or a vector of elements, inside a kernel being built."""

    __slots__ = ("builder", "ir")
    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder = builder
        self.ir = value

    # -- helpers ------------------------------------------------------------------------------------------------

    def _lift(self, other: Any) -> ir.Value:
        if isinstance(other, Value):
            return other.ir
        if isinstance(other, (int, float, np.generic)):
            return _constant(self.ir.type, float(other))
        raise TypeError(f"a rule may combine its arguments with numbers, not with {type(other).__name__}")

    @property
    def _is_integer(self) -> bool:
        return isinstance(_scalar(self.ir.type), ir.IntType)

    def _new(self, value: ir.Value) -> Value:
        return Value(self.builder, value)

    def _apply(self, floating: str, whole: str | None, other: Any, *, swap: bool = False) -> Value:
        name = whole if self._is_integer else floating
        if name is None:
            raise TypeError(f"integers have no {floating} in a kernel")
        left, right = self.ir, self._lift(other)
        return self._new(getattr(self.builder, name)(*((right, left) if swap else (left, right))))

    def _compare(self, operator: str, other: Any) -> Value:
        if self._is_integer:
            return self._new(self.builder.icmp_signed(operator, self.ir, self._lift(other)))
        # != holds for NaN (unordered), every other comparison does not (ordered): IEEE 754, as in NumPy.
        compare = self.builder.fcmp_unordered if operator == "!=" else self.builder.fcmp_ordered
        return self._new(compare(operator, self.ir, self._lift(other)))

    @property
    def lanes(self) -> int:
        return self.ir.type.count if isinstance(self.ir.type, ir.VectorType) else 1

    # -- arithmetic ---------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Value:
        return self._apply("fadd", "add", other)

    def __radd__(self, other: Any) -> Value:
        return self._apply("fadd", "add", other, swap=True)

    def __sub__(self, other: Any) -> Value:
        return self._apply("fsub", "sub", other)

    def __rsub__(self, other: Any) -> Value:
        return self._apply("fsub", "sub", other, swap=True)

    def __mul__(self, other: Any) -> Value:
        return self._apply("fmul", "mul", other)

    def __rmul__(self, other: Any) -> Value:
        return self._apply("fmul", "mul", other, swap=True)

    def __truediv__(self, other: Any) -> Value:
        return self._apply("fdiv", None, other)

    def __rtruediv__(self, other: Any) -> Value:
        return self._apply("fdiv", None, other, swap=True)

    def __neg__(self) -> Value:
        return self._new(self.builder.fneg(self.ir))

    def __abs__(self) -> Value:
        return self._new(intrinsic(self.builder, "llvm.fabs", self.ir))

    def __pow__(self, power: int) -> Value:
        if power != 2:
            raise TypeError("a rule may square (x ** 2); compute other powers in coefficients()")
        return self * self

    # -- comparison and bits ------------------------------------------------------------------------------------

    __lt__, __le__ = partialmethod(_compare, "<"), partialmethod(_compare, "<=")
    __gt__, __ge__ = partialmethod(_compare, ">"), partialmethod(_compare, ">=")
    __eq__, __ne__ = partialmethod(_compare, "=="), partialmethod(_compare, "!=")

    def __and__(self, other: Any) -> Value:
        return self._new(self.builder.and_(self.ir, self._lift(other)))

    def __or__(self, other: Any) -> Value:
        return self._new(self.builder.or_(self.ir, self._lift(other)))

    def __xor__(self, other: Any) -> Value:
        return self._new(self.builder.xor(self.ir, self._lift(other)))

    def __lshift__(self, places: int) -> Value:
        return self._new(self.builder.shl(self.ir, self._lift(places)))

    def __rshift__(self, places: int) -> Value:
        return self._new(self.builder.ashr(self.ir, self._lift(places)))

    def __bool__(self) -> bool:
        raise TypeError(
            "a rule's update runs on all elements at once and cannot branch on their values: "
            "use gradstep.rules.ops.where(condition, x, y)"
        )

    def __float__(self) -> float:
        raise TypeError(
            "the numbers of a rule's arrays are not known while its update is compiled: use sqrt, sign and the other "
            "functions of gradstep.rules.ops, not those of math"
        )

    def __getitem__(self, index: Any) -> Value:  # Python also calls it to iterate
        raise TypeError(
            "an elementwise rule's arrays have no single elements, rows or length: use + - * /, abs and the functions "
            "of gradstep.rules.ops"
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"an elementwise rule's arrays have no {name!r}: use + - * /, abs and the functions of gradstep.rules.ops; "
            "a rule that needs all elements sets sees = 'means' and uses mean(), or sets sees = 'tensor'"
        )

    # -- functions ----------------------------------------------------------------------------------------------

    def sqrt(self) -> Value:
        return self._new(intrinsic(self.builder, "llvm.sqrt", self.ir))

    def sign(self) -> Value:
        below = (self < 0.0).select(-1.0, self.where(self != 0.0, 0.0))  # NaN != 0 keeps NaN
        return (self > 0.0).select(1.0, below)  # type: ignore[no-any-return]

    def maximum(self, other: Any) -> Value:
        # x if x >= y or x is NaN, else y: NaN if either is, as NumPy's.
        return self.where((self >= other) | (self != self), other)

    def clamp(self, *, min: Any = None, max: Any = None) -> Value:
        if max is not None:
            return self.where(self < max, max)
        return self.where(self > min, min) if self._is_integer else self.maximum(min)

    def whole_mean(self) -> Value:
        return whole_tensor.get().mean(self)  # type: ignore[no-any-return]

    def elements(self) -> Value:
        return whole_tensor.get().elements  # type: ignore[no-any-return]

    def where(self, condition: Value, other: Any) -> Value:
        return self._new(self.builder.select(condition.ir, self.ir, self._lift(other)))

    def select(self, x: float, y: Value) -> Value:
        """``x`` where this condition holds, else ``y``."""
        return self._new(self.builder.select(self.ir, _constant(y.ir.type, x), y.ir))

    def astype(self, dtype: Any) -> Value:
        """Convert between float widths (rounding to nearest), between integer widths (truncating, or extending with
        zeros; int32 to a byte: the nearest), from int32 to float32, or back (towards zero; the result is undefined if
        the number does not fit).
        """
        goal = llvm_type(dtype, self.lanes)
        old, new = np.dtype(_numpy_type(self.ir.type)).itemsize, np.dtype(dtype).itemsize
        if self._is_integer and dtype is np.float32:
            return self._new(self.builder.sitofp(self.ir, goal))
        if not self._is_integer and dtype is np.int32:
            return self._new(self.builder.fptosi(self.ir, goal))
        if self._is_integer and (old, new) == (4, 1):  # one x86 instruction packs and saturates; truncating needs more
            return self._new(self.builder.trunc(self.clamp(min=0).clamp(max=255).ir, goal))
        if self._is_integer:
            convert = self.builder.zext if new > old else self.builder.trunc
        else:
            convert = self.builder.fpext if new > old else self.builder.fptrunc
        return self if new == old else self._new(convert(self.ir, goal))

    def view(self, dtype: Any) -> Value:
        """Reinterpret the bits as another type of the same width."""
        return self._new(self.builder.bitcast(self.ir, llvm_type(dtype, self.lanes)))


def _numpy_type(kind: ir.Type) -> Any:
    scalar = _scalar(kind)
    return next(numpy for numpy, llvm in _SCALARS.items() if llvm == scalar)


# -- memory -----------------------------------------------------------------------------------------------------------

POINTER = ir.PointerType()


@final
class Variable:
    """A number or a vector of numbers, or an array of them, on the stack of a kernel.

    Args:
        builder: of the kernel.
        dtype: the NumPy type of the numbers.
        lanes: numbers in a vector.
        start: the value at first, which is set where the kernel is being built now.
        length: of the array; 1 for a single vector.
    """

    __slots__ = ("_address", "_builder", "_kind", "_length")

    def __init__(self, builder: ir.IRBuilder, dtype: Any, lanes: int, start: float = 0, *, length: int = 1) -> None:
        self._builder, self._kind, self._length = builder, llvm_type(dtype, lanes), length
        array = ir.ArrayType(self._kind, length)
        with builder.goto_entry_block():
            self._address = builder.alloca(array)
        builder.store(ir.Constant(array, [_constant(self._kind, start)] * length), self._address)
        self._address.type = POINTER  # llvmlite still gives it a typed pointer

    def vectors(self) -> list[Value]:
        """Load each vector of the array."""
        return [self.get(ir.Constant(_INDEX, k)) for k in range(self._length)]

    def get(self, k: ir.Value | None = None) -> Value:
        """Load the value, or vector ``k`` of the array."""
        return Value(self._builder, self._builder.load(self._address_of(k), typ=self._kind))

    def set(self, value: Value, k: ir.Value | None = None) -> None:
        """Store another value."""
        self._builder.store(value.ir, self._address_of(k))

    def _address_of(self, k: ir.Value | None) -> ir.Value:
        return self._address if k is None else self._builder.gep(self._address, [k], source_etype=self._kind)


def allocate(builder: ir.IRBuilder, dtype: Any, count: int) -> ir.Value:
    """Allocate ``count`` numbers on the stack of a kernel, aligned for vectors; return their address."""
    with builder.goto_entry_block():
        array = builder.alloca(ir.ArrayType(llvm_type(dtype), count))
    array.align = 64
    array.type = POINTER  # llvmlite still gives it a typed pointer
    return array


def prefetch(builder: ir.IRBuilder, address: ir.Value, *, to_write: bool = False) -> None:
    """Prefetch the cache line at an address, which need not be valid."""
    word, name = ir.IntType(32), "llvm.prefetch.p0"
    kind = ir.FunctionType(ir.VoidType(), [POINTER, word, word, word])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    near, data = ir.Constant(word, 3), ir.Constant(word, 1)
    builder.call(function, [address, ir.Constant(word, int(to_write)), near, data])
