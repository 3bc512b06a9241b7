"""The outcomes of the rows: docs/compatibility.jsonl, and the table in docs/compatibility.md that is made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.compatibility.rows import PACKAGES, ROOT, Row

RESULTS = ROOT / "docs" / "compatibility.jsonl"
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- matrix:begin -->\n", "<!-- matrix:end -->\n"


def read_results() -> dict[str, dict[str, Any]]:
    """Return the outcome of every row that was tried, by its name."""
    if not RESULTS.exists():
        return {}
    lines = map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())
    return {line.pop("row"): line for line in lines}


def write_results(results: Mapping[str, Mapping[str, Any]], every: Sequence[Row]) -> None:
    """Write the outcomes of the rows that still exist, and the table."""
    present = [(row, results[row.name]) for row in every if row.name in results]
    lines = [json.dumps({"row": row.name, **outcome}) for row, outcome in present]
    replace(RESULTS, "".join(f"{line}\n" for line in lines))
    if PAGE.exists():
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        replace(PAGE, before + BEGIN + table(present) + END + after)


def table(present: Sequence[tuple[Row, Mapping[str, Any]]]) -> str:
    """Return the table in Markdown."""
    head = ("row", "Python", *("torch", "NumPy", "llvmlite"), "processor", "outcome", "tests", "remark")
    lines = [head, ("---",) * len(head)]
    for row, outcome in present:
        counted = "passed" in outcome
        tests = f"{outcome['passed']:,} passed" if counted else "–"
        if counted and outcome["failed"]:
            tests += f", {outcome['failed']:,} failed"
        if counted and outcome["skipped"]:
            tests += f", {outcome['skipped']:,} skipped"
        remark = "; ".join(part for part in (row.note, outcome.get("why", "")) if part)
        word = {"fails": "**fails**"}.get(outcome["outcome"], outcome["outcome"])
        versions = (outcome[p] for p in PACKAGES)
        lines.append((row.name, outcome["python"], *versions, outcome["machine"], word, tests, remark))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def replace(path: Path, text: str) -> None:
    """Replace a file atomically."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
