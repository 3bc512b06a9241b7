"""Measure everything that gradstep's core claims, and write it to benchmarks/results/.

python benchmarks/core.py                 all parts, about ten minutes
python benchmarks/core.py speed memory    some of them; the table is made from what there is
python benchmarks/core.py --table         only the table again
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, final

import growth
import memory
import start
from rich.console import Console

from gradstep.lab.bench import DEFAULT, FUSED, MEMORY, REPEAT, Results, Row, cases, rule_names
from gradstep.lab.bench_busy import Neighbours
from gradstep.lab.bench_chart import save_chart
from gradstep.lab.bench_table import NOTE, markdown, watched
from gradstep.lab.machine import describe
from gradstep.lab.words import percent, seconds

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TABLE = RESULTS / "core.md"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


@final
@dataclass(frozen=True)
class Bar:
    """A claim: what was measured, what it has to be, and the command that shows it."""

    claim: str
    goal: str
    measured: str
    met: bool
    command: str


# -- measuring --------------------------------------------------------------------------------------------------


def _file(part: str) -> Path:
    return RESULTS / f"{part}.json"


def _save(part: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    neighbours, found = Neighbours(), measure()
    known = {
        "machine": describe(),
        "date": date.today().isoformat(),
        "others": neighbours.share(),
        **found,
    }
    _file(part).write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


def measure_speed() -> None:
    results = watched(cases(rule_names("all")), REPEAT, Console())
    results.save(_file("speed"))
    save_chart(results, RESULTS / "speed.png")


def measure_memory() -> None:
    _save("memory", lambda: {"parameters": memory.PARAMETERS, "bytes": memory.measure()})


def measure_start() -> None:
    _save("start", lambda: {"seconds": start.measure()})


def measure_growth() -> None:
    growth.save_chart(_save("growth", growth.measure), RESULTS / "growth.png")


PARTS: dict[str, Callable[[], None]] = {
    "speed": measure_speed,
    "memory": measure_memory,
    "start": measure_start,
    "growth": measure_growth,
}

# -- the table --------------------------------------------------------------------------------------------------


def _at_least(claim: str, goal: float, value: float | None, command: str) -> Bar:
    return Bar(claim, f"≥ {goal:g}×", f"{value:.2f}×", value >= goal, command) if value else _missing(claim)


def _missing(claim: str) -> Bar:
    return Bar(claim, "", "not measured", False, "")


def speed_bars() -> list[Bar]:
    """Ratios of medians."""
    rows = {row.title: row for row in Results.load_from(_file("speed")).rows}
    command = "gradstep bench"

    def ratio(title: str, rival: str) -> float | None:
        return rows[title].ratio(rival)

    large, many, small = "one tensor of 25 M", "2,000 tensors of 64×64", "1,000 tensors of 64"
    bars = [
        _at_least(f"AdamW against torch fused, {work}", goal, ratio(f"AdamW, {work}", FUSED), command)
        for work, goal in ((large, 1.0), (many, 2.5), (small, 8.0))
    ]
    bars += [
        _at_least(f"AdamW against torch's default, {work}", 5.0, ratio(f"AdamW, {work}", DEFAULT), command)
        for work in (large, many, small)
    ]
    share = ratio(f"AdamW, {large}", MEMORY) or 0.0
    bars.append(Bar(f"share of memory speed, {large}", "≥ 90 %", f"{100 * share:.1f} %", share >= 0.9, command))
    bars += [
        _at_least(
            f"`step(max_grad_norm=1.0)` against `clip_grad_norm_` and torch fused, {work}",
            goal, ratio(f"AdamW and clipping, {work}", FUSED), command,
        )
        for work, goal in ((large, 1.2), (many, 3.0))
    ]  # fmt: skip
    command += " --rules all"
    return bars + [
        _at_least(f"{title} against torch's default", 3.0, row.ratio(DEFAULT), command)
        for title, row in rows.items()
        if _other_rule(row)
    ]


def _other_rule(row: Row) -> bool:
    return not row.title.startswith("AdamW")


def memory_bars() -> list[Bar]:
    """Bytes."""
    extra = json.loads(_file("memory").read_text(encoding="utf-8"))["bytes"]
    return [
        Bar(
            f"peak extra memory of a step, 25 M parameters, {name}",
            "< 1 MB",
            f"{value / 1e6:.2f} MB",
            value < 1e6,
            "python benchmarks/memory.py",
        )
        for name, value in extra.items()
        if name.startswith("gradstep")
    ]


def start_bars() -> list[Bar]:
    """Seconds."""
    found = json.loads(_file("start").read_text(encoding="utf-8"))["seconds"]["gradstep"]
    command = "python benchmarks/start.py"
    goals = {
        "first step": ("first step in a fresh process (cold)", 0.6),
        "import gradstep": ("import, beside torch's", 0.2),
    }
    return [
        Bar(claim, f"≤ {goal} s", seconds(found[lap]), found[lap] <= goal, command)
        for lap, (claim, goal) in goals.items()
    ]


def growth_bars() -> list[Bar]:
    """The cost of one parameter (tensor) at the largest size against that at ten (a hundred) million: linear is 1."""
    found = json.loads(_file("growth").read_text(encoding="utf-8"))
    bars = []
    for key, base in (("parameters", 10**7), ("tensors", 1_000)):
        cost = {row[key]: row["gradstep"] / row[key] for row in found[key]}
        largest = max(cost)
        factor = cost[largest] / cost[base]
        claim = f"a step on {largest:,} {key}: time of each against {base:,}"
        bars.append(Bar(claim, "≤ 1.25", f"{factor:.2f}", factor <= 1.25, "python benchmarks/growth.py"))
    return bars


BARS = {"speed": speed_bars, "memory": memory_bars, "start": start_bars, "growth": growth_bars}


def write_table() -> None:
    """Make benchmarks/results/core.md from the results that are there."""
    present = [part for part in BARS if _file(part).is_file()]
    lines = [
        "# What the core does, measured",
        "",
        "Made by `python benchmarks/core.py` from the files beside it; not written by hand.",
        "",
        "| what | goal | measured | met | command |",
        "|---|---:|---:|---|---|",
    ]
    for part in present:
        for bar in BARS[part]():
            met = "yes" if bar.met else "**no**"
            lines.append(f"| {bar.claim} | {bar.goal} | {bar.measured} | {met} | `{bar.command}` |")
    if "speed" in present:
        lines += ["", "## Steps", "", markdown(Results.load_from(_file("speed"))), NOTE, "", "![steps](speed.png)"]
    if "growth" in present:
        lines += ["", "## Growth", "", "![growth](growth.png)"]
        left_out = json.loads(_file("growth").read_text(encoding="utf-8"))["left out"]
        if left_out:
            lines += ["", f"Did not fit into memory: {', '.join(f'{n:,}' for n in left_out)} parameters."]
    lines += ["", "## Machine", "", "| part | date | processors taken by others | machine |", "|---|---|---:|---|"]
    for part in present:
        known = json.loads(_file(part).read_text(encoding="utf-8"))
        words = ", ".join(f"{name} {value}" for name, value in known["machine"].items())
        lines.append(f"| {part} | {known['date']} | {percent(known['others'])} | {words} |")
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def write_readme() -> None:
    """Put AdamW's rows into the README, between its two marks."""
    table = markdown(Results.load_from(_file("speed"))).splitlines()
    rows = [*table[:2], *(row for row in table[2:] if row.startswith("| AdamW"))]
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    README.write_text("\n".join([before + BEGIN, *rows, END + after]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what gradstep's core claims.")
    parser.add_argument("parts", nargs="*", help=f"from {', '.join(PARTS)}; all by default")
    parser.add_argument("--table", action="store_true", help="measure nothing, make the table again")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))} (there are {', '.join(PARTS)})")
    RESULTS.mkdir(exist_ok=True)
    for part in () if arguments.table else arguments.parts or PARTS:
        print(f"{part} ...", flush=True)
        PARTS[part]()
    write_table()
    if _file("speed").is_file():
        write_readme()


if __name__ == "__main__":
    main()
