"""Weight decay: where it goes, by how much, and when."""

from gradstep.judge.catalogue.mistake import ADAMW_PAPER, Mistake, by, habit, lines

_GRADIENT = ("AdamW", "Lion", "Adafactor")
_WEIGHT = ("SGD", "Adagrad", "Adadelta", "RMSprop", "Adam", "Adamax", "NAdam", "RAdam")

MISTAKES = (
    Mistake(
        "decay-in-gradient",
        "the decay added to the gradient",
        "`grad + weight_decay * p`; the decay acts on the weight: `p *= 1 - lr * weight_decay`",
        ADAMW_PAPER,
        (
            lines(
                ("decay(_lr, _wd, decoupled=_d)", "decay(_lr, _wd, decoupled=False)"), ("g + c.l2 * p", "g + c.l2 * p")
            ),
            lines(("g", "(g + c.rule.weight_decay * p)"), ("c.keep * p - _u", "p - _u")),
        ),
        only=_GRADIENT,
    ),
    Mistake(
        "decay-on-weight",
        "the decay on the weight itself",
        "`p *= 1 - lr * weight_decay`; this rule adds it to the gradient: `grad + weight_decay * p`",
        ADAMW_PAPER + ", which compares the two",
        (
            lines(("decay(_lr, _wd, decoupled=_d)", "decay(_lr, _wd, decoupled=True)")),
            lines(("g + c.l2 * p", "g"), ("p - _u", "(1 - c.rule.lr * c.rule.weight_decay) * p - _u")),
        ),
        only=_WEIGHT,
        conventions=(*by("NAdam", "RAdam", of=("optax",)), *by("Adam", of=("bitsandbytes",))),
    ),
    Mistake(
        "decay-after",
        "the decay after the update",
        "the update first and `p *= 1 - lr * weight_decay` last; torch and the paper decay the old weight",
        ADAMW_PAPER,
        (lines(("c.keep * p - _u", "c.keep * (p - _u)")),),
        conventions=by("AdamW", of=("tinytorch", "bitsandbytes")),
    ),
    Mistake(
        "decay-without-lr",
        "the decay not multiplied by the learning rate",
        "`p *= 1 - weight_decay`; torch multiplies by `1 - lr * weight_decay`",
        ADAMW_PAPER + ", where λ stands beside α",
        (lines(("decay(self.lr, _wd, decoupled=_d)", "decay(1.0, _wd, decoupled=_d)")),),
        conventions=by("AdamW", of=("paper",)),
    ),
    Mistake(
        "decay-lr-twice",
        "the decay multiplied by the learning rate twice",
        "`lr * (update + lr * weight_decay * p)`",
        ADAMW_PAPER,
        (lines(("decay(self.lr, _wd, decoupled=_d)", "decay(self.lr * self.lr, _wd, decoupled=_d)")),),
    ),
    Mistake(
        "decay-with-lr",
        "the decay in the gradient multiplied by the learning rate",
        "`grad + lr * weight_decay * p`; the update multiplies by lr already",
        "the rule's docstring in gradstep.rules",
        (lines(("g + c.l2 * p", "g + c.rule.lr * c.l2 * p")),),
        only=_WEIGHT,
    ),
    Mistake(
        "decay-sign",
        "the decay's sign flipped: weights grow",
        "`p *= 1 + lr * weight_decay` or `grad - weight_decay * p`",
        ADAMW_PAPER,
        (lines(("self.weight_decay", "(-self.weight_decay)")),),
    ),
    Mistake(
        "decay-doubled",
        "the decay doubled: the gradient of λ‖p‖² instead of ½λ‖p‖²",
        "`2 * weight_decay * p`",
        "the rule's docstring in gradstep.rules",
        (lines(("self.weight_decay", "(2 * self.weight_decay)")),),
    ),
    Mistake(
        "decay-twice",
        "the decay both in the gradient and on the weight",
        "both `grad + weight_decay * p` and `p *= 1 - lr * weight_decay`: keep one",
        ADAMW_PAPER,
        (
            lines(
                ("g + c.l2 * p", "g + c.rule.weight_decay * p"),
                ("c.keep * p", "(1 - c.rule.lr * c.rule.weight_decay) * p"),
            ),
            lines(("g", "(g + c.rule.weight_decay * p)"), ("c.keep * p - _u", "c.keep * p - _u")),
            lines(("p - _u", "(1 - c.rule.lr * c.rule.weight_decay) * p - _u")),
        ),
        only=("AdamW", "Adam", "Lion", "Adafactor", "SGD", "RMSprop", "Adagrad", "Adadelta", "Adamax"),
    ),
    Mistake(
        "decay-skipped-at-zero",
        "the decay skipped where the gradient is zero",
        "a mask such as `grad != 0` around the decay",
        ADAMW_PAPER,
        (
            lines(
                ("c.keep * p - _u", "where(g != 0, c.keep * p, p) - _u"),
                ("g + c.l2 * p", "where(g != 0, g + c.l2 * p, g)"),
            ),
            lines(("c.keep * p - _u", "where(g != 0, c.keep * p, p) - _u")),
            lines(("g + c.l2 * p", "where(g != 0, g + c.l2 * p, g)")),
        ),
    ),
    Mistake(
        "skips-zero-gradients",
        "parameters whose gradient is zero left out of the step",
        "`if grad.abs().sum() == 0: continue`: decay and momentum go on; only a gradient of None is left out",
        "torch.optim: a gradient of None and one of zero are different things",
        (habit(skips_zero=True),),
    ),
)
