"""Which variants of a rule do the same, found out by a few steps of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, final

import numpy as np

from gradstep.judge.algebra.trace import key_of
from gradstep.judge.battery import DECAY, LR
from gradstep.judge.catalogue.mistake import Variant
from gradstep.judge.formula import Formula, Habits, examples, true_formula
from gradstep.judge.scenario import Values
from gradstep.rules import Rule

_AWAY: Mapping[str, Any] = {
    "lr": 0.5,
    "weight_decay": DECAY,
    "eps": 0.1,
    "betas": (0.6, 0.8),
    "alpha": 0.7,
    "rho": 0.7,
    "beta2_decay": -0.5,
    "d": 1.5,
}
"""Settings away from their defaults, so that each of them shows; 0.2 for other numbers."""

_STEPS = 9
_LATER = 6
"""From this step on the learning rate is another."""

_SAME = 1e-9
"""Relative distance of two that do the same; the nearest known mistakes are a thousand times further apart."""


def distinct(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """The variants that differ from the rule itself, and from every one before them."""
    seen: dict[Habits, list[Values]] = {}
    found = []
    for each in variants:
        # How settings are read and steps are counted shows in the steps; the other habits do not.
        around = replace(each.formula.habits, ignores=(), always=(), offset=0)
        if around != Habits() and each.formula.edits:
            found.append(each)
            continue
        way = few_steps(each.formula)
        known = seen.setdefault(around, [] if around != Habits() else [few_steps(true_formula(each.formula.rule))])
        if not any(_near(way, other) for other in known):
            known.append(way)
            found.append(each)
    return tuple(found)


def _near(one: Values, other: Values) -> bool:
    with np.errstate(all="ignore"):
        apart = np.abs(one - other) > _SAME * (1e-6 + np.abs(one) + np.abs(other))
    return bool(np.array_equal(np.isfinite(one), np.isfinite(other)) and not (apart & np.isfinite(one)).any())


@final
@dataclass(frozen=True)
class _Regime:
    """Gradients of one kind, in some steps.

    Attributes:
        low: exponent of the smallest.
        high: exponent of the largest.
        away: the settings are away from their defaults.
        steps: how many.
    """

    low: float
    high: float
    away: bool
    steps: int

    def inputs(self, ndim: int) -> tuple[Values, Values]:
        """A parameter, and a gradient for each step."""
        rng = np.random.default_rng(7)
        shape = (4, 3, 2)[:ndim] if ndim else ()
        sizes = 10.0 ** rng.uniform(self.low, self.high, (self.steps, *shape))
        gradients = sizes * rng.choice([-1, 1], sizes.shape)
        if ndim:
            gradients[0].flat[0] = gradients[2].flat[1] = 0.0
        return rng.normal(size=shape), gradients


_REGIMES = (_Regime(-3, 2, True, _STEPS), _Regime(-1, 0.5, True, _STEPS), _Regime(-12, -6, False, 3))


@lru_cache(maxsize=512)
def few_steps(formula: Formula) -> Values:
    """The parameters after each of some steps, over the forms of the rule."""
    rows = []
    for example, ndim in examples(formula.rule):
        for regime in _REGIMES:
            given = _settings_of(example, ndim) if regime.away else vars(example)
            rows.append(_run(formula, given, *regime.inputs(ndim)).ravel())
    return np.concatenate(rows)


@cache
def _settings_of(example: Rule, ndim: int) -> Mapping[str, Any]:
    """The example's settings, those away from their defaults that leave it the form that it is."""
    made = example
    for name, value in vars(example).items():
        away = _AWAY.get(name, 0.2)
        if type(value) is type(away) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            try:
                other = replace(made, **{name: away})
            except (ValueError, TypeError):
                continue
            made = other if key_of(other, ndim) == key_of(example, ndim) else made
    return vars(made)


def _run(formula: Formula, given: Mapping[str, Any], p: Values, gradients: Values) -> Values:
    ndim = p.ndim
    rows = np.full((len(gradients), *p.shape), np.nan)
    try:
        rule = formula.settings(given)
    except ValueError:  # Nesterov's step without a momentum
        return rows
    slots: Any = {s.name: np.full(s.shape(p.shape), s.fill) for s in rule.slots(ndim)}
    scalars: Any = dict(rule.scalars)
    stepper = formula.stepper(rule, ndim)
    with np.errstate(all="ignore"):
        for count, g in enumerate(gradients, 1):
            if count == _LATER and "lr" in given:
                stepper = formula.stepper(formula.settings({**given, "lr": LR}), ndim)
            number = count + formula.habits.offset
            try:
                made = stepper.step(number, count, p, -g if rule.maximize else g, slots, scalars)
            except (ZeroDivisionError, OverflowError, ValueError, TypeError):
                break
            p, slots, scalars = np.asarray(made.value), made.slots, made.scalars
            if p.shape != rows.shape[1:]:
                break
            rows[count - 1] = p
    return rows
