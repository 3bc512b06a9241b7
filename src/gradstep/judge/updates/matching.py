"""Which rule made a parameter's updates."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import final

import numpy as np

from gradstep.judge.scenario import Values
from gradstep.judge.updates.candidates import Candidate, all_rules, known_mistakes, plain_rules
from gradstep.judge.updates.history import CODES, History, ObservedStep
from gradstep.judge.updates.replay import Roundings, StateOverflowError, UnknowableError, rate_of, settings_from
from gradstep.judge.updates.report import Result
from gradstep.rules import RULES

EXACT = 3e-5
"""Relative distance that is never called a difference: authors round coefficients to float32."""

CODED = 0.2
"""The same where state is kept in 8-bit codes."""

ALIKE = 1e-2
"""For rules that were not promised: which rule it is matters here, not how exactly it was given its settings."""

DIRECTION = 0.15
"""For matrices that are orthogonalised: iterations differ. A momentum that is not orthogonalised is 0.5 away."""

_VISIBLE = 2.0
"""An update must be this many times longer than what roundings explain for its rule to be seen in it."""

_UNRESOLVED = "updates smaller than its dtype resolves"

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
    """How well a rule explains the updates.

    Attributes:
        distance: the largest over the steps, relative to the update, beyond what roundings explain; infinite where
            it is not known.
        factor: how many times longer the updates were.
        reason: why the distance is not known; empty where it is.
        hidden: in no step can the rule be seen, since roundings or an overflow explain as much as the update.
    """

    distance: float
    factor: float = 1.0
    reason: str = ""
    hidden: bool = False


@final
@dataclass(frozen=True)
class _Pair:
    """One step: the update that was observed, the one that a rule makes, and the distance that roundings explain."""

    observed: Values
    replayed: Values
    rounding: float

    @property
    def length(self) -> float:
        return max(_norm(self.observed), _norm(self.replayed))

    def visible(self, spread: float = 0.0) -> bool:
        return self.length > max(_VISIBLE * self.rounding, self.rounding + spread)

    def distance(self, factor: float, spread: float = 0.0) -> float:
        longest = max(_norm(self.observed), factor * _norm(self.replayed))
        apart = _norm(self.observed - factor * self.replayed) - self.rounding - factor * spread
        return max(0.0, apart) / longest if longest else 0.0


def tolerance(candidate: Candidate, history: History) -> float:
    """The relative distance beyond its roundings up to which updates are a rule's."""
    if candidate.orthogonal:
        return DIRECTION
    return CODED if history.state is CODES else EXACT


def compare(candidate: Candidate, history: History, *, limit: float, scaled: bool = False) -> Fit:
    """How well a rule explains the updates.

    Args:
        candidate: the rule.
        history: the record.
        limit: a distance above it need not be known exactly.
        scaled: the length may be another, by one factor for all steps.
    """
    # Most rules that do not fit differ in the first steps already, and many are tried.
    first = _compare_steps(candidate, history, _FIRST_STEPS, limit=limit, scaled=scaled)
    if first.distance > limit and not first.reason:
        return first
    return _compare_steps(candidate, history, len(history.steps), limit=limit, scaled=scaled)


def _compare_steps(candidate: Candidate, history: History, count: int, *, limit: float, scaled: bool) -> Fit:
    steps = history.full_steps if candidate.full else history.steps
    replayed, unknown = _collect(candidate, history, count)
    observed = [_without_decay(step) if candidate.orthogonal else step.update for step in steps]
    pairs = [_Pair(o, r, _rounding_of(s, history)) for s, o, r in zip(steps, observed, replayed)]
    if not pairs:
        return unknown
    visible = [pair for pair in pairs if pair.visible()]
    if not visible:
        return Fit(math.inf, reason=_UNRESOLVED, hidden=True)
    factor = _common_factor(visible) if scaled or candidate.orthogonal else 1.0
    distance = max(pair.distance(factor) for pair in visible)
    if distance <= tolerance(candidate, history):
        return Fit(distance, factor)
    if history.state is CODES and not candidate.promised:
        return Fit(distance, factor)  # how far codes move other rules hides which of them it is
    # What the roundings on the way add up to is computed only where it matters.
    distance = -1.0
    for pair, spread in zip(pairs, _spreads(candidate, history, replayed)):
        if pair.visible(spread):
            distance = max(distance, pair.distance(factor, spread))
        if distance > limit:
            break
    if distance < 0.0:
        return Fit(math.inf, reason="not judged: roundings explain as much as its updates", hidden=True)
    return Fit(distance, factor)


def _collect(candidate: Candidate, history: History, count: int) -> tuple[list[Values], Fit]:
    """A rule's updates of the first steps, up to one that cannot be computed; and why it cannot."""
    updates: list[Values] = []
    try:
        for update in islice(candidate.replay(history, None), count):
            if not np.isfinite(update).all():
                raise StateOverflowError("its updates are not finite")
            updates.append(update)
    except UnknowableError as error:
        return updates, Fit(math.inf, reason=f"not judged: {error}", hidden=isinstance(error, StateOverflowError))
    except Exception:  # settings are anybody's: from these the rule cannot be computed
        return updates, Fit(math.inf, reason="not judged: its settings are not the rule's")
    return updates, Fit(math.inf, reason="not judged: no step was recorded")


def _spreads(candidate: Candidate, history: History, exact: Sequence[Values]) -> Iterator[float]:
    """The distance that roundings explain in each step: how far they move disturbed replays from the exact one."""
    arithmetic = max(history.values, history.state, key=lambda f: f.eps)
    replays = [candidate.replay(history, Roundings(seed, arithmetic, history.state)) for seed in range(_REPLAYS)]
    with contextlib.suppress(UnknowableError):  # a disturbed state overflows where the exact one nearly does
        for update, *disturbed in zip(exact, *replays):
            yield _SPREAD * max(_norm(d - update) if np.isfinite(d).all() else math.inf for d in disturbed)


def _without_decay(step: ObservedStep) -> Values:
    """The update without what a decoupled decay of the weights makes of them."""
    weight_decay = float(settings_from(step.settings, RULES["AdamW"]).get("weight_decay", 0.0))
    keep = 1 - rate_of(step) * weight_decay
    return step.update - (keep - 1) * step.before


def _common_factor(pairs: Sequence[_Pair]) -> float:
    square = sum(float(np.vdot(pair.replayed, pair.replayed)) for pair in pairs)
    product = sum(float(np.vdot(pair.observed, pair.replayed)) for pair in pairs)
    return max(product / square, 0.0) if square else 0.0


def _rounding_of(step: ObservedStep, history: History) -> float:
    """The distance that rounding the values themselves explains."""
    return history.values.eps * _norm(np.maximum(np.abs(step.before), np.abs(step.after)))


def _norm(x: Values) -> float:
    return float(np.linalg.norm(x))


def _matches(candidate: Candidate, history: History) -> bool:
    limit = tolerance(candidate, history)
    steps = history.full_steps if candidate.full else history.steps
    if len(_collect(candidate, history, len(steps))[0]) < len(steps):  # one that ends in NaN explains nothing
        return False
    if compare(candidate, history, limit=limit).distance > limit:
        return False
    return not candidate.orthogonal or not _is_exactly_another(history)


def _is_exactly_another(history: History) -> bool:
    """Whether a rule without an iteration fits.

    A matrix of rank 1 is its own orthogonal one, so that SGD then has Muon's direction.
    """
    return any(_matches(c, history) for c in all_rules() if not c.orthogonal)


def judge(history: History, promise: str, candidates: Sequence[Candidate]) -> tuple[str, Result]:
    """The rule whose updates a parameter received, in words, and what that comes to.

    Args:
        history: its record, of at least one step.
        promise: the rule that its optimizer's name stands for; empty if it stands for none.
        candidates: what counts as that rule.
    """
    if not any(step.update.any() for step in history.steps):
        return _judge_unmoved(history, candidates)
    if not candidates:
        lengths = [(_norm(step.update), _rounding_of(step, history)) for step in history.steps]
        if not any(length > _VISIBLE * rounding for length, rounding in lengths):
            return _UNRESOLVED, Result.OPEN
        return _name_update(history, promise, candidates), Result.OPEN
    fits = [compare(c, history, limit=tolerance(c, history)) for c in candidates]
    right = any(fit.distance <= tolerance(c, history) for c, fit in zip(candidates, fits))
    other = any(c.orthogonal for c in candidates) and _is_exactly_another(history)
    if right and not other:
        return promise, Result.RIGHT
    unknown = [fit for fit in fits if fit.hidden] or ([] if any(not fit.reason for fit in fits) else fits)
    if unknown and not other:
        return unknown[0].reason, Result.OPEN
    return _name_update(history, promise, candidates), Result.WRONG


def _judge_unmoved(history: History, candidates: Sequence[Candidate]) -> tuple[str, Result]:
    rates = [float(s.settings["lr"]) for s in history.steps if s.settings.get("lr") is not None]
    if rates and not any(rates):
        return "not moved: its learning rate is 0", Result.UNSTEPPED
    if not any(step.gradient.any() for step in history.steps):
        return "not moved: its gradients are 0", Result.OPEN
    for candidate in candidates or plain_rules():
        fit = compare(candidate, history, limit=0.0)
        if fit.hidden:
            return fit.reason, Result.OPEN
    return "not moved, though it has gradients", Result.UNSTEPPED


def _name_update(history: History, promise: str, candidates: Sequence[Candidate]) -> str:
    """What the updates are, in words."""
    decays = any(settings_from(step.settings, RULES["AdamW"]).get("weight_decay") for step in history.steps)
    for candidate in all_rules() if decays else ():  # the simplest mistake, which others resemble at small rates
        if candidate.name == f"{promise} without weight decay" and _matches(candidate, history):
            return f"received the update of {candidate.name}"
    for candidate in known_mistakes(promise) if promise else ():
        if _matches(candidate, history):
            return f"received the update of {candidate.name}"
    own = [c for c in candidates if not c.orthogonal]
    known = list(all_rules())
    plain = [c for c in known if not c.orthogonal and c.name != promise]
    exact = CODED if history.state is CODES else EXACT
    distances = [(compare(c, history, limit=ALIKE).distance, c.name) for c in plain]
    least = min(distances)[0]
    nearest, name = min(((compare(c, history, limit=ALIKE).distance, c.name) for c in own), default=(math.inf, ""))
    if nearest <= ALIKE and least > exact:
        return f"received an update {nearest:.2%} away from {name}'s"
    if least <= max(exact, ALIKE):
        name = next(name for distance, name in distances if distance <= max(2 * least, exact))
        return f"received {name}'s update" if name.isalpha() else f"received the update of {name}"
    for candidate in known:
        if candidate.orthogonal and candidate.name != promise and _matches(candidate, history):
            return f"received {candidate.name}'s update"
    for candidate in (*own, *plain):
        fit = compare(candidate, history, limit=max(exact, ALIKE), scaled=True)
        if fit.distance <= max(exact, ALIKE) and fit.factor > 0:
            return f"received the update of {candidate.name}, {fit.factor:.3g} times as long"
    return "received an update of no rule that is known"
