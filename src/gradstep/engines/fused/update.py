"""A rule's own lines and the codecs, traced for vectors of elements: the part that kernels of every processor share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast, final

from llvmlite import ir

from gradstep.engines.fused.skeleton import integer
from gradstep.engines.fused.trace import Column, Value, ramp, splat, whole_tensor
from gradstep.rules import State
from gradstep.storage.elements import draw_noise, sequence_position
from gradstep.storage.policy import UpdateSpec


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
