"""Numbers as people read them. A number that is not known is a dash."""

UNKNOWN = "–"
BINARY = 1024


def number(value: float | None) -> str:
    """Four significant digits: "0.04213", "2.518", "3.1e-09"."""
    if value is None:
        return UNKNOWN
    if value and not 1e-4 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:#.4g}" if value else "0"


def percent(value: float | None) -> str:
    """A share in [0, 1] as per cent: "98.2 %"."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def seconds(value: float | None) -> str:
    """A duration with the unit that suits it: "43 µs", "1.25 ms", "2.1 s"."""
    if value is None:
        return UNKNOWN
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size or unit == "µs":
            scaled = value / size
            return f"{scaled:.0f} {unit}" if scaled >= 100 else f"{scaled:#.3g} {unit}".replace(". ", " ")
    return UNKNOWN


def size(value: float) -> str:
    """A number of bytes: "0 B", "304 B", "1.1 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if value < BINARY:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= BINARY
    return f"{value:.1f} GiB"
