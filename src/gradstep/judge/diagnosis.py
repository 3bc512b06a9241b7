"""Which known way to write the rule agrees with what was observed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import combinations
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from gradstep.judge.catalogue import MISTAKES, Mistake, Variant, catalogue, distinct, variants
from gradstep.judge.compare import Reference, tolerance
from gradstep.judge.formula import Formula, true_formula
from gradstep.judge.observe import Observed
from gradstep.judge.replay import Way
from gradstep.judge.scenario import Scenario
from gradstep.judge.verdict import Match
from gradstep.rules import Rule

PATIENCE = 1.5
"""Seconds of computing that pairs of mistakes are tried for, a third of it for each kind of pair; not of waiting, so
that a busy machine judges alike.
"""

AROUND = ("kept gradient", "saved", "groups", "skipped", "rate changed")
"""Scenarios about what is around the mathematics: mistakes there show in one of them, and come beside others."""

NEAR = 0.5
"""The share of what is wrong that a mistake has to explain, more than it leaves worse, to be named as the nearest."""

COARSE = "float32"
Flags: TypeAlias = NDArray[np.bool_]

PRECISIONS = ("float64", COARSE)
"""What a submission may compute in; the finer one is tried first."""


@final
@dataclass(frozen=True)
class Found:
    """Ways to write the rule that agree with every observation, and to which precision.

    Attributes:
        variants: the likeliest first; empty if none agrees.
        precision: ``float64``, or ``float32`` where the submission computes in that.
        residual: the largest distance of the first one.
        unexplained: scenarios that were left out of the comparison, since nothing explains them with the others.
    """

    variants: tuple[Variant, ...] = ()
    precision: str = "float64"
    residual: float = 0.0
    unexplained: tuple[str, ...] = ()


@final
class Evidence:
    """What was observed of a submission in the scenarios it could run, and the reference's own way through each."""

    def __init__(
        self,
        rule: type[Rule],
        scenarios: Sequence[Scenario],
        observed: Sequence[Observed],
        ways: dict[tuple[Formula, Scenario], Way] | None = None,
    ) -> None:
        self.rule, self.scenarios, self.observed = rule, scenarios, observed
        self._ways: dict[tuple[Formula, Scenario], Way] = {} if ways is None else ways
        self.true = Variant((), true_formula(rule))
        self.truth = [Reference(self._way(self.true, i).until(s.steps)) for i, s in enumerate(scenarios)]
        self.seen = [Reference(o.trajectory[: o.raised_at] if o.raised_at else o.trajectory) for o in observed]
        # A variant is soonest refuted where the submission is wrong, and cheapest in a short scenario.
        right = self.agreement(self.true, "float64")
        self.order = sorted(range(len(scenarios)), key=lambda i: (right[i], self.truth[i].trajectory.size))

    def without(self, names: tuple[str, ...]) -> Evidence:
        """The same but for some scenarios."""
        kept = [i for i, s in enumerate(self.scenarios) if s.name not in names]
        rest = Evidence(self.rule, [self.scenarios[i] for i in kept], [self.observed[i] for i in kept], self._ways)
        silent, alone, right = self.table
        rest.table = silent[:, kept], alone[:, kept], right[kept]
        return rest

    @cached_property
    def table(self) -> tuple[Flags, Flags, Flags]:
        """By single mistake and scenario, whether it does not show and whether it agrees; and whether the rule does."""
        singles = catalogue(self.rule)
        silent = np.array([self.silent(v, COARSE) for v in singles])
        alone = np.array([self.agreement(v, COARSE) for v in singles])
        return silent, alone, np.array(self.agreement(self.true, COARSE))

    def agrees(self, candidate: Variant, precision: str) -> bool:
        """Whether the variant goes the submission's way in every scenario."""
        return all(self._agrees(candidate, i, precision) for i in self.order)

    def agreement(self, candidate: Variant, precision: str) -> list[bool]:
        """In which scenarios it does."""
        return [self._agrees(candidate, i, precision) for i in range(len(self.scenarios))]

    def silent(self, candidate: Variant, precision: str) -> list[bool]:
        """In which scenarios the variant does not differ from the true rule."""
        return [
            self._stated(candidate, s) and self._near(self._way(candidate, i), true, s.steps, precision)
            for i, (s, true) in enumerate(zip(self.scenarios, self.truth))
        ]

    def residual(self, candidate: Variant) -> float:
        """The largest distance over all scenarios."""
        return max((self._distance(candidate, i) for i in range(len(self.scenarios))), default=0.0)

    def _agrees(self, candidate: Variant, i: int, precision: str) -> bool:
        if not self._stated(candidate, self.scenarios[i]):
            return True
        end, way = self.observed[i].raised_at, self._way(candidate, i)
        near = self._near(way, self.seen[i], end - 1 if end else self.scenarios[i].steps, precision)
        return near and (not end or self._breaks(way, end))

    def _near(self, way: Way, reference: Reference, end: int, precision: str) -> bool:
        """Whether a way stays near another; it is followed only until it leaves."""
        limit = tolerance(precision, way.scenario.steps)
        step = 1
        while step < end:
            if reference.distance(way.until(step)) > limit:
                return False
            step *= 2
        return reference.distance(way.until(end)) <= limit

    @staticmethod
    def _breaks(way: Way, step: int) -> bool:
        """Whether a number cannot be had there: one optimizer raises, another goes on with NaN in its parameters."""
        rows = way.until(step)
        return way.divided[step] or not np.isfinite(rows[step]).all()

    def _distance(self, candidate: Variant, i: int) -> float:
        if not self._stated(candidate, self.scenarios[i]):
            return 0.0
        end, way = self.observed[i].raised_at, self._way(candidate, i)
        if end and not self._breaks(way, end):
            return np.inf
        return self.seen[i].distance(way.until(end - 1 if end else self.scenarios[i].steps))

    @staticmethod
    def _stated(candidate: Variant, scenario: Scenario) -> bool:
        """Whether the variant says anything here: how one state serves different shapes is anyone's guess."""
        return not candidate.formula.habits.shared or len({v.shape for v in scenario.initial}) == 1

    def _way(self, candidate: Variant, i: int) -> Way:
        key = candidate.formula, self.scenarios[i]
        if key not in self._ways:
            self._ways[key] = Way(candidate.formula, self.scenarios[i])
        return self._ways[key]


@cache
def accepted(rule: type[Rule], convention: str) -> tuple[Variant, ...]:
    """What counts as right: the rule itself, and with any of the convention's own differences."""
    own = [v.mistakes[0] for v in catalogue(rule) if convention in v.mistakes[0].conventions_of(rule)]
    return tuple(_makeable(rule, (c for n in range(len(own) + 1) for c in combinations(own, n))))


def find(evidence: Evidence, convention: str) -> Found:
    """The likeliest explanation: the accepted forms, then one mistake, then two; at last the mathematics alone."""
    if found := _singles(evidence, convention) or _of_conventions(evidence):
        return found
    likely, unlikely = _pairs(evidence)
    if found := _agreeing(evidence, likely, time.process_time() + PATIENCE / 3):
        return found
    right = dict(zip((s.name for s in evidence.scenarios), evidence.agreement(evidence.true, "float32")))
    odd = tuple(name for name in AROUND if right.get(name) is False)
    if odd and len(odd) < len(right):
        rest = evidence.without(odd)
        end = time.process_time() + PATIENCE / 3
        if found := _singles(rest, convention) or _of_conventions(rest) or _agreeing(rest, _pairs(rest)[0], end):
            return _beside(evidence, found) or _partial(evidence, found)
    return _agreeing(evidence, unlikely, time.process_time() + PATIENCE / 3) or Found()


OPENING = ("decay-on-weight", "decay-in-gradient")
"""Mistakes that make room for others: a decay that is somewhere else can be wrong there too."""

MIXED = 4
"""How many differences of different conventions are looked for together."""


def _of_conventions(evidence: Evidence) -> Found | None:
    """Several differences each of which is somebody's convention, though not all of them the same's."""
    silent, alone, right = evidence.table
    rows = {v.mistakes[0]: i for i, v in enumerate(catalogue(evidence.rule))}

    def possible(several: tuple[Mistake, ...]) -> bool:
        """Whether the single ones do not speak against it: where at most one of them shows, that one should agree."""
        known = [rows[m] for m in several if m in rows]
        shows = ~silent[known]
        told = np.where(shows.any(axis=0), (alone[known] & shows).any(axis=0), right)
        opened = any(m.name in OPENING for m in several)
        sure = (shows.sum(axis=0) < 2) & (len(known) == len(several)) & (not opened)
        return bool((told | ~sure).all())

    own = [m for m in MISTAKES if m.conventions_of(evidence.rule)]
    several = (c for n in range(2, MIXED + 1) for c in combinations(own, n) if possible(c))
    end = time.process_time() + PATIENCE / 3
    for candidate in _makeable(evidence.rule, several):
        if evidence.agrees(candidate, PRECISIONS[0]):
            return Found((candidate,), PRECISIONS[0], evidence.residual(candidate))
        if time.process_time() > end:
            break
    return None


def _beside(evidence: Evidence, found: Found) -> Found | None:
    """What explains the mathematics, with one mistake more that explains what is around it."""
    mistakes = found.variants[0].mistakes
    others = [(0, (*mistakes, *v.mistakes)) for v in catalogue(evidence.rule) if v.mistakes[0] not in mistakes]
    return _agreeing(evidence, others, time.process_time() + PATIENCE)


def _partial(evidence: Evidence, found: Found) -> Found:
    """What explains the mathematics, and the scenarios that it does not explain."""
    agrees = evidence.agreement(found.variants[0], found.precision)
    unexplained = tuple(s.name for s, right in zip(evidence.scenarios, agrees) if not right)
    return replace(found, unexplained=unexplained)


def _singles(evidence: Evidence, convention: str) -> Found | None:
    # What is right in float32 is rather that than a mistake of one part in 10⁷ in float64.
    for precision in PRECISIONS:
        for candidates in (accepted(evidence.rule, convention), catalogue(evidence.rule)):
            if agreeing := tuple(v for v in candidates if evidence.agrees(v, precision)):
                told = agreeing if agreeing[0] in accepted(evidence.rule, convention) else distinct(agreeing)
                if told:
                    return Found(told, precision, evidence.residual(told[0]))
    return None


_Pairs: TypeAlias = list[tuple[int, tuple[Mistake, ...]]]
"""Mistakes to be tried together, each with the number of scenarios in which the single ones speak for them."""


def _pairs(evidence: Evidence) -> tuple[_Pairs, _Pairs]:
    """Every two mistakes: those that the single ones speak for, and the others.

    Where one of the two changes nothing, the pair should do what the other does alone; where neither does, what the
    rule does. A pair may break this, since one mistake can hide or bring out what the other does.
    """
    singles = catalogue(evidence.rule)
    silent, alone, right = evidence.table
    scored = []
    for i in range(len(singles) - 1):
        one, other = silent[i] & ~silent[i + 1 :], silent[i + 1 :] & ~silent[i]
        both = ~silent[i] & ~silent[i + 1 :]
        told = np.where(one, alone[i + 1 :], np.where(other, alone[i], right))
        against, shown = (~told & ~both).sum(axis=1), (told & ~both).sum(axis=1)
        scored += [(int(against[k]), int(shown[k]), i, i + 1 + k) for k in range(len(against))]
    # Those first that leave the least to how the two work together.
    scored.sort(key=lambda each: (each[0], -each[1]))
    likely: _Pairs = []
    unlikely: _Pairs = [(0, mistakes) for mistakes in _opened(evidence.rule)]
    for against, shown, i, j in scored:
        (unlikely if against else likely).append((shown, (singles[i].mistakes[0], singles[j].mistakes[0])))
    return likely, unlikely


@cache
def _opened(rule: type[Rule]) -> tuple[tuple[Mistake, ...], ...]:
    """Pairs of which one can be made only after the other, as a decay of the weight by another factor."""
    alone = {v.mistakes[0] for v in catalogue(rule)}
    first = [m for m in alone if m.name in OPENING]
    return tuple((one, m) for one in first for m in MISTAKES if m not in alone and variants(rule, (one, m)))


def _agreeing(evidence: Evidence, candidates: _Pairs, end: float) -> Found | None:
    """Those of the candidates that agree, the nearest first, as far as time allows.

    What agrees to the last digits ends the search among what fewer scenarios speak for.
    """
    agreeing = []
    best = 0
    for shown, mistakes in candidates:
        if time.process_time() > end:
            break
        if shown < best:
            break
        for candidate in _makeable(evidence.rule, (mistakes,)):
            if evidence.agrees(candidate, COARSE):
                agreeing.append((evidence.residual(candidate), candidate))
                best = shown if agreeing[-1][0] <= tolerance("float64", 1) else best
    if not agreeing:
        return None
    least = min(residual for residual, _ in agreeing)
    precision = "float64" if least <= tolerance("float64", 1) else COARSE
    agreeing.sort(key=lambda scored: scored[0])
    told = distinct(v for r, v in agreeing if r <= max(least, tolerance(precision, 1)))
    return Found(told, precision, least) if told else None


def _makeable(rule: type[Rule], combinations_: Iterable[tuple[Mistake, ...]]) -> Iterator[Variant]:
    for mistakes in combinations_:
        yield from variants(rule, mistakes)


def nearest(evidence: Evidence) -> str:
    """Where nothing agrees: the one mistake that explains most of what is wrong, in words; or that none comes near."""
    right = np.array(evidence.agreement(evidence.true, COARSE))
    if right.all():
        return ""
    agreements = [(np.array(evidence.agreement(v, COARSE)), v) for v in catalogue(evidence.rule)]
    agrees, candidate = max(agreements, key=lambda found: int(found[0].sum()))
    if agrees.sum() - right.sum() < NEAR * (~right).sum():
        return "No known mistake, and no two, do what it does, and none comes near."
    return (
        f"No known mistake, and no two, do all that it does. Nearest: {candidate.sentence}, which agrees in "
        f"{int((agrees & ~right).sum())} of {int((~right).sum())} scenarios that it fails; "
        f"look for {candidate.mistakes[0].look_for}."
    )


def as_match(candidate: Variant, residual: float) -> Match:
    """A variant as it stands in the verdict."""
    return Match(
        tuple(m.name for m in candidate.mistakes),
        candidate.sentence,
        residual,
        candidate.conventions,
        tuple(m.look_for for m in candidate.mistakes),
        tuple(m.read for m in candidate.mistakes),
        tuple(", ".join(m.conventions_of(candidate.formula.rule)) for m in candidate.mistakes),
    )
