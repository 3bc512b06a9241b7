"""The report of a race: one page that holds everything it needs, and the PNGs beside it."""

from html import escape
from pathlib import Path

from plotly.offline import get_plotlyjs

from gradstep.lab.charts import charts
from gradstep.lab.columns import columns
from gradstep.lab.page import page
from gradstep.lab.palette import colours
from gradstep.lab.pictures import save_pictures
from gradstep.lab.results import Header, Results
from gradstep.lab.standings import Standing, races_in, standings
from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.surface import Surface
from gradstep.lab.verdict import verdict
from gradstep.lab.words import UNKNOWN

FILE = "report.html"

HOW = """
Every contender starts from the same weights, sees the same batches in the same order, and draws the same
random numbers for dropout; nothing but the optimizer differs. Contenders advance side by side, a few steps a
turn, in an order that rotates, so that a machine that slows down slows all of them alike. A step is the
forward pass, the backward pass, the optimizer's step and the clearing of gradients; making the batch,
evaluating and recording are not timed. Times are medians over all steps but the first, which is given by
itself and may compile (once a session, in the race that first needs the kernel); the time axis starts after
it. State is what the optimizer keeps between steps, in bytes of its tensors.
"""
RATES = """
Where no learning rate was asked for, it is the task's own for that optimizer: the best of a coarse grid at
another seed. Other settings are the optimizer's defaults, but for those in its name.
"""


def write_report(folder: Path) -> Path:
    """Build the report and the pictures of the races recorded in `folder`; the report's file.

    Raises:
        FileNotFoundError, ValueError: see `races_in`.
    """
    races = races_in(folder)
    for race in races:
        save_pictures(race, folder)
    report = folder / FILE
    report.write_text(render(races), encoding="utf-8")
    return report


def render(races: list[Results]) -> str:
    """The whole page."""
    header = races[0].header
    return page(
        title=f"{len(header.contenders)} optimizers on {_listed([race.header.task for race in races])}",
        started=header.started[:16].replace("T", " "),
        index="".join(_index(race) for race in races),
        sections="".join(_section(race) for race in races),
        how=escape(HOW + RATES + _seeds(header)),
        machine="".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in header.machine.items()),
        command=escape(header.command),
        script=get_plotlyjs(),
    )


def _index(race: Results) -> str:
    """A card that leads to the task's section and says who won."""
    task = TASKS[race.header.task]
    judged = verdict(race)
    outcome = escape(judged.short)
    if judged.winner is not None:
        colour = colours(race.header.contenders)[judged.winner]
        outcome = f"{_swatch(colour)}<b>{escape(judged.winner)}</b></span><span>{escape(judged.short)}"
    return f'<a class="card" href="#{task.name}"><span>{escape(task.title)}</span><span>{outcome}</span></a>'


def _section(race: Results) -> str:
    task = TASKS[race.header.task]
    header = race.header
    figures = "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{chart}</figure>" for title, chart in charts(race).items()
    )
    wide = " wide" if isinstance(task, Surface) else ""
    facts = f"{header.parameters:,} parameters, {header.steps:,} steps"
    return (
        f'<section id="{task.name}"><h2>{escape(task.title)}</h2>'
        f'<p class="lead">{escape(task.description)} <span class="facts">{facts}.</span></p>'
        f'<p class="lead"><b>{escape(verdict(race).sentence)}</b></p>'
        f'{_table(race)}<div class="charts{wide}">{figures}</div></section>'
    )


def _table(race: Results) -> str:
    """The standings, the lowest loss first, the best of each column in bold where it is ahead beyond the noise."""
    table = standings(race)
    chosen = colours(race.header.contenders)
    shown = columns(TASKS[race.header.task], verdict(race).winner)
    best = [column.best(table) for column in shown]
    head = "".join(f"<th>{escape(column.title)}</th>" for column in shown)
    rows = []
    for index, one in enumerate(table):
        cells = "".join(
            f"<td{' class=best' if best[place][index] else ''}>{escape(column.text(one))}</td>"
            for place, column in enumerate(shown)
        )
        rows.append(
            f'<tr data-label="{escape(one.entry.label)}"><th>{_swatch(chosen[one.entry.label], one.is_peer)}'
            f"{escape(one.entry.label)}{_remark(one)}</th>"
            f"<td>{escape(one.entry.settings.get('lr', UNKNOWN))}</td>{cells}</tr>"
        )
    return (
        '<div class="scroll"><table><thead><tr><th>optimizer</th><th>learning rate</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _remark(one: Standing) -> str:
    return "" if one.status == "finished" else f'<span class="remark">{escape(one.status)}</span>'


def _swatch(colour: str, dashed: bool = False) -> str:
    return f'<i class="swatch{" dashed" if dashed else ""}" style="--colour:{colour}"></i>'


def _seeds(header: Header) -> str:
    count = len(header.seeds)
    if count == 1:
        return (
            f"\nOne run each, at seed {header.seeds[0]}: how much is chance is not known, so nobody is called the "
            "winner."
        )
    seeds = _listed([str(seed) for seed in header.seeds])
    return (
        f"\n{count} runs each, at seeds {seeds}: losses are means, ± half the distance between the best "
        "and the worst run; bands in charts reach from the one to the other. A winner is ahead of every other at "
        "every seed, by more than its lead varies; a time is bold if its slowest run beats all others' fastest."
    )


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
