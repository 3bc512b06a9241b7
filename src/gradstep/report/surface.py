"""Paths over a surface: contour lines of the height, and the path of each optimizer."""

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from gradstep.report.charts import x_axis
from gradstep.report.markup import Markup, decimal, join, paint, tag
from gradstep.report.picture import NARROW, Picture, draw_path, draw_text, shorten, text_width
from gradstep.report.scales import Scale
from gradstep.report.words import tick

CONTOURS = 12
"""Number of contour lines, evenly spaced over the logarithm of the height."""
DEPTH = 3e-4
"""Height of the darkest shade, as a share of the greatest height in view."""
SHADE = 110
"""Opacity of the darkest shade, of 255."""
POINTS, DOTS = 600, 120
"""Most points of a path, and how many of the first are drawn as dots; more dots would merge."""
UNITS = 1000
"""Width and height of the surface in the coordinates of the contour lines."""


@final
@dataclass(frozen=True)
class SurfacePath:
    """A path over a surface: its name, a note (such as the last height), a colour, and its points (x, y)."""

    name: str
    note: str
    colour: str
    places: Sequence[tuple[float, float]]


@final
@dataclass(frozen=True)
class SurfaceChart(Picture):
    """Panels with the same surface, one for each path."""

    title: str  # of the chart
    # x_title, y_title: of the axes
    x_title: str
    y_title: str
    # x, y: coordinates of the grid, ascending and evenly spaced: the part of the plane that is drawn
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    z: NDArray[np.float64]  # heights ≥ 0, of shape (len(y), len(x))
    paths: Sequence[SurfacePath]  # one for each panel
    minimum: tuple[float, float]  # the point that a cross marks

    @property
    def width(self) -> float:
        return 960.0

    def draw(self, width: float) -> tuple[float, Markup]:
        count = max(1, len(self.paths))
        # Three or four columns, whichever leaves fewer places empty.
        columns = 2 if width < NARROW else count if count <= 4 else min((4, 3), key=lambda n: -count % n)
        gap, left, head, foot = 16.0, 30.0, 22.0, 26.0
        each = (width - gap * (columns - 1)) / columns
        wide = each - left
        tall = 0.78 * wide
        lines = contours(np.log10(np.maximum(self.z, self.z.max() * DEPTH)), CONTOURS)
        # All panels share the contour lines: they are written once. Their id is made from the content, so it is unique.
        name = f"contours-{zlib.crc32(lines.encode()):x}-{width:.0f}"
        shared = tag("path", id=name, d=lines, vector_effect="non-scaling-stroke")
        parts = [draw_text(f"{self.y_title} over {self.x_title}", 0, 11, "quiet"), tag("defs", shared)]
        shade = self._shade()
        for k, path in enumerate(self.paths):
            row, column = divmod(k, columns)
            at = f"translate({decimal(column * (each + gap))} {decimal(24 + row * (head + tall + foot))})"
            parts.append(tag("g", self._panel(path, name, shade, left, head, wide, tall), transform=at))
        return 24 + -(-len(self.paths) // columns) * (head + tall + foot), join(parts)

    def _panel(
        self, path: SurfacePath, contours: str, shade: str, left: float, top: float, wide: float, tall: float
    ) -> Markup:
        x, y = Scale(float(self.x[0]), float(self.x[-1])), Scale(float(self.y[0]), float(self.y[-1]))

        def place(point: tuple[float, float]) -> tuple[float, float]:
            return wide * x.at(point[0]), tall * (1 - y.at(point[1]))

        size = f"scale({wide / UNITS:.5f} {tall / UNITS:.5f})"
        inside = [
            tag("image", href=shade, width=wide, height=tall, preserveAspectRatio="none"),
            tag("use", href=f"#{contours}", transform=size, **paint(stroke="pale")),
        ]
        mx, my = place(self.minimum)
        cross = f"M{decimal(mx - 5)},{decimal(my)}h10M{decimal(mx)},{decimal(my - 5)}v10"
        inside.append(draw_path(cross, "ink", 1.6))
        points = _thin_path([place(point) for point in path.places])
        if points:
            way = [f"{px:.1f},{py:.1f}" for px, py in points]
            dots = "".join(f"M{point}h0" for point in way[:DOTS])
            inside.append(draw_path(f"M{'L'.join(way)}", path.colour, 1.8))
            inside.append(draw_path(dots, path.colour, 3.6, stroke_linecap="round"))
            for (px, py), fill, rim in ((points[0], "paper", "ink"), (points[-1], path.colour, "paper")):
                inside.append(tag("circle", cx=px, cy=py, r=4.5, stroke_width=1.5, **paint(fill=fill, stroke=rim)))
        note = shorten(path.note, 0.5 * (left + wide))
        room = left + wide - text_width(note) - 14
        parts = [
            draw_text(shorten(path.name, room, 13.5), left, top - 8, bold=True, size=12.5),
            draw_text(note, left + wide, top - 8, "quiet", anchor="end"),
            tag("svg", *inside, x=left, y=top, width=wide, height=tall),
        ]
        for value in y.ticks(4):
            at = top + tall * (1 - y.at(value))
            parts.append(draw_text(tick(value), left - 6, at + 4, "quiet", anchor="end", size=11))
        return join(parts + x_axis(x, left, top + tall, wide, left + wide))

    def _shade(self) -> str:
        """Return a small grey picture as a data URL; the deeper a place, the more opaque."""
        heights = np.log10(np.maximum(self.z, self.z.max() * DEPTH))
        deep = (heights.max() - heights) / (np.ptp(heights) or 1.0)
        alpha = np.rint(SHADE * deep**1.3)[::-1].astype(np.uint8)
        pixels = np.stack([np.full_like(alpha, 70), alpha], axis=-1)
        rows = b"".join(b"\0" + row.tobytes() for row in pixels)
        head = struct.pack(">IIBBBBB", alpha.shape[1], alpha.shape[0], 8, 4, 0, 0, 0)
        chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
        data = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
        return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()


def _thin_path(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Drop points closer than a pixel to the one before; keep at most ``POINTS`` and the last."""
    distinct: list[tuple[float, float]] = []
    for point in points:
        if not distinct or math.dist(point, distinct[-1]) >= 1.0:
            distinct.append(point)
    return distinct[:: -(-len(distinct) // POINTS)] + list(points[-1:]) if distinct else []


def contours(z: NDArray[np.float64], levels: int) -> str:
    """Return contour lines as the commands of an SVG path, in 0 to ``UNITS`` across and down (marching squares).

    Args:
        z: heights of shape (rows, columns), the first row at the bottom.
        levels: number of lines, evenly spaced between the least and the greatest height.

    >>> contours(np.array([[0.0, 1.0], [0.0, 1.0]]), levels=1)
    'M500,1000L500,0'
    """
    rows, columns = z.shape
    drawn: list[str] = []
    for level in np.linspace(z.min(), z.max(), levels + 2)[1:-1]:
        over = z > level
        count = over[:-1, :-1].astype(int) + over[:-1, 1:] + over[1:, 1:] + over[1:, :-1]
        for j, i in np.argwhere((count > 0) & (count < 4)):
            corners = ((j, i), (j, i + 1), (j + 1, i + 1), (j + 1, i))
            ends: list[str] = []
            for (j0, i0), (j1, i1) in zip(corners, (*corners[1:], corners[0])):
                a, b = z[j0, i0], z[j1, i1]
                if (a > level) != (b > level):
                    t = (level - a) / (b - a)
                    px = UNITS * (i0 + t * (i1 - i0)) / (columns - 1)
                    py = UNITS * (1 - (j0 + t * (j1 - j0)) / (rows - 1))
                    ends.append(f"{px:.0f},{py:.0f}")
            drawn += [f"M{one}L{other}" for one, other in zip(ends[::2], ends[1::2])]
    return "".join(drawn)
