"""The diagnosis of a whole run, and the order of its findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, final

from gradstep.monitor.doctor.finding import Finding
from gradstep.monitor.doctor.readings import Reading


@final
@dataclass(frozen=True)
class Diagnosis:
    """The result of :func:`gradstep.diagnose`; ``str()`` returns it as a report.

    Attributes:
        findings: what is wrong, the likeliest cause first and consequences of other findings last.
        readings: the course of each quantity and its meaning.
        updates: number of updates in the record.

    >>> print(Diagnosis(findings=(), readings=(), updates=1_000))
    1,000 updates: nothing wrong found
    """

    findings: tuple[Finding, ...]
    readings: tuple[Reading, ...]
    updates: int

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def exit_code(self) -> int:
        """0 when nothing was found, else 1."""
        return 0 if self.healthy else 1

    @property
    def headline(self) -> str:
        """The result in one line."""
        count = len(self.findings)
        result = "nothing wrong found" if self.healthy else f"{count} finding{'s' if count > 1 else ''}"
        return f"{self.updates:,} updates: {result}"

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain values for JSON."""
        return {
            "healthy": self.healthy,
            "updates": self.updates,
            "findings": [finding.as_dict() for finding in self.findings],
            "readings": [vars(reading) for reading in self.readings],
        }

    def __str__(self) -> str:
        lines = [self.headline]
        lines += [f"\n{number}. {finding}" for number, finding in enumerate(self.findings, 1)]
        if self.readings:
            lines.append("\nreadings")
            lines += [f"  {reading}" for reading in self.readings]
        return "\n".join(lines)


def rank_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Order findings: causes before their consequences, then by severity, then by score."""
    every = tuple(findings)
    with_causes = [
        replace(finding, because_of=tuple(f.cause.title for f in every if finding.cause.name in f.cause.explains))
        for finding in every
    ]
    return tuple(sorted(with_causes, key=lambda f: (bool(f.because_of), f.cause.severity.rank, -f.score)))
