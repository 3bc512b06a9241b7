"""How far a rule's updates are from those that were observed, beyond what roundings explain."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from gradstep.judge.scenario import Values
from gradstep.judge.updates.candidates import Candidate
from gradstep.judge.updates.history import EIGHT_BIT, History, ObservedStep, group_histories, join_histories
from gradstep.judge.updates.replay import Roundings, StateOverflowError, UnknowableError, rate_of, settings_from
from gradstep.rules import RULES

EXACT = 3e-5
"""Relative distance that is never called a difference: authors round coefficients to float32."""

CODED = 0.2
"""The same where state is kept in 8-bit codes."""

DIRECTION = 0.15
"""For matrices that are orthogonalised: iterations differ. A momentum that is not orthogonalised is 0.5 away."""

VISIBLE = 2.0
"""An update must be this many times longer than what roundings explain for its rule to be seen in it."""

UNRESOLVED = "updates smaller than its dtype resolves"

_FIRST_STEPS = 2

_REPLAYS = 3
"""Disturbed replays; the one that goes furthest counts."""

_SPREAD = 2.0
"""What roundings explain is this many times the distance of the disturbed replays from the exact one.

Correct optimizers were at most 0.7 times that distance away (torch's in bfloat16, learning rates 0.01 and 10).
"""


@final
@dataclass(frozen=True)
class Fit:
    """How well a rule explains the updates."""

    # the largest over the steps, relative to the update, beyond what roundings explain; infinite where it is not known
    distance: float
    factor: float = 1.0  # how many times longer the updates were
    reason: str = ""  # why the distance is not known; empty where it is
    # in no step can the rule be seen, since roundings or an overflow explain as much as the update
    hidden: bool = False


@final
@dataclass(frozen=True)
class _Pair:
    """One step of a parameter with n recorded elements."""

    observed: Values  # (n,) the update that was observed
    replayed: Values  # (n,) the update that the rule makes
    rounding: float  # the 2-norm of what rounding of the parameter may add

    @property
    def length(self) -> float:
        """The 2-norm of the longer update."""
        return max(norm(self.observed), norm(self.replayed))

    def visible(self, spread: float = 0.0) -> bool:
        """Return whether the updates are longer than roundings; ``spread`` is what those inside the rule add."""
        return self.length > max(VISIBLE * self.rounding, self.rounding + spread)

    def distance(self, factor: float, spread: float = 0.0) -> float:
        """Return the relative distance, beyond roundings, of the observed update from ``factor`` times the rule's."""
        longest = max(norm(self.observed), factor * norm(self.replayed))
        apart = norm(self.observed - factor * self.replayed) - self.rounding - factor * spread
        return max(0.0, apart) / longest if longest else 0.0


def tolerance(candidate: Candidate, history: History) -> float:
    """The relative distance beyond its roundings up to which updates are a rule's."""
    if candidate.orthogonal:
        return DIRECTION
    return CODED if history.state is EIGHT_BIT else EXACT


def compare(
    candidate: Candidate, history: History, screen: Screen | None = None, *, limit: float, scaled: bool = False
) -> Fit:
    """How well a rule explains the updates; a distance above ``limit`` need not be known exactly.

    ``screen`` is what is known of this parameter and others together. With ``scaled`` the length may be another, by one
    factor for all steps.
    """
    if screen is not None and screen.excludes(candidate, history, limit=limit, scaled=scaled):
        return Fit(math.inf)
    # Most rules that do not fit differ in the first steps already, and many are tried.
    first = _compare_steps(candidate, history, _FIRST_STEPS, limit=limit, scaled=scaled)
    if first.distance > limit and not first.reason:
        return first
    return _compare_steps(candidate, history, len(history.steps), limit=limit, scaled=scaled)


def _compare_steps(candidate: Candidate, history: History, count: int, *, limit: float, scaled: bool) -> Fit:
    steps = history.full_steps if candidate.full else history.steps
    replayed, unknown = collect_updates(candidate, history, count)
    observed = [_without_decay(step) if candidate.orthogonal else step.update for step in steps]
    pairs = [_Pair(o, r, rounding_of(s, history)) for s, o, r in zip(steps, observed, replayed)]
    if not pairs:
        return unknown
    visible = [pair for pair in pairs if pair.visible()]
    if not visible:
        return Fit(math.inf, reason=UNRESOLVED, hidden=True)
    factor = _common_factor(visible) if scaled or candidate.orthogonal else 1.0
    distance = max(pair.distance(factor) for pair in visible)
    if distance <= tolerance(candidate, history):
        return Fit(distance, factor)
    if history.state is EIGHT_BIT and not candidate.promised:
        return Fit(distance, factor)  # with 8-bit codes several rules come as near as this, so that none can be named
    # The sum of the roundings costs three more replays, so it is computed only where the result depends on it.
    distance = -1.0
    for pair, spread in zip(pairs, _spreads(candidate, history, replayed)):
        if pair.visible(spread):
            distance = max(distance, pair.distance(factor, spread))
        if distance > limit:
            break
    if distance < 0.0:
        return Fit(math.inf, reason="not judged: roundings explain as much as its updates", hidden=True)
    return Fit(distance, factor)


def collect_updates(candidate: Candidate, history: History, count: int) -> tuple[list[Values], Fit]:
    """Return a rule's updates of the first steps, up to one that cannot be computed, and the reason why it cannot."""
    updates: list[Values] = []
    try:
        for update in islice(candidate.replay(history, None), count):
            if not np.isfinite(update).all():
                raise StateOverflowError("its updates are not finite")
            updates.append(update)
    except UnknowableError as error:
        return updates, Fit(math.inf, reason=f"not judged: {error}", hidden=isinstance(error, StateOverflowError))
    except Exception:  # a foreign optimizer's settings may be of any kind
        return updates, Fit(math.inf, reason="not judged: its settings are not the rule's")
    return updates, Fit(math.inf, reason="not judged: no step was recorded")


def _spreads(
    candidate: Candidate, history: History, exact: Sequence[Values], norm: Callable[[Values], Any] = np.linalg.norm
) -> Iterator[Any]:
    """The distance that roundings explain in each step: how far they move disturbed replays from the exact one."""
    arithmetic = max(history.values, history.state, key=lambda f: f.eps)
    replays = [candidate.replay(history, Roundings(seed, arithmetic, history.state)) for seed in range(_REPLAYS)]
    with contextlib.suppress(UnknowableError):  # a disturbed state overflows where the exact one nearly does
        for update, *disturbed in zip(exact, *replays):
            with np.errstate(all="ignore"):  # a replay that is not finite is infinitely far away
                apart = [np.nan_to_num(norm(d - update), nan=math.inf, posinf=math.inf) for d in disturbed]
            yield _SPREAD * np.max(apart, axis=0)


def _without_decay(step: ObservedStep) -> Values:
    """Return the update without the decoupled decay of the weights, lr · weight_decay · weight."""
    weight_decay = float(settings_from(step.settings, RULES["AdamW"]).get("weight_decay", 0.0))
    keep = 1 - rate_of(step) * weight_decay
    return step.update - (keep - 1) * step.before


def _common_factor(pairs: Sequence[_Pair]) -> float:
    """Return the factor ≥ 0 of the rule's updates that fits all steps best (least squares)."""
    square = sum(float(np.vdot(pair.replayed, pair.replayed)) for pair in pairs)
    product = sum(float(np.vdot(pair.observed, pair.replayed)) for pair in pairs)
    return max(product / square, 0.0) if square else 0.0


def rounding_of(step: ObservedStep, history: History) -> float:
    """The distance that rounding the values themselves explains."""
    return norm(_rounding_sizes(step, history))


def _rounding_sizes(step: ObservedStep, history: History) -> Values:
    size = np.maximum(np.abs(step.before), np.abs(step.after))
    return history.values.eps * size + history.values.smallest


def norm(x: Values) -> float:
    """The Euclidean length of an update."""
    return float(np.linalg.norm(x))


@final
class Screen:
    """Excludes rules that did not make the first updates, for all parameters with the same settings at once.

    Most of the time of a comparison does not depend on how many elements there are.
    """

    def __init__(self, histories: Sequence[History]) -> None:
        """Take one record or more of a group of :func:`group_histories`."""
        self._places = {id(h): i for i, h in enumerate(histories)}
        self._sizes = np.array([h.steps[0].before.size for h in histories])
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._joint = join_histories(histories, _FIRST_STEPS)
        self._smallest: dict[int, History] = {}
        for h in sorted((h for h in histories if h.full_steps), key=lambda h: math.prod(h.shape), reverse=True):
            self._smallest[len(h.shape)] = h
        self._possible: dict[tuple[Candidate, float, bool], NDArray[np.bool_]] = {}
        self._excluded: dict[tuple[Candidate, int, float, bool], bool] = {}

    def excludes(self, candidate: Candidate, history: History, *, limit: float, scaled: bool) -> bool:
        """Return whether the rule is known to be further than ``limit`` from one parameter's updates."""
        if len(self._places) == 1:
            return False
        if candidate.full:
            return not candidate.promised and self._excludes_matrix(candidate, history, limit, scaled)
        key = candidate, limit, scaled
        if key not in self._possible:
            self._possible[key] = self._find_possible(candidate, limit, scaled)
        return not self._possible[key][self._places[id(history)]]

    def _excludes_matrix(self, candidate: Candidate, history: History, limit: float, scaled: bool) -> bool:
        """Return whether a rule of whole matrices is further than ``limit`` from the updates of the smallest matrix."""
        smallest = self._smallest.get(len(history.shape))
        if smallest is None or smallest is history:
            return False
        key = candidate, len(history.shape), limit, scaled
        if key not in self._excluded:
            fit = compare(candidate, smallest, limit=limit, scaled=scaled)
            self._excluded[key] = fit.distance > limit and not fit.reason
        return self._excluded[key]

    def _find_possible(self, candidate: Candidate, limit: float, scaled: bool) -> NDArray[np.bool_]:
        """Return, (parameters,), whether the rule may be within ``limit`` of the first updates; True if not known."""
        joint, every = self._joint, np.ones(len(self._sizes), dtype=np.bool_)
        replayed, _ = collect_updates(candidate, joint, _FIRST_STEPS)
        if len(replayed) < min(_FIRST_STEPS, len(joint.steps)):
            return every
        pairs = [(s.update, r, self._norms(_rounding_sizes(s, joint))) for s, r in zip(joint.steps, replayed)]
        none = [np.zeros(len(self._sizes))] * len(pairs)
        factor = self._common_factors(pairs) if scaled else every.astype(np.float64)
        near = self._distances(pairs, none, factor) <= max(limit, tolerance(candidate, joint))
        if near.all() or (joint.state is EIGHT_BIT and not candidate.promised):
            return near
        spreads = list(_spreads(candidate, joint, replayed, self._norms))
        if len(spreads) < len(pairs):
            return every
        return near | (self._distances(pairs, spreads, factor) <= limit)

    def _norms(self, x: Values) -> Values:
        """Return the 2-norm of each parameter's part of ``x``, (elements of all parameters,), as (parameters,)."""
        return np.sqrt(np.add.reduceat(x * x, self._starts))

    def _visible(self, observed: Values, replayed: Values, rounding: Values, spread: Values) -> NDArray[np.bool_]:
        """Return :meth:`_Pair.visible` of each parameter, (parameters,)."""
        length = np.maximum(self._norms(observed), self._norms(replayed))
        return length > np.maximum(VISIBLE * rounding, rounding + spread)

    def _common_factors(self, pairs: Sequence[tuple[Values, Values, Values]]) -> Values:
        """Return (parameters,) the factor ≥ 0 of the rule's updates that fits each parameter best (least squares)."""
        square = product = np.zeros(len(self._sizes))
        for observed, replayed, rounding in pairs:
            visible = self._visible(observed, replayed, rounding, np.zeros_like(rounding))
            square = square + visible * np.add.reduceat(replayed * replayed, self._starts)
            product = product + visible * np.add.reduceat(observed * replayed, self._starts)
        return np.maximum(np.divide(product, square, out=np.zeros_like(square), where=square > 0), 0.0)

    def _distances(
        self, pairs: Sequence[tuple[Values, Values, Values]], spreads: Sequence[Values], factor: Values
    ) -> Values:
        """Return the largest :meth:`_Pair.distance` over the steps of each parameter, (parameters,)."""
        farthest = np.zeros(len(self._sizes))
        for (observed, replayed, rounding), spread in zip(pairs, spreads):
            longest = np.maximum(self._norms(observed), factor * self._norms(replayed))
            apart = self._norms(observed - np.repeat(factor, self._sizes) * replayed) - rounding - factor * spread
            visible = self._visible(observed, replayed, rounding, spread) & (longest > 0)
            distance = np.divide(apart, longest, out=np.zeros_like(longest), where=visible)
            farthest = np.maximum(farthest, distance)
        return farthest


def make_screens(histories: Iterable[History]) -> dict[int, Screen]:
    """The screen of each record, by identity; records of parameters that are trained alike have one together."""
    groups = group_histories(histories, _FIRST_STEPS)
    return {id(h): screen for group, screen in zip(groups, map(Screen, groups)) for h in group}
