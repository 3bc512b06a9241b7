"""A finding of the doctor with its cause and evidence, and functions that rules use to write texts."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, final

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.report.words import read_tables


@final
class Severity(Enum):
    """The severity of a finding, the worst first."""

    CRITICAL = "critical"
    """Part of the model does not learn, or nothing does."""
    WARNING = "warning"
    """The run learns less than it could."""
    HINT = "hint"
    """A setting that is rarely intended; the run itself looks healthy."""

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


EVERY_READING = frozenset({"loss", "gradient norm", "weight norm", "update over weights"})
"""The readings that mean nothing where the loop or the numbers themselves are broken."""

DIVERGENCE = frozenset(
    {
        "lr_too_high",
        "gradients_exploding",
        "gradients_vanished",
        "spike",
        "weights_growing",
        "not_finite",
        "loss_scale_collapse",
    }
)
"""The causes that a run which diverges for another reason seems to have."""


@final
@dataclass(frozen=True)
class Cause:
    """One thing that can be wrong with a training run.

    Attributes:
        name: the name for programs, ``"lr_too_high"``.
        title: the title for readers.
        severity: how bad it is.
        reading: what the numbers mean.
        remedy: what to do.
        explains: names of causes that are consequences of this one when both are found. There are no circles.
        spoils: quantities (see :class:`Reading`) that are unhealthy with this cause, even if their numbers look good.
    """

    name: str
    title: str
    severity: Severity
    reading: str
    remedy: str
    explains: frozenset[str] = frozenset()
    spoils: frozenset[str] = frozenset()


@final
@dataclass(frozen=True)
class Fact:
    """One piece of evidence.

    Attributes:
        text: the observation, with its number and the usual one.
        value: its number.
        limit: the bound that the number crossed; None without a bound.
        updates: the first and the last update of the observation; None if it holds for the whole run.
    """

    text: str
    value: float | None = None
    limit: float | None = None
    updates: tuple[int, int] | None = None

    def __str__(self) -> str:
        if self.updates is None:
            return self.text
        first, last = self.updates
        return f"{self.text} (update {first})" if first == last else f"{self.text} (updates {first} to {last})"


@final
@dataclass(frozen=True)
class Finding:
    """A cause that the record gives evidence for.

    Attributes:
        cause: what is wrong.
        score: the strength of the evidence, from 0 to 1; it orders findings of one severity.
        evidence: the facts.
        because_of: titles of findings that this one is likely a consequence of.
    """

    cause: Cause
    score: float
    evidence: tuple[Fact, ...]
    because_of: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain values for JSON."""
        return {
            "cause": self.cause.name,
            "title": self.cause.title,
            "severity": self.cause.severity.value,
            "score": self.score,
            "evidence": [vars(fact) | {"text": str(fact)} for fact in self.evidence],
            "reading": self.cause.reading,
            "remedy": self.cause.remedy,
            "because_of": list(self.because_of),
        }

    def __str__(self) -> str:
        lines = [f"{self.cause.title} [{self.cause.severity.value}]"]
        if self.because_of:
            lines.append(f"  likely a consequence of: {', '.join(self.because_of)}")
        lines += [f"  - {fact}" for fact in self.evidence]
        lines += [f"  reading: {self.cause.reading}", f"  remedy: {self.cause.remedy}"]
        return "\n".join(lines)


Signs: TypeAlias = tuple[float, Sequence[Fact]] | None
"""The score and the facts of a finding; None, or no facts, if the cause shows no sign."""


@final
@dataclass(frozen=True)
class CauseFinder:
    """Searches the record of a run for one cause."""

    cause: Cause
    find: Callable[[Evidence], Signs]

    def __call__(self, evidence: Evidence) -> Finding | None:
        """Return the finding, or None."""
        score, facts = self.find(evidence) or (0.0, ())
        return Finding(self.cause, score, tuple(facts)) if facts else None


def finds(
    explains: Iterable[str] = (), spoils: Iterable[str] = ()
) -> Callable[[Callable[[Evidence], Signs]], CauseFinder]:
    """Make a finder of a function; its cause has the function's name, and the texts of that name in ``causes.md``."""

    def make_finder(find: Callable[[Evidence], Signs]) -> CauseFinder:
        title, severity, reading, remedy = _texts()[find.__name__]
        return CauseFinder(
            Cause(find.__name__, title, Severity(severity), reading, remedy, frozenset(explains), frozenset(spoils)),
            find,
        )

    return make_finder


@cache
def _texts() -> dict[str, list[str]]:
    """Return the title, severity, reading and remedy of each cause."""
    return {name.strip("`"): texts for name, *texts in read_tables(Path(__file__).with_name("causes.md"))}


def grade(value: float, *, limit: float, certain: float) -> float:
    """Score how far a positive number is beyond its limit, on a logarithmic scale: 0.5 at ``limit``, 1 at ``certain``.

    >>> grade(100.0, limit=100.0, certain=1e4), grade(1e3, limit=100.0, certain=1e4)
    (0.5, 0.75)
    """
    if value <= 0 or value == math.inf:
        return 1.0
    return min(1.0, max(0.0, 0.5 + 0.5 * math.log(value / limit) / math.log(certain / limit)))


SHOWN = 4


def join_names(names: Iterable[str]) -> str:
    """Join names by commas; of many only the first few.

    >>> join_names(["a", "b"]), join_names("abcdefg")
    ('a, b', 'a, b, c, d and 3 more')
    """
    every = list(names)
    more = len(every) - SHOWN
    return ", ".join(every[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def show_share(share: float) -> str:
    """Write a share of a whole in percent, or as a multiple from 10 on.

    >>> show_share(0.5), show_share(1.234), show_share(14904238.5), show_share(1.49e13)
    ('50%', '123%', '14,904,238 times', '1.5e+13 times')
    """
    if abs(share) < 10:
        return f"{share:.0%}"
    return f"{share:,.0f} times" if abs(share) < 1e9 else f"{share:.2g} times"


def describe_fall(share: float) -> str:
    """Say how a loss changed, given the share of its start that it lost.

    >>> describe_fall(0.1234), describe_fall(-0.5), describe_fall(-1999.0)
    ('fell by 12.3%', 'rose by 50.0%', 'rose to 2,000 times its start')
    """
    if share <= -10:
        return f"rose to {show_share(1 - share)} its start"
    return f"{'fell' if share >= 0 else 'rose'} by {abs(share):.1%}"
