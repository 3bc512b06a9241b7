"""Which rule made a parameter's updates: how far each rule's are from those observed, beyond what roundings explain."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import final

import numpy as np
from numpy.typing import NDArray

from gradstep.judge.scenario import Values
from gradstep.judge.updates.candidates import (
    Candidate,
    Roundings,
    StateOverflowError,
    UnknowableError,
    all_rules,
    known_mistakes,
    plain_rules,
    rate_of,
    settings_from,
)
from gradstep.judge.updates.history import EIGHT_BIT, History, ObservedStep, group_histories, join_histories
from gradstep.judge.updates.report import Result
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

BY_ROUNDINGS = ("NorMuon",)
"""Rules that divide rows by their own size, after products in bfloat16: a row of errors becomes as long as others."""

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
    """One step of n parameters with m recorded elements in all."""

    observed: Values  # (m,) the updates that were observed
    replayed: Values  # (m,) the updates that the rule makes
    rounding: Values  # (n,) the 2-norm of what rounding of each parameter may add
    starts: NDArray[np.intp]  # (n,) the first element of each parameter

    def visible(self, spread: Values | float = 0.0) -> NDArray[np.bool_]:
        """Return (n,) whether updates are longer than roundings; ``spread`` is what those inside the rule add."""
        length = np.maximum(_norms(self.observed, self.starts), _norms(self.replayed, self.starts))
        return length > np.maximum(VISIBLE * self.rounding, self.rounding + spread)

    def distances(self, factor: Values, spread: Values | float = 0.0) -> Values:
        """Return (n,) how far, relative to them and beyond roundings, updates are from ``factor`` times the rule's."""
        scaled = np.repeat(factor, np.diff(self.starts, append=len(self.observed))) * self.replayed
        longest = np.maximum(_norms(self.observed, self.starts), _norms(scaled, self.starts))
        apart = _norms(self.observed - scaled, self.starts) - self.rounding - factor * spread
        return np.divide(np.maximum(apart, 0.0), longest, out=np.zeros_like(longest), where=longest > 0)


def _norms(x: Values, starts: NDArray[np.intp]) -> Values:
    """Return the 2-norm of each parameter's elements of ``x``, (m,), as (n,)."""
    return np.sqrt(np.add.reduceat(x * x, starts))


def _common_factors(pairs: Sequence[_Pair]) -> Values:
    """Return (n,) the factor ≥ 0 of the rule's updates that fits a parameter's visible steps best (least squares)."""
    squares = [p.visible() * np.add.reduceat(p.replayed * p.replayed, p.starts) for p in pairs]
    products = [p.visible() * np.add.reduceat(p.observed * p.replayed, p.starts) for p in pairs]
    square, product = np.sum(squares, axis=0), np.sum(products, axis=0)
    factors: Values = np.maximum(np.divide(product, square, out=np.zeros_like(square), where=square > 0), 0.0)
    return factors


def tolerance_of(candidate: Candidate, history: History) -> float:
    """Return the relative distance, beyond roundings, up to which updates count as the candidate's."""
    if candidate.orthogonal:
        return DIRECTION
    return CODED if history.state is EIGHT_BIT else EXACT


def compare(
    candidate: Candidate, history: History, screen: Screen | None = None, *, limit: float, scaled: bool = False
) -> Fit:
    """Return how well a rule explains the updates; the search ends once the distance exceeds ``limit``.

    ``screen`` has compared the first steps of this parameter and others together. With ``scaled``, updates may be
    longer or shorter by one factor for all steps.
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
    pairs = [
        _Pair(o.ravel(), r.ravel(), np.array([rounding_of(s, history)]), np.zeros(1, dtype=np.intp))
        for s, o, r in zip(steps, observed, replayed)
    ]
    if not pairs:
        return unknown
    visible = [pair for pair in pairs if pair.visible()]
    if not visible:
        return Fit(math.inf, reason=UNRESOLVED, hidden=True)
    factor = _common_factors(visible) if scaled or candidate.orthogonal else np.ones(1)
    distance = max(float(pair.distances(factor)[0]) for pair in visible)
    if distance <= tolerance_of(candidate, history):
        return Fit(distance, float(factor[0]))
    if history.state is EIGHT_BIT and not candidate.promised:
        # With 8-bit codes several rules come as near as this, so that none can be named.
        return Fit(distance, float(factor[0]))
    # The sum of the roundings costs three more replays, so it is computed only where the result depends on it.
    distance = -1.0
    for pair, spread in zip(pairs, _spreads(candidate, history, replayed, pairs[0].starts)):
        if pair.visible(spread):
            distance = max(distance, float(pair.distances(factor, spread)[0]))
        if distance > limit:
            break
    if distance < 0.0:
        return Fit(math.inf, reason="not judged: roundings explain as much as its updates", hidden=True)
    return Fit(distance, float(factor[0]))


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
    candidate: Candidate, history: History, exact: Sequence[Values], starts: NDArray[np.intp]
) -> Iterator[Values]:
    """Yield for each step, (n,), how far roundings move disturbed replays from the exact one."""
    arithmetic = max(history.values, history.state, key=lambda f: f.eps)
    replays = [candidate.replay(history, Roundings(seed, arithmetic, history.state)) for seed in range(_REPLAYS)]
    with contextlib.suppress(UnknowableError):  # a disturbed state overflows where the exact one nearly does
        for update, *disturbed in zip(exact, *replays):
            with np.errstate(all="ignore"):  # a replay that is not finite is infinitely far away
                apart = np.max([_norms((d - update).ravel(), starts) for d in disturbed], axis=0)
            yield _SPREAD * np.nan_to_num(apart, nan=math.inf, posinf=math.inf)


def _without_decay(step: ObservedStep) -> Values:
    """Return the update without the decoupled decay of the weights, lr · weight_decay · weight."""
    weight_decay = float(settings_from(step.settings, RULES["AdamW"]).get("weight_decay", 0.0))
    keep = 1 - rate_of(step) * weight_decay
    return step.update - (keep - 1) * step.before


def rounding_of(step: ObservedStep, history: History) -> float:
    """Return the 2-norm of the update that rounding of the values themselves may cause."""
    return measure_length(_rounding_sizes(step, history))


def _rounding_sizes(step: ObservedStep, history: History) -> Values:
    size = np.maximum(np.abs(step.before), np.abs(step.after))
    return history.values.eps * size + history.values.smallest


def measure_length(x: Values) -> float:
    """Return the 2-norm of an update."""
    return float(np.linalg.norm(x))


@final
class Screen:
    """Excludes rules that did not make the first updates, for all parameters with the same settings at once.

    Most of the time of a comparison does not depend on how many elements there are.
    """

    def __init__(self, histories: Sequence[History]) -> None:
        """Take one record or more of a group of :func:`group_histories`."""
        self._places = {id(h): i for i, h in enumerate(histories)}
        sizes = np.array([h.steps[0].before.size for h in histories])
        self._starts = np.cumsum(sizes) - sizes
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
        joint, every = self._joint, np.ones(len(self._starts), dtype=np.bool_)
        replayed, _ = collect_updates(candidate, joint, _FIRST_STEPS)
        if len(replayed) < min(_FIRST_STEPS, len(joint.steps)):
            return every
        pairs = [
            _Pair(s.update, r, _norms(_rounding_sizes(s, joint), self._starts), self._starts)
            for s, r in zip(joint.steps, replayed)
        ]
        factor = _common_factors(pairs) if scaled else every.astype(np.float64)
        near = _farthest(pairs, [0.0] * len(pairs), factor) <= max(limit, tolerance_of(candidate, joint))
        if near.all() or (joint.state is EIGHT_BIT and not candidate.promised):
            return near
        spreads = list(_spreads(candidate, joint, replayed, self._starts))
        if len(spreads) < len(pairs):
            return every
        return near | (_farthest(pairs, spreads, factor) <= limit)


def _farthest(pairs: Sequence[_Pair], spreads: Sequence[Values | float], factor: Values) -> Values:
    """Return (n,) the largest distance over the steps in which a parameter's updates are visible; 0 without one."""
    farthest: Values = np.max([p.visible(s) * p.distances(factor, s) for p, s in zip(pairs, spreads)], axis=0)
    return farthest


def make_screens(histories: Iterable[History]) -> dict[int, Screen]:
    """Return the screen of each record, by identity; parameters with the same settings share one."""
    groups = group_histories(histories, _FIRST_STEPS)
    return {id(h): screen for group, screen in zip(groups, map(Screen, groups)) for h in group}


ALIKE = 1e-2
"""For rules that were not promised: which rule it is matters here, not how exactly it was given its settings."""


def _matches(candidate: Candidate, history: History, screen: Screen) -> bool:
    limit = tolerance_of(candidate, history)
    if compare(candidate, history, screen, limit=limit).distance > limit:
        return False
    steps = history.full_steps if candidate.full else history.steps
    if len(collect_updates(candidate, history, len(steps))[0]) < len(steps):  # one that ends in NaN explains nothing
        return False
    return not candidate.orthogonal or not _is_exactly_another(history, screen)


def _is_exactly_another(history: History, screen: Screen) -> bool:
    """Whether a rule without an iteration fits.

    A matrix of rank 1 is its own orthogonal one, so that SGD then has Muon's direction.
    """
    return any(_matches(c, history, screen) for c in all_rules() if not c.orthogonal)


def judge(
    history: History, promise: str, candidates: Sequence[Candidate], screen: Screen | None = None
) -> tuple[str, Result]:
    """Return in words which rule updated a parameter, and whether that is right.

    Args:
        history: its record, of at least one step.
        promise: the rule that its optimizer's name stands for; empty if it stands for none.
        candidates: what counts as that rule.
        screen: that of all parameters with its settings; None where it is judged alone.
    """
    screen = screen or Screen([history])
    if not any(step.update.any() for step in history.steps):
        return _judge_unmoved(history, candidates)
    if promise in BY_ROUNDINGS:
        return f"not judged: in bfloat16, roundings can be whole rows of the update of {promise}", Result.OPEN
    if not candidates:
        lengths = [(measure_length(step.update), rounding_of(step, history)) for step in history.steps]
        if not any(length > VISIBLE * rounding for length, rounding in lengths):
            return UNRESOLVED, Result.OPEN
        return _name_update(history, promise, candidates, screen), Result.OPEN
    fits = [compare(c, history, screen, limit=tolerance_of(c, history)) for c in candidates]
    right = any(fit.distance <= tolerance_of(c, history) for c, fit in zip(candidates, fits))
    other = any(c.orthogonal for c in candidates) and _is_exactly_another(history, screen)
    if right and not other:
        return promise, Result.RIGHT
    unknown = [fit for fit in fits if fit.hidden] or ([] if any(not fit.reason for fit in fits) else fits)
    if unknown and not other:
        return unknown[0].reason, Result.OPEN
    return _name_update(history, promise, candidates, screen), Result.WRONG


def has_zero_rate(history: History) -> bool:
    """Whether the learning rate was 0 in every recorded step, and the parameter stayed as it was."""
    rates = [s.settings.get("lr") for s in history.steps]
    return all(r is not None and float(r) == 0.0 for r in rates) and not any(s.update.any() for s in history.steps)


def judge_zero_rate(history: History, *, others_move: bool) -> tuple[str, Result]:
    """Judge a parameter that :func:`has_zero_rate`: it is meant to be frozen if another group has a rate above 0."""
    if others_move:
        return "frozen: its group's learning rate is 0", Result.FROZEN
    count = len(history.steps)
    if count == 1:  # as in the first step of many schedules
        return "not judged: the learning rate was 0 in the only step that was watched", Result.OPEN
    return f"not moved: the learning rate was 0 in all of its {count} steps", Result.UNSTEPPED


def _judge_unmoved(history: History, candidates: Sequence[Candidate]) -> tuple[str, Result]:
    if not any(step.gradient.any() for step in history.steps):
        return "not moved: its gradients are 0", Result.OPEN
    for candidate in candidates or plain_rules():
        fit = compare(candidate, history, limit=0.0)
        if fit.hidden:
            return fit.reason, Result.OPEN
    return "not moved, though it has gradients", Result.UNSTEPPED


def _name_update(history: History, promise: str, candidates: Sequence[Candidate], screen: Screen) -> str:
    """Return in words what the updates are."""
    decays = any(settings_from(step.settings, RULES["AdamW"]).get("weight_decay") for step in history.steps)
    for candidate in all_rules() if decays else ():  # the simplest mistake, which others resemble at small rates
        if candidate.name == f"{promise} without weight decay" and _matches(candidate, history, screen):
            return f"received the update of {candidate.name}"
    for candidate in known_mistakes(promise) if promise else ():
        if _matches(candidate, history, screen):
            return f"received the update of {candidate.name}"
    own = [c for c in candidates if not c.orthogonal]
    known = list(all_rules())
    plain = [c for c in known if not c.orthogonal and c.name != promise]
    exact = CODED if history.state is EIGHT_BIT else EXACT
    distances = [(compare(c, history, screen, limit=ALIKE).distance, c.name) for c in plain]
    least = min(distances)[0]
    nearest, name = min(
        ((compare(c, history, screen, limit=ALIKE).distance, c.name) for c in own), default=(math.inf, "")
    )
    if nearest <= ALIKE and least > exact:
        return f"received an update {nearest:.2%} away from {name}'s"
    if least <= max(exact, ALIKE):
        name = next(name for distance, name in distances if distance <= max(2 * least, exact))
        return f"received {name}'s update" if name.isalpha() else f"received the update of {name}"
    for candidate in known:
        if candidate.orthogonal and candidate.name != promise and _matches(candidate, history, screen):
            return f"received {candidate.name}'s update"
    for candidate in (*own, *plain):
        fit = compare(candidate, history, screen, limit=max(exact, ALIKE), scaled=True)
        if fit.distance <= max(exact, ALIKE) and fit.factor > 0:
            return f"received the update of {candidate.name}, {fit.factor:.3g} times as long"
    return "received an update of no rule that is known"
