"""Elements of HTML and SVG, and their colours."""

import re
from html import escape
from typing import TypeAlias, final

EMPTY = frozenset({"circle", "image", "line", "meta", "path", "rect", "use"})
"""Elements without content, written as one tag."""

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML cannot hold, escaped or not: control characters and lone surrogates."""

COLOURS = {
    "ink": ("#1F2933", "#E6EAEE"),
    "quiet": ("#5F6B78", "#A3AEB9"),
    "grid": ("#E1E6EB", "#2E363F"),
    "wash": ("#F5F7F9", "#1B2229"),
    "paper": ("#FFFFFF", "#12171C"),
    "pale": ("#C3CCD5", "#46525E"),
    "grey": ("#7B8794", "#8D99A6"),
    "blue": ("#0072B2", "#4AA8E8"),
    "vermilion": ("#D55E00", "#F58A4B"),
    "green": ("#008F68", "#2DC79A"),
    "sky": ("#2B8FCC", "#86CCF5"),
    "amber": ("#B57A00", "#F2B62E"),
    "pink": ("#BF6298", "#E6A3CC"),
    "wine": ("#882255", "#D9719F"),
    "black": ("#4A4A4A", "#C5CACF"),
    "olive": ("#76761B", "#BDBD55"),
    "indigo": ("#332288", "#9D90F2"),
    "forest": ("#117733", "#54C07A"),
    "magenta": ("#AA4499", "#E285D5"),
    "teal": ("#23857A", "#63CBBB"),
    "brown": ("#661100", "#DB7C64"),
    "steel": ("#4A79AF", "#93BBE8"),
    "rose": ("#AA4466", "#EE93AB"),
    "petrol": ("#004D61", "#64B4CC"),
    "sand": ("#8F6F39", "#D6B77E"),
    "red": ("#C0392B", "#F2786A"),
}
"""By name: the colour on a white page, and on a dark page. The colours of lines come from the palettes of Okabe and Ito
(2008) and Paul Tol, which colour-blind readers can tell apart; some are darkened to be visible on white.
"""


@final
class Markup(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


Child: TypeAlias = "str | Markup"
"""The content of an element: another element, or text of any origin."""


def text(value: str) -> Markup:
    r"""Escape text of any origin; return markup as it is.

    >>> text("<b>\x1b[31m</b> & 'co'")
    '&lt;b&gt;�[31m&lt;/b&gt; &amp; &#x27;co&#x27;'
    """
    return value if isinstance(value, Markup) else Markup(escape(_FORBIDDEN.sub("\ufffd", value)))


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """Return an element; text is escaped in the content and in the attributes.

    Args:
        name: of the element.
        children: its content, in order.
        attributes: ``_`` in a name stands for ``-``, at its end for nothing. An attribute of None is left out. A number
            is written with at most two decimals.

    >>> tag("a", "x < y", tag("b", "z"), class_="big", data_name='"', x=1.50)
    '<a class="big" data-name="&quot;" x="1.5">x &lt; y<b>z</b></a>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value) if isinstance(value, str) else decimal(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in EMPTY:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: tuple[Child, ...] | list[Child] | list[Markup]) -> Markup:
    """Join elements and texts."""
    return Markup("".join(map(text, children)))


def decimal(value: float) -> str:
    """Return a coordinate with at most two decimals.

    >>> decimal(1.0), decimal(0.126), decimal(-0.001)
    ('1', '0.13', '0')
    """
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def paint(*, stroke: str | None = None, fill: str | None = None) -> dict[str, str]:
    """Return the attributes that colour an element: its light colours, and classes that the dark rules select.

    Args:
        stroke: a name of :data:`COLOURS` for the line; None for no line.
        fill: the same for the inside.
    """
    painted = {"stroke": COLOURS[stroke][0]} if stroke else {}
    painted["fill"] = COLOURS[fill][0] if fill else "none"
    classes = [f"s-{stroke}"] * bool(stroke) + [f"f-{fill}"] * bool(fill)
    return {"class_": " ".join(classes), **painted}


def dark_rules() -> str:
    """Return the CSS that gives pictures their dark colours on a dark page."""
    rules = "".join(
        f".gradstep .s-{name}{{stroke:{dark}}}.gradstep .f-{name}{{fill:{dark}}}" for name, (_, dark) in COLOURS.items()
    )
    return f"@media (prefers-color-scheme:dark){{{rules}.gradstep image{{filter:invert(1)}}}}"
