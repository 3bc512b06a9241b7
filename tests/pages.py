"""What every page must be."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

MOST = 1_500_000
"""Bytes of a page."""
SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta"}
HOSTILE = "<!--<script>alert(1)</script>\x1b[31m../../x\x00\ud800\"'&]]>"


class Structure(HTMLParser):
    """Notes what is open, and every script and link."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open = []
        self.tags = []
        self.links = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")


def check_page(text):
    """Check what holds for every page; its charts as they are drawn for wide screens, by title."""
    assert len(text.encode("utf-8")) < MOST
    structure = Structure()
    structure.feed(text)
    structure.close()
    assert structure.open == []
    assert structure.tags.count("script") == 1
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in structure.links)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text)
    assert "prefers-color-scheme" in text
    charts: dict[str | None, ElementTree.Element] = {}
    for drawn in pictures(text):
        root = ElementTree.fromstring(drawn)  # well formed
        check_picture(root)
        charts.setdefault(root.get("aria-label"), root)
    return charts


def check_picture(root):
    """A picture has axes with titles, and no number that is none."""
    told = words(root)
    assert any(re.search("[a-z]{2}|y over x", word) for word in told), "no title of an axis"
    places = ("d", "points", "transform", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height")
    assert not re.search("nan|inf", " ".join(element.get(place, "") for element in root.iter() for place in places))


def pictures(text):
    """The text of every picture on a page."""
    start, depth = 0, 0
    for token in re.finditer(r"<svg[ >]|</svg>", text):
        if token[0] == "</svg>":
            depth -= 1
            if not depth and text.startswith("<svg xmlns", start):
                yield text[start : token.end()]
        else:
            start = start if depth else token.start()
            depth += 1


def words(root):
    """Every text of a picture, in order."""
    return [element.text for element in root.iter(SVG + "text") if element.text]


def lines(root):
    """The points of every line of a chart by its name, in its plot's coordinates."""
    return {
        path.get("data-line"): [tuple(map(float, p)) for p in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path.get("d"))]
        for path in root.iter(SVG + "path")
        if path.get("data-line")
    }
