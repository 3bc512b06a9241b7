"""Axes: map numbers to places, choose ranges that outliers do not distort, and few ticks at round numbers."""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

EDGE = 0.02
"""Share of the values at each end that count as possible outliers and may leave the picture."""
REACH = 2.0
"""Largest distance of a shown outlier from the other values, in spans of those."""
LARGEST = 1e306
"""Larger values are shown as this one, so that a span is finite."""
AXIS_MARGIN = 0.06
"""Empty space at each end of an axis, in spans."""


@final
@dataclass(frozen=True)
class Scale:
    """An axis from ``low`` to ``high``, both above 0 if it is logarithmic.

    Raises:
        ValueError: the axis is empty, or is logarithmic and reaches 0.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"Invalid range of an axis: {self.low} to {self.high} (the ends must ascend)")

    def at(self, value: float) -> float:
        """Return the place of a value along the axis: 0 at ``low``, 1 at ``high``, at most 3 lengths outside.

        >>> Scale(0.0, 10.0).at(2.5), Scale(1e-4, 1.0, log=True).at(1e-3), Scale(1.0, 10.0, log=True).at(0.0)
        (0.25, 0.25, -3.0)
        """
        if self.log:
            first, last = math.log(self.low), math.log(self.high)  # their quotient may be too large for float64
            place = (math.log(value) - first) / (last - first) if value > 0 else -math.inf
        else:
            place = (value - self.low) / (self.high - self.low)
        return min(max(place, -3.0), 4.0)

    def ticks(self, most: int = 5) -> list[float]:
        """Return about ``most`` round numbers, evenly spaced; on a logarithmic axis powers of ten if three fit.

        >>> Scale(0.0, 9.7).ticks(), Scale(1e-7, 3.0, log=True).ticks(3)
        ([0.0, 2.0, 4.0, 6.0, 8.0], [1e-06, 0.001, 1.0])
        """
        if not self.log:
            return _round_numbers(self.low, self.high, most)
        first = math.ceil(math.log10(self.low) - 1e-9)
        powers = range(first, math.floor(math.log10(self.high) + 1e-9) + 1)
        if len(powers) >= 3:
            stride = -(-len(powers) // most)
            return [float(f"1e{k}") for k in powers if k % stride == 0]
        between = [float(f"{m}e{k}") for k in range(first - 1, first + 3) for m in (1, 2, 5)]
        inside = [value for value in between if self.low <= value <= self.high]
        if 2 <= len(inside) <= most + 2:
            return inside
        return inside[::3] if len(inside) > most else _round_numbers(self.low, self.high, most)


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    if (high - low) / most < sys.float_info.min:
        return [low, high]
    power = math.floor(math.log10((high - low) / most))
    for step in (m * 10.0**k for k in (power, power + 1) for m in (1, 2, 5)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [round(n * step, 12 - power) for n in range(first, last + 1)]
    return [low, high]  # a range that float64 hardly resolves


def fit(values: Iterable[float | None], *, log: bool = False, include: Sequence[float] = ()) -> Scale:
    """Return an axis that holds all values but far outliers, so that a spike does not flatten the rest of a line.

    A far outlier lies more than two spans of the middle 96 in 100 values outside them. A constant stands in the middle,
    between 0 and twice its value.

    Args:
        values: values that are not finite, or not positive on a logarithmic axis, are left out.
        log: whether the axis is logarithmic.
        include: values that must be inside, such as levels.

    >>> fit([3e-4] * 10)
    Scale(low=0.0, high=0.0006, log=False)
    """
    finite = (v for v in values if v is not None and math.isfinite(v) and (v > 0 or not log))
    places = sorted(_log_place(v) if log else min(max(v, -LARGEST), LARGEST) for v in finite)
    must = [_log_place(v) if log else v for v in include]
    if not places:
        places = must or [0.0]
    low, high = places[0], places[-1]
    near, far = places[int(EDGE * (len(places) - 1))], places[math.ceil((1 - EDGE) * (len(places) - 1))]
    if far > near:
        low, high = max(low, near - REACH * (far - near)), min(high, far + REACH * (far - near))
    low, high = min([low, *must]), max([high, *must])
    if log:
        margin = max(AXIS_MARGIN * (high - low), 0.1)
        return Scale(10 ** max(low - margin, -320.1), 10 ** min(high + margin, 308.1), log=True)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = sorted((0.0, 2 * low)) if low else (0.0, 1.0)
        return Scale(low, high)
    margin = AXIS_MARGIN * (high - low)
    return Scale(0.0 if 0 <= low < margin else low - margin, high + margin)


def _log_place(value: float) -> float:
    """Return the logarithm of a positive number, limited to leave a margin before the ends of float64's range."""
    return min(max(math.log10(value), -320.0), 308.0)


def spread(wanted: Sequence[float], gap: float, end: float) -> list[float]:
    """Return places in [0, ``end``] near the wanted ones, in the same order, ``gap`` apart (less if room is short).

    >>> spread([10.0, 11.0, 50.0], gap=5.0, end=52.0)
    [10.0, 15.0, 50.0]
    """
    gap = min(gap, end / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    places = [0.0] * len(wanted)
    floor = 0.0
    for index in order:
        places[index] = max(wanted[index], floor)
        floor = places[index] + gap
    ceiling = end
    for index in reversed(order):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    return places


def thin(values: Sequence[float | None], most: int) -> list[int]:
    """Choose the points of a long line to draw, so that no spike is lost.

    These are both ends, and in every stretch the lowest, the highest and the first that is not finite.

    Args:
        values: the line; None where there is no value.
        most: approximate number of points, ≥ 2.

    Returns:
        Ascending indices; all if there are no more than ``most`` points.

    >>> thin([0, 1, 9, 1, 0, 1, 2, 1], most=4)
    [0, 2, 4, 6, 7]
    """
    count = len(values)
    if count <= most:
        return list(range(count))
    numbers = [math.nan if value is None else value for value in values]
    chosen = {0, count - 1}
    for k in range(most // 2):
        stretch = range(k * count // (most // 2), (k + 1) * count // (most // 2))
        finite = [i for i in stretch if math.isfinite(numbers[i])]
        if finite:
            chosen |= {min(finite, key=numbers.__getitem__), max(finite, key=numbers.__getitem__)}
        chosen.update([i for i in stretch if not math.isfinite(numbers[i])][:1])
    return sorted(chosen)
