"""What is around the mathematics: counting, state, groups, missing gradients."""

from gradstep.judge.catalogue.mistake import Mistake, by, habit

_CLOCKED = ("SGD", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adafactor")
_COUNTED = ("Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam")
_STATED = ("Adagrad", "Adadelta", "RMSprop", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Lion", "Adafactor", "SGD")
_TORCH = "the documentation of torch.optim.Optimizer"

MISTAKES = (
    Mistake(
        "steps-of-all",
        "the steps counted once for all parameters",
        "one counter for the group or the optimizer; a parameter without gradient takes no step, so keep a count for each",
        "torch.optim counts in `state[p]['step']`",
        (habit(clock="calls"),),
        only=_CLOCKED,
        conventions=by("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adafactor", "Adagrad", of=("tinytorch", "optax", "keras")),
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
