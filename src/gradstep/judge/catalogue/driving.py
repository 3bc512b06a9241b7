"""What is around the mathematics: counting, state, groups, missing gradients."""

from gradstep.judge.catalogue.mistake import Mistake, by, habit
from gradstep.judge.formula import Change
from gradstep.judge.rewrite import Edit

_CLOCKED = ("SGD", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adafactor")
_COUNTED = ("Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam")
_STATED = ("Adagrad", "Adadelta", "RMSprop", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Lion", "Adafactor", "SGD")
_TORCH = "the documentation of torch.optim.Optimizer"
_DEBIASED = (
    Edit(
        "s._m = c.beta1 * s._m + c.rest1 * g",
        "hat = (c.beta1**c.step - c.beta1) / (c.beta1**c.step - 1)\ns._m = hat * s._m + (1 - hat) * g",
    ),
    Edit(
        "s._v = c.beta2 * s._v + c.rest2 * _x",
        "hat = (c.beta2**c.step - c.beta2) / (c.beta2**c.step - 1)\ns._v = hat * s._v + (1 - hat) * _x",
    ),
)
"""Averages that are unbiased at every step, as long as every step is one of theirs."""

MISTAKES = (
    Mistake(
        "steps-of-all",
        "the steps counted once for all parameters",
        "one counter for all parameters; one without gradient takes no step, so keep a count for each",
        "torch.optim counts in `state[p]['step']`",
        (habit(clock="calls"),),
        only=_CLOCKED,
        conventions=by(
            "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adafactor", "Adagrad", of=("tinytorch", "optax", "keras")
        ),
    ),
    Mistake(
        "steps-of-all-debiased",
        "the steps counted once for all parameters, and the bias correction part of the averages",
        "`beta * (1 - beta**(t - 1)) / (1 - beta**t)` with one t for all: a parameter that joins late starts biased",
        "torch.optim counts in `state[p]['step']`",
        (
            Change(
                edits=(
                    *_DEBIASED,
                    Edit("_x / (1 - beta1**step)", "_x"),
                    Edit("(1 - beta2**step) ** -0.5", "1.0"),
                ),
                habits=(("clock", "calls"),),
            ),
            Change(
                edits=(
                    *_DEBIASED,
                    Edit("self.lr / (1 - beta1**step)", "self.lr"),
                    Edit("unbiased * rectification * bias2**0.5", "unbiased * rectification"),
                ),
                habits=(("clock", "calls"),),
            ),
        ),
        only=("Adam", "AdamW", "RAdam"),
    ),
    Mistake(
        "steps-per-visit",
        "the step counter raised once for every parameter of every step",
        "`t += 1` inside the loop over the parameters",
        "torch.optim counts in `state[p]['step']`",
        (habit(clock="visits"),),
        only=_CLOCKED,
    ),
    Mistake(
        "state-shared",
        "one state for all parameters",
        "`self.m` in the place of a value for each parameter, such as `state[p]['exp_avg']`",
        _TORCH,
        (habit(shared=True),),
        only=_STATED,
    ),
    Mistake(
        "missing-as-zero",
        "a missing gradient treated as zero: decay and momentum go on",
        "`if p.grad is None: continue`",
        _TORCH,
        (habit(missing="zero"),),
    ),
    Mistake(
        "stops-at-missing",
        "the step ended by the first parameter without gradient",
        "`break` or `return` where it should be `continue`",
        _TORCH,
        (habit(missing="ends"),),
    ),
    Mistake(
        "gradient-written",
        "the gradient overwritten during the step",
        "`p.grad.add_(...)`, `p.grad.mul_(...)` or `grad += ...`: take `grad.add(...)`, which returns a new tensor",
        "gradients belong to the caller, who may log, clip or accumulate them",
        (habit(writes_gradient=True),),
        only=("SGD", "Adagrad", "Adadelta", "RMSprop", "Adam", "Adamax", "NAdam", "RAdam"),
    ),
    Mistake(
        "settings-latched",
        "the learning rate read only once",
        "`self.lr` taken in the constructor; read `group['lr']` at every step, schedulers change it",
        _TORCH,
        (habit(latched=True),),
    ),
    Mistake(
        "first-group-only",
        "the settings of the first group used for all",
        "`self.param_groups[0]` or `self.defaults` inside the loop over the groups",
        _TORCH,
        (habit(first_group=True),),
    ),
    Mistake(
        "state-not-saved",
        "state that state_dict does not carry",
        "averages kept in attributes of the optimizer instead of `self.state[p]`",
        _TORCH,
        (habit(forgets="all"),),
        only=_COUNTED,
    ),
    Mistake(
        "slots-not-saved",
        "averages that state_dict does not carry",
        "averages kept in attributes of the optimizer instead of `self.state[p]`",
        _TORCH,
        (habit(forgets="slots"),),
    ),
    Mistake(
        "steps-not-saved",
        "a step count that state_dict does not carry",
        "`self.t`; keep it in `self.state[p]['step']` or in the group",
        _TORCH,
        (habit(forgets="steps"),),
        only=_CLOCKED,
    ),
)
