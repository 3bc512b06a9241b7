"""How a value goes from one level to another: the weight of either end along the way."""

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
        """The weights of the level it starts from and of the one it goes to, which add up to 1.

        ``done`` and ``left`` are the shares of the way behind and ahead, both in [0, 1]. They add up to 1 as well, but
        each comes exact to the last bit, where ``1 - done`` has lost digits at the end of a long way.
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
    """So many waves of a cosine that starts at its top; half a wave goes from one end to the other."""

    waves: float = 0.5

    def weights(self, done: float, left: float) -> tuple[float, float]:
        # Not sin² and cos² of half the angle, exact where this loses digits near 0: torch and transformers compute
        # it so, and to agree with them to the last digits of a learning rate of nearly 0 is worth more.
        cos = math.cos(2 * math.pi * self.waves * done)
        return 0.5 * (1 + cos), 0.5 * (1 - cos)


@final
@dataclass(frozen=True)
class Power(Shape):
    """A power of what is left; mirrored, one of what is done."""

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
"""Each the mirror image of the fall of its name."""


def shape_named(argument: str, name: str, shapes: Mapping[str, Shape]) -> Shape:
    """The shape of that name, or an error that lists them."""
    if name not in shapes:
        raise ValueError(f"Invalid {argument}: {name!r} (must be one of {', '.join(map(repr, shapes))})")
    return shapes[name]


def between(low: float, high: float, weight: float) -> float:
    """The value between two levels, the higher one with this weight.

    From the lower level up, so that no digits are lost near 0 and that rounding never turns a rise into a fall; the
    ends come out exact.
    """
    return high if weight == 1 else min(low + (high - low) * weight, high)
