"""What is around the mathematics: counting, state, groups, missing gradients."""

from __future__ import annotations

from gradstep.judge.algebra.anatomy import averages, coupled
from gradstep.judge.algebra.expression import STEP, contains
from gradstep.judge.algebra.program import Program
from gradstep.judge.catalogue.corrections import debiased
from gradstep.judge.catalogue.mistake import Mistake, by, habit

_COUNT_ONCE = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adafactor", "Adagrad")
_TORCH = "the documentation of torch.optim.Optimizer"


def _counts(program: Program) -> bool:
    return any(contains(e, STEP) for e in program.parts.values())


def _counts_and_keeps(program: Program) -> bool:
    forgetful = any(contains(a.kept, STEP) for a in averages(program))  # at the first step nothing old counts
    counted = any(STEP in n.args and n.op != "eq" for n in program.nodes())  # more than whether it is the first step
    return bool(program.slots) and counted and not forgetful


MISTAKES = (
    Mistake(
        "steps-of-all",
        "the steps counted once for all parameters",
        "one counter for all parameters; one without gradient takes no step, so keep a count for each",
        "torch.optim counts in `state[p]['step']`",
        habits=habit(clock="calls"),
        when=_counts,
        conventions=by(
            "Adam",
            "AdamW",
            "Adamax",
            "NAdam",
            "RAdam",
            "Adafactor",
            "Adagrad",
            of=("tinytorch", "optax", "keras", "textbook"),
        ),
    ),
    Mistake(
        "steps-of-all-debiased",
        "the steps counted once for all parameters, and the bias correction part of the averages",
        "`beta * (1 - beta**(t - 1)) / (1 - beta**t)` with one t for all: a parameter that joins late starts biased",
        "torch.optim counts in `state[p]['step']`",
        debiased,
        habit(clock="calls"),
    ),
    Mistake(
        "steps-per-visit",
        "the step counter raised once for every parameter of every step",
        "`t += 1` inside the loop over the parameters",
        "torch.optim counts in `state[p]['step']`",
        habits=habit(clock="visits"),
        when=_counts,
    ),
    Mistake(
        "state-shared",
        "one state for all parameters",
        "`self.m` in the place of a value for each parameter, such as `state[p]['exp_avg']`",
        _TORCH,
        habits=habit(shared=True),
    ),
    Mistake(
        "missing-as-zero",
        "a missing gradient treated as zero: decay and momentum go on",
        "`if p.grad is None: continue`",
        _TORCH,
        habits=habit(missing="zero"),
    ),
    Mistake(
        "stops-at-missing",
        "the step ended by the first parameter without gradient",
        "`break` or `return` where it should be `continue`",
        _TORCH,
        habits=habit(missing="ends"),
    ),
    Mistake(
        "gradient-written",
        "the gradient overwritten during the step",
        "`p.grad.add_(...)`, `p.grad.mul_(...)` or `grad += ...`: take `grad.add(...)`, which returns a new tensor",
        "gradients belong to the caller, who may log, clip or accumulate them",
        habits=habit(writes_gradient=True),
        when=coupled,
    ),
    Mistake(
        "settings-latched",
        "the learning rate read only once",
        "`self.lr` taken in the constructor; read `group['lr']` at every step, schedulers change it",
        _TORCH,
        habits=habit(latched=True),
    ),
    Mistake(
        "rate-of-constructor",
        "the learning rate given to the constructor used at every step and in every group",
        "`self.lr`; read `group['lr']` at every step: schedulers change it, and groups have their own",
        _TORCH,
        habits=habit(latched=True, one_rate=True),
    ),
    Mistake(
        "first-group-only",
        "the settings of the first group used for all",
        "`self.param_groups[0]` or `self.defaults` inside the loop over the groups",
        _TORCH,
        habits=habit(first_group=True),
    ),
    Mistake(
        "state-not-saved",
        "state that state_dict does not carry",
        "averages kept in attributes of the optimizer instead of `self.state[p]`",
        _TORCH,
        habits=habit(forgets="all"),
        when=_counts_and_keeps,
    ),
    Mistake(
        "slots-not-saved",
        "averages that state_dict does not carry",
        "averages kept in attributes of the optimizer instead of `self.state[p]`",
        _TORCH,
        habits=habit(forgets="slots"),
    ),
    Mistake(
        "steps-not-saved",
        "a step count that state_dict does not carry",
        "`self.t`; keep it in `self.state[p]['step']` or in the group",
        _TORCH,
        habits=habit(forgets="steps"),
        when=_counts,
    ),
)
