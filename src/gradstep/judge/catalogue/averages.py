"""Running averages: of what, with which weights, and whether they are kept."""

from gradstep.judge.catalogue.mistake import ADAM_PAPER, Mistake, habit, lines

_ADAMS = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam")
_SQUARED = ("Adagrad", "Adadelta", "RMSprop", "Adam", "AdamW", "NAdam", "RAdam", "Adafactor")
_READ = ADAM_PAPER


def _unstored(slot: str, what: str, *rules: str) -> Mistake:
    return Mistake(
        f"{slot.replace('_', '-')}-not-stored",
        f"{what} computed but not kept",
        f"the state `{slot}` after the step: write it back, or update it in place (`mul_`, `add_`)",
        "the tensor methods that end in an underscore work in place; the others return a new tensor",
        (habit(unstored=(slot,)),),
        only=rules,
    )


MISTAKES = (
    Mistake(
        "betas-swapped",
        "β₁ and β₂ swapped",
        "`beta2, beta1 = betas`, or β₂ in the average of the gradient",
        _READ,
        (lines(("self.betas", "self.betas[::-1]")),),
    ),
    Mistake(
        "v-from-gradient",
        "v averaged from the gradient instead of its square",
        "`(1 - beta2) * grad`; it is `(1 - beta2) * grad**2`",
        _READ,
        (lines(("g * g", "g")),),
    ),
    Mistake(
        "v-from-magnitude",
        "v averaged from the gradient's magnitude instead of its square",
        "`abs(grad)` in the second average; it is `grad**2`",
        _READ,
        (lines(("g * g", "abs(g)")),),
    ),
    Mistake(
        "v-not-rooted",
        "the average square not square-rooted",
        "a division by `v + eps`; it is `sqrt(v) + eps`",
        _READ,
        (
            lines(("sqrt(_v) * c.unbias2 + c.eps", "_v * (c.unbias2 * c.unbias2) + c.eps")),
            lines(("sqrt(_v)", "_v")),
        ),
        only=_SQUARED,
    ),
    Mistake(
        "rest1-missing",
        "(1 − β₁) missing from the average of the gradient",
        "`m = beta1 * m + grad`; it is `+ (1 - beta1) * grad`",
        _READ,
        (lines(("1 - beta1", "1.0")),),
    ),
    Mistake(
        "rest2-missing",
        "(1 − β₂) missing from the second average",
        "`v = beta2 * v + grad**2`; it is `+ (1 - beta2) * grad**2`",
        _READ,
        (lines(("1 - beta2", "1.0")), lines(("1 - self.alpha", "1.0")), lines(("1 - self.rho", "1.0"))),
        only=("RMSprop", "Adadelta", "Adam", "AdamW", "NAdam", "Lion"),
    ),
    Mistake(
        "m-weights-swapped",
        "the weights of the average gradient exchanged: (1 − β₁) for the old value and β₁ for the gradient",
        "`(1 - beta1) * m + beta1 * grad`",
        _READ,
        (lines(("c.beta1 * s._m + c.rest1 * g", "c.rest1 * s._m + c.beta1 * g")),),
    ),
    Mistake(
        "v-weights-swapped",
        "the weights of the second average exchanged: (1 − β) for the old value and β for the new",
        "`(1 - beta2) * v + beta2 * grad**2`",
        _READ,
        (
            lines(("c.beta2 * s._v + c.rest2 * _x", "c.rest2 * s._v + c.beta2 * _x")),
            lines(("c.alpha * s.square_avg + c.rest * _x", "c.rest * s.square_avg + c.alpha * _x")),
            lines(("c.rho * s.square_avg + c.rest * _x", "c.rest * s.square_avg + c.rho * _x")),
        ),
    ),
    Mistake(
        "step-along-gradient",
        "the step along the gradient instead of its average",
        "the numerator of the update: it is the corrected m, not grad",
        _READ,
        (
            lines(("c.step_size * s.exp_avg", "c.step_size * (g * c.rule.betas[0] ** 0)")),
            lines(("s.exp_avg * _x", "g * _x")),
        ),
        only=("Adam", "AdamW", "Adamax"),
    ),
    Mistake(
        "v-from-average",
        "v averaged from m² instead of g²",
        "`(1 - beta2) * m**2`; it is `grad**2`",
        _READ,
        (lines(("c.rest2 * (g * g)", "c.rest2 * (s.exp_avg * s.exp_avg)")),),
    ),
    Mistake(
        "state-not-stored",
        "the averages computed but not kept: each step starts from zero",
        "`exp_avg.mul(beta1)` without the underscore, or state made anew at each step",
        "the tensor methods that end in an underscore work in place; the others return a new tensor",
        (habit(unstored=("*",)),),
        only=("Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"),
    ),
    _unstored("exp_avg", "the average of the gradient", *_ADAMS),
    _unstored("exp_avg_sq", "the average square", "Adam", "AdamW", "NAdam", "RAdam"),
    _unstored("exp_inf", "the running maximum", "Adamax"),
    _unstored("square_avg", "the average square", "RMSprop", "Adadelta"),
    _unstored("acc_delta", "the average squared step", "Adadelta"),
    _unstored("grad_avg", "the average gradient", "RMSprop"),
    _unstored("momentum_buffer", "the momentum", "SGD"),
    _unstored("sum", "the sum of squares", "Adagrad"),
    Mistake(
        "factors-not-stored",
        "the averages computed but not kept",
        "rows, columns and variance after the step: write them back or update them in place",
        "the tensor methods that end in an underscore work in place",
        (habit(unstored=("row_var", "col_var", "variance")),),
        only=("Adafactor",),
    ),
    Mistake(
        "parameter-not-moved",
        "the new weight computed but not written to the parameter",
        "`p = p - ...`, which only names a new tensor: use `p.add_(...)`, `p.copy_(...)` or `param.data = ...`",
        "an assignment to a loop's variable never changes what the loop is over",
        (habit(unstored=("p",)),),
    ),
)
