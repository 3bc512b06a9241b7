"""Draw the pictures of a race. An optimizer has the same colour in each."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from gradstep.lab.contenders import base_name
from gradstep.lab.results import Entry, Results
from gradstep.lab.standings import Curve, curve, path, standings
from gradstep.lab.task import Task
from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.surface import Surface, relief
from gradstep.report import Bar, BarChart, Line, LineChart, Picture, SurfaceChart, Trajectory
from gradstep.report.scales import Scale
from gradstep.report.words import TINY, number, percent, seconds, size

COLOURS: Mapping[str, str] = MappingProxyType(
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
"""Names of :data:`gradstep.report.markup.COLOURS`."""
SPARE = ("magenta", "teal", "brown", "steel", "rose", "petrol", "sand", "grey")
"""For optimizers without an entry above, and for one that races several times with different settings."""


def colours(entries: Iterable[Entry]) -> dict[str, str]:
    """Return a colour for each contender, by label. torch's class has the colour of gradstep's with equal settings."""
    chosen: dict[str, str] = {}
    by_meaning: dict[tuple[str, str], str] = {}
    spare = 0
    for entry in entries:
        settings = {key: value for key, value in entry.settings.items() if key != "engine"}
        name = base_name(entry.name)
        meaning = (name, repr(sorted(settings.items())))
        if meaning not in by_meaning:
            own = COLOURS.get(name)
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
MANY = 100
"""Final losses that differ by a larger factor are drawn on a logarithmic axis."""
REST = "pale"
"""Colour of the forward and backward pass."""


def paths(results: Results) -> SurfaceChart | None:
    """Return the paths over a surface, the best first; None for a task that is not a surface."""
    task = TASKS[results.header.task]
    if not isinstance(task, Surface):
        return None
    chosen = colours(results.header.contenders)
    ground = relief(task, points=72)
    ways = [
        Trajectory(
            one.entry.label,
            "diverged" if one.diverged else number(one.loss),
            chosen[one.entry.label],
            path(results, one.entry.label),
        )
        for one in standings(results)
    ]
    title = f"The paths, each with its last {task.loss_word}"
    return SurfaceChart(title, "x", "y", ground.x, ground.y, ground.z, ways, task.minimum)


def charts(results: Results) -> dict[str, Picture]:
    """Return every other picture of a race, by its name in the file."""
    task = TASKS[results.header.task]
    shown: dict[str, Picture] = {"loss": _losses(results, over_time=False), "final": _final(results)}
    if not isinstance(task, Surface):
        shown |= {
            "loss-over-time": _losses(results, over_time=True),
            "time": _times(results),
            "memory": _memory(results),
        }
    return shown


def _losses(results: Results, over_time: bool) -> LineChart:
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


def _final(results: Results) -> BarChart:
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
        title, x_title, bars, x_log=task.log_loss and max(lengths, default=1) > MANY * min(lengths, default=1)
    )


def _times(results: Results) -> BarChart:
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


def _memory(results: Results) -> BarChart:
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
