"""Run one call of `gradstep race`: the races of all chosen tasks, their results file, and one report."""

import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from gradstep.lab.contenders import DEFAULT, make_contender, with_peers
from gradstep.lab.display import Display
from gradstep.lab.machine import describe
from gradstep.lab.race import Race
from gradstep.lab.report import write_report
from gradstep.lab.results import Record, write_results
from gradstep.lab.specs import parse_specs
from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.surface import Surface
from gradstep.spelling import suggest

SEEDS = 3
"""Default number of runs of each contender; a single run shows no spread, and so no winner."""


@final
@dataclass(frozen=True)
class Plan:
    """The races of a session, one for each task, and the folder in which the session makes its own folder."""

    races: tuple[Race, ...]
    out: Path


@final
@dataclass(frozen=True)
class Outcome:
    """The files of a session. `report` is None if the session was interrupted before its first record."""

    folder: Path
    report: Path | None
    interrupted: bool


def plan(
    tasks: Sequence[str] = (),
    optimizers: str | None = None,
    *,
    peers: bool = False,
    quick: bool = False,
    steps: int | None = None,
    seeds: int = SEEDS,
    start: str | None = None,
    clip: float | None = None,
    out: Path = Path("runs"),
) -> Plan:
    """Return the plan of a command line; nothing is run or written yet.

    Args:
        tasks: names of tasks; none: all, or with `quick` the tasks that have a quick number of steps.
        optimizers: see `gradstep.lab.specs`; None: the default line-up.
        peers: whether torch's own class of each optimizer races too.
        quick: shorter races: each task's quick number of steps.
        steps: steps of each contender; None: the task's own number.
        seeds: number of seeds, counted from 0.
        start: where paths over a surface begin, as "x,y"; None: each surface's own place.
        clip: norm to which gradients are clipped before every step; None: no clipping.
        out: folder in which the session makes its own folder.

    Raises:
        ValueError, TypeError, NotADirectoryError: an argument is invalid; the message says what is allowed.
    """
    for name in tasks:
        if name not in TASKS:
            raise ValueError(f"Unknown task: {name!r}.{suggest(name, TASKS)} There are {', '.join(TASKS)}.")
    chosen = [TASKS[name] for name in dict.fromkeys(tasks)] or [
        task for task in TASKS.values() if task.quick_steps or not quick
    ]
    if start is not None:
        surfaces = {task: type(task)(_parse_place(start)) for task in chosen if isinstance(task, Surface)}
        if not surfaces:
            names = ", ".join(name for name, task in TASKS.items() if isinstance(task, Surface))
            raise ValueError(f"A start is a place on a surface, and none is raced: name one of {names}")
        chosen = [surfaces.get(task, task) if isinstance(task, Surface) else task for task in chosen]
    specs = DEFAULT if optimizers is None else parse_specs(optimizers)
    line_up = with_peers(specs) if peers else specs
    line_ups = {task: tuple(make_contender(spec, task) for spec in line_up) for task in chosen}
    for contenders in line_ups.values():
        labels = [one.label for one in contenders]
        twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
        if twice:
            raise ValueError(f"Several contenders would be called {twice[0]!r}: rename one, or vary its settings")
    for name, value in (("steps", steps), ("seeds", seeds)):
        if value is not None and value < 1:
            raise ValueError(f"Invalid number of {name}: {value} (at least 1)")
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"Invalid clip: {clip} (a norm above 0)")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"Not a folder: {out} (give a folder, or one that can be made)")
    words = ["gradstep", "race", *(task.name for task in chosen), "--optimizers", ",".join(map(str, line_up))]
    words += ["--quick"] * quick
    words += ["--steps", str(steps)] if steps is not None else []
    words += ["--seeds", str(seeds)] if seeds != SEEDS else []
    words += [f"--start={start}"] if start is not None else []
    words += ["--clip", f"{clip:g}"] if clip is not None else []
    command, machine = shlex.join(words), describe()
    races = (
        Race(
            task=task,
            contenders=contenders,
            steps=steps or (task.quick_steps if quick else 0) or task.steps,
            seeds=tuple(range(seeds)),
            command=command,
            machine=machine,
            clip=clip,
        )
        for task, contenders in line_ups.items()
    )
    return Plan(tuple(races), out)


def _parse_place(text: str) -> tuple[float, float]:
    """Return the two numbers of "x,y"."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"Invalid start: {text!r} (write two numbers, x,y, as in --start=-1,1)") from None
    return x, y


def run(plan: Plan, display: Display) -> Outcome:
    """Race every task of the plan, then write the report; after Ctrl-C, the report has the records so far."""
    folder = _make_folder(plan)
    interrupted = False
    recorded = False
    with write_results(folder) as write:

        def listen(record: Record) -> None:
            nonlocal recorded
            write(record)
            recorded = True
            display(record)

        try:
            with display.open():
                for race in plan.races:
                    race.run(listen)
        except KeyboardInterrupt:
            interrupted = True
    return Outcome(folder, write_report(folder) if recorded else None, interrupted)


def _make_folder(plan: Plan) -> Path:
    """Make a new folder for this session, named after its task and the time."""
    subject = plan.races[0].task.name if len(plan.races) == 1 else "race"
    stem = f"{subject}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        folder = plan.out / (stem + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"Too many races at once under {plan.out}")
