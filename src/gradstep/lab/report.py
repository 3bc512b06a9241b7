"""The report of a race: one page that needs no other file, its pictures, and their files beside it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from gradstep.lab.contenders import base_name
from gradstep.lab.results import ContenderEntry, RaceHeader, RaceResults
from gradstep.lab.standings import Curve, Standing, curve, judge_race, list_columns, path, races_in, standings
from gradstep.lab.task import Task
from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.surface import Surface, relief
from gradstep.report import (
    Bar,
    BarChart,
    Line,
    LineChart,
    Picture,
    Row,
    SurfaceChart,
    SurfacePath,
    cards,
    facts,
    figures,
    page,
    section,
    swatch,
    table,
)
from gradstep.report.markup import Child, Markup, join, tag
from gradstep.report.scales import Scale
from gradstep.report.words import TINY, UNKNOWN, number, percent, seconds, size

CONTENDER_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "sgd": "black",
        "rmsprop": "green",
        "adam": "blue",
        "adamw": "vermilion",
        "nadam": "sky",
        "radam": "wine",
        "lion": "amber",
        "adafactor": "pink",
        "adagrad": "olive",
        "adamax": "indigo",
        "adadelta": "forest",
    }
)
"""Names of :data:`gradstep.report.markup.CONTENDER_COLOURS`."""
SPARE = ("magenta", "teal", "brown", "steel", "rose", "petrol", "sand", "grey")
"""For optimizers without an entry above, and for one that races several times with different settings."""


def colours(entries: Iterable[ContenderEntry]) -> dict[str, str]:
    """Return a colour for each contender, by label. torch's class has the colour of gradstep's with equal settings."""
    chosen: dict[str, str] = {}
    by_meaning: dict[tuple[str, str], str] = {}
    spare = 0
    for entry in entries:
        settings = {key: value for key, value in entry.settings.items() if key != "engine"}
        name = base_name(entry.name)
        meaning = (name, repr(sorted(settings.items())))
        if meaning not in by_meaning:
            own = CONTENDER_COLOURS.get(name)
            if own is None or own in by_meaning.values():
                own = SPARE[spare % len(SPARE)]
                spare += 1
            by_meaning[meaning] = own
        chosen[entry.label] = by_meaning[meaning]
    return chosen


FLOOR = 1e-9
"""Lowest end of a logarithmic axis, as a share of the starting loss."""
HEADROOM = 1.15
"""Top of a chart, as a multiple of the starting loss; curves that explode leave the chart there."""
LOG_AXIS_RATIO = 100
"""Final losses that differ by a larger factor are drawn on a logarithmic axis."""
REST = "pale"
"""Colour of the forward and backward pass."""


def paths(results: RaceResults) -> SurfaceChart | None:
    """Return the paths over a surface, the best first; None for a task that is not a surface."""
    task = TASKS[results.header.task]
    if not isinstance(task, Surface):
        return None
    chosen = colours(results.header.contenders)
    ground = relief(task, points=72)
    ways = [
        SurfacePath(
            one.entry.label,
            "diverged" if one.diverged else number(one.loss),
            chosen[one.entry.label],
            path(results, one.entry.label),
        )
        for one in standings(results)
    ]
    title = f"The paths, each with its last {task.loss_word}"
    return SurfaceChart(title, "x", "y", ground.x, ground.y, ground.z, ways, task.minimum)


def draw_race(results: RaceResults) -> dict[str, Picture]:
    """Return every other picture of a race, by its name in the file."""
    task = TASKS[results.header.task]
    shown: dict[str, Picture] = {"loss": _losses(results, over_time=False), "final": _final(results)}
    if not isinstance(task, Surface):
        shown |= {
            "loss-over-time": _losses(results, over_time=True),
            "time": _times(results),
            "memory": _draw_memory(results),
        }
    return shown


def _losses(results: RaceResults, over_time: bool) -> LineChart:
    """Draw the loss over steps, or over seconds of training; the best first."""
    task = TASKS[results.header.task]
    chosen = colours(results.header.contenders)
    curves = {one.entry.label: curve(results, one.entry.label, lambda point: point.loss) for one in standings(results)}
    peers = {one.entry.label for one in standings(results) if one.is_peer}
    band = len(results.header.seeds) > 1
    lines = [
        Line(
            label,
            course.seconds if over_time else course.steps,
            course.mean,
            chosen[label],
            low=course.low if band else (),
            high=course.high if band else (),
            dashed=label in peers,
        )
        for label, course in curves.items()
    ]
    return LineChart(
        f"{task.loss_word.capitalize()} over {'time' if over_time else 'steps'}",
        "seconds of training" if over_time else "steps",
        task.loss_name + (": mean and range of the seeds" if band else ""),
        lines,
        y=_window(list(curves.values()), task),
        tall=330,
    )


def _window(curves: Sequence[Curve], task: Task) -> Scale:
    """Return the loss axis."""
    start = max((one.mean[0] for one in curves if one.mean), default=1.0) or 1.0
    least = min((_depth(one) for one in curves if one.mean), default=0.0)
    if task.log_loss:
        return Scale(max(least, start * FLOOR) / HEADROOM, start * HEADROOM**2, log=True)
    margin = 0.05 * max(start - least, 0.1 * start)
    return Scale(least - margin, start + margin)


def _depth(course: Curve) -> float:
    """Return the tenth percentile of a curve's second half, so that a brief dip does not count."""
    later = sorted(course.low[len(course.low) // 2 :])
    return later[len(later) // 10]


def _final(results: RaceResults) -> BarChart:
    """Draw the last loss of each contender with its spread, and write the time of a step beside it."""
    task = TASKS[results.header.task]
    chosen = colours(results.header.contenders)
    bars = []
    for one in standings(results):
        length = max(one.loss or 0.0, TINY if task.log_loss else 0.0)
        losses = [max(loss, TINY if task.log_loss else loss) for loss in one.losses.values()]
        bars.append(
            Bar(
                one.entry.label,
                [(0.0 if one.diverged or one.loss is None else length, chosen[one.entry.label])],
                f"{one.loss_text}, {seconds(one.step)} a step",
                ends=(min(losses), max(losses)) if len(losses) > 1 and not one.diverged else None,
            )
        )
    title = f"Final {task.loss_word}, and the time of a step"
    x_title = f"{task.loss_name}, after {results.header.steps:,} steps: shorter is better"
    lengths = [bar.whole for bar in bars if bar.whole]
    return BarChart(
        title, x_title, bars, x_log=task.log_loss and max(lengths, default=1) > LOG_AXIS_RATIO * min(lengths, default=1)
    )


def _times(results: RaceResults) -> BarChart:
    chosen = colours(results.header.contenders)
    bars = []
    timed = [one for one in standings(results) if one.step is not None and one.optimizer is not None]
    for one in sorted(timed, key=lambda one: one.step or 0.0):
        step, part = 1e3 * (one.step or 0.0), 1e3 * (one.optimizer or 0.0)
        ends = (1e3 * one.step_range[0], 1e3 * one.step_range[1]) if one.step_range else None
        text = f"{seconds(one.optimizer)} of {one.step_text}, {percent(one.share)}"
        bars.append(Bar(one.entry.label, [(part, chosen[one.entry.label]), (step - part, REST)], text, ends=ends))
    title = "Where the time of a step goes"
    return BarChart(title, "ms, median: the optimizer in colour, forward and backward pass in grey", bars)


def _draw_memory(results: RaceResults) -> BarChart:
    """Draw the bytes of state that each contender keeps for a parameter, the fewest first."""
    chosen = colours(results.header.contenders)
    bars = [
        Bar(
            one.entry.label,
            [(one.bytes_per_parameter, chosen[one.entry.label])],
            f"{one.bytes_per_parameter:.2f} B, {size(one.state_bytes, binary=True)} in all",
        )
        for one in sorted(standings(results), key=lambda one: one.state_bytes)
    ]
    return BarChart("Memory the optimizer keeps", "bytes of state for each parameter", bars)


REPORT_FILE = "report.html"

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


def write_race_report(folder: Path) -> Path:
    """Write the report and the pictures of the races recorded in `folder`; return the report's file.

    Raises:
        FileNotFoundError, ValueError: see `races_in`.
    """
    races = races_in(folder)
    for race in races:
        ways = paths(race)
        for name, picture in (draw_race(race) | ({"path": ways} if ways else {})).items():
            picture.save(folder / f"{race.header.task}-{name}.svg")
    report = folder / REPORT_FILE
    report.write_text(render(races), encoding="utf-8")
    return report


def render(races: list[RaceResults]) -> str:
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


def _card(race: RaceResults) -> tuple[Child, Child, str]:
    """Return the winner, the task, and a link to the task's section."""
    task = TASKS[race.header.task]
    outcome = judge_race(race)
    if outcome.winner is None:
        return outcome.short, task.title, f"#{task.name}"
    mark = swatch(colours(race.header.contenders)[outcome.winner])
    return join([mark, outcome.winner]), f"{task.title}: {outcome.short}", f"#{task.name}"


def _section(race: RaceResults) -> Markup:
    task = TASKS[race.header.task]
    header = race.header
    begin = f", from ({header.start[0]:g}, {header.start[1]:g})" if header.start else ""
    clipped = f", gradients clipped to norm {header.clip:g}" if header.clip is not None else ""
    about = f"{task.description} {header.parameters:,} parameters, {header.steps:,} steps{begin}{clipped}."
    ways = paths(race)
    return section(
        task.title,
        tag("p", tag("b", judge_race(race).sentence)),
        tag("p", about),
        _table(race),
        figures([ways], wide=True) if ways else "",
        figures(draw_race(race).values()),
        id_=task.name,
    )


def _table(race: RaceResults) -> Markup:
    """Return the standings, the lowest loss first; the best of a column is bold if it is ahead beyond the noise."""
    ranked = standings(race)
    chosen = colours(race.header.contenders)
    shown = list_columns(TASKS[race.header.task], judge_race(race).winner)
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


def _seeds(header: RaceHeader) -> str:
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
