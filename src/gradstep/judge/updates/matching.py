"""Which rule a parameter's updates are of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np

from gradstep.judge.scenario import Values
from gradstep.judge.updates.candidates import (
    Candidate,
    faulty,
    others,
    without_decay,
)
from gradstep.judge.updates.history import History, Moment

EXACT = 3e-5
"""Relative distance that float32 arithmetic explains, over the roundings of the values themselves."""

LOW_PRECISION = 0.05
"""The same where state is kept in bfloat16 or float16."""

CODES = 0.2
"""The same where state is kept in 8-bit codes."""

ALIKE = 1e-2
"""For rules that were not promised: which rule it is matters here, not how exactly it was given its settings."""

DIRECTION = 0.15
"""For directions that are orthogonalised in bfloat16. A momentum that is not orthogonalised is 0.5 away."""

_VISIBLE = 3.0
"""Roundings of the values that an update must be larger than for its rule to be seen in it."""


@final
@dataclass(frozen=True)
class Fit:
    """How well a rule explains the updates: the largest relative distance, and by which factor they were longer."""

    distance: float
    factor: float = 1.0


def tolerance(history: History) -> float:
    """The relative distance that the precision of the arithmetic explains."""
    if history.precision == 1.0:
        return CODES
    return EXACT if history.precision < 1e-5 else LOW_PRECISION


def fit(candidate: Candidate, history: History, *, scaled: bool = False) -> Fit | None:
    """How well it fits; None where that cannot be known.

    Args:
        scaled: the length may be another, by one factor for all steps.
    """
    moments = history.whole if candidate.whole else history.moments
    try:  # settings are anybody's: a rule that cannot be computed from them is not known to fit
        updates = candidate.updates(history)
        seen = without_decay(moments) if candidate.free else [m.update for m in moments]
    except Exception:
        return None
    if updates is None or not all(np.isfinite(u).all() for u in updates):
        return None
    pairs = [
        (s, u, r)
        for s, u, r in zip(seen, updates, (_rounding(m, history.eps) for m in moments), strict=True)
        if max(_norm(s), 0.0 if candidate.free else _norm(u)) > _VISIBLE * r
    ]
    if not pairs:
        return None
    factor = _factor([(s, u) for s, u, _ in pairs]) if scaled or candidate.free else 1.0
    return Fit(max(_apart(s, factor * u, r) for s, u, r in pairs), factor)


def visible(history: History) -> bool:
    """Whether the values went further than their roundings in any step."""
    return any(_norm(m.update) > _VISIBLE * _rounding(m, history.eps) for m in history.moments)


def fits(candidates: Iterable[Candidate], history: History) -> bool | None:
    """Whether one of what counts as right fits; None where that cannot be known of any."""
    known = False
    for candidate in candidates:
        found = fit(candidate, history)
        known = known or found is not None
        if found is not None and found.distance <= (DIRECTION if candidate.free else tolerance(history)):
            return not (candidate.free and _of_another(history))
    return False if known else None


def _of_another(history: History) -> bool:
    """Whether a rule fits exactly. A matrix of rank 1 is its own orthogonal one, so SGD then has Muon's direction."""
    found = (fit(c, history) for c in others() if not c.free)
    return any(f is not None and f.distance <= tolerance(history) for f in found)


def named(history: History, promise: str, own: tuple[Candidate, ...]) -> str:
    """What the updates are, in words; an empty text if nothing that is known comes near."""
    exact = tolerance(history)
    for candidate in faulty(promise) if promise else ():
        if fits((candidate,), history):
            return candidate.name
    known = list(others())
    near = [(found.distance, c.name) for c in known if not c.free and (found := fit(c, history)) is not None]
    if near and min(near)[0] <= max(exact, ALIKE):
        least = min(near)[0]
        return next(name for distance, name in near if distance <= max(2 * least, exact))
    for candidate in known:
        found = fit(candidate, history) if candidate.free else None
        if found is not None and found.distance <= DIRECTION:
            return candidate.name
    for candidate in (*own, *known):
        found = None if candidate.free else fit(candidate, history, scaled=True)
        if found is not None and found.distance <= max(exact, ALIKE) and found.factor > 0:
            return f"{candidate.name}, {found.factor:.3g} times as long"
    return ""


def _factor(pairs: list[tuple[Values, Values]]) -> float:
    square = sum(float(np.vdot(u, u)) for _, u in pairs)
    factor = sum(float(np.vdot(s, u)) for s, u in pairs) / square if square else 0.0
    return max(factor, 0.0)


def _apart(seen: Values, updates: Values, rounding: float) -> float:
    """The distance beyond what roundings explain, relative to the longer of the two."""
    longest = max(_norm(seen), _norm(updates))
    return max(0.0, _norm(seen - updates) - rounding) / longest if longest else 0.0


def _rounding(moment: Moment, eps: float) -> float:
    return eps * _norm(np.maximum(np.abs(moment.before), np.abs(moment.after)))


def _norm(x: Values) -> float:
    return float(np.linalg.norm(x))
