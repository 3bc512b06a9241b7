"""Write the report of a race: one page that needs no other file, and its pictures as SVG files beside it."""

from pathlib import Path

from gradstep.lab.charts import charts, colours, paths
from gradstep.lab.results import Header, Results
from gradstep.lab.standings import Standing, columns, races_in, standings, verdict
from gradstep.lab.tasks import TASKS
from gradstep.report import Row, cards, facts, figures, page, section, swatch, table
from gradstep.report.markup import Child, Markup, join, tag
from gradstep.report.words import UNKNOWN

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
    """Write the report and the pictures of the races recorded in `folder`; return the report's file.

    Raises:
        FileNotFoundError, ValueError: see `races_in`.
    """
    races = races_in(folder)
    for race in races:
        ways = paths(race)
        for name, picture in (charts(race) | ({"path": ways} if ways else {})).items():
            picture.save(folder / f"{race.header.task}-{name}.svg")
    report = folder / FILE
    report.write_text(render(races), encoding="utf-8")
    return report


def render(races: list[Results]) -> str:
    """Return the text of the page."""
    header = races[0].header
    return page(
        f"{len(header.contenders)} optimizers on {_join_words([race.header.task for race in races])}",
        f"gradstep race · {header.started[:16].replace('T', ' ')}",
        cards((_card(race) for race in races), roomy=True),
        tag("p", "A click on a row of a table picks out that optimizer in the pictures below it.", class_="quiet"),
        *(_section(race) for race in races),
        section(
            "How this was measured",
            tag("p", HOW + RATES + _seeds(header)),
            tag("h3", "The machine"),
            facts(header.machine.items()),
            tag("h3", "To run it again"),
            tag("pre", header.command),
        ),
    )


def _card(race: Results) -> tuple[Child, Child, str]:
    """Return the winner, the task, and a link to the task's section."""
    task = TASKS[race.header.task]
    outcome = verdict(race)
    if outcome.winner is None:
        return outcome.short, task.title, f"#{task.name}"
    mark = swatch(colours(race.header.contenders)[outcome.winner])
    return join([mark, outcome.winner]), f"{task.title}: {outcome.short}", f"#{task.name}"


def _section(race: Results) -> Markup:
    task = TASKS[race.header.task]
    header = race.header
    begin = f", from ({header.start[0]:g}, {header.start[1]:g})" if header.start else ""
    clipped = f", gradients clipped to norm {header.clip:g}" if header.clip is not None else ""
    about = f"{task.description} {header.parameters:,} parameters, {header.steps:,} steps{begin}{clipped}."
    ways = paths(race)
    return section(
        task.title,
        tag("p", tag("b", verdict(race).sentence)),
        tag("p", about),
        _table(race),
        figures([ways], wide=True) if ways else "",
        figures(charts(race).values()),
        id_=task.name,
    )


def _table(race: Results) -> Markup:
    """Return the standings, the lowest loss first; the best of a column is bold if it is ahead beyond the noise."""
    ranked = standings(race)
    chosen = colours(race.header.contenders)
    shown = columns(TASKS[race.header.task], verdict(race).winner)
    best = [column.best(ranked) for column in shown]
    rows = [
        Row(
            [
                _name(one, chosen[one.entry.label]),
                *(column.text(one) for column in shown),
                one.entry.settings.get("lr", UNKNOWN),
            ],
            [False, *(marked[index] for marked in best), False],
            one.entry.label,
        )
        for index, one in enumerate(ranked)
    ]
    return table(["optimizer", *(column.title for column in shown), "learning rate"], rows)


def _name(one: Standing, colour: str) -> Markup:
    remark = [] if one.status == "finished" else [tag("span", one.status, class_="remark")]
    return join([swatch(colour, dashed=one.is_peer), one.entry.label, *remark])


def _seeds(header: Header) -> str:
    count = len(header.seeds)
    if count == 1:
        return (
            f"\nOne run each, at seed {header.seeds[0]}: how much is chance is not known, so nobody is called the "
            "winner."
        )
    seeds = _join_words([str(seed) for seed in header.seeds])
    return (
        f"\n{count} runs each, at seeds {seeds}: losses are means, ± half the distance between the best "
        "and the worst run; bands in charts reach from the one to the other. A winner is ahead of every other at "
        "every seed, by more than its lead varies; a time is bold if its slowest run beats all others' fastest."
    )


def _join_words(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
