"""The result for each parameter, and the report in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, final


class Result(str, Enum):
    """The judgement of a parameter's updates.

    Attributes:
        RIGHT: they are those of the rule that the optimizer's name promises.
        WRONG: they are those of another rule.
        UNSTEPPED: no optimizer holds the parameter, or its optimizer did not move it.
        OPEN: the name promises no rule, or the updates show none.
        FROZEN: the parameter is not meant to move.
    """

    RIGHT = "right"
    WRONG = "wrong"
    UNSTEPPED = "not updated"
    OPEN = "open"
    FROZEN = "frozen"


_SIGNS = {Result.RIGHT: "✓", Result.WRONG: "✗", Result.UNSTEPPED: "✗", Result.OPEN: "–", Result.FROZEN: "–"}


@final
@dataclass(frozen=True)
class UpdateReport:
    """One parameter in a training run that was watched.

    Attributes:
        name: the parameter's name in the model, or its place in its group.
        shape: its shape.
        optimizer: the class that holds it, or both of two; empty if none does.
        promised: the rule that the class's name stands for; empty if it stands for none.
        received: the rule whose update it got, or what happened instead.
        result: the judgement.
    """

    name: str
    shape: tuple[int, ...]
    optimizer: str
    promised: str
    received: str
    result: Result

    @property
    def sentence(self) -> str:
        """The parameter in one line."""
        named = f"named {self.promised}, " if self.promised and self.promised != self.received else ""
        return f"parameter {self.name}: {named}{self.received}"


@final
@dataclass(frozen=True)
class WatchReport:
    """What a watched training run shows: which rule updated which parameter.

    Attributes:
        parameters: every parameter that was seen, in the order of the optimizers.
        steps: steps that were watched, of the optimizer with the most.
        ending: the error or exit that ended the training script early; empty if it ran to its end.
    """

    parameters: tuple[UpdateReport, ...]
    steps: int
    ending: str = ""

    @property
    def passed(self) -> bool:
        """Whether some updates were seen, and nothing is wrong."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0 if every parameter got the update that was promised, 1 if one did not, 2 if nothing was seen."""
        if self.problems:
            return 1
        return 0 if any(p.result is Result.RIGHT for p in self.parameters) else 2

    @property
    def problems(self) -> tuple[UpdateReport, ...]:
        """The parameters with which something is wrong."""
        return tuple(p for p in self.parameters if p.result in (Result.WRONG, Result.UNSTEPPED))

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        rows = [{**vars(p), "shape": list(p.shape), "result": p.result.value} for p in self.parameters]
        return {"passed": self.passed, "steps": self.steps, "ending": self.ending, "parameters": rows}

    def __str__(self) -> str:
        ending = f" {self.ending[0].upper()}{self.ending[1:].rstrip('.')}." if self.ending else ""
        lines = [describe_result(self) + ending]
        rows = list_lines(self)
        widths = [max(len(row[i]) for row in rows) for i in range(4)] if rows else []
        for row in rows:
            cells = [f"{cell:<{width}}" for cell, width in zip(row, widths)]
            lines.append(f"  {'  '.join(cells)}  {row[4]}".rstrip())
        return "\n".join(lines)


def describe_result(report: WatchReport) -> str:
    """Return the result in a sentence or two."""
    count, wrong = len(report.parameters), report.problems
    steps = f"{report.steps} step{'' if report.steps == 1 else 's'}"
    if not report.steps:
        return "NOTHING SEEN. No optimizer has made a step."
    if not wrong:
        right = sum(p.result is Result.RIGHT for p in report.parameters)
        result = "RIGHT" if right else "OPEN"
        unseen = sum(p.result is Result.OPEN and bool(p.promised) for p in report.parameters)
        rest = f" {unseen} could not be judged." if unseen and right else ""
        return f"{result}. {right} of {count} parameters got the updates that are promised, in {steps}.{rest}"
    first = wrong[0].sentence[0].upper() + wrong[0].sentence[1:]
    return f"WRONG. {len(wrong)} of {count} parameters did not get the updates that are promised, in {steps}. {first}."


def list_lines(report: WatchReport) -> list[tuple[str, str, str, str, str]]:
    """Return rows of sign, parameters, optimizer, promised, received; equal parameters share one, wrong ones first."""
    rows: dict[tuple[str, str, str, Result], list[str]] = {}
    for p in report.parameters:
        rows.setdefault((p.optimizer, p.promised, p.received, p.result), []).append(p.name)
    order = [Result.WRONG, Result.UNSTEPPED, Result.OPEN, Result.RIGHT, Result.FROZEN]
    lines = []
    for (optimizer, promised, received, result), names in sorted(rows.items(), key=lambda r: order.index(r[0][3])):
        lines.append((_SIGNS[result], _shorten(names), optimizer or "–", promised or "–", received))
    return lines


def _shorten(names: Sequence[str]) -> str:
    """Return several names in a few words."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
