"""The curve between two levels: the weight of each level along the way."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final


class Shape(ABC):
    """A curve between two levels."""

    @abstractmethod
    def weights(self, done: float, left: float) -> tuple[float, float]:
        """Return the weights of the first and of the last level, which add up to 1.

        ``done`` and ``left`` are the shares of the way behind and ahead, both in [0, 1]. They add up to 1 too, but both
        are given, each exact to the last bit: ``1 - done`` would lose digits near the end of a long way.
        """


@final
@dataclass(frozen=True)
class Line(Shape):
    """Straight."""

    def weights(self, done: float, left: float) -> tuple[float, float]:
        return left, done


@final
@dataclass(frozen=True)
class Wave(Shape):
    """A number of waves of a cosine that starts at its top; half a wave goes from one level to the other."""

    waves: float = 0.5

    def weights(self, done: float, left: float) -> tuple[float, float]:
        # sin² and cos² of half the angle would be exact where this loses digits near 0. But torch and transformers
        # compute it in this way, and agreeing with them to the last digit of a tiny learning rate is worth more.
        cos = math.cos(2 * math.pi * self.waves * done)
        return 0.5 * (1 + cos), 0.5 * (1 - cos)


@final
@dataclass(frozen=True)
class Power(Shape):
    """A power of the share that is left; if mirrored, of the share that is done."""

    power: float
    mirrored: bool = False

    def weights(self, done: float, left: float) -> tuple[float, float]:
        if self.mirrored:
            return 1 - done**self.power, done**self.power
        return left**self.power, 1 - left**self.power


FALLS: Mapping[str, Shape] = MappingProxyType(
    {"linear": Line(), "cosine": Wave(), "1-sqrt": Power(0.5, mirrored=True)},
)
RISES: Mapping[str, Shape] = MappingProxyType({"linear": Line(), "cosine": Wave(), "1-sqrt": Power(0.5)})
"""Each is the mirror image of the fall of the same name."""


def shape_named(argument: str, name: str, shapes: Mapping[str, Shape]) -> Shape:
    """Return the shape of that name, or raise an error that lists the names."""
    if name not in shapes:
        raise ValueError(f"Invalid {argument}: {name!r} (must be one of {', '.join(map(repr, shapes))})")
    return shapes[name]


def between(low: float, high: float, weight: float) -> float:
    """Return the value between two levels, of which the higher one has this weight.

    It is computed from the lower level up, so that no digits are lost near 0 and rounding never turns a rise into a
    fall; both ends are exact.
    """
    return high if weight == 1 else min(low + (high - low) * weight, high)
