"""A page: one HTML file that loads nothing else, in the reader's light or dark colours.

Its style is ``page.css``, its script ``page.js``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import final

from gradstep.report.markup import COLOURS, Child, Markup, dark_rules, join, paint, tag

FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"

_VARIABLES = ("ink", "quiet", "grid", "wash", "paper", "red", "amber", "green", "sky")


@final
@dataclass(frozen=True)
class Row:
    """A row of a table."""

    cells: Sequence[Child]  # one for each column
    best: Sequence[bool] = ()  # for each cell whether it is bold; empty for none
    label: str | None = None  # its name in the pictures of the same section; a click on the row highlights it there


def page(title: str, brand: str, *body: Child) -> str:
    """Return the text of a page.

    Args:
        title: of the page, at its top.
        brand: the program and the time that made the page; above the title.
        body: elements.
    """
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", _style()),
    )
    top = tag("header", tag("div", brand, class_="brand"), tag("h1", title))
    script = tag("script", _read("page.js"))
    return f"<!doctype html>\n{tag('html', tag('head', *head), tag('body', top, *body, script), lang='en')}\n"


def _style() -> Markup:
    light, dark = (" ".join(f"--{name}: {COLOURS[name][k]};" for name in _VARIABLES) for k in (0, 1))
    return Markup(Template(_read("page.css")).substitute(font=FONT, light=light, dark=dark, pictures=dark_rules()))


@cache
def _read(name: str) -> Markup:
    return Markup("\n" + Path(__file__).with_name(name).read_text("utf-8"))


def section(title: str, *body: Child, id_: str | None = None) -> Markup:
    """Return a section of a page with its heading."""
    return tag("section", tag("h2", title), *body, id=id_)


def table(head: Sequence[str], rows: Iterable[Row | Sequence[Child]]) -> Markup:
    """Return a table; a table that is wider than the screen scrolls."""
    body: list[Markup] = []
    for row in rows:
        one = row if isinstance(row, Row) else Row(row)
        best = one.best or (False,) * len(one.cells)
        cells = (tag("td", cell, class_="best" if bold else None) for cell, bold in zip(one.cells, best))
        body.append(tag("tr", *cells, data_label=one.label))
    top = tag("thead", tag("tr", *(tag("th", cell) for cell in head)))
    return tag("div", tag("table", top, tag("tbody", *body)), class_="scroll")


def cards(entries: Iterable[tuple[Child, Child, str]], *, roomy: bool = False) -> Markup:
    """Return boxes, each a large text, a small text, and a kind: "good", "notable", "bad", "" or a link "#place"."""
    boxes = []
    for value, below, kind in entries:
        link = kind if kind.startswith("#") else None
        inside = (tag("b", value), tag("span", below))
        boxes.append(tag("a" if link else "div", *inside, class_="card" if link else f"card {kind}", href=link))
    return tag("div", *boxes, class_="cards" + " roomy" * roomy)


def swatch(colour: str, *, dashed: bool = False) -> Markup:
    """Return a short line in a colour, as a key inside a text."""
    line = tag("path", d="M0,5h20", stroke_width=3, stroke_dasharray="5 3" if dashed else None, **paint(stroke=colour))
    return tag("svg", line, viewBox="0 0 20 10", class_="gradstep swatch", aria_hidden="true")


def facts(entries: Iterable[tuple[str, str]]) -> Markup:
    """Return a list of names and values."""
    return tag("dl", join([join([tag("dt", name), tag("dd", value)]) for name, value in entries]))
