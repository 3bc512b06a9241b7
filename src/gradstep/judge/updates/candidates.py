"""The rules that an update is compared with: what an optimizer's name promises, its mistakes, and all others."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from gradstep.judge.catalogue import CONVENTIONS, catalogue
from gradstep.judge.diagnosis import accepted
from gradstep.judge.formula import Formula, Habits
from gradstep.judge.updates.history import History
from gradstep.judge.updates.replay import Roundings, Updates, rate_of, replay, replay_muon, uses_machine_epsilon
from gradstep.optimizers import Optimizer
from gradstep.rules import RULES, Rule

_AFFIXES = re.compile(
    r"paged|8bit|4bit|32bit|fp8|fused|deepspeed|cpu|foreach|distributed|single_?device|with_?aux_?adamw?|^my|^custom|_",
    re.IGNORECASE,
)


@final
@dataclass(frozen=True)
class Candidate:
    """A rule that an update may be of."""

    name: str  # what to call it
    # computes its updates of a record, exactly or with disturbed numbers; it may raise UnknowableError
    replay: Callable[[History, Roundings | None], Updates]
    full: bool = False  # it needs full matrices
    # it is a direction from an iteration in bfloat16, and its length a factor of the learning rate that authors choose
    # differently, the same at every step
    orthogonal: bool = False
    promised: bool = False  # it counts as the rule that the optimizer's name stands for


_MUON = Candidate("Muon", replay_muon, full=True, orthogonal=True)


def conventions_of(name: str) -> tuple[Candidate, ...]:
    """Return the forms that count as the rule of that name: the rule itself and every convention of it."""
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
    """The name of the rule that an optimizer's class stands for, for this parameter; and what counts as that rule."""
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
    """SGD, and the sign of the gradient."""
    sgd = _formula_candidate("SGD", Formula(RULES["SGD"]), {"momentum": 0.0, "nesterov": False, "dampening": 0.0})
    return sgd, Candidate("the sign of the gradient", _replay_sign)


@cache
def all_rules() -> tuple[Candidate, ...]:
    """Every rule that is known, the plainest first."""
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
    """The rule of that name with each known mistake in its mathematics."""
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
    updates = partial(replay, formula, fixed or {}, own_epsilon=own_epsilon)
    return Candidate(name, updates, full=formula.rule.sees != "elements")


def _replay_sign(history: History, roundings: Roundings | None) -> Updates:
    del roundings  # a sign is exact
    return (-rate_of(step) * np.sign(step.gradient) for step in history.steps)
