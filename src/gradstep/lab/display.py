"""Show a race while it runs: a live table on a terminal, plain lines elsewhere."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import final

from rich.console import Console, Group
from rich.live import Live
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

from gradstep.lab.charts import colours
from gradstep.lab.results import Header, Point, Record, Summary
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
        if isinstance(record, Header):
            self._every, self._seeds = max(1, record.steps // LINES), len(record.seeds)
            seeds = f"{self._seeds} seed{'s' * (self._seeds > 1)}"
            self._line(f"{record.task}: {len(record.contenders)} optimizers, {record.steps:,} steps, {seeds}")
        elif isinstance(record, Summary):
            self._line(
                f"{self._run(record)} {record.status} at step {record.steps:,}"
                f"  {TASKS[record.task].loss_word} {number(record.loss)}  step {seconds(record.step_seconds)}"
                f"  optimizer {seconds(record.optimizer_seconds)}"
            )
        elif record.step and record.step % self._every == 0:
            accuracy = f"  accuracy {percent(record.accuracy)}" if record.accuracy is not None else ""
            loss = f"{TASKS[record.task].loss_word} {number(record.loss)}"
            self._line(f"{self._run(record)} step {record.step:6,}  {loss}{accuracy}")

    def _run(self, record: Point | Summary) -> str:
        """Return the task, the optimizer and, if there are several, the seed."""
        seed = f" seed {record.seed} " if self._seeds > 1 else ""
        return f"{record.task:10} {record.contender:28}{seed}"

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


@final
class LiveDisplay(Display):
    """A table that is redrawn as contenders advance, over a bar for the whole race."""

    def __init__(self, console: Console) -> None:
        self._header: Header | None = None
        self._points: dict[str, Point] = {}
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
        if isinstance(record, Header):
            self._begin(record)
        elif isinstance(record, Point):
            previous = self._points.get(record.contender)
            steps = record.step - (previous.step if previous and previous.seed == record.seed else 0)
            self._points[record.contender] = record
            self._bar.advance(self._bar.task_ids[-1], steps)
        elif record.status != "finished":
            self._unfinished[record.contender] = record.status
            if self._header is not None:
                self._bar.advance(self._bar.task_ids[-1], self._header.steps - record.steps)

    def _begin(self, header: Header) -> None:
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
