"""Format numbers for pages and terminals, where a missing number is a dash; and read tables of texts."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

UNKNOWN = "–"
TINY = 1e-30
"""Smaller numbers are written as "< 1e-30": in float32 calculations they come from rounding."""
BARS = "▁▂▃▄▅▆▇█"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None) -> str:
    """Format a number with four significant digits; very small and large ones with two and a power of ten.

    >>> number(0.04213), number(2.518), number(3.14e-9), number(6.7e-41), number(0.0), number(None)
    ('0.04213', '2.518', '3.1e-9', '< 1e-30', '0', '–')
    """
    if value is None:
        return UNKNOWN
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < TINY:
        return "< 1e-30" if value > 0 else "> -1e-30"
    if not 1e-4 <= abs(value) < 1e5:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:#.4g}".removesuffix(".")


def short(value: float | None) -> str:
    """Format a number as :func:`number` does, without zeros at the end.

    >>> short(0.5), short(3.0), short(1e-8), short(250.0)
    ('0.5', '3', '1e-8', '250')
    """
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def plus_minus(value: float, half: float) -> str:
    """Format a mean and half of its spread, both to the second digit of the half.

    >>> plus_minus(0.05139, 0.009416), plus_minus(2.8e-5, 1.3e-5), plus_minus(12.0, 0.0), plus_minus(6.7e-41, 1e-42)
    ('0.0514 ± 0.0094', '2.8e-5 ± 1.3e-5', '12.00', '< 1e-30')
    """
    if half < TINY or abs(value) < TINY:
        return number(value)
    digits = max(0, 1 - math.floor(math.log10(half)))
    if 1e-4 <= abs(value) < 1e5 and digits < 7:
        return f"{value:.{digits}f} ± {half:.{digits}f}"
    return f"{number(value)} ± {number(half)}"


def tick(value: float) -> str:
    """Format a round number as the label of a tick.

    >>> tick(0.002), tick(20000.0), tick(1e-6), tick(2e-6), tick(0.0)
    ('0.002', '20,000', '10⁻⁶', '2·10⁻⁶', '0')
    """
    if value and not 1e-3 <= abs(value) < 1e6:
        digits, _, power = f"{value:.3e}".partition("e")
        digits, raised = digits.rstrip("0").rstrip("."), f"10{int(power)}"
        raised = "10" + raised[2:].translate(_RAISED)
        return raised if digits == "1" else f"{digits}·{raised}"
    return f"{value:,.10g}" if abs(value) < 1e4 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """Format a share in [0, 1] as per cent: "98.2 %"."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def seconds(value: float | None, half: float | None = None) -> str:
    """Format a duration in seconds with a suitable unit, and half of its spread in the same unit if given.

    >>> seconds(4.31e-5), seconds(0.00713, 0.000104), seconds(0.000454, 6.1e-5), seconds(None)
    ('43.1 µs', '7.13 ± 0.10 ms', '454 ± 61 µs', '–')
    """
    if value is None:
        return UNKNOWN
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size or unit == "µs":
            scaled = value / size
            digits = 0 if scaled >= 100 else 1 if scaled >= 10 else 2
            spread = "" if half is None else f" ± {half / size:.{digits}f}"
            return f"{scaled:.{digits}f}{spread} {unit}"
    return UNKNOWN


def size(amount: int, *, binary: bool = False) -> str:
    """Return a number of bytes as text, in the largest unit of which there is 1: KB, MB, …, or KiB, MiB, … if binary.

    >>> size(24 * 10**9), size(24 * 10**9, binary=True), size(700 * 10**9), size(12)
    ('24.0 GB', '22.35 GiB', '700.0 GB', '12 B')
    """
    base, letters, digits = (1024, "KMGT", 2) if binary else (1000, "KMGT", 1)
    if amount < base:
        return f"{amount} B"
    power = 1
    # A size just under 1 GB would be rounded to "1000.0 MB": take the next unit.
    while power < len(letters) and round(amount / base**power, digits) >= base:
        power += 1
    return f"{amount / base**power:,.{digits}f} {letters[power - 1]}{'iB' if binary else 'B'}"


def sparkline(values: Sequence[float], letters: int = 40, *, log: bool = False, low: float | None = None) -> str:
    """Draw a line in block letters: for each stretch its highest value, or ``!`` if a value is not finite.

    Args:
        values: in their order.
        letters: largest number of letters.
        log: whether heights are logarithms.
        low: the value of the lowest letter; None: the lowest value.

    >>> sparkline([0.0, 1.0, 2.0, 7.0, math.inf])
    '▁▂▃█!'
    """
    heights = [_height(value, log) for value in values]
    stretches = min(letters, len(heights))
    tops = [max(heights[k * len(heights) // stretches : (k + 1) * len(heights) // stretches]) for k in range(stretches)]
    finite = [top for top in tops if math.isfinite(top)]
    low, high = min(finite, default=0.0) if low is None else low, max(finite, default=0.0)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(BARS[round((top - low) / step)] if math.isfinite(top) else "!" for top in tops)


def _height(value: float, log: bool) -> float:
    if not math.isfinite(value):
        return math.inf
    return math.log10(max(value, 1e-45)) if log else value


def read_tables(file: Path) -> list[list[str]]:
    r"""Return the rows of all tables in a Markdown file as cells, their heads included; ``\|`` in a cell is a ``|``."""
    rows = [line for line in file.read_text("utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
