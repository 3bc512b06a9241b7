"""The race on a terminal: live while it runs, the list of tasks and optimizers, and the outcome of a session."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from gradstep.lab.contenders import CLASSES, DEFAULT_LINEUP, TORCH_CONTENDERS, base_name, updates_matrices_only
from gradstep.lab.report import colours
from gradstep.lab.results import CurvePoint, RaceHeader, RaceResults, Record, RunSummary, SessionOutcome
from gradstep.lab.standings import StandingsColumn, judge_race, list_columns, races_in, standings
from gradstep.lab.tasks import TASKS
from gradstep.report.markup import COLOURS
from gradstep.report.words import UNKNOWN, number, percent, seconds

LINES = 4
"""Number of plain lines for each contender before its last."""


class Display(ABC):
    """Shows the records of a race: called with each record as it comes, inside `with display.open():`."""

    @abstractmethod
    def open(self) -> AbstractContextManager[object]:
        """Return a context in which the display is shown."""

    @abstractmethod
    def __call__(self, record: Record) -> None:
        """Show a record."""


@final
class PlainDisplay(Display):
    """A few lines for each contender, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._every = 1
        self._seeds = 1

    def open(self) -> AbstractContextManager[object]:
        return nullcontext()

    def __call__(self, record: Record) -> None:
        if isinstance(record, RaceHeader):
            self._every, self._seeds = max(1, record.steps // LINES), len(record.seeds)
            seeds = f"{self._seeds} seed{'s' * (self._seeds > 1)}"
            self._line(f"{record.task}: {len(record.contenders)} optimizers, {record.steps:,} steps, {seeds}")
        elif isinstance(record, RunSummary):
            self._line(
                f"{self._run(record)} {record.status} at step {record.steps:,}"
                f"  {TASKS[record.task].loss_word} {number(record.loss)}  step {seconds(record.step_seconds)}"
                f"  optimizer {seconds(record.optimizer_seconds)}"
            )
        elif record.step and record.step % self._every == 0:
            accuracy = f"  accuracy {percent(record.accuracy)}" if record.accuracy is not None else ""
            loss = f"{TASKS[record.task].loss_word} {number(record.loss)}"
            self._line(f"{self._run(record)} step {record.step:6,}  {loss}{accuracy}")

    def _run(self, record: CurvePoint | RunSummary) -> str:
        """Return the task, the optimizer and, if there are several, the seed."""
        seed = f" seed {record.seed} " if self._seeds > 1 else ""
        return f"{record.task:10} {record.contender:28}{seed}"

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


@final
class LiveDisplay(Display):
    """A table that is redrawn as contenders advance, over a bar for the whole race."""

    def __init__(self, console: Console) -> None:
        self._header: RaceHeader | None = None
        self._points: dict[str, CurvePoint] = {}
        self._unfinished: dict[str, str] = {}
        self._colours: dict[str, str] = {}
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._draw)

    def open(self) -> AbstractContextManager[object]:
        return self._live

    def __call__(self, record: Record) -> None:
        if isinstance(record, RaceHeader):
            self._begin(record)
        elif isinstance(record, CurvePoint):
            previous = self._points.get(record.contender)
            steps = record.step - (previous.step if previous and previous.seed == record.seed else 0)
            self._points[record.contender] = record
            self._bar.advance(self._bar.task_ids[-1], steps)
        elif record.status != "finished":
            self._unfinished[record.contender] = record.status
            if self._header is not None:
                self._bar.advance(self._bar.task_ids[-1], self._header.steps - record.steps)

    def _begin(self, header: RaceHeader) -> None:
        if self._header is not None:
            # The previous race stays on the screen above the new one.
            self._live.console.print(self._table())
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._header, self._points, self._unfinished = header, {}, {}
        self._colours = colours(header.contenders)
        self._bar.add_task(header.task, total=header.steps * len(header.contenders) * len(header.seeds))

    def _draw(self) -> Group:
        return Group(self._table(), self._bar)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        header = self._header
        seeds = sorted({point.seed for point in self._points.values()})
        several = header is not None and len(header.seeds) > 1 and seeds
        table.add_column((header.task if header else "") + (f", seed {seeds[-1]}" if several else ""))
        for title in ("lr", "step", "training", "held out", "accuracy", "trained for"):
            table.add_column(title, justify="right")
        table.add_column("")
        best = min((point.loss for point in self._points.values() if point.loss is not None), default=None)
        for entry in header.contenders if header else ():
            name = Text("● ", style=COLOURS[self._colours[entry.label]][0]) + Text(entry.label, style="default")
            point = self._points.get(entry.label)
            if point is None:
                table.add_row(name, entry.settings.get("lr", UNKNOWN))
                continue
            table.add_row(
                name,
                entry.settings.get("lr", UNKNOWN),
                f"{point.step:,}",
                number(point.train_loss),
                Text(number(point.loss), style="bold" if point.loss is not None and point.loss == best else ""),
                percent(point.accuracy),
                seconds(point.seconds),
                self._unfinished.get(entry.label, ""),
            )
        return table


def display_for(console: Console) -> Display:
    """Return the live table for a terminal, plain lines for a log or a pipe."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def _make_table(title: str) -> Table:
    return Table(box=None, title=title, title_justify="left", title_style="bold", pad_edge=False)


def listing() -> RenderableType:
    """Return the tasks, and the optimizers with their learning rate for each task."""
    tasks = _make_table("Tasks")
    tasks.add_column("name")
    tasks.add_column("steps", justify="right")
    tasks.add_column("quick", justify="right")
    tasks.add_column("what is trained")
    for task in TASKS.values():
        tasks.add_row(
            task.name, f"{task.steps:,}", f"{task.quick_steps:,}" if task.quick_steps else UNKNOWN, task.description
        )
    optimizers = _make_table("\nOptimizers, with the learning rate each task gives them")
    optimizers.add_column("name")
    for name in TASKS:
        optimizers.add_column(name, justify="right")
    optimizers.add_column("torch's own")
    for name in CLASSES:
        if name in TORCH_CONTENDERS:
            continue
        none = UNKNOWN if updates_matrices_only(CLASSES[name]) else "default"
        rates = (task.learning_rate(name) for task in TASKS.values())
        peers = [peer for peer in TORCH_CONTENDERS if base_name(peer) == name]
        optimizers.add_row(name, *(none if rate is None else f"{rate:g}" for rate in rates), *peers)
    line_up = ",".join(map(str, DEFAULT_LINEUP))
    return Group(tasks, optimizers, Text(f"\nRaced by default: {line_up}", overflow="fold"))


def closing(outcome: SessionOutcome) -> RenderableType:
    """Return the standings of each race, and where the report is."""
    if outcome.report is None:
        return Text(f"Interrupted before anything was raced. Folder: {outcome.folder}")
    parts: list[RenderableType] = []
    for race in races_in(outcome.folder):
        parts += [_Standings(race), Text(judge_race(race).sentence, style="bold")]
    if outcome.interrupted:
        parts.append(Text("\nInterrupted: what was done so far is kept.", style="bold"))
    parts.append(Text(f"\nReport: {outcome.report}"))
    return Group(*parts)


@final
class _Standings:
    """The standings of one race, with as many columns as the terminal has room for, the first ones first."""

    def __init__(self, race: RaceResults) -> None:
        self._race = race

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = list_columns(TASKS[self._race.header.task], judge_race(self._race).winner)
        count = len(shown)
        while count > 1 and _width(console, options, _standings(self._race, shown[:count])) > options.max_width:
            count -= 1
        yield _standings(self._race, shown[:count])
        if hidden := ", ".join(column.title for column in shown[count:]):
            yield Text(f"Not shown here, but in the report and in a wider terminal: {hidden}.", style="dim")


def _width(console: Console, options: ConsoleOptions, table: Table) -> int:
    """Return the columns of characters that a table needs to show every cell in full."""
    return Measurement.get(console, options.update(max_width=10_000), table).maximum


def _standings(race: RaceResults, shown: Sequence[StandingsColumn]) -> Table:
    """Return the standings of one race, the lowest loss first; a value ahead beyond the noise is bold."""
    task = TASKS[race.header.task]
    rows = standings(race)
    best = [column.best(rows) for column in shown]
    chosen = colours(race.header.contenders)
    table = _make_table(f"\n{task.title}")
    table.add_column("optimizer", no_wrap=True)
    for title in ("lr", *(column.title for column in shown)):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for index, one in enumerate(rows):
        name = Text("● ", style=COLOURS[chosen[one.entry.label]][0]) + Text(one.entry.label, style="default")
        cells = (Text(column.text(one), style="bold" if best[at][index] else "") for at, column in enumerate(shown))
        remark = "" if one.status == "finished" else one.status
        table.add_row(name, one.entry.settings.get("lr", UNKNOWN), *cells, remark)
    return table
