"""The base of all pictures: SVG at any width, inline on a page or in its own file."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from gradstep.report.markup import Child, Markup, dark_rules, join, paint, tag
from gradstep.report.page import FONT, page

HALF_PAGE, FULL_PAGE, PHONE = 590.0, 1216.0, 354.0
"""Widths of a picture in pixels: in two columns, across the page, and on a phone."""
NARROW = 480
"""Narrower pictures stack their parts instead of placing them side by side."""
LETTER = 0.63
"""Width of most letters, in units of the font size: that of a wide font, since the reader's font is unknown."""
OTHERS = {**dict.fromkeys("MWmw%@—×±=+<>", 0.9), **dict.fromkeys("ABCDEGHKNOQRUVXYZ", 0.7)}
OTHERS |= dict.fromkeys(" .,:;'!|()[]ijlftrI-/", 0.39)
SIZE = 12
"""Font size in pixels."""


class Picture(ABC):
    """A picture with a title, which is its caption on a page."""

    title: str

    @property
    def width(self) -> float:
        """Width of the picture in its own file, in pixels."""
        return 640.0

    @abstractmethod
    def draw(self, width: float) -> tuple[float, Markup]:
        """Return the picture's height at this width, in pixels, and its elements without the title."""

    def svg(self, width: float) -> Markup:
        """Return the picture as an element of a page; the page holds the rules for dark mode."""
        height, drawn = self.draw(width)
        return _svg(width, height, self.title, drawn)

    def file(self) -> str:
        """Return the text of an SVG file, with the title and the rules for dark mode."""
        height, drawn = draw_with_title(self, self.width - 32)
        paper = tag("rect", width="100%", height="100%", **paint(fill="paper"))
        inside = join([tag("style", Markup(dark_rules())), paper, tag("g", drawn, transform="translate(16 12)")])
        return _svg(self.width, height + 24, self.title, inside)

    def save(self, file: Path | str) -> Path:
        """Write an SVG file or an HTML page, by the file's ending; make its folder if it is missing.

        Raises:
            ValueError: another ending.
        """
        path = check_picture_file(Path(file))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".svg":
            path.write_text(self.file(), encoding="utf-8")
        else:
            path.write_text(page(self.title, "gradstep", figures([self], wide=True, captions=False)), encoding="utf-8")
        return path

    def _repr_svg_(self) -> str:
        """Return the picture for a notebook."""
        return self.file()


def check_picture_file(file: Path) -> Path:
    """Return the file, or refuse it if it is a folder or its ending is neither .svg nor .html.

    Raises:
        ValueError: the message names the endings, or the folder.
    """
    if file.suffix.lower() not in (".svg", ".html"):
        raise ValueError(f"The picture {str(file)!r} needs an ending that says its format: .svg or .html")
    if file.is_dir():
        raise ValueError(f"The picture {str(file)!r} would replace a folder: give a file's name")
    return file


def figures(pictures: Iterable[Picture], *, wide: bool = False, captions: bool = True) -> Markup:
    """Return pictures in two columns, or each across the page, and a second drawing of each for phones.

    Args:
        pictures: in the order in which they are read.
        wide: whether each is across the page.
        captions: whether each has its title above it.
    """
    shown = []
    for picture in pictures:
        widths = (("desk", FULL_PAGE if wide else HALF_PAGE), ("phone", PHONE))
        drawn = [tag("div", picture.svg(width), class_=name) for name, width in widths]
        shown.append(tag("figure", tag("figcaption", picture.title) if captions else "", *drawn))
    return tag("div", *shown, class_="figures" + " wide" * wide)


@final
@dataclass(frozen=True)
class Grid(Picture):
    """Several pictures, each with its title, in rows."""

    title: str  # of all together
    pictures: Sequence[Picture]  # in the order in which they are read
    columns: int = 2  # how many stand side by side, if there is room
    note: str = ""  # a line above them

    @property
    def width(self) -> float:
        return 960.0

    def draw(self, width: float) -> tuple[float, Markup]:
        columns = 1 if width < NARROW else min(self.columns, len(self.pictures))
        gap = 28.0
        each = (width - gap * (columns - 1)) / columns
        top, note = draw_paragraph(self.note, 0, 12, width) if self.note else (0.0, Markup())
        top += 10 * bool(self.note)
        elements = [note]
        for start in range(0, len(self.pictures), columns):
            row = [draw_with_title(picture, each) for picture in self.pictures[start : start + columns]]
            elements += [
                tag("g", drawn, transform=f"translate({k * (each + gap):.1f} {top:.1f})")
                for k, (_, drawn) in enumerate(row)
            ]
            top += max(height for height, _ in row) + 14
        return top, join(elements)


def draw_with_title(picture: Picture, width: float) -> tuple[float, Markup]:
    """Draw a picture below its title; return the height of both and the elements."""
    height, drawn = picture.draw(width)
    rows = wrap_lines(picture.title, width, 15)
    head = [draw_text(row, 0, 14 + 18 * k, size=14, bold=True) for k, row in enumerate(rows)]
    down = 18 * len(rows) + 6
    return height + down, join([*head, tag("g", drawn, transform=f"translate(0 {down})")])


def _svg(width: float, height: float, title: str, inside: Markup) -> Markup:
    return tag(
        "svg", inside, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width:g} {height:g}", width=width,
        height=height, class_="gradstep", role="img", aria_label=title, font_family=FONT, font_size=SIZE,
    )  # fmt: skip


def draw_text(
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
    """Draw one line of text on the baseline ``y``; it starts at ``x``, or has its "middle" or "end" there.

    A halo is a rim in the paper's colour, which covers lines below the text.
    """
    colours = paint(fill=colour, stroke="paper" if halo else None)
    return tag(
        "text", text, x=x, y=y, text_anchor=anchor, font_weight=600 if bold else None, font_size=size,
        stroke_width=4 if halo else None, paint_order="stroke" if halo else None, **colours,
    )  # fmt: skip


def draw_path(
    d: str, colour: str, width: float | None = None, dashes: str | None = None, **attributes: str | float | None
) -> Markup:
    """Draw a line along an SVG path with the commands ``d``, and round joints; ``width`` in pixels, 1 by default."""
    drawn = {"stroke_width": width, "stroke_dasharray": dashes, "stroke_linejoin": "round" if width else None}
    return tag("path", d=d, **drawn, **attributes, **paint(stroke=colour))


def text_width(text: str, size: float = SIZE) -> float:
    """Return the approximate width of a text in pixels."""
    return size * sum(OTHERS.get(letter, LETTER) for letter in text)


def draw_paragraph(text: str, x: float, y: float, width: float) -> tuple[float, Markup]:
    """Draw a text in as many lines as it needs, the first at the baseline ``y``; return height and elements."""
    rows = wrap_lines(text, width, SIZE)
    drawn = [draw_text(row, x, y + 16 * k, "quiet") for k, row in enumerate(rows)]
    return 16.0 * len(rows), join(drawn)


def shorten(text: str, room: float, size: float = SIZE) -> str:
    """Return the text, cut with an ellipsis if it is wider than ``room`` pixels."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "…", size) > room:
        text = text[:-1]
    return text + "…"


def wrap_lines(text: str, width: float, size: float) -> list[str]:
    """Split a text into lines of at most ``width`` pixels."""
    rows = [""]
    for word in text.split():
        joined = f"{rows[-1]} {word}".strip()
        if rows[-1] and text_width(joined, size) > width:
            rows.append(word)
        else:
            rows[-1] = joined
    return [shorten(row, width, size) for row in rows]


def draw_key(entries: Sequence[tuple[str, str, str | None]], width: float) -> tuple[float, Markup]:
    """Draw a key of colours in as many rows as it needs; return its height and elements.

    Each entry is a name, a colour, and the dashes of its line (None: solid; "bar": a filled square).
    """
    drawn: list[Markup] = []
    x, y = 0.0, 10.0
    for name, colour, dashes in entries:
        shown = shorten(name, width - 26)
        if x and x + 24 + text_width(shown) > width:
            x, y = 0.0, y + 18
        if dashes == "bar":
            drawn.append(tag("rect", x=x, y=y - 9, width=11, height=11, rx=2, **paint(fill=colour)))
        else:
            drawn.append(draw_path(f"M{x:g},{y - 4:g}h18", colour, 2.5, dashes))
        drawn.append(draw_text(shown, x + (16 if dashes == "bar" else 23), y))
        x += 38 + text_width(shown)
    return y + 10, join(drawn)
