"""The bare page of a report: its style, its frame, and the script that moves all charts together."""

from __future__ import annotations

from html import escape

STYLE = """
:root { color-scheme: light dark;
  --ink: #1F2933; --quiet: #5F6B78; --line: #E4E8EC; --wash: #F6F8FA; --paper: #FFFFFF; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #E6EAEE; --quiet: #98A4B0; --line: #2E363F; --wash: #1D242B; --paper: #12171C; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 40px 32px 72px; color: var(--ink); background: var(--paper);
  font: 15px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
.brand { color: var(--quiet); letter-spacing: .02em; }
h1 { font-size: 28px; line-height: 1.2; margin: 4px 0 18px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 40px 0 10px; padding-top: 26px; border-top: 1px solid var(--line); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: 12px; }
.card { display: flex; flex-direction: column; padding: 10px 14px; border-radius: 8px;
  background: var(--wash); border-left: 3px solid transparent; }
.card.good { border-color: #009E73; } .card.notable { border-color: #E69F00; } .card.bad { border-color: #C0392B; }
.card b { font-size: 19px; font-weight: 600; font-variant-numeric: tabular-nums; }
.card span { color: var(--quiet); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 24px 30px; margin-top: 30px; }
figure { margin: 0; min-width: 0; overflow: hidden; }
figcaption { font-weight: 600; margin-bottom: 2px; }
.scroll { overflow-x: auto; max-height: 560px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13.5px; }
thead th { color: var(--quiet); font-weight: 500; text-align: right; position: sticky; top: 0; background: var(--paper);
  border-bottom: 1px solid var(--line); }
th, td { padding: 5px 9px; white-space: nowrap; text-align: right; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody tr { border-bottom: 1px solid var(--line); }
tbody tr:hover { background: var(--wash); }
.verdict { margin: 0 0 22px; padding: 14px 18px; border-radius: 8px; background: var(--wash);
  border-left: 4px solid #009E73; }
.verdict.critical { border-color: #C0392B; } .verdict.warning { border-color: #E69F00; }
.verdict.hint { border-color: #56B4E9; max-width: none; font-size: inherit; color: inherit; }
.verdict > b { font-size: 17px; } .verdict ol { margin: 8px 0 0; padding-left: 22px; }
.verdict li { margin-top: 8px; overflow-wrap: anywhere; } .verdict li span { color: var(--quiet); }
.verdict summary { cursor: pointer; } .verdict ul { margin: 4px 0; padding-left: 18px; }
.hint { color: var(--quiet); font-size: 13.5px; max-width: 90ch; }
@media (max-width: 900px) { .charts { grid-template-columns: minmax(0, 1fr); } body { padding: 24px 16px; }
  h1 { font-size: 22px; } }
@media print { body { max-width: none; padding: 0; } figure, tr, .card { break-inside: avoid; }
  .scroll { max-height: none; } }
"""

SCRIPT = """
// A zoom into one chart shows the same updates in all of them.
const charts = [...document.querySelectorAll('.chart')];
let moving = false;
charts.forEach(chart => chart.on('plotly_relayout', change => {
  const all = change['xaxis.autorange'];
  if (moving || !(all || 'xaxis.range[0]' in change)) return;
  moving = true;
  const range = all ? {'xaxis.autorange': true}
                    : {'xaxis.range[0]': change['xaxis.range[0]'], 'xaxis.range[1]': change['xaxis.range[1]']};
  Promise.all(charts.filter(other => other !== chart).map(other => Plotly.relayout(other, range)))
    .finally(() => { moving = false; });
}));
"""


def page(*, title: str, brand: str, body: str, script: str) -> str:
    """The page. ``title`` and ``brand`` are plain text, ``body`` is HTML, ``script`` is plotly's own."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
<script>{script}</script>
</head>
<body>
<header><div class="brand">{escape(brand)}</div><h1>{escape(title)}</h1></header>
{body}
<script>{SCRIPT}</script>
</body>
</html>
"""
