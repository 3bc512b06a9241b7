"""The records of a race as JSON lines: written during the race, read back for the report.

A file holds for each task one header, then points as the contenders advance, then one summary for each
contender and seed. Every line names its task and can be read alone. A number that is not finite is null.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeAlias, final

RESULTS_FILE = "results.jsonl"
RESULTS_FORMAT = 1


@final
@dataclass(frozen=True)
class ContenderEntry:
    """A contender in the header; its `settings` are text, as in a spec."""

    label: str
    name: str
    settings: Mapping[str, str]


@final
@dataclass(frozen=True)
class RaceHeader:
    """The header of a race: task, contenders, settings and machine.

    Args:
        task: name of the task.
        contenders: the contenders, in the order of the command line.
        steps: planned steps of each contender.
        seeds: the seeds; each contender runs once with each.
        parameters: number of parameters of the model.
        command: the command line that runs this race again.
        started: date and time of the start, ISO 8601 with zone.
        machine: description of the machine, name → value.
        clip: norm to which gradients were clipped before every step; None: no clipping.
        start: where paths over a surface begin, at seed 0; None for a task that is not a surface.
        format: version of this file's format.
    """

    task: str
    contenders: tuple[ContenderEntry, ...]
    steps: int
    seeds: tuple[int, ...]
    parameters: int
    command: str
    started: str
    machine: Mapping[str, str]
    clip: float | None = None
    start: tuple[float, float] | None = None
    format: int = RESULTS_FORMAT


@final
@dataclass(frozen=True)
class CurvePoint:
    """A contender's evaluation after `step` steps."""

    task: str
    contender: str
    seed: int
    step: int
    seconds: float  # training time, without evaluations and the first step
    train_loss: float | None  # mean training loss of the steps since the last point; None before the first step
    # loss, accuracy, place: see `Evaluation`; a loss that is not finite is None
    loss: float | None
    accuracy: float | None = None
    place: tuple[float, float] | None = None


@final
@dataclass(frozen=True)
class RunSummary:
    """A contender's whole run at one seed."""

    task: str
    contender: str
    seed: int
    status: str  # "finished", "diverged" or "interrupted" (Ctrl-C)
    steps: int  # steps taken
    # loss, accuracy: of the last evaluation; None for a run that diverged
    loss: float | None
    accuracy: float | None
    first_step_seconds: float | None  # the first whole step, compilation included; None without a step
    step_seconds: float | None  # median of the later whole steps (forward, backward, optimizer, clearing of gradients)
    optimizer_seconds: float | None  # median of the optimizer's part of them
    state_bytes: int  # bytes the optimizer keeps between steps
    parameters: int  # number of parameters of the model


Record: TypeAlias = RaceHeader | CurvePoint | RunSummary
RECORD_KINDS: Mapping[str, type[RaceHeader] | type[CurvePoint] | type[RunSummary]] = {
    "header": RaceHeader,
    "point": CurvePoint,
    "summary": RunSummary,
}


@final
@dataclass(frozen=True)
class RaceResults:
    """The records of one race."""

    header: RaceHeader
    points: list[CurvePoint] = field(default_factory=list)
    summaries: list[RunSummary] = field(default_factory=list)


@final
@dataclass(frozen=True)
class SessionOutcome:
    """The files of a session. `report` is None if the session was interrupted before its first record."""

    folder: Path
    report: Path | None
    interrupted: bool


@contextmanager
def write_results(folder: Path) -> Iterator[Callable[[Record], None]]:
    """Open `results.jsonl` in a folder; inside, what is returned writes a record as one line, at once."""
    with (folder / RESULTS_FILE).open("w", encoding="utf-8") as file:

        def write(record: Record) -> None:
            file.write(encode_record(record) + "\n")
            file.flush()

        yield write


def encode_record(record: Record) -> str:
    """Return a record as one line of JSON, its kind first."""
    return json.dumps({"record": name_record(record), **asdict(record)}, allow_nan=False, ensure_ascii=False)


def name_record(record: Record) -> str:
    """Return the kind of a record, as its line in the file has it."""
    return next(kind for kind, cls in RECORD_KINDS.items() if isinstance(record, cls))


def decode_record(line: str) -> Record:
    """Return the record in a line of JSON.

    Raises:
        ValueError: the line is not JSON, or not a record of this format.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict) or fields.get("record") not in RECORD_KINDS:
        raise ValueError(f"Not a record of a race: {line[:80]!r}")
    kind = RECORD_KINDS[fields.pop("record")]
    if kind is RaceHeader:
        if fields.get("format") != RESULTS_FORMAT:
            raise ValueError(f"Results of format {fields.get('format')!r}; this gradstep reads format {RESULTS_FORMAT}")
        fields["contenders"] = tuple(ContenderEntry(**entry) for entry in fields["contenders"])
        fields["seeds"] = tuple(fields["seeds"])
        fields["start"] = tuple(fields["start"]) if fields.get("start") else None
    elif kind is CurvePoint and fields["place"] is not None:
        fields["place"] = tuple(fields["place"])
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"Not a record of a race: {line[:80]!r} ({error})") from error


def read_results(folder: Path) -> list[RaceResults]:
    """Return the races recorded in `folder`, in the order of the file. An incomplete last line is ignored.

    Raises:
        FileNotFoundError: the folder holds no results.
        ValueError: a line is not a record of a race (the message names the line).
    """
    path = folder / RESULTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No {RESULTS_FILE} in {folder}: give the folder of a race, such as one under runs/")
    races: list[RaceResults] = []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            break
        try:
            record = decode_record(line)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if isinstance(record, RaceHeader):
            races.append(RaceResults(record))
        elif not races:
            raise ValueError(f"{path}, line {number}: a {name_record(record)} before any header")
        elif isinstance(record, CurvePoint):
            races[-1].points.append(record)
        else:
            races[-1].summaries.append(record)
    if not races:
        raise ValueError(f"{path} holds no race")
    return races


def finite_or_none(value: float | None) -> float | None:
    """Return the number, or None if it is not finite: JSON has no word for infinity."""
    return value if value is not None and math.isfinite(value) else None
