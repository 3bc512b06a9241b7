"""The rules that an update is compared with, and what each does with recorded gradients, settings and initial state."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import zip_longest
from typing import Any, TypeAlias, cast, final

import numpy as np
import torch
from torch import Tensor

from gradstep.judge.catalogue import CONVENTIONS, catalogue
from gradstep.judge.diagnosis import accepted
from gradstep.judge.formula import Formula, Habits
from gradstep.judge.scenario import Values
from gradstep.judge.subjects.subject import ALIASES
from gradstep.judge.updates.history import EIGHT_BIT, History, NumberFormat, ObservedStep
from gradstep.optimizers import Optimizer
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


def replay_history(
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
        g = -step.gradient if group.get("maximize") else step.gradient
        momentum = mu * momentum + (1 - mu) * g
        if roundings is not None:
            momentum = roundings.store("momentum_buffer", momentum)
        averaged = mu * momentum + (1 - mu) * g if group.get("nesterov", True) else momentum
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


_AFFIXES = re.compile(
    r"paged|8bit|4bit|32bit|fp8|fused|deepspeed|cpu|foreach|distributed|single_?device|with_?aux_?adamw?|^my|^custom|_",
    re.IGNORECASE,
)


@final
@dataclass(frozen=True)
class Candidate:
    """A rule that may have made an update."""

    name: str  # what to call it
    # computes its updates of a record, exactly or with disturbed numbers; it may raise UnknowableError
    replay: Callable[[History, Roundings | None], Updates]
    full: bool = False  # it needs full matrices
    # its update is an orthogonal direction, from an iteration in bfloat16, whose length is the learning rate times a
    # factor that authors choose differently, but equal in all steps
    orthogonal: bool = False
    promised: bool = False  # whether it counts as the rule that the optimizer's name promises


_MUON = Candidate("Muon", replay_muon, full=True, orthogonal=True)


def conventions_of(name: str) -> tuple[Candidate, ...]:
    """Return the forms that count as the rule of that name: the rule itself, and its form in each convention."""
    return (_MUON,) if name == "Muon" else _rule_conventions(RULES[name])


@cache
def _rule_conventions(rule: type[Rule]) -> tuple[Candidate, ...]:
    formulas = {v.formula: None for convention in CONVENTIONS for v in accepted(rule, convention)}
    # For a machine epsilon torch takes that of the parameter's dtype; others compute in float32.
    epsilons = (True, False) if uses_machine_epsilon(rule()) else (True,)
    made = (_formula_candidate(rule.__name__, f, own_epsilon=own) for own in epsilons for f in formulas)
    return tuple(replace(candidate, promised=True) for candidate in made)


def find_promise(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], p: Tensor
) -> tuple[str, tuple[Candidate, ...]]:
    """Return the name of the rule that the optimizer's class promises for this parameter, and the forms that count."""
    if isinstance(optimizer, Optimizer):
        rule = optimizer.rule_of(group)
        return rule.__name__, conventions_of("Muon") if rule is RULES["Muon"] else _rule_conventions(rule)
    plain = _AFFIXES.sub("", type(optimizer).__name__).lower()
    if plain == "muon" and _is_for_muon(optimizer, group, p):
        return "Muon", conventions_of("Muon")
    if plain == "muon":
        return "AdamW", (*conventions_of("AdamW"), *conventions_of("Adam"))
    name = {rule.lower(): rule for rule in RULES}.get(plain, "")
    return name, conventions_of(name) if name else ()


def _is_for_muon(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], p: Tensor) -> bool:
    """Return whether a Muon optimizer updates this parameter by Muon, and not by the AdamW that it has for the others.

    The flag ``use_muon`` of the group or of the parameter's state decides. If it is nowhere, matrices get Muon.
    """
    flags = [s["use_muon"] for s in optimizer.state.values() if "use_muon" in s]
    flags += [g["use_muon"] for g in optimizer.param_groups if "use_muon" in g]
    if any(flags):
        return bool(optimizer.state.get(p, {}).get("use_muon", group.get("use_muon", False)))
    return p.ndim > 1


@cache
def plain_rules() -> tuple[Candidate, Candidate]:
    """Return SGD, and the sign of the gradient."""
    sgd = _formula_candidate("SGD", Formula(RULES["SGD"]), {"momentum": 0.0, "nesterov": False, "dampening": 0.0})
    return sgd, Candidate("the sign of the gradient", _replay_sign)


@cache
def all_rules() -> tuple[Candidate, ...]:
    """Return every rule of gradstep, the plainest first."""
    plain, sign = plain_rules()
    rules = [plain]
    sgd = Formula(RULES["SGD"])
    for fixed in ({"dampening": 0.0}, {"dampening": 0.0, "momentum": 0.9}):
        rules.append(_formula_candidate("SGD with momentum", sgd, {"nesterov": False, **fixed}))
        rules.append(_formula_candidate("SGD with Nesterov's momentum", sgd, {"nesterov": True, **fixed}))
    rules.append(sign)
    for name in dict.fromkeys(("AdamW", "Adam", "Lion", *RULES)):
        if name != "SGD" and RULES[name].sees != "matrix":
            rules.append(_formula_candidate(name, Formula(RULES[name])))
            rules.append(
                _formula_candidate(f"{name} without weight decay", Formula(RULES[name]), {"weight_decay": 0.0})
            )
    return (*rules, _MUON)


@cache
def known_mistakes(name: str) -> tuple[Candidate, ...]:
    """Return the rule of that name with each known mistake in its mathematics."""
    if name == "Muon":
        sentence = "Muon that divides its own momentum by its norm at every step (it orthogonalises in place)"
        return (replace(_MUON, name=sentence, replay=partial(replay_muon, overwritten=True)),)
    return tuple(
        _formula_candidate(variant.sentence, variant.formula)
        for variant in catalogue(RULES[name])
        if replace(variant.formula.habits, offset=0, ignores=(), always=()) == Habits()
    )


def _formula_candidate(
    name: str, formula: Formula, fixed: Mapping[str, Any] | None = None, *, own_epsilon: bool = True
) -> Candidate:
    updates = partial(replay_history, formula, fixed or {}, own_epsilon=own_epsilon)
    return Candidate(name, updates, full=formula.rule.sees != "elements")


def _replay_sign(history: History, roundings: Roundings | None) -> Updates:
    del roundings  # a sign is exact
    return (-rate_of(step) * np.sign(step.gradient) for step in history.steps)
