"""Measure everything that gradstep's core claims, and write it to benchmarks/results/core/, a folder per processor.

python benchmarks/core.py                 all parts, about a quarter of an hour
python benchmarks/core.py speed start     some parts; the table has all parts that were measured
python benchmarks/core.py --table         only write the table again
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
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
    GPT2_WORK,
    LARGE_WORK,
    MANY_WORK,
    OURS,
    OURS_8BIT,
    REPEAT,
    RESNET,
    SMALL_WORK,
    TORCH_DEFAULT,
    TORCH_FUSED,
    BenchResults,
    cases,
    rule_cases,
    rule_names,
)
from gradstep.lab.bench_report import NOTE, draw_benchmark, markdown, markdown_table, readme, run_with_bar
from gradstep.lab.machine import OtherPrograms, describe_machine
from gradstep.report.words import percent, seconds

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TABLE = RESULTS / "core.md"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


@final
@dataclass(frozen=True)
class Bar:
    """A claim: its goal, the measured value, whether the goal is met, and the command that measures it."""

    claim: str
    goal: str
    measured: str
    met: bool
    command: str


@final
@dataclass(frozen=True)
class Processor:
    """The results of one processor: a folder with a JSON file for each part.

    Attributes:
        folder: the folder of its results.
    """

    folder: Path

    @staticmethod
    def here() -> Processor:
        """Return the processor of this machine."""
        words = re.findall(r"[a-z0-9]+", re.sub(r"\(.*?\)", "", describe_machine()["processor"].lower()))
        return Processor(RESULTS / "core" / "-".join(words))

    @staticmethod
    def every() -> list[Processor]:
        """Return all processors that have results."""
        return [Processor(folder) for folder in sorted((RESULTS / "core").iterdir())]

    def file(self, part: str) -> Path:
        """Return the file of one part's results."""
        return self.folder / f"{part}.json"

    def has(self, part: str) -> bool:
        """Return whether this part was measured."""
        return self.file(part).is_file()

    def load(self, part: str) -> dict[str, Any]:
        """Return the results of one part, as they are in the file."""
        results: dict[str, Any] = json.loads(self.file(part).read_text(encoding="utf-8"))
        return results

    @property
    def name(self) -> str:
        """The processor's name."""
        first = next(part for part in PARTS if self.has(part))
        return str(self.load(first)["machine"]["processor"])


# -- measuring --------------------------------------------------------------------------------------------------


def _save(processor: Processor, part: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    others, results = OtherPrograms(), measure()
    content = {
        "machine": describe_machine(),
        "date": date.today().isoformat(),
        "others": others.share(),
        **results,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    processor.file(part).write_text(text + "\n", encoding="utf-8")
    return results


def measure_speed(processor: Processor, repeat: int) -> None:
    results = run_with_bar(cases(), repeat, Console())
    results.save(processor.file("speed"))
    draw_benchmark(results).save(processor.folder / "speed.svg")


def measure_rules(processor: Processor, repeat: int) -> None:
    run_with_bar(rule_cases(rule_names("all")), repeat, Console()).save(processor.file("rules"))


def measure_memory(processor: Processor, _: int) -> None:
    _save(processor, "memory", lambda: {"parameters": memory.PARAMETERS, "bytes": memory.measure()})


def measure_start(processor: Processor, _: int) -> None:
    _save(processor, "start", lambda: {"seconds": start.measure()})


def measure_many(processor: Processor, _: int) -> None:
    _save(processor, "many", lambda: {"parameters": many.PARAMETERS, "seconds": many.measure()})


def measure_growth(processor: Processor, _: int) -> None:
    growth.chart(_save(processor, "growth", growth.measure)).save(processor.folder / "growth.svg")


PARTS: dict[str, Callable[[Processor, int], None]] = {
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


def speed_bars(processor: Processor) -> list[Bar]:
    """Return claims on ratios of median steps, AdamW against torch's fused step."""
    rows = {row.title: row for row in BenchResults.load_from(processor.file("speed")).rows}
    command = "python benchmarks/core.py speed"
    large = (GPT2_WORK, RESNET, BLOCKS, LARGE_WORK)

    def against_fused(goals: dict[str, float], ours: str = OURS, kind: str = "", title: str = "AdamW") -> list[Bar]:
        return [
            _at_least(f"{title}{kind}, {work}", goal, rows[f"{title}, {work}"].ratio(TORCH_FUSED, ours), command)
            for work, goal in goals.items()
        ]

    share = rows[f"AdamW, {GPT2_WORK.title}"].memory_share() or 0.0
    return [
        *against_fused({work.title: 1.3 for work in large}, OURS_8BIT, " with 8-bit state"),
        *against_fused({work.title: 1.0 for work in large} | {MANY_WORK.title: 2.5, SMALL_WORK.title: 5.0}),
        *against_fused({GPT2_WORK.title: 1.2, LARGE_WORK.title: 1.2, MANY_WORK.title: 3.0}, title="AdamW and clipping"),
        Bar(f"share of memory speed, {GPT2_WORK.title}", "≥ 95 %", f"{100 * share:.1f} %", share >= 0.95, command),
    ]


def rules_bars(processor: Processor) -> list[Bar]:
    """Return claims on ratios of median steps, every rule against torch's default."""
    return [
        _at_least(
            f"{row.title} against torch's default", 3.0, row.ratio(TORCH_DEFAULT), "python benchmarks/core.py rules"
        )
        for row in BenchResults.load_from(processor.file("rules")).rows
    ]


def memory_bars(processor: Processor) -> list[Bar]:
    """Return claims on the bytes that a step adds to the peak memory."""
    extra = processor.load("memory")["bytes"]
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


def start_bars(processor: Processor) -> list[Bar]:
    """Return claims on the seconds of import, constructor and first step."""
    laps = processor.load("start")["seconds"]
    ours, theirs = laps["gradstep"], laps["torch fused"]
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


def many_bars(processor: Processor) -> list[Bar]:
    """Return claims on 100,000 parameters: the time of a first step and of loading, against torch's."""
    results = processor.load("many")
    bars = []
    for lap in (many.FIRST, many.LOAD):
        ours, theirs = (results["seconds"][name][lap] for name in many.KINDS)
        words = f"{ours / theirs:.2f} ({seconds(ours)} against {seconds(theirs)})"
        claim = f"{results['parameters']:,} parameters, {lap}: time against torch fused"
        bars.append(Bar(claim, "≤ 2", words, ours <= 2 * theirs, "python benchmarks/many.py"))
    return bars


def growth_bars(processor: Processor) -> list[Bar]:
    """Return claims on growth: the cost of one parameter (tensor) at the largest size over that at 10⁷ (1,000)."""
    results = processor.load("growth")
    bars = []
    for key, base in (("parameters", 10**7), ("tensors", 1_000)):
        cost = {row[key]: row["gradstep"] / row[key] for row in results[key]}
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


def _bars(processors: Sequence[Processor]) -> list[list[str]]:
    """Return the rows of the table of claims, with a column for each processor."""
    by_claim: dict[str, dict[Processor, Bar]] = {}
    for part, bars in BARS.items():
        for processor in processors:
            for bar in bars(processor) if processor.has(part) else ():
                by_claim.setdefault(bar.claim, {})[processor] = bar
    rows = []
    for claim, by_processor in by_claim.items():
        some = next(iter(by_processor.values()))
        cells = [by_processor.get(processor) for processor in processors]
        words = ["–" if bar is None else bar.measured if bar.met else f"**missed:** {bar.measured}" for bar in cells]
        rows.append([claim, some.goal, *words, f"`{some.command}`"])
    return rows


def write_table() -> None:
    """Write benchmarks/results/core.md from all saved results."""
    processors = Processor.every()
    lines = [
        "# What the core does, measured",
        "",
        "Made by `python benchmarks/core.py` from the files in the folder `core`; not written by hand. "
        "AdamW is compared with torch's fused float32 step unless a line says otherwise.",
        "",
        markdown_table(["what", "goal", *(p.name for p in processors), "command"], _bars(processors)),
    ]
    for processor in processors:
        lines += ["", f"# {processor.name}", *_details(processor)]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def _details(processor: Processor) -> list[str]:
    """Return the results of one processor beside the claims."""
    lines = []
    for part, title in (("speed", "Steps"), ("rules", "Other rules")):
        if processor.has(part):
            results = BenchResults.load_from(processor.file(part))
            lines += ["", f"## {title}", "", markdown(results), NOTE]
            if part == "speed":
                lines += ["", f"![steps](core/{processor.folder.name}/speed.svg)"]
            chosen = [f"- {words}" for words in results.access]
            lines += ["", "Access patterns that the kernels chose, by measuring:", "", *chosen] if chosen else []
    if processor.has("growth"):
        lines += ["", "## Growth", "", f"![growth](core/{processor.folder.name}/growth.svg)"]
        left_out = processor.load("growth")["left out"]
        if left_out:
            lines += ["", f"Did not fit into memory: {', '.join(f'{n:,}' for n in left_out)} parameters."]
    lines += ["", "## Machine", "", "| part | date | processors taken by others | machine |", "|---|---|---:|---|"]
    for part in filter(processor.has, BARS):
        results_of_part = processor.load(part)
        words = ", ".join(f"{name} {value}" for name, value in results_of_part["machine"].items())
        lines.append(f"| {part} | {results_of_part['date']} | {percent(results_of_part['others'])} | {words} |")
    return lines


def write_readme() -> None:
    """Write the table of steps into the README, between its two marks."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    table = readme([BenchResults.load_from(p.file("speed")) for p in Processor.every() if p.has("speed")])
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
    if arguments.parts or not arguments.table:
        here = Processor.here()
        here.folder.mkdir(parents=True, exist_ok=True)
        for part in arguments.parts or PARTS:
            print(f"{part} ...", flush=True)
            PARTS[part](here, arguments.repeat)
    write_table()
    write_readme()


if __name__ == "__main__":
    main()
