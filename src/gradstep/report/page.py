"""A page: one HTML file that loads nothing else, in the reader's light or dark colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from gradstep.report.markup import COLOURS, Child, Markup, dark_rules, join, paint, tag

FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"

_VARIABLES = ("ink", "quiet", "grid", "wash", "paper", "red", "amber", "green", "sky")

STYLE = f"""
:root {{ color-scheme: light dark; {" ".join(f"--{c}: {COLOURS[c][0]};" for c in _VARIABLES)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {" ".join(f"--{c}: {COLOURS[c][1]};" for c in _VARIABLES)} }} }}
* {{ box-sizing: border-box; }}
html {{ scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }}
body {{ margin: 0 auto; max-width: 1280px; padding: 40px 32px 64px; color: var(--ink); background: var(--paper);
  font: 15px/1.55 {FONT}; overflow-wrap: break-word; }}
.brand {{ color: var(--quiet); }}
h1 {{ font-size: 28px; line-height: 1.2; margin: 4px 0 18px; letter-spacing: -.01em; overflow-wrap: anywhere; }}
h2 {{ font-size: 20px; margin: 0 0 8px; }}
h3 {{ font-size: 16px; margin: 22px 0 6px; }}
section {{ margin-top: 36px; padding-top: 26px; border-top: 1px solid var(--grid); }}
p {{ margin: 0 0 12px; max-width: 82ch; }}
.quiet {{ color: var(--quiet); font-size: 13.5px; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin: 0 0 16px; }}
.cards.roomy {{ grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); }}
.card {{ display: flex; flex-direction: column; padding: 10px 14px; border-radius: 8px; background: var(--wash);
  border-left: 3px solid transparent; color: inherit; text-decoration: none; }}
.card b {{ font-size: 18px; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
.card span {{ color: var(--quiet); font-size: 13px; }}
.good {{ border-color: var(--green); }} .notable, .warning {{ border-color: var(--amber); }}
.bad, .critical {{ border-color: var(--red); }} .hint {{ border-color: var(--sky); }}
.verdict {{ margin: 0 0 20px; padding: 14px 18px; border-radius: 8px; background: var(--wash);
  border-left-width: 4px; border-left-style: solid; }}
.verdict > b {{ font-size: 17px; }} .verdict ol {{ margin: 8px 0 0; padding-left: 22px; }}
.verdict li {{ margin-top: 6px; overflow-wrap: anywhere; }} .verdict li span {{ color: var(--quiet); }}
.verdict summary {{ cursor: pointer; }} .verdict ul {{ margin: 4px 0; padding-left: 18px; }}
.figures {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 30px 36px; margin-top: 24px; }}
.figures.wide {{ grid-template-columns: minmax(0, 1fr); }}
figure {{ margin: 0; min-width: 0; position: relative; }}
figcaption {{ font-weight: 600; margin-bottom: 4px; }}
svg.gradstep {{ display: block; width: 100%; height: auto; }}
svg.swatch {{ display: inline-block; width: 20px; height: 10px; margin-right: 8px; }}
.phone {{ display: none; }}
.faded {{ opacity: .12 !important; }}
.tip {{ position: absolute; pointer-events: none; z-index: 1; padding: 5px 9px; border-radius: 6px; font-size: 12.5px;
  background: var(--paper); border: 1px solid var(--grid); white-space: pre;
  box-shadow: 0 2px 8px rgba(0, 0, 0, .18); }}
.scroll {{ overflow: auto; max-height: 600px; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }}
thead th {{ color: var(--quiet); font-weight: 500; position: sticky; top: 0; background: var(--paper); }}
th, td {{ padding: 6px 10px; white-space: nowrap; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; font-weight: 500; }}
tr {{ border-bottom: 1px solid var(--grid); }}
tr[data-label] {{ cursor: pointer; }} tbody tr:hover, tr.picked {{ background: var(--wash); }}
.best {{ font-weight: 700; }}
.remark {{ margin-left: 8px; padding: 1px 7px; border-radius: 9px; border: 1px solid var(--amber); font-size: 12.5px; }}
dl {{ display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 2px 22px; margin: 0; }}
dt {{ color: var(--quiet); }} dd {{ margin: 0; }}
pre {{ background: var(--wash); padding: 12px 16px; border-radius: 8px; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13.5px/1.5 ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; }}
@media (max-width: 960px) {{ .figures {{ grid-template-columns: minmax(0, 1fr); }} }}
@media (max-width: 600px) {{ body {{ padding: 22px 18px 40px; }} h1 {{ font-size: 23px; }}
  .desk {{ display: none; }} .phone {{ display: block; }} .cards {{ grid-template-columns: 1fr 1fr; }}
  .cards.roomy {{ grid-template-columns: 1fr; }} dl {{ grid-template-columns: 1fr; }} dd {{ margin-bottom: 6px; }} }}
@media print {{ body {{ max-width: none; padding: 0; }} figure, tr, .card {{ break-inside: avoid; }}
  .scroll {{ max-height: none; overflow: visible; }} }}
{dark_rules()}
"""

SCRIPT = """
// Values at the pointer, read back from the drawn lines. The page is complete without it.
const text = v => Number(v.toPrecision(4)).toString();
const back = ([low, high, log], t) => log ? low * (high / low) ** t : low + t * (high - low);
for (const plot of document.querySelectorAll('svg.plot')) {
  const figure = plot.closest('figure'), [x, y] = JSON.parse(plot.dataset.hover);
  const wide = +plot.getAttribute('width'), tall = +plot.getAttribute('height');
  const lines = [...plot.querySelectorAll('[data-line]')].map(path => [path.dataset.line,
    [...path.getAttribute('d').matchAll(/(-?[\\d.]+),(-?[\\d.]+)/g)].map(m => [+m[1], +m[2]])]);
  let tip;
  const hide = () => { tip?.remove(); tip = null; };
  const show = event => {
    hide();
    const screen = plot.parentNode.getScreenCTM();
    const at = (event.clientX - screen.e) / screen.a - plot.getAttribute('x');
    const down = (event.clientY - screen.f) / screen.d - plot.getAttribute('y');
    if (at < -4 || at > wide + 4 || down < 0 || down > tall) return;
    let nearest = null;
    const near = lines.map(([name, points]) => {
      const best = points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a, points[0]);
      if (!nearest || Math.abs(best[0] - at) < Math.abs(nearest - at)) nearest = best[0];
      return [name, best];
    }).filter(([, p]) => Math.abs(p[0] - at) < 0.06 * wide);
    if (!near.length) return;
    const rows = near.sort((a, b) => a[1][1] - b[1][1]).slice(0, 14)
      .map(([name, p]) => `${name}  ${p[1] < -2.9 * tall ? 'above' : text(back(y, 1 - p[1] / tall))}`);
    tip = document.createElement('div');
    tip.className = 'tip';
    tip.textContent = [`at ${text(back(x, nearest / wide))}`, ...rows].join('\\n');
    figure.append(tip);
    const place = figure.getBoundingClientRect(), left = event.clientX - place.left + 14;
    tip.style.left = Math.max(0, left + tip.offsetWidth > place.width ? left - tip.offsetWidth - 28 : left) + 'px';
    tip.style.top = event.clientY - place.top + 12 + 'px';
  };
  plot.ownerSVGElement.addEventListener('pointermove', show);
  plot.ownerSVGElement.addEventListener('pointerleave', hide);
}
// A click on a row of a table keeps what belongs to it in the pictures of the section, and fades the others.
for (const section of document.querySelectorAll('section')) {
  const rows = [...section.querySelectorAll('tr[data-label]')];
  for (const row of rows) row.addEventListener('click', () => {
    row.classList.toggle('picked');
    const picked = new Set(rows.filter(r => r.classList.contains('picked')).map(r => r.dataset.label));
    for (const part of section.querySelectorAll('[data-name]'))
      part.classList.toggle('faded', picked.size > 0 && !picked.has(part.dataset.name));
  });
}
"""


@final
@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        cells: one for each column.
        best: for each cell whether it is bold; empty for none.
        label: its name in the pictures of the same section; a click on the row highlights it there.
    """

    cells: Sequence[Child]
    best: Sequence[bool] = ()
    label: str | None = None


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
        tag("style", Markup(STYLE)),
    )
    top = tag("header", tag("div", brand, class_="brand"), tag("h1", title))
    script = tag("script", Markup(SCRIPT))
    return f"<!doctype html>\n{tag('html', tag('head', *head), tag('body', top, *body, script), lang='en')}\n"


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
