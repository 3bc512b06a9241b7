"""Mistakes around the mathematics: counting, state, groups, missing gradients, settings without effect."""

from __future__ import annotations

from functools import partial

from gradstep.judge.algebra.anatomy import NAMES, averages, coupled_decay
from gradstep.judge.algebra.expression import STEP, contains
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue import epsilons
from gradstep.judge.catalogue.corrections import debias_averages, uses_step
from gradstep.judge.catalogue.mistake import Mistake, habit, held_by, rule_mistake
from gradstep.judge.catalogue.state import WORDS, not_stored
from gradstep.judge.formula import examples
from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of

_COUNTING_RULES = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adafactor", "Adagrad")
_count_mistake = partial(Mistake, read="torch.optim counts in `state[p]['step']`")
_torch_mistake = partial(Mistake, read="the documentation of torch.optim.Optimizer")


def _counts_and_keeps(program: Program) -> bool:
    forgets = any(contains(a.old_weight, STEP) for a in averages(program))  # the first step ignores the old state
    counted = any(STEP in n.args and n.op != "eq" for n in program.nodes())  # more than a test for the first step
    return bool(program.slots) and counted and not forgets


MISTAKES = (
    _count_mistake(
        "steps-of-all",
        "the steps counted once for all parameters",
        "one counter for all parameters; one without gradient takes no step, so keep a count for each",
        habits=habit(clock="calls"),
        when=uses_step,
        conventions=held_by("tinytorch", "optax", "keras", "textbook", rules=_COUNTING_RULES),
    ),
    _count_mistake(
        "steps-of-all-debiased",
        "the steps counted once for all parameters, and the bias correction part of the averages",
        "`beta * (1 - beta**(t - 1)) / (1 - beta**t)` with one t for all: a parameter that joins late starts biased",
        debias_averages,
        habit(clock="calls"),
    ),
    _count_mistake(
        "steps-per-visit",
        "the step counter raised once for every parameter of every step",
        "`t += 1` inside the loop over the parameters",
        habits=habit(clock="visits"),
        when=uses_step,
    ),
    _torch_mistake(
        "state-shared",
        "one state for all parameters",
        "`self.m` in the place of a value for each parameter, such as `state[p]['exp_avg']`",
        habits=habit(shared=True),
    ),
    _torch_mistake(
        "missing-as-zero",
        "a missing gradient treated as zero: decay and momentum go on",
        "`if p.grad is None: continue`",
        habits=habit(missing="zero"),
    ),
    _torch_mistake(
        "stops-at-missing",
        "the step ended by the first parameter without gradient",
        "`break` or `return` where it should be `continue`",
        habits=habit(missing="ends"),
    ),
    Mistake(
        "gradient-written",
        "the gradient overwritten during the step",
        "`p.grad.add_(...)`, `p.grad.mul_(...)` or `grad += ...`: take `grad.add(...)`, which returns a new tensor",
        habits=habit(writes_gradient=True),
        when=coupled_decay,
        read="gradients belong to the caller, who may log, clip or accumulate them",
    ),
    _torch_mistake(
        "settings-latched",
        "the learning rate read only once",
        "`self.lr` taken in the constructor; read `group['lr']` at every step, schedulers change it",
        habits=habit(latched=True),
    ),
    _torch_mistake(
        "rate-of-constructor",
        "the learning rate given to the constructor used at every step and in every group",
        "`self.lr`; read `group['lr']` at every step: schedulers change it, and groups have their own",
        habits=habit(latched=True, one_rate=True),
    ),
    _torch_mistake(
        "first-group-only",
        "the settings of the first group used for all",
        "`self.param_groups[0]` or `self.defaults` inside the loop over the groups",
        habits=habit(first_group=True),
    ),
    _torch_mistake(
        "state-not-saved",
        "state that state_dict does not carry",
        "averages kept in attributes of the optimizer instead of `self.state[p]`",
        habits=habit(forgets="all"),
        when=_counts_and_keeps,
    ),
    _torch_mistake(
        "slots-not-saved",
        "averages that state_dict does not carry",
        "averages kept in attributes of the optimizer instead of `self.state[p]`",
        habits=habit(forgets="slots"),
    ),
    _torch_mistake(
        "steps-not-saved",
        "a step count that state_dict does not carry",
        "`self.t`; keep it in `self.state[p]['step']` or in the group",
        habits=habit(forgets="steps"),
        when=uses_step,
    ),
)


def mistakes_of_settings(rule: type[Rule]) -> tuple[Mistake, ...]:
    """Return a mistake for each setting without effect, each flag always on, each slot not kept and each constant ε."""
    ignored = (
        rule_mistake(
            f"{setting.name.replace('_', '-')}-ignored",
            f"the setting {setting.name} ignored ({setting.default} is used)",
            f"where `{setting.name}` is used",
            habits=habit(ignores=(setting.name,)),
        )
        for setting in shared_settings_of(rule)
    )
    always = (
        rule_mistake(
            f"{setting.name.replace('_', '-')}-always",
            "Nesterov's step always" if setting.name == "nesterov" else f"{setting.name} always on",
            f"where `{setting.name}` is not set",
            habits=habit(always=(setting.name,)),
        )
        for setting in shared_settings_of(rule)
        if setting.default is False
    )
    slots = dict.fromkeys(s.name for example, ndim in examples(rule) for s in example.slots(ndim))
    not_kept = (not_stored(slot, WORDS.get(slot, f"the state {slot}")) for slot in slots)
    eps = next((s.default for s in shared_settings_of(rule) if s.name in NAMES["eps"]), None)
    constant_eps = (epsilons.always(value) for value in epsilons.VALUES if eps != float(value))
    return (*not_kept, *ignored, *always, *constant_eps)
