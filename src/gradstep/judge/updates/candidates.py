"""The rules that an update is held against, computed anew in float64 from the gradients and settings that were seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from gradstep.judge.catalogue import CONVENTIONS, catalogue
from gradstep.judge.diagnosis import accepted
from gradstep.judge.formula import Formula, Habits, true_formula
from gradstep.judge.scenario import Values
from gradstep.judge.subjects.arguments import ALIASES
from gradstep.judge.updates.history import History, Moment
from gradstep.optimizers import Optimizer
from gradstep.rules import RULES, Rule, settings_of

Updates: TypeAlias = list[Values]
"""How far the values should go, in each step."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's iteration (Jordan et al., kellerjordan.github.io/posts/muon); five times."""

_AFFIXES = re.compile(
    r"paged|8bit|4bit|32bit|fp8|fused|deepspeed|cpu|foreach|distributed|single_?device|with_?aux_?adamw?|^my|^custom|_",
    re.IGNORECASE,
)


@final
@dataclass(frozen=True)
class Candidate:
    """A rule that an update may be of.

    Attributes:
        name: what to call it.
        updates: computes the updates that it would have made, or None where that cannot be known.
        whole: it looks at whole matrices.
        free: its length is a factor of the learning rate that authors choose differently, the same at every step.
    """

    name: str
    updates: Callable[[History], Updates | None]
    whole: bool = False
    free: bool = False


def promised(name: str) -> tuple[Candidate, ...]:
    """What counts as the rule of that name: it and every convention of it."""
    if name == "Muon":
        return (Candidate("Muon", muon, whole=True, free=True),)
    return promised_by(RULES[name])


@cache
def promised_by(rule: type[Rule]) -> tuple[Candidate, ...]:
    """The rule and every convention of it."""
    formulas = {v.formula: None for convention in CONVENTIONS for v in accepted(rule, convention)}
    return tuple(_of(rule.__name__, formula) for formula in formulas)


def promise_of(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], p: Tensor
) -> tuple[str, tuple[Candidate, ...]]:
    """The name of the rule that an optimizer's class stands for, for this parameter; and what counts as that rule."""
    if isinstance(optimizer, Optimizer):
        return type(optimizer).rule().__name__, promised_by(type(optimizer).rule())
    plain = _AFFIXES.sub("", type(optimizer).__name__).lower()
    if plain == "muon" and _by_muon(optimizer, group, p):
        return "Muon", promised("Muon")
    if plain == "muon":
        return "AdamW", (*promised("AdamW"), *promised("Adam"))
    name = {rule.lower(): rule for rule in RULES}.get(plain, "")
    return name, promised(name) if name else ()


def _by_muon(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], p: Tensor) -> bool:
    """Whether a Muon updates this parameter by Muon, or by the AdamW that many have for the others.

    It is said by a flag of the group or of the parameter's state; where no parameter has one, matrices are meant.
    """
    flags = [s["use_muon"] for s in optimizer.state.values() if "use_muon" in s]
    flags += [g["use_muon"] for g in optimizer.param_groups if "use_muon" in g]
    if any(flags):
        return bool(optimizer.state.get(p, {}).get("use_muon", group.get("use_muon", False)))
    return p.ndim > 1


def others() -> Iterator[Candidate]:
    """Every other rule that is known, the plainest first."""
    sgd = RULES["SGD"]
    yield _of("SGD", true_formula(sgd), momentum=0.0, nesterov=False, dampening=0.0)
    for momentum in (None, 0.9):
        fixed = {} if momentum is None else {"momentum": momentum}
        yield _of("SGD with momentum", true_formula(sgd), nesterov=False, dampening=0.0, **fixed)
        yield _of("SGD with Nesterov's momentum", true_formula(sgd), nesterov=True, dampening=0.0, **fixed)
    yield Candidate("the sign of the gradient", lambda h: [-rate_of(m) * np.sign(m.gradient) for m in h.moments])
    for name in ("AdamW", "Adam", "Lion", *RULES):
        if name != "SGD":
            yield _of(name, true_formula(RULES[name]))
            yield _of(f"{name} without weight decay", true_formula(RULES[name]), weight_decay=0.0)
    yield Candidate("Muon", muon, whole=True, free=True)


def faulty(name: str) -> Iterator[Candidate]:
    """The rule of that name with each known mistake in its mathematics."""
    if name == "Muon":
        yield Candidate(
            "Muon that divides its own momentum by its norm at every step (it orthogonalises in place)",
            lambda h: muon(h, overwritten=True),
            whole=True,
            free=True,
        )
        return
    for variant in catalogue(RULES[name]):
        habits = variant.formula.habits
        if replace(habits, offset=0, ignores=(), always=()) == Habits():
            yield _of(variant.sentence, variant.formula)


def _of(name: str, formula: Formula, **fixed: Any) -> Candidate:
    return Candidate(name, lambda h: _replayed(formula, fixed, h), whole=not formula.rule.elementwise)


def settings_from(group: Mapping[str, Any], rule: type[Rule]) -> dict[str, Any]:
    """The rule's settings as a parameter group has them, whatever it calls them."""
    found: dict[str, Any] = {}
    for setting in settings_of(rule):
        for names in ((setting.name,), *ALIASES.get(setting.name, ())):
            if all(name in group for name in names):
                values = [_plain(group[name]) for name in names]
                found[setting.name] = values[0] if len(values) == 1 else tuple(values)
                break
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_plain(v) for v in value)
    return value if isinstance(value, (bool, str, type(None))) else float(value)


def _replayed(formula: Formula, fixed: Mapping[str, Any], history: History) -> Updates | None:
    """The updates that a formula would have made, from the state on that there was before the watch."""
    count = _steps_before(history)
    if count is not None:
        return _replayed_from(count, formula, fixed, history)
    # Of a state that does not say how old it is, only that it is: what depends on the age cannot be known.
    young, old = (_replayed_from(count, formula, fixed, history) for count in (1, 1000))
    same = young is not None and old is not None and all(map(np.array_equal, young, old))
    return young if same else None


def _steps_before(history: History) -> int | None:
    """Steps that were made before the watch; None where there is state that does not say."""
    start = history.start or {}
    if not history.moments or not any(isinstance(v, np.ndarray) for v in start.values()):
        return int(start.get("step") or 0)
    count = start.get("step", _plain(history.moments[0].settings.get("step")))
    return None if count is None else int(np.ravel(count)[0])


def _replayed_from(first: int, formula: Formula, fixed: Mapping[str, Any], history: History) -> Updates | None:
    whole = not formula.rule.elementwise
    moments = history.whole if whole else history.moments
    start = history.start_whole if whole else history.start or {}
    if not moments:
        return None
    ndim = moments[0].before.ndim
    slots: dict[str, Any] = {}
    scalars: dict[str, float] = {}
    found: Updates = []
    with np.errstate(all="ignore"):
        for count, moment in enumerate(moments, first + 1):
            try:
                rule = formula.settings({**settings_from(moment.settings, formula.rule), **fixed})
                if not found:
                    shape = moment.before.shape
                    slots = {s.name: np.full(s.shape(shape), s.fill) for s in rule.slots(ndim)}
                    scalars = dict(rule.scalars)
                    if history.start:
                        kept = {k: v for k, v in start.items() if isinstance(v, np.ndarray)}
                        if any(name not in kept or kept[name].shape != slots[name].shape for name in slots):
                            return None
                        slots = {name: kept[name] for name in slots}
                        scalars |= {name: history.start[name] for name in scalars if name in history.start}
                p, g = (x.astype(np.float64) for x in (moment.before, moment.gradient))
                number = count + formula.habits.offset
                made = formula.stepper(rule, ndim).step(number, count, p, -g if rule.maximize else g, slots, scalars)
            except (ValueError, TypeError, ArithmeticError, KeyError):
                return None
            slots, scalars = made.slots, made.scalars
            found.append(np.asarray(made.value) - p)
    return found


def rate_of(moment: Moment) -> float:
    """The group's learning rate."""
    return float(settings_from(moment.settings, RULES["SGD"]).get("lr", 0.0))


def muon(history: History, *, overwritten: bool = False) -> Updates | None:
    """Muon's updates before the decay is taken off, where the learning rate is not adjusted to the matrix.

    Args:
        history: of a matrix that was kept whole.
        overwritten: the momentum is divided by its norm after each step, as where it is orthogonalised in place.
    """
    if len(history.shape) < 2 or not history.whole:
        return None
    momentum = np.zeros_like(history.whole[0].before)
    if history.start:
        kept = history.start_whole.get("momentum_buffer")
        if kept is None:
            return None
        momentum = kept
    found: Updates = []
    for moment in history.whole:
        group = moment.settings
        mu = float(group.get("momentum", 0.95))
        momentum = mu * momentum + (1 - mu) * moment.gradient
        looked = mu * momentum + (1 - mu) * moment.gradient if group.get("nesterov", True) else momentum
        found.append(-rate_of(moment) * _orthogonal(looked, group))
        if overwritten:
            momentum = momentum / max(float(np.linalg.norm(momentum)), 1e-7)
    return found


def _orthogonal(x: Values, group: Mapping[str, Any]) -> Values:
    """The nearest orthogonal matrix by Newton and Schulz; more axes than two are one, as Muons have it."""
    given = np.atleast_2d(np.asarray(group.get("ns_coefficients", NEWTON_SCHULZ), dtype=np.float64)).tolist()
    flat = x.reshape(len(x), -1).astype(np.float32)
    wide = flat if len(flat) <= flat.shape[1] else flat.T
    wide = wide / max(float(np.linalg.norm(wide)), 1e-7)
    for step in range(int(group.get("ns_steps", len(given) if len(given) > 1 else 5))):
        a, b, c = given[min(step, len(given) - 1)]  # some have a triple for every step
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * (gram @ gram)) @ wide
    return np.asarray(wide if len(flat) <= flat.shape[1] else wide.T, dtype=np.float64).reshape(x.shape)


def without_decay(moments: Sequence[Moment]) -> Updates:
    """The updates without what a decay of the weights makes of them."""
    return [
        m.update + rate_of(m) * float(settings_from(m.settings, RULES["AdamW"]).get("weight_decay", 0.0)) * m.before
        for m in moments
    ]
