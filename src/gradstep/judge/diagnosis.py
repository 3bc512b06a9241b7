"""Which known way to write the rule agrees with what was observed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import TypeAlias, final

import numpy as np

from gradstep.judge.catalogue import Mistake, Variant, catalogue, variant
from gradstep.judge.compare import distance, tolerance
from gradstep.judge.formula import true_formula
from gradstep.judge.observe import Observed
from gradstep.judge.replay import replay
from gradstep.judge.rewrite import NotFoundError
from gradstep.judge.scenario import Scenario, Trajectory
from gradstep.judge.verdict import Match
from gradstep.rules import Rule

PATIENCE = 2.0
"""Seconds of computing that pairs of mistakes are tried for; not of waiting, so that a busy machine judges alike."""

AROUND = ("kept gradient", "saved", "groups", "skipped", "rate changed")
"""Scenarios about what is around the mathematics: mistakes there show in one of them, and come beside others."""

NEAR = 0.5
"""The share of what is wrong that a mistake has to explain, more than it leaves worse, to be named as the nearest."""

COARSE = "float32"
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

    def __init__(self, rule: type[Rule], scenarios: Sequence[Scenario], observed: Sequence[Observed]) -> None:
        self.rule, self.scenarios, self.observed = rule, scenarios, observed
        self._ways: dict[tuple[tuple[Mistake, ...], int], Trajectory] = {}
        self.true = Variant((), true_formula(rule))
        self.truth = [self._way(self.true, i) for i in range(len(scenarios))]
        # A variant is soonest refuted where the submission is wrong, and cheapest in a short scenario.
        right = self.agreement(self.true, "float64")
        self.order = sorted(range(len(scenarios)), key=lambda i: (right[i], self.truth[i].size))

    def without(self, names: tuple[str, ...]) -> Evidence:
        """The same but for some scenarios."""
        kept = [i for i, s in enumerate(self.scenarios) if s.name not in names]
        return Evidence(self.rule, [self.scenarios[i] for i in kept], [self.observed[i] for i in kept])

    def agrees(self, candidate: Variant, precision: str) -> bool:
        """Whether the variant goes the submission's way in every scenario."""
        return all(self._agrees(candidate, i, precision) for i in self.order)

    def agreement(self, candidate: Variant, precision: str) -> list[bool]:
        """In which scenarios it does."""
        return [self._agrees(candidate, i, precision) for i in range(len(self.scenarios))]

    def silent(self, candidate: Variant, precision: str) -> list[bool]:
        """In which scenarios the variant does not differ from the true rule."""
        return [
            self._stated(candidate, s) and distance(self._way(candidate, i), true) <= tolerance(precision, s.steps)
            for i, (s, true) in enumerate(zip(self.scenarios, self.truth))
        ]

    def residual(self, candidate: Variant) -> float:
        """The largest distance over all scenarios."""
        return max((self._distance(candidate, i) for i in range(len(self.scenarios))), default=0.0)

    def _agrees(self, candidate: Variant, i: int, precision: str) -> bool:
        return self._distance(candidate, i) <= tolerance(precision, self.scenarios[i].steps)

    def _distance(self, candidate: Variant, i: int) -> float:
        if not self._stated(candidate, self.scenarios[i]):
            return 0.0
        seen, way = self.observed[i], self._way(candidate, i)
        if not seen.raised_at:
            return distance(seen.trajectory, way)
        # A number that cannot be had: one optimizer raises, another goes on with NaN in some of its parameters.
        broken = not np.isfinite(way[seen.raised_at]).all()
        return distance(seen.trajectory[: seen.raised_at], way[: seen.raised_at]) if broken else np.inf

    @staticmethod
    def _stated(candidate: Variant, scenario: Scenario) -> bool:
        """Whether the variant says anything here: how one state serves different shapes is anyone's guess."""
        return not candidate.formula.habits.shared or len({v.shape for v in scenario.initial}) == 1

    def _way(self, candidate: Variant, i: int) -> Trajectory:
        key = candidate.mistakes, i
        if key not in self._ways:
            self._ways[key] = replay(candidate.formula, self.scenarios[i])
        return self._ways[key]


@cache
def accepted(rule: type[Rule], convention: str) -> tuple[Variant, ...]:
    """What counts as right: the rule itself, and with any of the convention's own differences."""
    own = [v.mistakes[0] for v in catalogue(rule) if convention in v.mistakes[0].conventions_of(rule)]
    return tuple(_makeable(rule, (c for n in range(len(own) + 1) for c in combinations(own, n))))


def find(evidence: Evidence, convention: str) -> Found:
    """The likeliest explanation: the accepted forms, then one mistake, then two; at last the mathematics alone."""
    end = time.process_time() + PATIENCE
    if found := _singles(evidence, convention):
        return found
    likely, unlikely = _pairs(evidence)
    if found := _agreeing(evidence, likely, end):
        return found
    right = dict(zip((s.name for s in evidence.scenarios), evidence.agreement(evidence.true, "float32")))
    odd = tuple(name for name in AROUND if right.get(name) is False)
    if odd and len(odd) < len(right):
        rest = evidence.without(odd)
        if found := _singles(rest, convention) or _agreeing(rest, _pairs(rest)[0], end):
            return _beside(evidence, found) or _partial(evidence, found)
    return _agreeing(evidence, unlikely, end) or Found()


def _beside(evidence: Evidence, found: Found) -> Found | None:
    """What explains the mathematics, with one mistake more that explains what is around it."""
    mistakes = found.variants[0].mistakes
    others = [(*mistakes, *v.mistakes) for v in catalogue(evidence.rule) if v.mistakes[0] not in mistakes]
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
                return Found(agreeing, precision, evidence.residual(agreeing[0]))
    return None


_Pairs: TypeAlias = list[tuple[Mistake, ...]]


def _pairs(evidence: Evidence) -> tuple[_Pairs, _Pairs]:
    """Every two mistakes: those that the single ones speak for, and the others.

    Where one of the two changes nothing, the pair should do what the other does alone; where neither does, what the
    rule does. A pair may break this, since one mistake can hide or bring out what the other does.
    """
    singles = catalogue(evidence.rule)
    silent = np.array([evidence.silent(v, COARSE) for v in singles])
    alone = np.array([evidence.agreement(v, COARSE) for v in singles])
    right = np.array(evidence.agreement(evidence.true, COARSE))
    likely: _Pairs = []
    unlikely: _Pairs = []
    scored = []
    for i, j in combinations(range(len(singles)), 2):
        one, other = silent[i] & ~silent[j], silent[j] & ~silent[i]
        told = np.where(one, alone[j], np.where(other, alone[i], right))
        both = ~silent[i] & ~silent[j]
        scored.append((int((told & ~both).sum()), bool((told | both).all()), i, j))
    # Those first that leave the least to how the two work together.
    for _, fits, i, j in sorted(scored, key=lambda scores: -scores[0]):
        (likely if fits else unlikely).append((singles[i].mistakes[0], singles[j].mistakes[0]))
    return likely, unlikely


def _agreeing(evidence: Evidence, pairs: _Pairs, end: float) -> Found | None:
    """Those of the pairs that agree, the nearest first, as far as time allows."""
    agreeing = []
    for candidate in _makeable(evidence.rule, iter(pairs)):
        if evidence.agrees(candidate, COARSE):
            agreeing.append((evidence.residual(candidate), candidate))
        if time.process_time() > end:
            break
    if not agreeing:
        return None
    least = min(residual for residual, _ in agreeing)
    precision = "float64" if least <= tolerance("float64", 1) else COARSE
    agreeing.sort(key=lambda scored: scored[0])
    return Found(tuple(v for r, v in agreeing if r <= max(least, tolerance(precision, 1))), precision, least)


def _makeable(rule: type[Rule], combinations_: Iterator[tuple[Mistake, ...]]) -> Iterator[Variant]:
    for mistakes in combinations_:
        try:
            yield variant(rule, mistakes)
        except NotFoundError:
            continue


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
    )
