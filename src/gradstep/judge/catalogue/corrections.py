"""Bias correction: left out, doubled, at the wrong step."""

from gradstep.judge.catalogue.mistake import ADAM_PAPER, Mistake, habit, lines

_READ = ADAM_PAPER + " and section 3"
_NO_M = lines(("_x / (1 - beta1**step)", "_x"))
_NO_V = lines(("(1 - beta2**step) ** -0.5", "1.0"))
_NO_V_RADAM = lines(("bias2**0.5", "1.0"))
_NO_M_NADAM = lines(("_x / (1 - mu_product)", "_x"), ("_x / (1 - mu_product * mu_next)", "_x"))

MISTAKES = (
    Mistake(
        "no-bias-correction",
        "no bias correction",
        "m divided by `1 - beta1**t` and v by `1 - beta2**t`, with t = 1 at the first step: neither is there",
        _READ,
        (
            lines(*((e.find, e.replace) for e in (*_NO_M.edits, *_NO_V.edits))),
            lines(*((e.find, e.replace) for e in (*_NO_M_NADAM.edits, *_NO_V.edits))),
            lines(*((e.find, e.replace) for e in (*_NO_M.edits, *_NO_V_RADAM.edits))),
        ),
    ),
    Mistake(
        "no-m-correction",
        "no bias correction of the average gradient",
        "m divided by `1 - beta1**t`: it is not there",
        _READ,
        (_NO_M, _NO_M_NADAM),
    ),
    Mistake(
        "no-v-correction",
        "no bias correction of the average square",
        "v divided by `1 - beta2**t`: it is not there",
        _READ,
        (_NO_V, _NO_V_RADAM),
    ),
    Mistake(
        "step-from-zero",
        "t off by one: the first step counts as 0",
        "`t += 1` after the update; it belongs before it, so that the first step has t = 1",
        _READ,
        (habit(offset=-1),),
        only=("SGD", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adafactor"),
    ),
    Mistake(
        "step-from-two",
        "t off by one: the first step counts as 2",
        "a step counter that starts at 1 and is raised before it is used, or is raised twice",
        _READ,
        (habit(offset=1),),
        only=("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adafactor"),
    ),
    Mistake(
        "correction-stored",
        "the corrected averages kept as the state",
        "`m = m / (1 - beta1**t)`: give the corrected value another name, the next step needs the uncorrected one",
        _READ,
        (
            lines(
                (
                    "s._m = c.beta1 * s._m + c.rest1 * g",
                    "s._m = (c.beta1 * s._m + c.rest1 * g) / (1 - c.beta1**c.step)",
                ),
                (
                    "s._v = c.beta2 * s._v + c.rest2 * _x",
                    "s._v = (c.beta2 * s._v + c.rest2 * _x) / (1 - c.beta2**c.step)",
                ),
                ("_x / (1 - beta1**step)", "_x"),
                ("(1 - beta2**step) ** -0.5", "1.0"),
            ),
            lines(
                (
                    "s._m = c.beta1 * s._m + c.rest1 * g",
                    "s._m = (c.beta1 * s._m + c.rest1 * g) / (1 - c.beta1**c.step)",
                ),
                ("_x / (1 - beta1**step)", "_x"),
            ),
        ),
        only=("Adam", "AdamW", "Adamax"),
    ),
    Mistake(
        "m-correction-stored",
        "the corrected average gradient kept as the state",
        "`m = m / (1 - beta1**t)`: give the corrected value another name",
        _READ,
        (
            lines(
                (
                    "s._m = c.beta1 * s._m + c.rest1 * g",
                    "s._m = (c.beta1 * s._m + c.rest1 * g) / (1 - c.beta1**c.step)",
                ),
                ("_x / (1 - beta1**step)", "_x"),
            ),
        ),
        only=("Adam", "AdamW"),
    ),
    Mistake(
        "v-correction-stored",
        "the corrected average square kept as the state",
        "`v = v / (1 - beta2**t)`: give the corrected value another name",
        _READ,
        (
            lines(
                (
                    "s._v = c.beta2 * s._v + c.rest2 * _x",
                    "s._v = (c.beta2 * s._v + c.rest2 * _x) / (1 - c.beta2**c.step)",
                ),
                ("(1 - beta2**step) ** -0.5", "1.0"),
            ),
        ),
        only=("Adam", "AdamW"),
    ),
    Mistake(
        "m-correction-multiplied",
        "the average gradient multiplied by its correction instead of divided",
        "`m * (1 - beta1**t)`",
        _READ,
        (lines(("_x / (1 - beta1**step)", "_x * (1 - beta1**step)")),),
    ),
    Mistake(
        "v-correction-multiplied",
        "the average square multiplied by its correction instead of divided",
        "`v * (1 - beta2**t)`",
        _READ,
        (lines(("(1 - beta2**step) ** -0.5", "(1 - beta2**step) ** 0.5")), lines(("bias2**0.5", "bias2**-0.5"))),
    ),
    Mistake(
        "v-correction-not-rooted",
        "the correction of v outside the root and not rooted",
        "`sqrt(v) / (1 - beta2**t)`: correct v first, then take the root of `v_hat`",
        _READ,
        (lines(("(1 - beta2**step) ** -0.5", "1 / (1 - beta2**step)")), lines(("bias2**0.5", "bias2"))),
    ),
    Mistake(
        "corrections-swapped",
        "the two corrections swapped: β₂ for the gradient, β₁ for the square",
        "`1 - beta2**t` under m and `1 - beta1**t` under v",
        _READ,
        (
            lines(
                ("_x / (1 - beta1**step)", "_x / (1 - beta2 ** step * 1.0)"),
                ("(1 - beta2**step) ** -0.5", "(1 - beta1**step) ** -0.5"),
            ),
        ),
    ),
    Mistake(
        "correction-per-step-only",
        "the correction of the first step at every step",
        "`1 - beta1` and `1 - beta2` without the power of t",
        _READ,
        (lines(("_b**step", "_b")),),
        only=("Adam", "AdamW", "Adamax"),
    ),
    Mistake(
        "correction-added",
        "a bias correction that the rule does not have",
        "v divided by `1 - rho**t`: the rule leaves its average uncorrected",
        "the rule's docstring in gradstep.rules",
        (
            lines(("sqrt(v)", "sqrt(v / (1 - c.alpha**c.step))")),
            lines(("sqrt(s.square_avg + c.eps)", "sqrt(s.square_avg / (1 - c.rho**c.step) + c.eps)")),
            lines(("_m / s.exp_inf", "_m / (s.exp_inf / (1 - c.beta2**c.step))")),
            lines(
                ("sign(_d)", "sign(_d)"),
                ("_keep * p - c.lr * direction", "_keep * p - c.lr * direction / (1 - c.beta1**c.step)"),
            ),
        ),
        only=("RMSprop", "Adadelta", "Adamax", "Lion"),
    ),
)
