"""Check the arguments of schedules; each function returns the checked value or raises."""

from __future__ import annotations

import operator

from gradstep.rules.settings import number


def count(name: str, value: int, least: int = 0) -> int:
    """Check a whole number of updates or cycles: an int or a NumPy integer, at least ``least``."""
    try:
        result = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a whole number, but is {value!r}") from error
    if result < least:
        raise ValueError(f"Invalid {name}: {value} (must be at least {least})")
    return result


def level(name: str, value: float) -> float:
    """Check a value of a schedule: finite, at least 0."""
    result = number(name, value)
    if result < 0:
        raise ValueError(f"Invalid {name}: {value} (must be at least 0)")
    return result


def positive(name: str, value: float) -> float:
    """Check a finite number above 0."""
    result = number(name, value)
    if result <= 0:
        raise ValueError(f"Invalid {name}: {value} (must be above 0)")
    return result


def shrinking(name: str, value: float) -> float:
    """Check a factor above 0 and at most 1."""
    result = positive(name, value)
    if result > 1:
        raise ValueError(f"Invalid {name}: {value} (must be at most 1)")
    return result


def fall(peak: float, floor: float) -> tuple[float, float]:
    """Check the two ends of a decay and return the higher one first."""
    high, low = level("peak", peak), level("floor", floor)
    if low > high:
        raise ValueError(f"Invalid floor: {floor} (must be at most peak, {peak}; for a rise use warmup() or linear())")
    return high, low
