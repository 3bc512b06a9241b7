"""What all pictures have in common: drawn at any width as SVG, inline on a page or as a file of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from gradstep.report.markup import Child, Markup, dark_rules, join, paint, tag
from gradstep.report.page import FONT, page

HALF, WHOLE, PHONE = 590.0, 1216.0, 354.0
"""Widths that pictures are drawn for: in two columns, across the page, and on a phone."""
NARROW = 480
"""Pictures that are narrower put beside each other below each other."""
LETTER = 0.63
"""Width of most letters, in sizes of the font; that of a wide font, since the reader's is not known."""
OTHERS = {**dict.fromkeys("MWmw%@—×±=+<>", 0.9), **dict.fromkeys("ABCDEGHKNOQRUVXYZ", 0.7)}
OTHERS |= dict.fromkeys(" .,:;'!|()[]ijlftrI-/", 0.39)
SIZE = 12
"""Of the font, in pixels."""


class Picture(ABC):
    """Something drawn. ``title`` says what it shows; a picture on a page has it as its caption."""

    title: str

    @property
    def width(self) -> float:
        """Of the picture as a file of its own, in pixels."""
        return 640.0

    @abstractmethod
    def draw(self, width: float) -> tuple[float, Markup]:
        """The height that it takes at a width, in pixels, and its elements, without the title."""

    def svg(self, width: float) -> Markup:
        """An element of a page; the page holds the rules for dark mode."""
        height, drawn = self.draw(width)
        return _svg(width, height, self.title, drawn)

    def file(self) -> str:
        """The text of an SVG file, with its title and its rules for dark mode."""
        height, drawn = draw_titled(self, self.width - 32)
        paper = tag("rect", width="100%", height="100%", **paint(fill="paper"))
        inside = join([tag("style", Markup(dark_rules())), paper, tag("g", drawn, transform="translate(16 12)")])
        return _svg(self.width, height + 24, self.title, inside)

    def save(self, file: Path | str) -> Path:
        """Write an SVG file or an HTML page, by the file's ending; its folder is made if need be.

        Raises:
            ValueError: the ending is another one.
        """
        path = check_file(Path(file))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".svg":
            path.write_text(self.file(), encoding="utf-8")
        else:
            path.write_text(page(self.title, "gradstep", figures([self], wide=True, captions=False)), encoding="utf-8")
        return path

    def _repr_svg_(self) -> str:
        """The picture, as notebooks ask for it."""
        return self.file()


def check_file(file: Path) -> Path:
    """Refuse a file name whose ending is none that pictures are saved with, and a folder of such a name.

    Raises:
        ValueError: naming the endings, or the folder.
    """
    if file.suffix.lower() not in (".svg", ".html"):
        raise ValueError(f"The picture {str(file)!r} needs an ending that says its format: .svg or .html")
    if file.is_dir():
        raise ValueError(f"The picture {str(file)!r} would replace a folder: give a file's name")
    return file


def figures(pictures: Iterable[Picture], *, wide: bool = False, captions: bool = True) -> Markup:
    """Pictures in two columns, or each across the page; on a phone drawn anew for its width.

    Args:
        pictures: in the order in which they are read.
        wide: whether each is across the page.
        captions: whether each has its title above it.
    """
    shown = []
    for picture in pictures:
        widths = (("desk", WHOLE if wide else HALF), ("phone", PHONE))
        drawn = [tag("div", picture.svg(width), class_=name) for name, width in widths]
        shown.append(tag("figure", tag("figcaption", picture.title) if captions else "", *drawn))
    return tag("div", *shown, class_="figures" + " wide" * wide)


@final
@dataclass(frozen=True)
class Grid(Picture):
    """Several pictures, each with its title, in rows.

    Args:
        title: of all together.
        pictures: in the order in which they are read.
        columns: how many stand beside each other, where there is room.
        note: a line above them.
    """

    title: str
    pictures: Sequence[Picture]
    columns: int = 2
    note: str = ""

    @property
    def width(self) -> float:
        return 960.0

    def draw(self, width: float) -> tuple[float, Markup]:
        columns = 1 if width < NARROW else min(self.columns, len(self.pictures))
        gap = 28.0
        each = (width - gap * (columns - 1)) / columns
        top, note = lines(self.note, 0, 12, width) if self.note else (0.0, Markup())
        top += 10 * bool(self.note)
        placed = [note]
        for start in range(0, len(self.pictures), columns):
            row = [draw_titled(picture, each) for picture in self.pictures[start : start + columns]]
            placed += [
                tag("g", drawn, transform=f"translate({k * (each + gap):.1f} {top:.1f})")
                for k, (_, drawn) in enumerate(row)
            ]
            top += max(height for height, _ in row) + 14
        return top, join(placed)


def draw_titled(picture: Picture, width: float) -> tuple[float, Markup]:
    """Draw a picture below its title; return the height of both, in pixels, and the elements."""
    height, drawn = picture.draw(width)
    rows = wrap(picture.title, width, 15)
    head = [words(row, 0, 14 + 18 * k, size=14, bold=True) for k, row in enumerate(rows)]
    down = 18 * len(rows) + 6
    return height + down, join([*head, tag("g", drawn, transform=f"translate(0 {down})")])


def _svg(width: float, height: float, title: str, inside: Markup) -> Markup:
    return tag(
        "svg", inside, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width:g} {height:g}", width=width,
        height=height, class_="gradstep", role="img", aria_label=title, font_family=FONT, font_size=SIZE,
    )  # fmt: skip


def words(
    text: Child,
    x: float,
    y: float,
    colour: str = "ink",
    *,
    anchor: str | None = None,
    bold: bool = False,
    size: float | None = None,
    halo: bool = False,
) -> Markup:
    """A line of text whose baseline is at ``y``.

    Args:
        text: what it says.
        x: where it starts, has its middle or ends, by ``anchor``.
        y: the baseline.
        colour: a name of :data:`~gradstep.report.markup.COLOURS`.
        anchor: "middle" or "end"; None: it starts at ``x``.
        bold: whether it is bold.
        size: of the font, in pixels.
        halo: whether lines below it are covered by a rim of paper.
    """
    colours = paint(fill=colour, stroke="paper" if halo else None)
    return tag(
        "text", text, x=x, y=y, text_anchor=anchor, font_weight=600 if bold else None, font_size=size,
        stroke_width=4 if halo else None, paint_order="stroke" if halo else None, **colours,
    )  # fmt: skip


def curve(
    d: str, colour: str, width: float | None = None, dashes: str | None = None, **attributes: str | float | None
) -> Markup:
    """A line along the commands ``d``, with round joints.

    Args:
        d: as in SVG.
        colour: a name of :data:`~gradstep.report.markup.COLOURS`.
        width: in pixels; None: 1.
        dashes: as in SVG; None: solid.
        attributes: others.
    """
    drawn = {"stroke_width": width, "stroke_dasharray": dashes, "stroke_linejoin": "round" if width else None}
    return tag("path", d=d, **drawn, **attributes, **paint(stroke=colour))


def length(text: str, size: float = SIZE) -> float:
    """Estimate the width of a text, in pixels."""
    return size * sum(OTHERS.get(letter, LETTER) for letter in text)


def lines(text: str, x: float, y: float, width: float, colour: str = "quiet") -> tuple[float, Markup]:
    """A text in as many lines as it needs, the first with its baseline at ``y``: their height, and the elements."""
    rows = wrap(text, width, SIZE)
    drawn = [words(row, x, y + 16 * k, colour) for k, row in enumerate(rows)]
    return 16.0 * len(rows), join(drawn)


def shorten(text: str, room: float, size: float = SIZE) -> str:
    """Cut a text to ``room`` pixels, with an ellipsis if it is too long."""
    if length(text, size) <= room:
        return text
    while text and length(text + "…", size) > room:
        text = text[:-1]
    return text + "…"


def wrap(text: str, width: float, size: float) -> list[str]:
    """Wrap a text to lines of at most ``width`` pixels."""
    rows = [""]
    for word in text.split():
        joined = f"{rows[-1]} {word}".strip()
        if rows[-1] and length(joined, size) > width:
            rows.append(word)
        else:
            rows[-1] = joined
    return [shorten(row, width, size) for row in rows]


def key(entries: Sequence[tuple[str, str, str | None]], width: float) -> tuple[float, Markup]:
    """A key of colours in as many rows as it needs: its height and elements.

    Args:
        entries: a name, a colour, and the dashes of its line (None: solid; "bar": a filled square).
        width: of the picture.
    """
    drawn: list[Markup] = []
    x, y = 0.0, 10.0
    for name, colour, dashes in entries:
        shown = shorten(name, width - 26)
        if x and x + 24 + length(shown) > width:
            x, y = 0.0, y + 18
        if dashes == "bar":
            drawn.append(tag("rect", x=x, y=y - 9, width=11, height=11, rx=2, **paint(fill=colour)))
        else:
            drawn.append(curve(f"M{x:g},{y - 4:g}h18", colour, 2.5, dashes))
        drawn.append(words(shown, x + (16 if dashes == "bar" else 23), y, "ink"))
        x += 38 + length(shown)
    return y + 10, join(drawn)
