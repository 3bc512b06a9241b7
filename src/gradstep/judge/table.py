"""The verdict as a table on a terminal; needs rich, of the extra ``lab``."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradstep.judge.verdict import SIGNS, Outcome, Probe, Status, Verdict, count_passed, describe_diagnosis, headline

_COLOURS = {Outcome.PASS: "green", Outcome.FAIL: "red", Outcome.ADVICE: "yellow", Outcome.SKIPPED: "dim"}
_RESULT = {Status.PASSED: "bold green", Status.DIFFERS: "bold yellow"}


def draw_verdict(verdict: Verdict, *, every: bool = True) -> RenderableType:
    """Return the verdict for rich to print: result, diagnosis and notes first, then the probes.

    Without ``every`` only the probes that did not pass are shown, and how many did.
    """
    parts: list[RenderableType] = [Text(headline(verdict), _RESULT.get(verdict.status, "bold red"))]
    parts += [Padding(Text(line), (0, 0, 0, 2)) for line in describe_diagnosis(verdict)]
    parts += [Padding(Text(f"Note: {note}", "dim"), (0, 0, 0, 2)) for note in verdict.notes]
    shown = [p for p in verdict.probes if every or p.outcome is not Outcome.PASS]
    if shown:
        parts.append(Padding(_list_probes(shown), (1, 0, 0, 0)))
    ends = [f"{count_passed(verdict)}; --all shows them too"] if len(shown) < len(verdict.probes) else []
    if verdict.seconds:
        ends.append(f"{verdict.seconds:.1f} s")
    if ends:
        parts.append(Text(", ".join(ends), "dim"))
    return Group(*parts)


def _list_probes(probes: Sequence[Probe]) -> Table:
    grid = Table(box=None, pad_edge=False)
    grid.add_column("")
    grid.add_column("probe", no_wrap=True)
    grid.add_column("what it is about", overflow="fold")
    grid.add_column("found", overflow="fold")
    for probe in probes:
        style = _COLOURS[probe.outcome]
        found = probe.detail
        if probe.look_for and probe.outcome in (Outcome.FAIL, Outcome.ADVICE):
            found += f"; look for {probe.look_for}"
        grid.add_row(Text(SIGNS[probe.outcome], style), Text(probe.name, style), probe.shows, Text(found))
    return grid
