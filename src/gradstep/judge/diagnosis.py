"""The diagnosis: search the known ways to write the rule for one that agrees with the observed trajectories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import combinations, islice
from typing import TypeAlias, final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from gradstep.judge.catalogue import MISTAKES, Mistake, Variant, catalogue, distinct, variants
from gradstep.judge.formula import Formula, LazyTrajectory
from gradstep.judge.scenario import Parting, ReferenceTrajectory, Scenario, Trajectory, coarsest, tolerance
from gradstep.judge.subjects.subject import Observed
from gradstep.judge.verdict import Match
from gradstep.rules import Rule

LIKELY_PAIRS, OTHER_PAIRS = 1_000, 400
"""How many likely pairs of mistakes are tried, and how many of each other kind. They are counted, not timed, so that
every machine comes to the same verdict; one core of a server tries 300 to 1,300 pairs a second.
"""

DRIVING = ("kept gradient", "saved", "groups", "skipped", "rate changed")
"""Scenarios that test the loop around the mathematics: mistakes there show in one of them, and occur beside others."""

NEAR = 0.5
"""Least share of the failed scenarios that the nearest mistake must explain, less those that it makes worse."""

COARSE = "float32"
Flags: TypeAlias = NDArray[np.bool_]

PRECISIONS = ("float64", COARSE)
"""Precisions in which a submission may compute, the finest first; ``coarsest`` of a rule may add one."""


@final
@dataclass(frozen=True)
class Explanation:
    """Ways to write the rule that agree with every observed trajectory."""

    variants: tuple[Variant, ...] = ()  # the likeliest first; empty if none agrees
    precision: str = "float64"  # the type that the submission computes in: ``float64``, ``float32``, ``bfloat16``
    residual: float = 0.0  # the largest relative distance between the first variant and the submission
    # scenarios left out of the comparison, because no variant explains them together with the others
    unexplained: tuple[str, ...] = ()


_HIDDEN: WeakKeyDictionary[Scenario, dict[type[Rule], Flags]] = WeakKeyDictionary()
"""The single mistakes of a rule that do not show in a scenario: flags, (mistakes,)."""


@final
class Observations:
    """The submission's trajectories in the scenarios that it can run, and the trajectories of variants in each."""

    def __init__(
        self,
        rule: type[Rule],
        scenarios: Sequence[Scenario],
        observed: Sequence[Observed],
        replays: dict[tuple[Formula, Scenario], LazyTrajectory] | None = None,
    ) -> None:
        self.rule, self.scenarios, self.observed = rule, scenarios, observed
        self._replays: dict[tuple[Formula, Scenario], LazyTrajectory] = {} if replays is None else replays
        self.rule_itself = Variant((), Formula(rule))
        self._true_references = [
            ReferenceTrajectory(self._replay(self.rule_itself, i).until(s.steps)) for i, s in enumerate(scenarios)
        ]
        self._observed_references = [
            ReferenceTrajectory(o.trajectory[: o.raised_at] if o.raised_at else o.trajectory) for o in observed
        ]
        # A variant is refuted soonest where the submission is wrong, and cheapest in a short scenario.
        right = self.agreement(self.rule_itself, "float64")
        self.order = sorted(range(len(scenarios)), key=lambda i: (right[i], self._true_references[i].trajectory.size))

    def without(self, names: tuple[str, ...]) -> Observations:
        """Return a copy without the scenarios of these names."""
        rows = [i for i, s in enumerate(self.scenarios) if s.name not in names]
        rest = Observations(
            self.rule, [self.scenarios[i] for i in rows], [self.observed[i] for i in rows], self._replays
        )
        hidden, agrees, right = self.table
        rest.table = hidden[:, rows], agrees[:, rows], right[rows]
        return rest

    @cached_property
    def table(self) -> tuple[Flags, Flags, Flags]:
        """Flags of every single mistake in every scenario, and of the rule itself.

        Three arrays: whether the mistake is hidden, that is, the same as the rule (mistakes × scenarios); whether it
        agrees with the submission (mistakes × scenarios); whether the rule does (scenarios).
        """
        singles = catalogue(self.rule)
        hidden = np.column_stack([self._hidden_mistakes(i) for i in range(len(self.scenarios))])
        agrees = np.array([self.agreement(v, COARSE) for v in singles])
        return hidden, agrees, np.array(self.agreement(self.rule_itself, COARSE))

    def agrees(self, candidate: Variant, precision: str) -> bool:
        """Whether the variant agrees with the submission in every scenario."""
        return all(self._agrees(candidate, i, precision) for i in self.order)

    def agreement(self, candidate: Variant, precision: str) -> list[bool]:
        """Return, for each scenario, whether the variant agrees with the submission."""
        return [self._agrees(candidate, i, precision) for i in range(len(self.scenarios))]

    def _hidden_mistakes(self, i: int) -> Flags:
        """Return which single mistakes are hidden in a scenario, (mistakes,); the same for every submission."""
        known = _HIDDEN.setdefault(self.scenarios[i], {})
        if self.rule not in known:
            known[self.rule] = np.array([self._is_hidden(v, i) for v in catalogue(self.rule)])
        return known[self.rule]

    def _is_hidden(self, candidate: Variant, i: int) -> bool:
        """Whether the variant has the rule's trajectory in a scenario, so that it does not show."""
        scenario, true = self.scenarios[i], self._true_references[i]
        return self._applies(candidate, scenario) and self._near(
            self._replay(candidate, i), true, scenario.steps, COARSE
        )

    def residual(self, candidate: Variant) -> float:
        """Return the largest relative distance between the variant and the submission over all scenarios."""
        return max((self._distance(candidate, i) for i in range(len(self.scenarios))), default=0.0)

    def _agrees(self, candidate: Variant, i: int, precision: str) -> bool:
        if not self._applies(candidate, self.scenarios[i]):
            return True
        end, path = self.observed[i].raised_at, self._replay(candidate, i)
        near = self._near(path, self._observed_references[i], end - 1 if end else self.scenarios[i].steps, precision)
        return near and (not end or self._fails_at(path, end))

    def _near(self, path: LazyTrajectory, reference: ReferenceTrajectory, end: int, precision: str) -> bool:
        """Whether a trajectory stays near the reference up to step ``end``; it is computed only until it leaves."""
        limit = tolerance(precision, path.scenario.steps)
        step = 1
        while step < end:
            if reference.distance(path.until(step)) > limit:
                return False
            step *= 2
        return reference.distance(path.until(end)) <= limit

    @staticmethod
    def _fails_at(path: LazyTrajectory, step: int) -> bool:
        """Whether the step divides by zero or overflows: one optimizer raises there, another goes on with NaN."""
        rows = path.until(step)
        return path.divided[step] or not np.isfinite(rows[step]).all()

    def _distance(self, candidate: Variant, i: int) -> float:
        if not self._applies(candidate, self.scenarios[i]):
            return 0.0
        end, path = self.observed[i].raised_at, self._replay(candidate, i)
        if end and not self._fails_at(path, end):
            return np.inf
        return self._observed_references[i].distance(path.until(end - 1 if end else self.scenarios[i].steps))

    @staticmethod
    def _applies(candidate: Variant, scenario: Scenario) -> bool:
        """Whether the variant has a result here: one state for parameters of different shapes has none."""
        return not candidate.formula.habits.shared or len({v.shape for v in scenario.initial}) == 1

    def _replay(self, candidate: Variant, i: int) -> LazyTrajectory:
        key = candidate.formula, self.scenarios[i]
        if key not in self._replays:
            self._replays[key] = LazyTrajectory(candidate.formula, self.scenarios[i])
        return self._replays[key]


@cache
def accepted(rule: type[Rule], convention: str) -> tuple[Variant, ...]:
    """Return the variants that count as right: the rule itself, and with any of the convention's differences."""
    own = [v.mistakes[0] for v in catalogue(rule) if convention in v.mistakes[0].conventions_of(rule)]
    return tuple(_make_variants(rule, (c for n in range(len(own) + 1) for c in combinations(own, n))))


def explain(evidence: Observations, convention: str) -> Explanation:
    """Return the likeliest explanation: an accepted form, else one mistake, else two, else the mathematics alone."""
    if simple := _explain_by_one(evidence, convention) or _explain_by_conventions(evidence):
        return simple
    likely, unlikely = _rank_pairs(evidence)
    # The most: where they end before the right pair is found, what follows may find three for it.
    if pair := _explain_by_pair(evidence, likely[:LIKELY_PAIRS]):
        return pair
    right = dict(zip((s.name for s in evidence.scenarios), evidence.agreement(evidence.rule_itself, "float32")))
    odd = tuple(name for name in DRIVING if right.get(name) is False)
    if odd and len(odd) < len(right):
        rest = evidence.without(odd)
        simple = _explain_by_one(rest, convention) or _explain_by_conventions(rest)
        if partial := simple or _explain_by_pair(rest, _rank_pairs(rest)[0][:LIKELY_PAIRS]):
            return _add_mistake(evidence, partial) or _list_unexplained(evidence, partial)
    return _explain_by_pair(evidence, unlikely[:OTHER_PAIRS]) or Explanation()


OPENING = ("decay-on-weight", "decay-in-gradient")
"""Mistakes that make others possible: a moved decay can be wrong in its new place too."""

MIXED = 4
"""Most differences of several conventions that are tried together."""


def _explain_by_conventions(evidence: Observations) -> Explanation | None:
    """Try several differences, each of which is a convention, though not of the same library or paper."""
    hidden, agrees, right = evidence.table
    rows = {v.mistakes[0]: i for i, v in enumerate(catalogue(evidence.rule))}

    def possible(several: tuple[Mistake, ...]) -> bool:
        """Whether each scenario in which at most one of the differences shows agrees with that one alone."""
        singles = [rows[m] for m in several if m in rows]
        shows = ~hidden[singles]
        expected = np.where(shows.any(axis=0), (agrees[singles] & shows).any(axis=0), right)
        opens = any(m.name in OPENING for m in several)
        certain = (shows.sum(axis=0) < 2) & (len(singles) == len(several)) & (not opens)
        return bool((expected | ~certain).all())

    own = [m for m in MISTAKES if m.conventions_of(evidence.rule)]
    several = (c for n in range(2, MIXED + 1) for c in combinations(own, n) if possible(c))
    for candidate in _make_variants(evidence.rule, islice(several, OTHER_PAIRS)):
        if evidence.agrees(candidate, PRECISIONS[0]):
            return Explanation((candidate,), PRECISIONS[0], evidence.residual(candidate))
    return None


def _add_mistake(evidence: Observations, partial: Explanation) -> Explanation | None:
    """Add a mistake of the loop to ``partial``, which explains the mathematics; None if none explains the rest."""
    mistakes = partial.variants[0].mistakes
    others = [(0, (*mistakes, *v.mistakes)) for v in catalogue(evidence.rule) if v.mistakes[0] not in mistakes]
    return _explain_by_pair(evidence, others)


def _list_unexplained(evidence: Observations, partial: Explanation) -> Explanation:
    """Return the partial explanation with the names of the scenarios that it does not explain."""
    agrees = evidence.agreement(partial.variants[0], partial.precision)
    unexplained = tuple(s.name for s, right in zip(evidence.scenarios, agrees) if not right)
    return replace(partial, unexplained=unexplained)


def _explain_by_one(evidence: Observations, convention: str) -> Explanation | None:
    # Right in float32 is likelier than a mistake of one part in 10⁷ in float64.
    for precision in dict.fromkeys((*PRECISIONS, coarsest(evidence.rule))):
        for candidates in (accepted(evidence.rule, convention), catalogue(evidence.rule)):
            if agreeing := tuple(v for v in candidates if evidence.agrees(v, precision)):
                variants_ = agreeing if agreeing[0] in accepted(evidence.rule, convention) else distinct(agreeing)
                if variants_:
                    return Explanation(variants_, precision, evidence.residual(variants_[0]))
    return None


_Pairs: TypeAlias = list[tuple[int, tuple[Mistake, ...]]]
"""Mistakes to try together, with the number of scenarios in which the single ones support them."""


def _rank_pairs(evidence: Observations) -> tuple[_Pairs, _Pairs]:
    """Return every two mistakes: the pairs that the single ones support, and the others.

    In a scenario where one of the two changes nothing, the pair should do what the other does alone; where neither
    changes anything, what the rule does. Exceptions exist: one mistake can hide or reveal the other.
    """
    singles = catalogue(evidence.rule)
    hidden, agrees, right = evidence.table
    scored = []
    for i in range(len(singles) - 1):
        only_second, only_first = hidden[i] & ~hidden[i + 1 :], hidden[i + 1 :] & ~hidden[i]
        both = ~hidden[i] & ~hidden[i + 1 :]
        expected = np.where(only_second, agrees[i + 1 :], np.where(only_first, agrees[i], right))
        against, support = (~expected & ~both).sum(axis=1), (expected & ~both).sum(axis=1)
        scored += [(int(against[k]), int(support[k]), i, i + 1 + k) for k in range(len(against))]
    # First the pairs with the fewest scenarios that depend on the effect of both together.
    scored.sort(key=lambda each: (each[0], -each[1]))
    likely: _Pairs = []
    unlikely: _Pairs = [(0, mistakes) for mistakes in _dependent_pairs(evidence.rule)]
    for against, support, i, j in scored:
        (unlikely if against else likely).append((support, (singles[i].mistakes[0], singles[j].mistakes[0])))
    return likely, unlikely


@cache
def _dependent_pairs(rule: type[Rule]) -> tuple[tuple[Mistake, ...], ...]:
    """Return the pairs of which one is possible only after the other, such as a wrong factor of a moved decay."""
    singles = {v.mistakes[0] for v in catalogue(rule)}
    first = [m for m in singles if m.name in OPENING]
    return tuple((one, m) for one in first for m in MISTAKES if m not in singles and variants(rule, (one, m)))


def _explain_by_pair(evidence: Observations, candidates: _Pairs) -> Explanation | None:
    """Return the candidates that agree, the nearest first.

    A candidate that agrees to the last digits ends the search among candidates with less support.
    """
    agreeing = []
    best = 0
    for support, mistakes in candidates:
        if support < best:
            break
        for candidate in _make_variants(evidence.rule, (mistakes,)):
            if evidence.agrees(candidate, COARSE):
                agreeing.append((evidence.residual(candidate), candidate))
                best = support if agreeing[-1][0] <= tolerance("float64", 1) else best
    if not agreeing:
        return None
    least = min(residual for residual, _ in agreeing)
    precision = "float64" if least <= tolerance("float64", 1) else COARSE
    agreeing.sort(key=lambda scored: scored[0])
    nearest = distinct(v for r, v in agreeing if r <= max(least, tolerance(precision, 1)))
    return Explanation(nearest, precision, least) if nearest else None


def _make_variants(rule: type[Rule], combinations_: Iterable[tuple[Mistake, ...]]) -> Iterator[Variant]:
    for mistakes in combinations_:
        yield from variants(rule, mistakes)


def describe_nearest(evidence: Observations) -> str:
    """Return a sentence about the one mistake that explains most failed scenarios, or that none comes near."""
    right = np.array(evidence.agreement(evidence.rule_itself, COARSE))
    if right.all():
        return ""
    agreements = [(np.array(evidence.agreement(v, COARSE)), v) for v in catalogue(evidence.rule)]
    agrees, candidate = max(agreements, key=lambda pair: int(pair[0].sum()))
    if agrees.sum() - right.sum() < NEAR * (~right).sum():
        return "No known mistake, and no two, do what it does, and none comes near."
    return (
        f"No known mistake, and no two, do all that it does. Nearest: {candidate.sentence}, which agrees in "
        f"{int((agrees & ~right).sum())} of {int((~right).sum())} scenarios that it fails; "
        f"look for {candidate.mistakes[0].look_for}."
    )


def as_match(candidate: Variant, residual: float) -> Match:
    """Return the variant as the verdict shows it."""
    return Match(
        tuple(m.name for m in candidate.mistakes),
        candidate.sentence,
        residual,
        candidate.conventions,
        tuple(m.look_for for m in candidate.mistakes),
        tuple(m.read for m in candidate.mistakes),
        tuple(", ".join(m.conventions_of(candidate.formula.rule)) for m in candidate.mistakes),
    )


def find_parting(scenario: Scenario, expected: Trajectory, got: Trajectory, dtype: str) -> Parting | None:
    """Return the first step at which they differ by more than rounding, with the element that differs most there."""
    apart = ReferenceTrajectory(expected).distances(got)
    wrong = apart > tolerance(dtype, scenario.steps)
    if not wrong.any():
        return None
    step = int(np.argmax(wrong.any(axis=1)))
    column = int(np.argmax(apart[step]))
    parameter, element = scenario.locate(column)
    before, after, own = (float(x[column]) for x in (expected[max(step - 1, 0)], expected[step], got[step]))
    return Parting(scenario.name, step, parameter, element, before, after, own)
