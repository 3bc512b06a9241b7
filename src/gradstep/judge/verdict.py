"""The result of a check: its probes, their outcomes, and the likely mistake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, final

from gradstep.judge.scenario import Parting


class Status(str, Enum):
    """The result of a check."""

    PASSED = "passed"
    """It computes the rule and behaves as an optimizer should."""
    DIFFERS = "differs"
    """It is right by another convention, or has other defaults."""
    FAILED = "failed"
    """It does not compute the rule, or misbehaves."""
    UNJUDGED = "unjudged"
    """It could not be run."""


class Outcome(str, Enum):
    """The result of one probe."""

    PASS = "pass"
    FAIL = "fail"
    ADVICE = "advice"
    SKIPPED = "skipped"


@final
@dataclass(frozen=True)
class Probe:
    """One probe and its outcome.

    Attributes:
        name: one to three words.
        shows: what it tests.
        outcome: its result; ``advice`` is no failure: the optimizer works, and could be better.
        detail: what is wrong, or why the probe was skipped.
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
        mistakes: their names in the catalogue.
        sentence: for example "AdamW with the decay added to the gradient".
        residual: the largest relative distance between it and the submission.
        conventions: who writes the rule like this on purpose; empty for a plain mistake.
        look_for: for each mistake, what to look for in the code.
        read: for each mistake, where the right way is explained.
        whose: for each mistake, who writes it like this on purpose, or ""; if all have a name, several conventions are
            mixed.
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
    """The result of :func:`gradstep.check`; ``str()`` of it is a report.

    Attributes:
        subject: the submission's name.
        rule: the rule with which it was compared.
        convention: the reading of the rule that counts as right.
        status: the result in one word.
        reason: the result in one sentence.
        probes: every probe, in order.
        matches: known ways to write the rule that agree with the submission, the likeliest first.
        parting: the first place where the submission and the reference differ.
        nearest: if nothing agrees, a sentence about the known mistake that explains most.
        notes: further remarks.
        seconds: duration of the check.

    >>> import gradstep
    >>> verdict = gradstep.check(gradstep.AdamW, "adamw")
    >>> verdict.status.value, verdict.exit_code, verdict.failed()
    ('passed', 0, ())
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
        """Whether the status is ``passed``."""
        return self.status is Status.PASSED

    @property
    def exit_code(self) -> int:
        """0 if it passed, 1 if it did not, 2 if it could not be judged."""
        return {Status.PASSED: 0, Status.UNJUDGED: 2}.get(self.status, 1)

    def failed(self) -> tuple[Probe, ...]:
        """Return the failed probes."""
        return tuple(p for p in self.probes if p.outcome is Outcome.FAIL)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {**asdict(self), "status": self.status.value, "passed": self.passed, "exit_code": self.exit_code}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Verdict:
        """Return the verdict from ``values`` that :meth:`as_dict` made, also after a round trip through JSON."""
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

    def __str__(self) -> str:
        return write_verdict(self)


def printable(text: str) -> str:
    r"""Write out the control characters of a text, so that a terminal does not obey them.

    >>> printable("\x1b[2Jgone")
    '\\x1b[2Jgone'
    """
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _tuples(value: Any) -> Any:
    """Return lists, which JSON makes of tuples, as tuples."""
    return tuple(value) if isinstance(value, list) else value


SIGNS = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.ADVICE: "!", Outcome.SKIPPED: "–"}

_SCENARIOS = 3
"""Number of failed scenarios with their details in the report."""


def headline(verdict: Verdict) -> str:
    """Return the result in one line."""
    return f"{verdict.subject} against {verdict.rule}: {verdict.status.value.upper()}. {verdict.reason}"


def count_passed(verdict: Verdict) -> str:
    """Return how many of the probes passed, in words."""
    passed = sum(p.outcome is Outcome.PASS for p in verdict.probes)
    return f"{passed} of {len(verdict.probes)} probes passed"


def describe_diagnosis(verdict: Verdict) -> list[str]:
    """Return the likely mistakes, where they show first and what to read, as lines."""
    lines = [line for match in verdict.matches[:1] for line in _describe_match(match)]
    others = [match.sentence for match in verdict.matches[1:3]]
    if others:
        lines.append(f"Equally possible: {'; or '.join(others)}.")
    if verdict.nearest:
        lines.append(verdict.nearest)
    if verdict.parting is not None:
        lines.append(f"First apart in {verdict.parting.scenario!r}, {verdict.parting}.")
    return lines


def _describe_match(match: Match) -> list[str]:
    agreed = "exactly" if match.residual == 0 else f"to {match.residual:.0e}"
    lines = [f"Matches {match.sentence}, {agreed}."]
    if match.conventions:
        names = ", ".join(match.conventions)
        lines.append(f"That is a convention, not an error: {names} (--convention {match.conventions[0]} accepts it).")
    elif len(match.whose) > 1 and all(match.whose):
        lines.append(f"Each is a convention, though no one has them all: {'; '.join(match.whose)}.")
    lines += [f"Look for: {text}." for text in match.look_for]
    lines += [f"Read: {text}." for text in dict.fromkeys(match.read)]
    return lines


def write_verdict(verdict: Verdict) -> str:
    """Return the whole verdict as text: result, diagnosis, probes that did not pass, notes."""
    lines = [headline(verdict), *(f"  {line}" for line in describe_diagnosis(verdict))]
    width = max((len(p.name) for p in verdict.probes), default=0)
    shown = [p for p in verdict.probes if p.outcome is not Outcome.PASS]
    if verdict.probes:
        lines.append(f"  {count_passed(verdict)}" + (":" if shown else "."))
    scenarios = [p for p in shown if p.outcome is Outcome.FAIL and not p.look_for]
    for probe in shown:
        if probe in scenarios[_SCENARIOS:]:
            continue
        lines.append(f"  {SIGNS[probe.outcome]} {probe.name:<{width}}  {probe.detail or probe.shows}")
        if probe.look_for and probe.outcome is not Outcome.SKIPPED:
            lines.append(f"    {'':<{width}}look for: {probe.look_for}")
    if len(scenarios) > _SCENARIOS:
        lines.append(f"  {SIGNS[Outcome.FAIL]} and also: {', '.join(p.name for p in scenarios[_SCENARIOS:])}")
    lines += [f"  Note: {note}" for note in verdict.notes]
    return "\n".join(lines)
