"""Print the list of tasks and optimizers, and the outcome of a session."""

from collections.abc import Sequence
from typing import final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from gradstep.lab.charts import colours
from gradstep.lab.contenders import CLASSES, DEFAULT, PEERS, base_name
from gradstep.lab.results import Results
from gradstep.lab.session import Outcome
from gradstep.lab.standings import Column, columns, races_in, standings, verdict
from gradstep.lab.tasks import TASKS
from gradstep.report.markup import COLOURS
from gradstep.report.words import UNKNOWN


def listing() -> RenderableType:
    """Return the tasks, and the optimizers with their learning rate for each task."""
    tasks = Table(box=None, title="Tasks", title_justify="left", title_style="bold", pad_edge=False)
    tasks.add_column("name")
    tasks.add_column("steps", justify="right")
    tasks.add_column("quick", justify="right")
    tasks.add_column("what is trained")
    for task in TASKS.values():
        tasks.add_row(
            task.name, f"{task.steps:,}", f"{task.quick_steps:,}" if task.quick_steps else UNKNOWN, task.description
        )
    optimizers = Table(
        box=None,
        title="\nOptimizers, with the learning rate each task gives them",
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    optimizers.add_column("name")
    for name in TASKS:
        optimizers.add_column(name, justify="right")
    optimizers.add_column("torch's own")
    for name in CLASSES:
        if name in PEERS:
            continue
        rates = (task.learning_rate(name) for task in TASKS.values())
        peers = [peer for peer in PEERS if base_name(peer) == name]
        optimizers.add_row(name, *("default" if rate is None else f"{rate:g}" for rate in rates), *peers)
    line_up = ",".join(map(str, DEFAULT))
    return Group(tasks, optimizers, Text(f"\nRaced by default: {line_up}", overflow="fold"))


def closing(outcome: Outcome) -> RenderableType:
    """Return the standings of each race, and where the report is."""
    if outcome.report is None:
        return Text(f"Interrupted before anything was raced. Folder: {outcome.folder}")
    parts: list[RenderableType] = []
    for race in races_in(outcome.folder):
        parts += [_Standings(race), Text(verdict(race).sentence, style="bold")]
    if outcome.interrupted:
        parts.append(Text("\nInterrupted: what was done so far is kept.", style="bold"))
    parts.append(Text(f"\nReport: {outcome.report}"))
    return Group(*parts)


@final
class _Standings:
    """The standings of one race, with as many columns as the terminal has room for, the first ones first."""

    def __init__(self, race: Results) -> None:
        self._race = race

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = columns(TASKS[self._race.header.task], verdict(self._race).winner)
        count = len(shown)
        while count > 1 and _width(console, options, _standings(self._race, shown[:count])) > options.max_width:
            count -= 1
        yield _standings(self._race, shown[:count])
        if hidden := ", ".join(column.title for column in shown[count:]):
            yield Text(f"Not shown here, but in the report and in a wider terminal: {hidden}.", style="dim")


def _width(console: Console, options: ConsoleOptions, table: Table) -> int:
    """Return the columns of characters that a table needs to show every cell in full."""
    return Measurement.get(console, options.update(max_width=10_000), table).maximum


def _standings(race: Results, shown: Sequence[Column]) -> Table:
    """Return the standings of one race, the lowest loss first; a value ahead beyond the noise is bold."""
    task = TASKS[race.header.task]
    rows = standings(race)
    best = [column.best(rows) for column in shown]
    chosen = colours(race.header.contenders)
    table = Table(box=None, title=f"\n{task.title}", title_justify="left", title_style="bold", pad_edge=False)
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
