"""The bare page of a report: its style, its frame, and the few lines of script that tie the table to the
charts.
"""

from html import escape

STYLE = """
:root { --ink: #1F2933; --quiet: #6B7785; --line: #E4E8EC; --wash: #F6F8FA; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 1240px; padding: 44px 32px 72px; color: var(--ink); background: white;
  font: 15.5px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
header .brand { color: var(--quiet); letter-spacing: .02em; }
h1 { font-size: 30px; line-height: 1.2; margin: 4px 0 22px; letter-spacing: -.01em; }
h2 { font-size: 22px; margin: 0 0 6px; letter-spacing: -.005em; }
section { margin-top: 44px; padding-top: 30px; border-top: 1px solid var(--line); }
.lead { max-width: 78ch; margin: 0 0 18px; color: #3E4C59; }
.facts { color: var(--quiet); white-space: nowrap; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; }
.card { flex: 1 1 220px; display: flex; flex-direction: column; gap: 2px;
  padding: 12px 16px; border-radius: 8px;
  background: var(--wash); color: inherit; text-decoration: none; border: 1px solid transparent; }
.card:hover { border-color: var(--line); }
.card span:first-child, .card span:last-child { color: var(--quiet); font-size: 14px; }
.swatch { display: inline-block; width: 18px; height: 0; border-top: 4px solid var(--colour);
  vertical-align: middle; margin-right: 9px; border-radius: 1px; }
.swatch.dashed { border-top-style: dashed; border-top-width: 3px; border-radius: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14.5px; }
thead th { color: var(--quiet); font-weight: 500; text-align: right; border-bottom: 1px solid #CBD2D9; }
th, td { padding: 6px 8px; white-space: nowrap; text-align: right; }
th:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 500; }
tbody tr { border-bottom: 1px solid var(--line); cursor: pointer; }
tbody tr:hover, tbody tr.picked { background: var(--wash); }
td.best { font-weight: 700; }
.remark { margin-left: 8px; padding: 1px 7px; border-radius: 9px;
  background: #FDEFE6; color: #8A3B00; font-size: 12.5px; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 26px 34px; margin-top: 26px; }
figure { margin: 0; min-width: 0; overflow: hidden; }
.charts.wide { grid-template-columns: minmax(0, 1fr); }
figcaption { font-weight: 600; margin-bottom: 4px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 22px; margin: 0; }
dt { color: var(--quiet); } dd { margin: 0; }
pre { background: var(--wash); padding: 12px 16px; border-radius: 8px; white-space: pre-wrap;
  font: 13.5px/1.5 ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; }
h3 { font-size: 16px; margin: 26px 0 6px; }
.hint { color: var(--quiet); font-size: 13.5px; margin: 14px 0 0; }
@media (max-width: 900px) { .charts { grid-template-columns: minmax(0, 1fr); } body { padding: 28px 18px; } }
@media print { body { max-width: none; padding: 0; } figure, table, .card { break-inside: avoid; }
  .hint, .modebar { display: none; } .card { border-color: var(--line); } }
"""

SCRIPT = """
// A click on a row of a table keeps that optimizer's lines in the charts below it and fades the others.
document.querySelectorAll('section').forEach(section => {
  const rows = [...section.querySelectorAll('tbody tr')];
  rows.forEach(row => row.addEventListener('click', () => {
    row.classList.toggle('picked');
    const picked = new Set(rows.filter(r => r.classList.contains('picked')).map(r => r.dataset.label));
    section.querySelectorAll('.js-plotly-plot').forEach(chart => {
      const lines = chart.data.map((trace, index) => index).filter(index => chart.data[index].meta);
      if (!lines.length) return;
      const faded = lines.map(index => picked.size && !picked.has(chart.data[index].meta));
      const band = index => chart.data[index].fill === 'toself' ? 0.12 : 1;
      Plotly.restyle(chart, {opacity: lines.map((index, i) => band(index) * (faded[i] ? 0.1 : 1))}, lines);
    });
  }));
});
"""


def page(
    *, title: str, started: str, index: str, sections: str, how: str, machine: str, command: str, script: str
) -> str:
    """The page as HTML. `title` and `started` are plain text; the other parts are HTML (`script` is
    JavaScript).
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>gradstep race</title>
<style>{STYLE}</style>
<script>{script}</script>
</head>
<body>
<header><div class="brand">gradstep race · {escape(started)}</div><h1>{escape(title)}</h1>
<nav class="cards">{index}</nav>
<p class="hint">A click on a row of a table picks out that optimizer in the charts below.</p>
</header>
{sections}
<section id="how"><h2>How this was measured</h2>
<p class="lead">{how}</p>
<h3>The machine</h3><dl>{machine}</dl>
<h3>To run it again</h3><pre>{command}</pre>
</section>
<script>{SCRIPT}</script>
</body>
</html>
"""
