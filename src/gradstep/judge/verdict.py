"""The result of a check: what was probed, what came of it, and what is likely wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any, final

from gradstep.judge.compare import Parting


class Status(str, Enum):
    """What came of a check."""

    PASSED = "passed"
    """It computes the rule, and behaves."""
    DIFFERS = "differs"
    """It is right by a convention, or with defaults, other than those asked for."""
    FAILED = "failed"
    """It does not compute the rule, or misbehaves."""
    UNJUDGED = "unjudged"
    """It could not be run."""


class Outcome(str, Enum):
    """What came of one probe."""

    PASS = "pass"
    FAIL = "fail"
    ADVICE = "advice"
    SKIPPED = "skipped"


@final
@dataclass(frozen=True)
class Probe:
    """One probe and its outcome.

    Attributes:
        name: in one to three words.
        shows: what it is about.
        outcome: ``advice`` is no failure: the optimizer works, and could be better.
        detail: what was found, or why it was left out.
        look_for: what to look for in the code.
    """

    name: str
    shows: str
    outcome: Outcome
    detail: str = ""
    look_for: str = ""


@final
@dataclass(frozen=True)
class Match:
    """A known way to write the rule that agrees with the submission in every scenario.

    Attributes:
        mistakes: names in the catalogue.
        sentence: "AdamW with the decay added to the gradient".
        residual: the largest relative distance between the two.
        conventions: who writes the rule like this on purpose; empty for a plain mistake.
        look_for: what to look for in the code, one for each mistake.
        read: where it is explained, one for each mistake.
        whose: who has each difference so, one for each mistake; all of them name somebody where several conventions
            are mixed.
    """

    mistakes: tuple[str, ...]
    sentence: str
    residual: float
    conventions: tuple[str, ...]
    look_for: tuple[str, ...]
    read: tuple[str, ...]
    whose: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Verdict:
    """What :func:`gradstep.check` returns; ``str()`` is the report that a person reads.

    Attributes:
        subject: the submission's name.
        rule: the rule it was held against.
        convention: whose reading of the rule counts as right.
        status: the result in one word.
        reason: the result in one sentence.
        probes: every probe, in order.
        matches: known ways to write the rule that agree with the submission, the likeliest first.
        parting: where the submission and the reference part company first.
        nearest: where nothing agrees, the known mistake that explains most, in words.
        notes: remarks beside the result.
        seconds: how long the check took.
    """

    subject: str
    rule: str
    convention: str
    status: Status
    reason: str
    probes: tuple[Probe, ...] = ()
    matches: tuple[Match, ...] = ()
    parting: Parting | None = None
    nearest: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it is right."""
        return self.status is Status.PASSED

    @property
    def exit_code(self) -> int:
        """0 when it passed, 1 when it did not, 2 when it could not be judged."""
        return {Status.PASSED: 0, Status.UNJUDGED: 2}.get(self.status, 1)

    def failed(self) -> tuple[Probe, ...]:
        """The probes that it failed."""
        return tuple(p for p in self.probes if p.outcome is Outcome.FAIL)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {**asdict(self), "status": self.status.value, "passed": self.passed, "exit_code": self.exit_code}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Verdict:
        """The verdict that :meth:`as_dict` wrote, also after a round trip through JSON."""
        own = {f.name: values[f.name] for f in fields(Verdict)}
        parting = own["parting"]
        return Verdict(
            **{
                **own,
                "status": Status(own["status"]),
                "probes": tuple(Probe(**{**p, "outcome": Outcome(p["outcome"])}) for p in own["probes"]),
                "matches": tuple(Match(**{k: _tuples(v) for k, v in m.items()}) for m in own["matches"]),
                "parting": parting and Parting(**{k: _tuples(v) for k, v in parting.items()}),
                "notes": tuple(own["notes"]),
            }
        )

    def because(self, reason: str) -> Verdict:
        """The same with another reason."""
        return replace(self, reason=reason)

    def noting(self, note: str) -> Verdict:
        """The same with one more note."""
        return replace(self, notes=(*self.notes, note))

    def __str__(self) -> str:
        from gradstep.judge.words import report

        return report(self)


def printable(text: str) -> str:
    r"""The text with control characters written out, so that no terminal obeys them.

    >>> printable("\x1b[2Jgone")
    '\\x1b[2Jgone'
    """
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _tuples(value: Any) -> Any:
    """JSON knows lists only."""
    return tuple(value) if isinstance(value, list) else value
