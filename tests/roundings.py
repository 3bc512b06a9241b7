"""How far two right implementations of a rule may be apart: the rule itself, with every operation rounded at random.

Torch writes the equations in another order than a rule does, and its square root and its division come from a library
that takes another way on another processor. No order and no processor is assumed here: the rule runs in float64, and
the result of every operation is off by a random number of up to one unit in the last place, in many samples at once.
IEEE 754 rounds to half a unit, and a library's square root to one. An operation with an exact result (``1 * x``,
``0 + x``, a maximum, a sign) stays exact, as it does in every implementation.

A limit is twice the largest deviation from the exact result in any sample. The deviation of one element is nearly
normal, as a sum of many. One rounding here, uniform over two units, has a standard deviation of 1/√3; the difference of
two sides that each round to half a unit has 1/√6 in its place. The largest of :data:`SAMPLES` normal numbers is about
2.5 standard deviations for one element, and more for more. A limit is therefore about 2 · 2.5 · √2 = 7 standard
deviations of the difference between two implementations that round correctly, and 3.5 of two that both do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.rules import Rule
from gradstep.rules.base import State

SAMPLES = 64
SINGLE = 2.0**-23
"""The unit of float32, in which torch keeps NAdam's product of μ even for float64 parameters."""

Values = dict[str, list[float]]
"""A limit for each parameter, under the name of each value of state."""


class Rounded:
    """An array with its samples along the first axis, of which the first is exact; what a rule computes with."""

    __array_ufunc__ = None  # a NumPy array on the left leaves the operation to this class

    def __init__(self, numbers: Any, unit: float, noise: np.random.Generator) -> None:
        self.numbers, self.unit, self.noise = numbers, unit, noise

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32 if self.unit == SINGLE else np.float64)

    def exact(self, numbers: Any) -> Rounded:
        return Rounded(numbers, self.unit, self.noise)

    def off(self, numbers: Any, *operands: Any, units: float = 1.0) -> Rounded:
        """A result of these operands: off by up to ``units``, unless it is one of them."""
        deviation = self.noise.uniform(-units * self.unit, units * self.unit, numbers.shape)
        deviation[0] = 0.0
        for operand in operands:
            deviation = np.where(numbers == operand, 0.0, deviation)
        return self.exact(numbers * (1 + deviation))

    def __add__(self, other: Any) -> Rounded:
        other = plain(other)
        return self.off(self.numbers + other, self.numbers, other)

    def __sub__(self, other: Any) -> Rounded:
        other = plain(other)
        return self.off(self.numbers - other, self.numbers, -other)

    def __mul__(self, other: Any) -> Rounded:
        other = plain(other)
        return self.off(self.numbers * other, self.numbers, other)

    def __truediv__(self, other: Any) -> Rounded:
        return self.off(self.numbers / plain(other), self.numbers)

    def __rsub__(self, other: Any) -> Rounded:
        return self.off(plain(other) - self.numbers, plain(other), -self.numbers)

    def __rtruediv__(self, other: Any) -> Rounded:
        return self.off(plain(other) / self.numbers)

    __radd__ = __add__
    __rmul__ = __mul__

    def __abs__(self) -> Rounded:
        return self.exact(np.abs(self.numbers))

    def __neg__(self) -> Rounded:
        return self.exact(-self.numbers)

    def __lt__(self, other: Any) -> Any:
        return self.numbers < plain(other)

    def __gt__(self, other: Any) -> Any:
        return self.numbers > plain(other)

    def __eq__(self, other: object) -> Any:
        return self.numbers == plain(other)

    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    def sign(self) -> Rounded:
        return self.exact(np.sign(self.numbers))

    def where(self, condition: Any, other: Any) -> Rounded:
        return self.exact(np.where(condition, self.numbers, plain(other)))

    def sqrt(self) -> Rounded:
        return self.off(np.sqrt(self.numbers), self.numbers)

    def maximum(self, other: Any) -> Rounded:
        return self.exact(np.maximum(self.numbers, plain(other)))

    def clamp(self, min: float) -> Rounded:
        return self.maximum(min)

    def mean(self, axis: int | None = None, keepdim: bool = True) -> Rounded:
        """The mean within every sample. A sum of n numbers, one by one, has n roundings, which add up to √n units."""
        found = self.numbers.mean(axis if axis is not None else tuple(range(1, self.numbers.ndim)), keepdims=keepdim)
        return self.off(found, units=(self.numbers.size / max(found.size, 1)) ** 0.5)


def plain(x: Any) -> Any:
    return x.numbers if isinstance(x, Rounded) else x


def limits(rule: Rule, start: Sequence[Tensor], steps: Sequence[Sequence[Tensor]]) -> tuple[list[float], Values]:
    """How far apart two implementations may be after these steps, in absolute numbers.

    Args:
        rule: the rule with its settings.
        start: the parameters, all of float32 or all of float64.
        steps: the gradients of every step.

    Returns:
        A limit for each parameter, and under the name of each slot and scalar one for each parameter.
    """
    if rule.sees == "elements":  # all parameters as one: fewer operations, each of more numbers
        sizes = [p.numel() for p in start]
        [p], values = _samples(rule, [joined(start)], [[joined(grads)] for grads in steps])
        return spreads(p, sizes), {name: spreads(found[0], sizes) for name, found in values.items()}
    params, values = _samples(rule, start, steps)
    return [spread(p.numbers) for p in params], {n: [spread(x.numbers) for x in found] for n, found in values.items()}


def joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def _samples(
    rule: Rule, start: Sequence[Tensor], steps: Sequence[Sequence[Tensor]]
) -> tuple[list[Rounded], dict[str, list[Rounded]]]:
    """The parameters after these steps, and under the name of each value of state one for each parameter."""
    noise = np.random.default_rng(0)
    unit = torch.finfo(start[0].dtype).eps
    arithmetic = np.float32 if unit == SINGLE else np.float64
    sign = -1.0 if rule.maximize else 1.0

    def samples(x: Any, shape: tuple[int, ...]) -> Rounded:
        return Rounded(np.broadcast_to(np.asarray(x, np.float64), (SAMPLES, *shape)).copy(), unit, noise)

    params = [samples(p, p.shape) for p in start]
    states = [State(**{s.name: samples(s.fill, s.shape(tuple(p.shape))) for s in rule.slots(p.ndim)}) for p in start]
    scalars = {name: samples(first, ()) for name, first in rule.scalars.items()}
    for step, grads in enumerate(steps, 1):
        # Rounded on the way in, since an implementation may round the product before it uses it.
        stored = {name: x.off(x.numbers, units=SINGLE / unit).numbers for name, x in scalars.items()}
        row: dict[str, Any] = rule.coefficients(step, **stored)
        after = {name: np.broadcast_to(row[name], (SAMPLES,)) for name in scalars}
        scalars = {name: x.off(after[name], units=SINGLE / unit) for name, x in scalars.items()}
        for i, g in enumerate(grads):
            per_sample = (SAMPLES, *[1] * g.ndim)
            c = {n: x.reshape(per_sample) if np.ndim(x) else float(arithmetic(x)) for n, x in row.items()}
            params[i] = rule.update(params[i], samples(sign * g, g.shape), states[i], SimpleNamespace(**c))
    values = {name: [x] * len(start) for name, x in scalars.items()}
    for name in {name: None for state in states for name in vars(state)}:
        missing = samples(0.0, ())
        values[name] = [getattr(state, name) if name in state else missing for state in states]
    return params, values


def spreads(x: Rounded, sizes: Sequence[int]) -> list[float]:
    """The :func:`spread` of each parameter in a row of them; one number for all is one of each."""
    if x.numbers.ndim == 1:
        return [spread(x.numbers)] * len(sizes)
    return [spread(part) for part in np.split(x.numbers, np.cumsum(sizes)[:-1], axis=1)]


def spread(numbers: NDArray[np.float64]) -> float:
    """Twice the largest deviation from the exact result, the first, in any sample."""
    return 2 * float(np.abs(numbers - numbers[0]).max(initial=0.0))


def assert_within(ours: Tensor, theirs: Tensor, limit: float, what: str) -> None:
    """No element is further away than ``limit``."""
    assert ours.shape == theirs.shape, what
    if ours.numel():
        far = (ours.detach().double() - theirs.detach().double()).abs().max().item()
        assert far <= limit, f"{what} is {far:.3g} away, and rounding alone explains {limit:.3g}"
