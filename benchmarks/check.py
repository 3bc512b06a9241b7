"""Measure how long one check takes, and write it to benchmarks/results/check.md.

python benchmarks/check.py              all of it, about three minutes
python benchmarks/check.py torch        one part: a form (torch, numpy or function), or after these
python benchmarks/check.py command      the slowest of each form through the command line
python benchmarks/check.py table        the table anew, of what was measured

Each rule is checked in each form twice: as it should be, and with a mistake that no known one explains, for which
the check tries every pair of mistakes until its patience ends.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

RESULTS = Path(__file__).parent / "results"
Form = Literal["torch", "numpy", "function"]
FORMS: tuple[Form, ...] = get_args(Form)
LIMIT = 5.0
"""Seconds that a check may take."""
REPEAT = 3
"""How often the command is run."""

_OFF = 1.001
"""A learning rate off by one part in a thousand: like no known mistake."""


def wrong(rate: float) -> float:
    """The rate that a submission with a mistake uses."""
    return rate * _OFF


def torch_form(name: str, *, right: bool) -> Any:
    """The rule as a PyTorch optimizer."""
    import gradstep

    kind: Any = getattr(gradstep, name)
    return kind if right else partial(_off_by, kind)


def _off_by(kind: Callable[..., Any], params: Any, **settings: Any) -> Any:
    return kind(params, **{**settings, "lr": wrong(settings["lr"])}) if "lr" in settings else kind(params, **settings)


def numpy_form(name: str, *, right: bool) -> Any:
    """The rule as an optimizer over NumPy arrays."""
    import gradstep.numpy as gn

    kind: Any = getattr(gn, name)
    return kind if right else partial(_off_by, kind)


def function_form(name: str, *, right: bool) -> Any:
    """The rule as a pure function."""
    from types import SimpleNamespace

    import numpy as np

    from gradstep.rules import RULES, State

    rule = RULES[name]

    def step(p: Any, g: Any, state: Mapping[str, Any], t: int, **settings: Any) -> Any:
        if "lr" in settings and not right:
            settings["lr"] = wrong(settings["lr"])
        made = rule(**settings)
        kept = dict(state) or {s.name: np.full(s.shape(p.shape), s.fill, p.dtype) for s in made.slots(p.ndim)}
        scalars = {key: kept.pop(key, start) for key, start in made.scalars.items()}
        numbers = made.coefficients(t, **scalars)
        slots = State(**kept)
        new = made.update(p, -g if made.maximize else g, slots, SimpleNamespace(**numbers)) if p.size else p
        return np.asarray(new, p.dtype), {**vars(slots), **{key: numbers[key] for key in scalars}}

    return step


MAKE: dict[Form, Callable[..., Any]] = {"torch": torch_form, "numpy": numpy_form, "function": function_form}


def measure(form: Form) -> dict[str, dict[str, float]]:
    """Seconds of a check by rule, of what is right and of what is wrong in no known way."""
    from gradstep import RULES
    from gradstep.judge import check

    check(MAKE[form]("SGD", right=True), "sgd", kind=form)  # what is imported and made once
    found = {}
    for name in RULES:
        times = {}
        for right in (True, False):
            begin = time.perf_counter()
            verdict = check(MAKE[form](name, right=right), name, kind=form)
            times["right" if right else "wrong"] = time.perf_counter() - begin
            assert verdict.passed is right, str(verdict)
            assert right or not verdict.matches, str(verdict)
        found[name] = times
    return found


SUBMISSION = """
import sys
sys.path.insert(0, {here!r})
from check import MAKE

slowest = MAKE[{form!r}]({rule!r}, right=False)
"""


def measure_command() -> dict[str, dict[str, Any]]:
    """Seconds of the command for the slowest rule of each form, imports included, and of a check without torch."""
    known = json.loads(FILE.read_text("utf-8"))
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            rule = max(known[form], key=lambda name: known[form][name]["wrong"])
            file = Path(folder, f"slowest_{form}.py")
            file.write_text(SUBMISSION.format(here=str(Path(__file__).parent), form=form, rule=rule))
            command = [sys.executable, "-m", "gradstep", "check", f"{file}:slowest", "--rule", rule, "--kind", form]
            runs = sorted(timed([*command, "--json"]) for _ in range(REPEAT))
            seconds, inside = runs[REPEAT // 2]
            found[form] = {"rule": rule, "seconds": seconds, "check": inside}
    return found


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds of a command, and of the check that it tells of."""
    begin = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    assert done.returncode == 1, done.stdout + done.stderr
    return seconds, float(json.loads(done.stdout)["seconds"])


def table(known: dict[str, Any]) -> list[str]:
    """The slowest, then every rule."""
    slowest = {form: max(known[form].items(), key=lambda found: found[1]["wrong"]) for form in FORMS}
    lines = ["| form | the slowest check | seconds | ≤ 5 s | by the command, imports included | of which the check |"]
    lines += ["|---|---|---:|---|---:|---:|"]
    for form, (rule, times) in slowest.items():
        met = "yes" if max(times["wrong"], known["command"][form]["check"]) <= LIMIT else "**no**"
        command = known["command"][form]
        lines.append(
            f"| {form} | {rule} | {times['wrong']:.2f} | {met} | {command['seconds']:.2f} | {command['check']:.2f} |"
        )
    lines += ["", "Seconds for each rule, right / wrong in no known way:", ""]
    lines += ["| rule | torch | numpy | function |", "|---|---:|---:|---:|"]
    for rule in known["torch"]:
        cells = [f"{known[form][rule]['right']:.2f} / {known[form][rule]['wrong']:.2f}" for form in FORMS]
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return lines


PARTS = (*FORMS, "command")
FILE = RESULTS / "check.json"


def measured(part: str) -> None:
    """One part, kept among the others."""
    from gradstep.lab.machine import Neighbours, describe

    neighbours = Neighbours()
    found: Any = measure_command() if part == "command" else measure(next(form for form in FORMS if form == part))
    known: dict[str, Any] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {"others": {}}
    known |= {part: found, "machine": describe(), "date": date.today().isoformat()}
    known["others"][part] = neighbours.share() or 0.0
    FILE.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how long a check takes.")
    parser.add_argument("part", nargs="?", choices=(*PARTS, "table"), help="one part; all by default")
    part = parser.parse_args().part
    if part in PARTS:
        measured(part)
        return
    for each in PARTS if part is None else ():
        subprocess.run([sys.executable, __file__, each], check=True)
    known = json.loads(FILE.read_text("utf-8"))
    lines = [
        "# One check, measured",
        "",
        "Made by `python benchmarks/check.py`; not written by hand. The numbers are in `check.json`.",
        "",
        *table(known),
        "",
        "*Wrong in no known way* is a learning rate off by one part in a thousand: the check tries every mistake, and",
        "pairs of them for two seconds. The command's figure is the median of three, with Python's start and imports.",
        "",
        f"{known['date']}; processors taken by others: at most {100 * max(known['others'].values()):.1f} %; "
        + ", ".join(f"{name} {value}" for name, value in known["machine"].items()),
    ]
    text = "\n".join(lines) + "\n"
    (RESULTS / "check.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
