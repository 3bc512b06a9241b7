"""Compute in float64 what a formula does with recorded gradients, settings and initial state."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, TypeAlias, cast, final

import numpy as np
import torch

from gradstep.judge.formula import Formula
from gradstep.judge.scenario import Values
from gradstep.judge.subjects.subject import ALIASES
from gradstep.judge.updates.history import EIGHT_BIT, History, NumberFormat, ObservedStep
from gradstep.rules import RULES, Rule, settings_of

CODE_STEP = 2.0**-5
"""Distance of neighbouring 8-bit codes near 0, as a share of the largest element."""

Updates: TypeAlias = Iterator[Values]
"""The update of each step, computed as it is asked for."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's iteration (Jordan et al., kellerjordan.github.io/posts/muon); five times."""


class UnknowableError(Exception):
    """An update cannot be computed from what was recorded; the text gives the reason."""


class StateOverflowError(UnknowableError):
    """A number on the way is larger than its format holds."""


@final
@dataclass(eq=False)
class Roundings:
    """Random errors of the size of roundings, for the intermediate numbers of a replay.

    They move an update about as far as arithmetic in these formats can move it (stochastic arithmetic: Vignes,
    "A stochastic arithmetic for reliable scientific computation", 1993). They depend on the seed only.
    """

    seed: int
    arithmetic: NumberFormat  # the format of intermediate numbers
    state: NumberFormat  # the format of the state between steps
    _signs: dict[str, Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def round(self, x: Values, numbers: NumberFormat | None = None) -> Values:
        """Round intermediate numbers up or down at random, by up to half the distance of neighbouring numbers."""
        return _disturb(x, self._rng.uniform(-0.5, 0.5, size=np.shape(x)), numbers or self.arithmetic)

    def store(self, name: str, x: Values, *, signed: bool = True) -> Values:
        """Round a state as it is kept.

        Each element has one direction in all steps: in bfloat16 β₂ = 0.999 leaves a second moment as it is, so that its
        roundings add up. In 8-bit codes a small element of a signed state may change its sign, and with it the update
        of a rule that takes the sign: it goes by a share of the largest.
        """
        if name not in self._signs:
            self._signs[name] = self._rng.choice((-0.5, 0.5), size=np.shape(x))
        if self.state is EIGHT_BIT:
            return x + self._signs[name] * np.max(np.abs(x), initial=0.0) * CODE_STEP if signed else x
        return _disturb(x, self._signs[name], self.state)


def _disturb(x: Values, signs: Values, numbers: NumberFormat) -> Values:
    moved = x + signs * (numbers.eps * np.abs(x) + numbers.smallest)
    return np.where(np.sign(moved) == np.sign(x), moved, 0.0)  # a second moment stays positive, and 0 is exact


def replay(
    formula: Formula,
    fixed: Mapping[str, Any],
    history: History,
    roundings: Roundings | None = None,
    *,
    own_epsilon: bool = True,
) -> Updates:
    """Yield the update of each recorded step by a formula, beginning with the state before the first of them.

    Args:
        formula: the rule, true or with mistakes in it.
        fixed: settings that are not read from the recorded ones.
        history: the record.
        roundings: the errors of intermediate numbers; None computes exactly.
        own_epsilon: an ε that stands for the machine's is that of the parameter's dtype, else at most float32's.

    Raises:
        UnknowableError: there is state of unknown age, state of another rule, no full matrices where the rule needs
            them, settings that are not the rule's, or state that overflows its format.
    """
    machine = history.dtype.eps if own_epsilon else min(history.dtype.eps, float(np.finfo(np.float32).eps))
    count = _earlier_steps(history)
    if count is not None:
        yield from _replay_from(count, formula, fixed, history, roundings, machine)
        return
    # Without a step count the state is only known not to be new. What is the same at two ages holds for all.
    young, old = (_replay_from(age, formula, fixed, history, roundings, machine) for age in (1, 1000))
    for one, other in zip_longest(young, old):
        if one is None or other is None or not np.array_equal(one, other):
            raise UnknowableError("its state is older than the watch, and does not say how old")
        yield one


def _earlier_steps(history: History) -> int | None:
    """Return how many steps came before the first recorded one; None if there is state without a step count."""
    state = history.initial_state or {}
    if not history.steps or not any(isinstance(v, np.ndarray) for v in state.values()):
        return int(state.get("step") or 0)
    count = state.get("step", _plain_setting(history.steps[0].settings.get("step")))
    return None if count is None else int(np.ravel(count)[0])


def _replay_from(
    count: int,
    formula: Formula,
    fixed: Mapping[str, Any],
    history: History,
    roundings: Roundings | None,
    machine_epsilon: float,
) -> Updates:
    full = formula.rule.sees != "elements"
    steps = history.full_steps if full else history.steps
    if not steps:
        raise UnknowableError("too large to be kept in full, as its rule needs")
    ndim = steps[0].before.ndim
    slots: dict[str, Any] | None = None
    scalars: dict[str, float] = {}
    for number, step in enumerate(steps, count + 1):
        with np.errstate(all="ignore"):
            try:
                settings = {**settings_from(step.settings, formula.rule), **fixed}
                rule = formula.settings(settings)
                if uses_machine_epsilon(rule):
                    rule = formula.settings({**settings, "eps": (machine_epsilon, cast("Any", rule).eps[1])})
                if slots is None:
                    slots, scalars = _initial_slots(rule, history, count, step.before.shape, full=full)
                p, g = step.before.astype(np.float64), step.gradient.astype(np.float64)
                if roundings is not None:
                    p, g = roundings.round(p), roundings.round(g)
                made = formula.stepper(rule, ndim).step(
                    number + formula.habits.offset, number, p, -g if rule.maximize else g, slots, scalars
                )
            except (ValueError, TypeError, ArithmeticError, KeyError) as error:
                raise UnknowableError("its settings are not the rule's") from error
            slots, scalars = made.slots, made.scalars
            update = np.asarray(made.value) - p
            squares = [g * g] if any(not s.signed for s in rule.slots(ndim)) else []
            if any(np.max(np.abs(x), initial=0.0) > history.state.largest for x in (*squares, *slots.values())):
                raise StateOverflowError(f"its state overflows {history.state.name}")
            least = history.state.smallest / history.state.eps if history.state.name == "float16" else 0.0
            unsigned = [slots[s.name] for s in rule.slots(ndim) if not s.signed and s.name in slots]
            if any(((x > 0) & (x < least)).any() for x in map(np.asarray, unsigned)):
                raise StateOverflowError("its state underflows float16")
            if roundings is not None:
                signs = {s.name: s.signed for s in rule.slots(ndim)}
                slots = {n: roundings.store(n, np.asarray(x), signed=signs.get(n, False)) for n, x in slots.items()}
                update = roundings.round(update)
        yield update


def _initial_slots(
    rule: Rule, history: History, count: int, shape: tuple[int, ...], *, full: bool
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the rule's slots and scalars before the first recorded step.

    Args:
        rule: the rule, with its settings.
        history: the record.
        count: how many steps came before the first recorded one.
        shape: the shape of the parameter.
        full: whether the rule needs whole matrices, so that slots are read from those.
    """
    slots: dict[str, Any] = {s.name: np.full(s.shape(shape), s.fill) for s in rule.slots(len(shape))}
    scalars = dict(rule.scalars)
    recorded = history.initial_state or {}
    arrays = history.initial_matrices if full else recorded
    kept = {name: v for name, v in arrays.items() if isinstance(v, np.ndarray)}
    if recorded and (count or any(name in kept for name in slots)):
        if any(name not in kept or kept[name].shape != slot.shape for name, slot in slots.items()):
            raise UnknowableError("its state is older than the watch")
        slots = {name: kept[name] for name in slots}
        scalars |= {name: recorded[name] for name in scalars if name in recorded}
    return slots, scalars


def uses_machine_epsilon(rule: Any) -> bool:
    """Return whether the rule's first ε is None, which stands for the machine epsilon of the arithmetic."""
    eps = getattr(rule, "eps", None)
    return isinstance(eps, tuple) and eps[0] is None


def settings_from(group: Mapping[str, Any], rule: type[Rule]) -> dict[str, Any]:
    """Return the rule's settings from a parameter group, which may have other names for them (``ALIASES``)."""
    settings: dict[str, Any] = {}
    for setting in settings_of(rule):
        for names in ((setting.name,), *ALIASES.get(setting.name, ())):
            if all(name in group for name in names):
                values = [_plain_setting(group[name]) for name in names]
                settings[setting.name] = values[0] if len(values) == 1 else tuple(values)
                break
    return settings


def _plain_setting(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_plain_setting(v) for v in value)
    return value if isinstance(value, (bool, str, type(None))) else float(value)


def rate_of(step: ObservedStep) -> float:
    """Return the learning rate of a step."""
    return float(settings_from(step.settings, RULES["SGD"]).get("lr", 0.0))


def replay_muon(history: History, roundings: Roundings | None = None, *, overwritten: bool = False) -> Updates:
    """Yield Muon's update of each recorded step, without weight decay and without a rate adjusted to the matrix.

    Args:
        history: the record of a matrix, with whole gradients.
        roundings: the errors of intermediate numbers; None computes exactly.
        overwritten: divide the momentum by its norm after each step, as a code that orthogonalises in place does.

    Raises:
        UnknowableError: it is no matrix, was not kept in full, has other state, or its norm overflows.
    """
    if len(history.shape) < 2:
        raise UnknowableError("it is no matrix")
    if not history.full_steps:
        raise UnknowableError("too large to be kept in full, as its rule needs")
    momentum = history.initial_matrices.get("momentum_buffer")
    if momentum is None:
        if _earlier_steps(history) != 0:
            raise UnknowableError("its state is older than the watch")
        momentum = np.zeros_like(history.full_steps[0].before)
    for step in history.full_steps:
        group = step.settings
        mu = float(group.get("momentum", 0.95))
        momentum = mu * momentum + (1 - mu) * step.gradient
        if roundings is not None:
            momentum = roundings.store("momentum_buffer", momentum)
        averaged = mu * momentum + (1 - mu) * step.gradient if group.get("nesterov", True) else momentum
        if float(np.linalg.norm(averaged.astype(np.float64))) ** 2 > float(np.finfo(np.float32).max):
            raise StateOverflowError("its norm overflows")
        yield -rate_of(step) * _orthogonalise(averaged, group, roundings)
        if overwritten:
            momentum = momentum / max(float(np.linalg.norm(momentum)), 1e-7)


def _orthogonalise(x: Values, group: Mapping[str, Any], roundings: Roundings | None) -> Values:
    """Return about the nearest orthogonal matrix, by Newton and Schulz, in the shape of x; later axes count as one."""
    numbers = NumberFormat.of(torch.bfloat16)  # most Muons iterate in it, whatever their parameters' dtype

    def rounded(values: Any) -> Any:
        return values if roundings is None else roundings.round(values, numbers).astype(np.float32)

    triples = np.atleast_2d(np.asarray(group.get("ns_coefficients", NEWTON_SCHULZ), dtype=np.float64)).tolist()
    flat = x.reshape(len(x), -1).astype(np.float32)
    wide = flat if len(flat) <= flat.shape[1] else flat.T
    wide = rounded(wide / max(float(np.linalg.norm(wide)), 1e-7))
    for step in range(int(group.get("ns_steps", len(triples) if len(triples) > 1 else 5))):
        a, b, c = triples[min(step, len(triples) - 1)]  # some have a triple for every step
        gram = rounded(wide @ wide.T)
        wide = rounded(a * wide + rounded(b * gram + c * (gram @ gram)) @ wide)
    return np.asarray(wide if len(flat) <= flat.shape[1] else wide.T, dtype=np.float64).reshape(x.shape)
