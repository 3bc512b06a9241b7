"""Read and write numbers of bytes with units."""

from __future__ import annotations

import re

_UNITS: dict[str, int] = {"": 1, "B": 1} | {
    prefix + tail: base**power
    for power, prefix in enumerate("KMGTP", start=1)
    for tail, base in (("B", 1000), ("iB", 1024))
}
_BY_LOWER = {unit.lower(): factor for unit, factor in _UNITS.items()}
_SIZE = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?|\.[0-9]+)\s*([A-Za-z]*)\s*")


def parse_bytes(size: int | str) -> int:
    """Return a number of bytes from an integer or from text with a unit.

    Decimal units are powers of 1000 (MB = 10⁶) and binary units powers of 1024 (MiB = 2²⁰), as in IEC 80000-13; case
    does not matter, and a fraction of a byte is cut off.

    Args:
        size: an integer, in bytes and ≥ 0; or a number with B, KB, MB, GB, TB, PB, KiB, MiB, GiB, TiB or PiB.

    Raises:
        TypeError: neither an integer nor text.
        ValueError: a negative number, or text that is not a size.

    Example:
        >>> parse_bytes("512MB"), parse_bytes("512 MiB"), parse_bytes("1.5gb"), parse_bytes(4096)
        (512000000, 536870912, 1500000000, 4096)
        >>> parse_bytes("12 elephants")
        Traceback (most recent call last):
        ValueError: Invalid size: '12 elephants'; give bytes as an integer, or a number with a unit, such as "512MB" (10⁶ bytes each) or "2GiB" (2³⁰ bytes each)
    """  # noqa: E501 (the message, whole)
    if isinstance(size, bool) or not isinstance(size, int | str):
        raise TypeError(f"Invalid size: {size!r}; give bytes as an integer, or text such as '512MB'")
    if isinstance(size, int):
        if size < 0:
            raise ValueError(f"Invalid size: {size}; a number of bytes is at least 0")
        return size
    match = _SIZE.fullmatch(size)
    factor = match and _BY_LOWER.get(match[2].lower())
    if not match or not factor:
        raise ValueError(
            f"Invalid size: {size!r}; give bytes as an integer, or a number with a unit, such as "
            '"512MB" (10⁶ bytes each) or "2GiB" (2³⁰ bytes each)'
        )
    whole, _, fraction = match[1].replace("_", "").partition(".")
    scale: int = 10 ** len(fraction)
    return (int(whole or 0) * scale + int(fraction or 0)) * factor // scale


def show_bytes(size: int) -> str:
    """Return a number of bytes as text in decimal units, to three figures; `parse_bytes` reads it back.

    Example:
        >>> show_bytes(512_000_000), show_bytes(1_234_567), show_bytes(64)
        ('512 MB', '1.23 MB', '64 B')
    """
    value, unit = float(size), "B"
    for larger in ("KB", "MB", "GB", "TB", "PB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"
