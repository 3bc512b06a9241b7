"""Momentum and the direction of the step."""

from gradstep.judge.catalogue.mistake import Mistake, by, lines

_SGD = "Sutskever et al., ICML 2013, and torch.optim.SGD's notes"
_FIRST = "1.0 if step == 1 else 1.0 - self.dampening"

MISTAKES = (
    Mistake(
        "ascent",
        "the update's sign flipped: it climbs",
        "`p + lr * ...`; a step goes against the gradient",
        "the rule's docstring in gradstep.rules",
        (lines(("c.keep * p - _u", "c.keep * p + _u")), lines(("p - _u", "p + _u"))),
    ),
    Mistake(
        "lr-in-buffer",
        "the learning rate inside the momentum buffer",
        "`v = momentum * v + lr * grad; p -= v`: the same until lr changes; torch has lr outside",
        _SGD,
        (
            lines(("g + c.l2 * p", "c.lr * (g + c.l2 * p)"), ("p - c.lr * g", "p - g")),
            lines(("g / (sqrt(v) + c.eps)", "c.lr * g / (sqrt(v) + c.eps)"), ("p - c.lr * step", "p - step")),
        ),
        only=("SGD", "RMSprop"),
        conventions=by("SGD", "RMSprop", of=("paper", "keras", "optax")),
    ),
    Mistake(
        "first-buffer-damped",
        "dampening in the first momentum buffer too",
        "`momentum * buf + (1 - dampening) * grad` at the first step; torch starts with the gradient itself",
        _SGD,
        (lines((_FIRST, "1.0 - self.dampening")),),
    ),
    Mistake(
        "momentum-averaged",
        "the momentum as an average: the gradient multiplied by (1 − momentum)",
        "`momentum * buf + (1 - momentum) * grad`; it is `momentum * buf + grad`",
        _SGD,
        (lines((_FIRST, "1.0 - self.momentum")),),
    ),
    Mistake(
        "momentum-averaged-after-first",
        "the momentum as an average that starts at the first gradient",
        "`(1 - momentum) * grad` from the second step on",
        _SGD,
        (lines((_FIRST, "1.0 if step == 1 else 1.0 - self.momentum")),),
    ),
    Mistake(
        "nesterov-always",
        "Nesterov's step always",
        "`grad + momentum * buf` where nesterov is not set",
        _SGD,
        (
            lines(
                ("1.0 if self.nesterov else 0.0", "1.0"), ("self.momentum if self.nesterov else 1.0", "self.momentum")
            ),
        ),
    ),
    Mistake(
        "nesterov-undamped",
        "Nesterov's step without the momentum factor",
        "`grad + buf`; it is `grad + momentum * buf`",
        _SGD,
        (lines(("self.momentum if self.nesterov else 1.0", "1.0")),),
    ),
    Mistake(
        "nesterov-only-buffer",
        "Nesterov's step without the gradient",
        "`momentum * buf`; it is `grad + momentum * buf`",
        _SGD,
        (lines(("1.0 if self.nesterov else 0.0", "0.0")),),
    ),
    Mistake(
        "momentum-twice",
        "the gradient added to the buffer in the step",
        "`p -= lr * (grad + buf)` without Nesterov",
        _SGD,
        (lines(("1.0 if self.nesterov else 0.0", "1.0")),),
    ),
)
