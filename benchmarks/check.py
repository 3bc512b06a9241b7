"""Measure how long one check takes, and write it to benchmarks/results/check.md.

python benchmarks/check.py              all parts, about three minutes
python benchmarks/check.py torch        one part: a form (torch, numpy or function)
python benchmarks/check.py command      the slowest rule of each form through the command line; measure the forms first
python benchmarks/check.py table        only write the table again

Each rule is checked twice in each form: right, and with an unknown mistake, for which the check tries every pair of
known mistakes until its time ends.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # see start.py
RESULTS = Path(__file__).parent / "results"
Form = Literal["torch", "numpy", "function"]
FORMS: tuple[Form, ...] = get_args(Form)
LIMIT = 5.0
"""Seconds that a check may take."""
REPEAT = 3
"""Number of runs of the command."""

_OFF = 1.001
"""Factor of a learning rate that is wrong by one part in a thousand; no known mistake has this effect."""


def wrong(rate: float) -> float:
    """Return the learning rate that a submission with a mistake uses."""
    return rate * _OFF


def torch_form(name: str, *, right: bool) -> Any:
    """Return the rule as a PyTorch optimizer."""
    import gradstep

    kind: Any = getattr(gradstep, name)
    return kind if right else partial(_off_by, kind)


def _off_by(kind: Callable[..., Any], params: Any, **settings: Any) -> Any:
    return kind(params, **{**settings, "lr": wrong(settings["lr"])}) if "lr" in settings else kind(params, **settings)


def numpy_form(name: str, *, right: bool) -> Any:
    """Return the rule as an optimizer over NumPy arrays."""
    import gradstep.numpy as gn

    kind: Any = getattr(gn, name)
    return kind if right else partial(_off_by, kind)


def function_form(name: str, *, right: bool) -> Any:
    """Return the rule as a pure function."""
    from types import SimpleNamespace

    import numpy as np

    from gradstep.rules import RULES, State

    rule = RULES[name]

    def step(p: Any, g: Any, state: Mapping[str, Any], t: int, **settings: Any) -> Any:
        if "lr" in settings and not right:
            settings["lr"] = wrong(settings["lr"])
        one = rule(**settings)
        values = dict(state) or {s.name: np.full(s.shape(p.shape), s.fill, p.dtype) for s in one.slots(p.ndim)}
        scalars = {key: values.pop(key, start) for key, start in one.scalars.items()}
        numbers = one.coefficients(t, **scalars)
        slots = State(**values)
        new = one.update(p, -g if one.maximize else g, slots, SimpleNamespace(**numbers)) if p.size else p
        return np.asarray(new, p.dtype), {**vars(slots), **{key: numbers[key] for key in scalars}}

    return step


MAKE: dict[Form, Callable[..., Any]] = {"torch": torch_form, "numpy": numpy_form, "function": function_form}


def measure(form: Form) -> dict[str, dict[str, float]]:
    """Return the seconds of a check, by rule, for a right submission and for one with an unknown mistake."""
    from gradstep import RULES
    from gradstep.judge import check

    check(MAKE[form]("SGD", right=True), "sgd", kind=form)  # imports and builds what later checks share
    seconds = {}
    for name in RULES:
        times = {}
        for right in (True, False):
            begin = time.perf_counter()
            verdict = check(MAKE[form](name, right=right), name, kind=form)
            times["right" if right else "wrong"] = time.perf_counter() - begin
            assert verdict.passed is right, str(verdict)
            assert right or not verdict.matches, str(verdict)
        seconds[name] = times
    return seconds


SUBMISSION = """
import sys
sys.path.insert(0, {here!r})
from check import MAKE

slowest = MAKE[{form!r}]({rule!r}, right=False)
"""


def measure_command() -> dict[str, dict[str, Any]]:
    """Return the seconds of the command for the slowest rule of each form, imports included, and of the check alone."""
    results = json.loads(FILE.read_text("utf-8"))
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            rule = max(results[form], key=lambda name: results[form][name]["wrong"])
            file = Path(folder, f"slowest_{form}.py")
            file.write_text(SUBMISSION.format(here=str(Path(__file__).parent), form=form, rule=rule))
            command = [sys.executable, "-m", "gradstep", "check", f"{file}:slowest", "--rule", rule, "--kind", form]
            runs = sorted(time_command([*command, "--json"]) for _ in range(REPEAT))
            seconds, inside = runs[REPEAT // 2]
            rows[form] = {"rule": rule, "seconds": seconds, "check": inside}
    return rows


def time_command(command: list[str]) -> tuple[float, float]:
    """Return the seconds of a command, and of the check that it reports."""
    begin = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    assert done.returncode == 1, done.stdout + done.stderr
    return seconds, float(json.loads(done.stdout)["seconds"])


def table(results: dict[str, Any]) -> list[str]:
    """Return the lines of two tables: the slowest rule of each form, and every rule."""
    slowest = {form: max(results[form].items(), key=lambda item: item[1]["wrong"]) for form in FORMS}
    lines = ["| form | the slowest check | seconds | ≤ 5 s | by the command, imports included | of which the check |"]
    lines += ["|---|---|---:|---|---:|---:|"]
    for form, (rule, times) in slowest.items():
        met = "yes" if max(times["wrong"], results["command"][form]["check"]) <= LIMIT else "**no**"
        command = results["command"][form]
        lines.append(
            f"| {form} | {rule} | {times['wrong']:.2f} | {met} | {command['seconds']:.2f} | {command['check']:.2f} |"
        )
    lines += ["", "Seconds for each rule, right / wrong in no known way:", ""]
    lines += ["| rule | torch | numpy | function |", "|---|---:|---:|---:|"]
    for rule in results["torch"]:
        cells = [f"{results[form][rule]['right']:.2f} / {results[form][rule]['wrong']:.2f}" for form in FORMS]
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return lines


PARTS = (*FORMS, "command")
FILE = RESULTS / "check.json"


def measure_part(part: str) -> None:
    """Measure one part and save it beside the others."""
    from gradstep.lab.machine import OtherPrograms, describe_machine

    others = OtherPrograms()
    rows: Any = measure_command() if part == "command" else measure(next(form for form in FORMS if form == part))
    results: dict[str, Any] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {"others": {}}
    results |= {part: rows, "machine": describe_machine(), "date": date.today().isoformat()}
    results["others"][part] = others.share() or 0.0
    FILE.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how long a check takes.")
    parser.add_argument("part", nargs="?", choices=(*PARTS, "table"), help="one part; all by default")
    part = parser.parse_args().part
    if part in PARTS:
        measure_part(part)
        return
    for each in PARTS if part is None else ():
        subprocess.run([sys.executable, __file__, each], check=True)
    results = json.loads(FILE.read_text("utf-8"))
    lines = [
        "# One check, measured",
        "",
        "Made by `python benchmarks/check.py`; not written by hand. The numbers are in `check.json`.",
        "",
        *table(results),
        "",
        "*Wrong in no known way* is a learning rate off by one part in a thousand: the check tries every mistake, and",
        "pairs of them for two seconds. The command's figure is the median of three, with Python's start and imports.",
        "",
        f"{results['date']}; processors taken by others: at most {100 * max(results['others'].values()):.1f} %; "
        + ", ".join(f"{name} {value}" for name, value in results["machine"].items()),
    ]
    text = "\n".join(lines) + "\n"
    (RESULTS / "check.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
