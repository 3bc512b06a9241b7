"""The verdict as a table on a terminal; needs rich, of the extra ``lab``."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradstep.judge.verdict import SIGNS, Outcome, Status, Verdict, diagnosis, headline

_COLOURS = {Outcome.PASS: "green", Outcome.FAIL: "red", Outcome.ADVICE: "yellow", Outcome.SKIPPED: "dim"}
_RESULT = {Status.PASSED: "bold green", Status.DIFFERS: "bold yellow"}


def table(verdict: Verdict) -> RenderableType:
    """Return the whole verdict for rich to print: probes, result, diagnosis, notes."""
    grid = Table(box=None, pad_edge=False, show_header=bool(verdict.probes))
    grid.add_column("")
    grid.add_column("probe", no_wrap=True)
    grid.add_column("what it is about", overflow="fold")
    grid.add_column("found", overflow="fold")
    for probe in verdict.probes:
        style = _COLOURS[probe.outcome]
        found = probe.detail
        if probe.look_for and probe.outcome in (Outcome.FAIL, Outcome.ADVICE):
            found += f"; look for {probe.look_for}"
        grid.add_row(Text(SIGNS[probe.outcome], style), Text(probe.name, style), probe.shows, Text(found))
    parts: list[RenderableType] = [grid] if verdict.probes else []
    head = Text(headline(verdict), _RESULT.get(verdict.status, "bold red"))
    parts.append(Padding(head, (1, 0, 0, 0)) if parts else head)
    parts += [Padding(Text(line), (0, 0, 0, 2)) for line in diagnosis(verdict)]
    parts += [Padding(Text(f"Note: {note}", "dim"), (0, 0, 0, 2)) for note in verdict.notes]
    if verdict.seconds:
        parts.append(Text(f"{verdict.seconds:.1f} s", "dim"))
    return Group(*parts)
