"""A rule's lines as a list of torch operations that reuse memory, for the foreach engine.

The lines run once, on objects that record what is done with them. An operation whose result nobody reads is left out.
The others write their results over a value that nobody reads any more: the old slot where they compute the new one, or
scratch memory. The operations and their order are those of the lines, so the numbers are the same.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partialmethod
from types import SimpleNamespace
from typing import Any, Literal, final

import torch
from torch import Tensor

from gradstep.engines.arrays import apply_rule
from gradstep.engines.rounding import quotient, root
from gradstep.storage.policy import UpdateSpec

Function = Callable[..., Any]
RecordedKind = Literal["number", "array", "mask"]
"""What a recorded value is: a Python number, an array of numbers, or an array of truth values."""

_WITH_OUT: Mapping[Function, Function] = {
    operator.add: torch.add,
    operator.sub: torch.sub,
    operator.mul: torch.mul,
    quotient: quotient,
    operator.neg: torch.neg,
    operator.abs: torch.abs,
    root: root,
    torch.sign: torch.sign,
    torch.clamp: torch.clamp,
    torch.maximum: torch.maximum,
    torch.where: torch.where,
}
"""The functions that can write their result into given memory, by what a rule's line calls."""


@final
@dataclass
class Operation:
    """``registers[result] = function(*registers[arguments])``; with ``in_memory``, the register has its memory."""

    function: Function
    arguments: tuple[int, ...]
    result: int
    in_memory: bool = False


@final
@dataclass
class LineRecord:
    """The values and operations of a rule's lines; a value is known by its place in ``kinds``."""

    kinds: list[RecordedKind] = field(default_factory=list)
    constants: dict[int, float] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)

    def add(self, kind: RecordedKind) -> Recorded:
        """Add a value that is given."""
        self.kinds.append(kind)
        return Recorded(self, len(self.kinds) - 1)

    def index(self, x: Any) -> int:
        """Return the place of a value, or of a number, which is added."""
        if isinstance(x, Recorded):
            return x.index
        if type(x) not in (float, int):
            raise TypeError(f"a rule's line combines its values with numbers, not with {type(x).__name__}")
        index = self.add("number").index
        self.constants[index] = x
        return index


@final
class Recorded:
    """A value in a rule's line; what is done with it is recorded."""

    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    def __init__(self, record: LineRecord, index: int) -> None:
        self.record, self.index = record, index

    @property
    def kind(self) -> RecordedKind:
        return self.record.kinds[self.index]

    def _apply(self, function: Function, *others: Any, kind: RecordedKind | None = None) -> Recorded:
        arguments = (self.index, *map(self.record.index, others))
        return self._record(function, arguments, kind)

    def _apply_reflected(self, function: Function, other: Any) -> Recorded:
        return self._record(function, (self.record.index(other), self.index), None)

    def _record(self, function: Function, arguments: tuple[int, ...], kind: RecordedKind | None) -> Recorded:
        if kind is None:
            kind = "array" if any(self.record.kinds[k] == "array" for k in arguments) else self.kind
        result = self.record.add(kind)
        self.record.operations.append(Operation(function, arguments, result.index))
        return result

    def _commute(self, function: Function, other: Any) -> Recorded:
        """Record a function of which the order of arguments does not matter: torch's take the array first."""
        if self.kind == "number" and isinstance(other, Recorded):
            return other._apply(function, self)
        return self._apply(function, other)

    def _divide(self, other: Any, *, reflected: bool) -> Recorded:
        other_kind = other.kind if isinstance(other, Recorded) else "number"
        function = operator.truediv if self.kind == other_kind == "number" else quotient
        return self._apply_reflected(function, other) if reflected else self._apply(function, other)

    def _compare(self, function: Function, other: Any) -> Any:
        return self._apply(function, other, kind="mask")

    __add__ = __radd__ = partialmethod(_commute, operator.add)
    __sub__, __rsub__ = partialmethod(_apply, operator.sub), partialmethod(_apply_reflected, operator.sub)
    __truediv__, __rtruediv__ = (
        partialmethod(_divide, reflected=False),
        partialmethod(_divide, reflected=True),
    )
    __neg__, __abs__ = partialmethod(_apply, operator.neg), partialmethod(_apply, operator.abs)
    __lt__, __le__ = partialmethod(_compare, operator.lt), partialmethod(_compare, operator.le)
    __gt__, __ge__ = partialmethod(_compare, operator.gt), partialmethod(_compare, operator.ge)
    __eq__, __ne__ = partialmethod(_compare, operator.eq), partialmethod(_compare, operator.ne)
    __and__, __or__ = partialmethod(_compare, operator.and_), partialmethod(_compare, operator.or_)

    def __mul__(self, other: Any) -> Recorded:
        if type(other) is float and other == 1.0:  # it changes no bit
            return self
        return self._commute(operator.mul, other)

    __rmul__ = __mul__

    def __pow__(self, power: int) -> Recorded:
        if power != 2:
            raise TypeError("only squares are recorded")
        return self * self

    def sqrt(self) -> Recorded:
        return self._array(root)

    def sign(self) -> Recorded:
        return self._array(torch.sign)

    def maximum(self, other: Any) -> Recorded:
        is_array = isinstance(other, Recorded) and other.kind == "array"
        return self._array(torch.maximum if is_array else torch.clamp, other)

    def clamp(self, *, min: float) -> Recorded:
        return self._array(torch.clamp, min)

    def where(self, condition: Recorded, other: Any) -> Recorded:
        if self.kind != "array" or condition.kind != "mask":
            raise TypeError("where() takes an array where a condition holds")
        return condition._apply(torch.where, self, other, kind="array")

    def __bool__(self) -> bool:
        raise TypeError("a rule's line cannot branch on its values")

    def _array(self, function: Function, *others: Any) -> Recorded:
        if self.kind != "array":
            raise TypeError(f"{function.__name__} of a number is not recorded")
        return self._apply(function, *others)


@final
class RuleProgram:
    """A rule's lines, to run on arrays (n,) of any length.

    Attributes:
        scratch: how many arrays of scratch memory it needs, of the arrays' length.
    """

    def __init__(
        self, spec: UpdateSpec, record: LineRecord, coefficients: dict[str, int], outputs: Sequence[int]
    ) -> None:
        """Take the record of a rule's lines, and the places in it.

        Args:
            spec: the update.
            record: its first values are the parameter and the slots, then the gradient.
            coefficients: the place of each coefficient that is read, by name.
            outputs: the places of the new parameter and slots.
        """
        self._coefficients, self._outputs = coefficients, outputs
        self._constants = record.constants
        self._numbers = [o for o in record.operations if record.kinds[o.result] == "number"]
        self._arrays = _remove_unread(
            [o for o in record.operations if record.kinds[o.result] != "number"], self._outputs
        )
        self._places = [j for j, codec in enumerate(spec.codecs[1:]) if codec.stores_arithmetic]
        self._inputs, self._first_scratch = len(spec.codecs), len(record.kinds)
        self.scratch = self._allocate(record)

    def _allocate(self, record: LineRecord) -> int:
        """Decide which memory each result is written to; return how many arrays of scratch memory are needed."""
        last_use = {k: n for n, operation in enumerate(self._arrays) for k in operation.arguments}
        last_use |= dict.fromkeys(self._outputs, len(self._arrays))
        targets = {self._outputs[j]: j for j in self._places if self._outputs.count(self._outputs[j]) == 1}
        register = list(range(len(record.kinds)))  # of each value
        # Decoded arrays are temporary. The gradient, and what is stored as it is, are never scratch memory.
        writable = set(range(self._inputs - 1)) - set(self._places)
        free: list[int] = []
        scratch = 0
        for n, operation in enumerate(self._arrays):
            used = [k for k in dict.fromkeys(operation.arguments) if last_use[k] == n]
            free += [register[k] for k in used if record.kinds[k] == "array" and register[k] in writable]
            if _can_write_to_memory(operation, record.kinds):
                target = targets.get(operation.result)
                if target is not None and last_use.get(target, -1) <= n:
                    place = target
                elif free:
                    place = free.pop()  # perhaps the memory of an argument: torch's functions allow it
                else:
                    place = self._first_scratch + scratch
                    scratch += 1
                    writable.add(place)
                register[operation.result] = place
                operation.function, operation.in_memory = _WITH_OUT[operation.function], True
            operation.arguments = tuple(register[k] for k in operation.arguments)
            operation.result = register[operation.result]
        self._outputs = [register[k] for k in self._outputs]
        return scratch

    def fill(self, c: Mapping[str, float]) -> list[Any]:
        """Return the registers, with the numbers of a step in them."""
        registers: list[Any] = [None] * (self._first_scratch + self.scratch)
        for name, index in self._coefficients.items():
            registers[index] = c[name]
        for index, constant in self._constants.items():
            registers[index] = constant
        for o in self._numbers:
            registers[o.result] = o.function(*[registers[k] for k in o.arguments])
        return registers

    def run(self, registers: list[Any], arrays: Sequence[Tensor], scratch: Sequence[Tensor]) -> list[Tensor]:
        """Run the operations.

        Args:
            registers: the result of :meth:`fill`.
            arrays: (n,) the gradient, the parameter and every slot, decoded. Those that are not what is stored are
                overwritten; the gradient is not.
            scratch: arrays (n,) to write to.

        Returns:
            The new parameter and slots; each is the array that it was given in, if that is what is stored.
        """
        gradient, *others = arrays
        registers[: self._inputs] = [*others, gradient]
        registers[self._first_scratch :] = scratch
        for o in self._arrays:
            arguments = [registers[k] for k in o.arguments]
            if o.in_memory:
                o.function(*arguments, out=registers[o.result])
            else:
                registers[o.result] = o.function(*arguments)
        return [registers[k] for k in self._outputs]


def _can_write_to_memory(operation: Operation, kinds: Sequence[RecordedKind]) -> bool:
    """Return whether torch has a function for this operation, with these arguments, that writes to given memory."""
    if operation.function not in _WITH_OUT:
        return False
    if operation.function is torch.where:
        return kinds[operation.arguments[2]] == "array"
    if operation.function is quotient:
        return True
    return kinds[operation.arguments[0]] == "array"


def _remove_unread(operations: Sequence[Operation], outputs: Sequence[int]) -> list[Operation]:
    """Return the operations whose results are read, or are outputs."""
    read, kept = set(outputs), []
    for operation in reversed(operations):
        if operation.result in read:
            read.update(operation.arguments)
            kept.append(operation)
    return kept[::-1]


@lru_cache(maxsize=256)
def record_program(spec: UpdateSpec, ones: frozenset[str]) -> RuleProgram | None:
    """Return the program of a rule.

    Args:
        spec: the update.
        ones: the names of the coefficients that are exactly 1, by which nothing is multiplied.

    Returns:
        The program; None if the lines do what cannot be recorded (they then run on torch's tensors themselves).
    """
    record = LineRecord()
    p, *slots = [record.add("array") for _ in spec.codecs[1:]]
    gradient = record.add("array")
    given = {name: record.add("number") for name in spec.coefficients if name not in ones}
    c = SimpleNamespace(**dict.fromkeys(ones, 1.0), **given)
    try:
        outputs = [record.index(x) for x in apply_rule(spec, c, [p, gradient * c.gradient, *slots])]
    except (AttributeError, TypeError):  # of the lines: what makes the program below raises none
        return None
    if any(record.kinds[k] != "array" for k in outputs):
        return None
    return RuleProgram(spec, record, {name: x.index for name, x in given.items()}, outputs)
