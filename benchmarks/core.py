"""Measure everything that gradstep's core claims, and write it to benchmarks/results/.

python benchmarks/core.py                 all parts, about a quarter of an hour
python benchmarks/core.py speed start     some of them; the table is made from what there is
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
import many
import memory
import start
from rich.console import Console

from gradstep.lab.bench import (
    BLOCKS,
    DEFAULT,
    FUSED,
    GPT2,
    LARGE,
    MANY,
    OURS,
    OURS_8BIT,
    REPEAT,
    RESNET,
    SMALL,
    Results,
    cases,
    rule_cases,
    rule_names,
)
from gradstep.lab.bench_busy import Neighbours
from gradstep.lab.bench_chart import save_chart
from gradstep.lab.bench_table import NOTE, markdown, readme, watched
from gradstep.lab.machine import describe
from gradstep.lab.words import percent, seconds

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TABLE = RESULTS / "core.md"
README = HERE.parent / "README.md"
REPORTED = """\
AMD EPYC (Zen 5), 2 cores, torch 2.13: figures of the report that led to choosing access patterns by measuring, for
AdamW against torch's fused float32 step, interleaved medians on a quiet machine; they were not measured by the command
above, and not again since. "Two streams" is how every kernel read memory then; "one stream" is today's default, from
which a kernel departs only where another pattern is measured to be faster.

| AdamW, float32 | two streams | one stream |
|---|---:|---:|
| one tensor of 25 M | 0.44 to 0.93× | 1.00 to 1.20× |
| GPT-2 (124 M, 148 tensors) | 0.93× | 1.02 to 1.05× |
| ResNet-50 (25.6 M, 161 tensors) | 0.97 to 1.01× | 1.09 to 1.17× |
| GPT-2's blocks (85 M, 144 tensors) | 0.47 to 0.94× | 0.99 to 1.04× |

8-bit state: 1.43 to 1.60×."""
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


def measure_speed(repeat: int) -> None:
    results = watched(cases(), repeat, Console())
    results.save(_file("speed"))
    save_chart(results, RESULTS / "speed.png")


def measure_rules(repeat: int) -> None:
    watched(rule_cases(rule_names("all")), repeat, Console()).save(_file("rules"))


def measure_memory(_: int) -> None:
    _save("memory", lambda: {"parameters": memory.PARAMETERS, "bytes": memory.measure()})


def measure_start(_: int) -> None:
    _save("start", lambda: {"seconds": start.measure()})


def measure_many(_: int) -> None:
    _save("many", lambda: {"parameters": many.PARAMETERS, "seconds": many.measure()})


def measure_growth(_: int) -> None:
    growth.save_chart(_save("growth", growth.measure), RESULTS / "growth.png")


PARTS: dict[str, Callable[[int], None]] = {
    "speed": measure_speed,
    "rules": measure_rules,
    "memory": measure_memory,
    "start": measure_start,
    "many": measure_many,
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
    command = "python benchmarks/core.py speed"
    large = (GPT2, RESNET, BLOCKS, LARGE)

    def against_fused(goals: dict[str, float], ours: str = OURS, kind: str = "", title: str = "AdamW") -> list[Bar]:
        return [
            _at_least(f"{title}{kind}, {work}", goal, rows[f"{title}, {work}"].ratio(FUSED, ours), command)
            for work, goal in goals.items()
        ]

    share = rows[f"AdamW, {GPT2.title}"].memory_share() or 0.0
    return [
        *against_fused({work.title: 1.3 for work in large}, OURS_8BIT, " with 8-bit state"),
        *against_fused({work.title: 1.0 for work in large} | {MANY.title: 2.5, SMALL.title: 5.0}),
        *against_fused({GPT2.title: 1.2, LARGE.title: 1.2, MANY.title: 3.0}, title="AdamW and clipping"),
        Bar(f"share of memory speed, {GPT2.title}", "≥ 95 %", f"{100 * share:.1f} %", share >= 0.95, command),
    ]


def rules_bars() -> list[Bar]:
    """Ratios of medians."""
    return [
        _at_least(f"{row.title} against torch's default", 3.0, row.ratio(DEFAULT), "python benchmarks/core.py rules")
        for row in Results.load_from(_file("rules")).rows
    ]


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
    found = json.loads(_file("start").read_text(encoding="utf-8"))["seconds"]
    ours, theirs = found["gradstep"], found["torch fused"]
    command = "python benchmarks/start.py"
    more = sum(ours[lap] - theirs.get(lap, 0.0) for lap in ("import gradstep", "constructor", "first step"))
    goals = {
        "first step": ("first step in a fresh process (cold)", 0.6),
        "import gradstep": ("import, beside torch's", 0.2),
    }
    claim = "import, first optimizer and first step in a fresh process: more than torch's"
    return [
        Bar(claim, "≤ 0.3 s", f"{more:.2f} s", more <= 0.3, command),
        *(
            Bar(claim, f"≤ {goal} s", seconds(ours[lap]), ours[lap] <= goal, command)
            for lap, (claim, goal) in goals.items()
        ),
    ]


def many_bars() -> list[Bar]:
    """Time against torch's."""
    found = json.loads(_file("many").read_text(encoding="utf-8"))
    bars = []
    for lap in (many.FIRST, many.LOAD):
        ours, theirs = (found["seconds"][name][lap] for name in many.KINDS)
        words = f"{ours / theirs:.2f} ({seconds(ours)} against {seconds(theirs)})"
        claim = f"{found['parameters']:,} parameters, {lap}: time against torch fused"
        bars.append(Bar(claim, "≤ 2", words, ours <= 2 * theirs, "python benchmarks/many.py"))
    return bars


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


BARS = {
    "speed": speed_bars,
    "rules": rules_bars,
    "memory": memory_bars,
    "start": start_bars,
    "many": many_bars,
    "growth": growth_bars,
}


def write_table() -> None:
    """Make benchmarks/results/core.md from the results that are there."""
    present = [part for part in BARS if _file(part).is_file()]
    lines = [
        "# What the core does, measured",
        "",
        "Made by `python benchmarks/core.py` from the files beside it; not written by hand. "
        "AdamW is compared with torch's fused float32 step unless a line says otherwise.",
        "",
        "| what | goal | measured | met | command |",
        "|---|---:|---:|---|---|",
    ]
    for part in present:
        for bar in BARS[part]():
            met = "yes" if bar.met else "**no**"
            lines.append(f"| {bar.claim} | {bar.goal} | {bar.measured} | {met} | `{bar.command}` |")
    for part, title in (("speed", "Steps"), ("rules", "Other rules")):
        if part in present:
            results = Results.load_from(_file(part))
            lines += ["", f"## {title}", "", markdown(results), NOTE]
            if part == "speed":
                lines += ["", "![steps](speed.png)"]
            chosen = [f"- {words}" for words in results.access]
            lines += ["", "Access patterns that the kernels chose, by measuring:", "", *chosen] if chosen else []
    if "speed" in present:
        lines += ["", "## Reported from another processor", "", REPORTED]
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
    """Put the steps into the README, between its two marks."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    table = readme(Results.load_from(_file("speed")))
    README.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what gradstep's core claims.")
    parser.add_argument("parts", nargs="*", help=f"from {', '.join(PARTS)}; all by default")
    parser.add_argument("--table", action="store_true", help="measure nothing, make the table again")
    parser.add_argument("--repeat", type=int, default=REPEAT, help="repetitions of each step of speed and rules")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))} (there are {', '.join(PARTS)})")
    RESULTS.mkdir(exist_ok=True)
    for part in () if arguments.table else arguments.parts or PARTS:
        print(f"{part} ...", flush=True)
        PARTS[part](arguments.repeat)
    write_table()
    if _file("speed").is_file():
        write_readme()


if __name__ == "__main__":
    main()
