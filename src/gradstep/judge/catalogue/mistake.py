"""The known mistakes and conventions, and rules with mistakes in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from itertools import permutations
from pathlib import Path
from typing import Any, final

import numpy as np

from gradstep.judge.algebra.program import NAMES, Edit, NotFoundError
from gradstep.judge.algebra.trace import key_of
from gradstep.judge.catalogue import particular, state, terms
from gradstep.judge.formula import Formula, Habits, Mistake, RuleChange, apply_changes, examples, habit, replay
from gradstep.judge.scenario import DECAY, LR, QUICK, Scenario, Values, fill_betas
from gradstep.report.words import read_tables
from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of

CONVENTIONS = ("torch", "paper", "optax", "tinytorch", "keras", "huggingface", "bitsandbytes", "textbook")
"""Libraries and papers whose reading of a rule may count as right. ``torch`` is the rule as gradstep has it;
``textbook`` stands for the listings of tutorials."""


def read_mistakes(changes: Mapping[str, Edit | RuleChange]) -> tuple[Mistake, ...]:
    """Return the mistakes of ``mistakes.md``, in its order, each with the change of its name.

    Raises:
        KeyError: a mistake has no change.
    """
    file = Path(__file__).with_name("mistakes.md")
    sources = dict(re.findall(r"^- `(.+?)`: (.+)$", file.read_text("utf-8"), re.MULTILINE))
    mistakes = []
    for name, sentence, look_for, read, holders in (row for row in read_tables(file) if row[0] != "mistake"):
        made = changes[name]
        change = made if isinstance(made, RuleChange) else RuleChange(made)
        mistakes.append(Mistake(name, sentence, look_for, change, sources.get(read, read), _read_holders(holders)))
    return tuple(mistakes)


def _read_holders(text: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the conventions of "optax, textbook: NAdam, RAdam; keras": who, and for which rules."""
    conventions = []
    for group in text.split("; ") if text else ():
        holders, _, rules = group.partition(": ")
        conventions += [(holder, tuple(rules.split(", ")) if rules else ()) for holder in holders.split(", ")]
    return tuple(conventions)


FAMILIES = (terms, particular, state)

MISTAKES = read_mistakes({name: change for family in FAMILIES for name, change in family.CHANGES.items()})
"""Every mistake except those of single settings, which depend on the rule; the likeliest first within each kind."""


_SLOT_WORDS = {
    "exp_avg": "the average of the gradient",
    "exp_avg_sq": "the average square",
    "exp_inf": "the running maximum",
    "square_avg": "the average square",
    "acc_delta": "the average squared step",
    "grad_avg": "the average gradient",
    "momentum_buffer": "the momentum",
    "sum": "the sum of squares",
}
"""Words for the slots of gradstep's own rules; other slots are called by their names."""


_EPSILONS = ("1e-08", "1e-06", "1e-07", "1e-05", "1e-10", "1e-12", "1e-04", "1e-03")
"""Values that people write for ε."""


def list_setting_mistakes(rule: type[Rule]) -> Iterator[Mistake]:
    """Yield a mistake for each slot not kept, each setting without effect, each flag always on and each constant ε."""
    for slot in dict.fromkeys(s.name for example, ndim in examples(rule) for s in example.slots(ndim)):
        yield Mistake(
            f"{slot.replace('_', '-')}-not-stored",
            f"{_SLOT_WORDS.get(slot, f'the state {slot}')} computed but not kept",
            f"the state `{slot}` after the step: write it back, or update it in place (`mul_`, `add_`)",
            RuleChange(state.lose(slot)),
            "the tensor methods that end in an underscore work in place; the others return a new tensor",
        )
    settings = shared_settings_of(rule)
    for name, default in ((s.name, s.default) for s in settings):
        yield Mistake(
            f"{name.replace('_', '-')}-ignored",
            f"the setting {name} ignored ({default} is used)",
            f"where `{name}` is used",
            habit(ignores=(name,)),
        )
        if name == "weight_decay" and default:  # where the default is 0, the mistake above leaves the decay out
            yield Mistake(
                "weight-decay-missing",
                "no decay, whatever weight_decay is",
                "where `weight_decay` is used: the decay, such as `p *= 1 - lr * weight_decay`, is missing",
                RuleChange(terms.remove_decay),
            )
    for name in (s.name for s in settings if s.default is False):
        yield Mistake(
            f"{name.replace('_', '-')}-always",
            "Nesterov's step always" if name == "nesterov" else f"{name} always on",
            f"where `{name}` is not set",
            habit(always=(name,)),
        )
    eps = next((s.default for s in settings if s.name in NAMES["eps"]), None)
    for value in (v for v in _EPSILONS if eps != float(v)):
        yield Mistake(
            f"eps-is-{value}",
            f"ε = {value} whatever is set",
            f"`{value}` written into the formula; use the setting eps",
            RuleChange(partial(terms.set_eps, float(value))),
            "Kingma and Ba, arXiv:1412.6980, Algorithm 1; the rule's docstring in gradstep.rules says where ε stands "
            "in this rule",
        )


@final
@dataclass(frozen=True)
class Variant:
    """A rule with known mistakes in it, ready to run."""

    mistakes: tuple[Mistake, ...]
    formula: Formula

    @property
    def name(self) -> str:
        """Names of the mistakes."""
        return " + ".join(m.name for m in self.mistakes) or "as it should be"

    @property
    def sentence(self) -> str:
        """The rule and its differences."""
        differences = ", and ".join(m.sentence for m in self.mistakes)
        return self.formula.rule.__name__ + (f" with {differences}" if differences else "")

    @property
    def conventions(self) -> tuple[str, ...]:
        """The libraries and papers that have all of the differences on purpose; empty if none has."""
        holders = [set(m.conventions_of(self.formula.rule)) for m in self.mistakes]
        if not holders or not all(holders):
            return ()
        shared = set.intersection(*holders)
        return tuple(name for name in CONVENTIONS if name in shared)


@lru_cache(maxsize=16384)
def variants(rule: type[Rule], mistakes: tuple[Mistake, ...]) -> tuple[Variant, ...]:
    """Return the rule with these mistakes in every order that makes a difference, the given order first."""
    differing: list[Variant] = []
    if not all(can_be_made(rule, mistake) for mistake in mistakes):
        return ()
    # Of three and more, only two orders: mistakes that must come first stand first in the catalogue.
    orders = permutations(mistakes) if len(mistakes) < 3 else (mistakes, mistakes[::-1])
    for order in orders:
        try:
            candidate = Variant(mistakes, apply_changes(rule, [m.change for m in order]))
        except NotFoundError:
            continue
        if not any(_same(candidate.formula, other.formula) for other in differing):
            differing.append(candidate)
        if sum(m.change.edit is not None for m in mistakes) < 2:
            break
    return tuple(differing)


@cache
def catalogue(rule: type[Rule]) -> tuple[Variant, ...]:
    """Return the rule with each known mistake or convention that it can have, one at a time.

    Some do the same as an earlier one in this rule; :func:`distinct` leaves those out.

    >>> from gradstep.rules import Lion
    >>> catalogue(Lion)[0].sentence
    'Lion with a bias correction that the rule does not have'
    """
    return tuple(v for m in (*MISTAKES, *list_setting_mistakes(rule)) for v in variants(rule, (m,)))


def _same(one: Formula, other: Formula) -> bool:
    """Whether two orders of the same edits give the same graph, in the rule's plainest form."""
    rule, ndim = examples(one.rule)[0]
    a, b = one.program(rule, ndim), other.program(rule, ndim)
    return a is not None and b is not None and a.same(b)


@cache
def can_be_made(rule: type[Rule], mistake: Mistake) -> bool:
    """Whether the rule can have the mistake: at its default settings, or for a habit at any settings."""
    if mistake.change.needs not in (None, *_operations(rule)):
        return False
    when = mistake.change.when
    if when is None:
        return True
    for example, ndim in examples(rule) if mistake.change.edit is None else ((rule(), 2),):
        program = Formula(rule).program(example, ndim)
        try:
            if program is not None and when(program):
                return True
        except NotFoundError:
            continue
    return False


@cache
def _operations(rule: type[Rule]) -> frozenset[str]:
    """Return the operations of the rule's lines, with any of its settings."""
    programs = [Formula(rule).program(example, ndim) for example, ndim in examples(rule)]
    return frozenset(node.op for program in programs if program is not None for node in program.nodes())


_AWAY: Mapping[str, Any] = {
    **QUICK,
    "lr": 0.5,
    "weight_decay": DECAY,
    "eps": 0.1,
    "d": 1.5,
    "ns_steps": 3,
    "ns_coefficients": (2.0, -1.5, 0.5),
}
"""Values away from the defaults, so that each setting shows; 0.2 for other numbers."""

_RATE_CHANGE = 6
"""The step before which the learning rate changes."""

_SAME = 1e-9
"""Relative distance of two variants that do the same; the nearest known mistakes are a thousand times further apart."""


def distinct(variants_: Iterable[Variant]) -> tuple[Variant, ...]:
    """Return the variants that, in a few steps, differ from the rule and from every variant before them."""
    seen: dict[Habits, list[_FewSteps]] = {}
    differing = []
    for each in variants_:
        # These three habits show in the steps; the others do not.
        habits = replace(each.formula.habits, ignores=(), always=(), offset=0)
        if habits != Habits() and each.formula.edits:
            differing.append(each)
            continue
        steps = take_few_steps(each.formula)
        others = seen.setdefault(habits, [] if habits != Habits() else [take_few_steps(Formula(each.formula.rule))])
        if not any(steps.are_near(other) for other in others):
            others.append(steps)
            differing.append(each)
    return tuple(differing)


def _are_near(one: Values, other: Values) -> bool:
    """Whether two vectors of one length are the same but for rounding."""
    with np.errstate(all="ignore"):
        apart = np.abs(one - other) > _SAME * (1e-6 + np.abs(one) + np.abs(other))
    return bool(np.array_equal(np.isfinite(one), np.isfinite(other)) and not (apart & np.isfinite(one)).any())


@final
@dataclass(frozen=True)
class _Regime:
    """Random gradients from 10 ** ``low`` to 10 ** ``high``, and whether settings are away from their defaults."""

    low: float
    high: float
    away: bool
    steps: int

    @cache  # noqa: B019 - the three regimes live as long as the module
    def inputs(self, ndim: int) -> tuple[Values, Values]:
        """Return a parameter with ``ndim`` dimensions, and its gradients: one row per step."""
        rng = np.random.default_rng(7)
        shape = (4, 3, 2)[:ndim] if ndim else ()
        sizes = 10.0 ** rng.uniform(self.low, self.high, (self.steps, *shape))
        gradients = sizes * rng.choice([-1, 1], sizes.shape)
        if ndim:
            gradients[0].flat[0] = gradients[2].flat[1] = 0.0
        return rng.normal(size=shape), gradients


_REGIMES = (_Regime(-3, 2, True, 9), _Regime(-1, 0.5, True, 9), _Regime(-12, -6, False, 3))


@final
class _FewSteps:
    """A few steps of a formula, in each example of the rule's settings and each regime; most differ in the first."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self.places = [(regime, *example) for regime in _REGIMES for example in examples(formula.rule)]
        self.vectors: list[Values] = []

    def are_near(self, other: _FewSteps) -> bool:
        """Whether both do the same but for rounding; computed only as far as they do."""
        return all(_are_near(self.vector(k), other.vector(k)) for k in range(len(self.places)))

    def vector(self, place: int) -> Values:
        """Return the parameters after each step, in one place, as one vector (n,)."""
        while len(self.vectors) <= place:
            regime, example, ndim = self.places[len(self.vectors)]
            settings = _settings_away(example, ndim) if regime.away else vars(example)
            p, gradients = regime.inputs(ndim)
            rates = {_RATE_CHANGE: LR} if "lr" in settings else {}
            scenario = Scenario("", "", settings, (p,), tuple((g,) for g in gradients), rates=rates)
            self.vectors.append(replay(self.formula, scenario)[1:].ravel())
        return self.vectors[place]


take_few_steps = lru_cache(maxsize=512)(_FewSteps)
"""Returns a few steps of a formula; those of the last formulas are kept."""


@cache
def _settings_away(example: Rule, ndim: int) -> Mapping[str, Any]:
    """Return the example's settings, those away from their defaults that do not change the form of its graph."""
    rule = example
    for name, value in vars(example).items():
        away = fill_betas(type(example), {name: _AWAY.get(name, 0.2)})[name]
        if type(value) is type(away) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            try:
                changed = replace(rule, **{name: away})
            except (ValueError, TypeError):
                continue
            rule = changed if key_of(changed, ndim) == key_of(example, ndim) else rule
    return vars(rule)
