"""Epsilon: where it stands and how large it is."""

from gradstep.judge.catalogue.mistake import ADAM_PAPER, Mistake, by, lines

_READ = ADAM_PAPER + "; the rule's docstring in gradstep.rules says where ε stands in this rule"


_DEFAULTS = {
    "Adagrad": 1e-10,
    "Adadelta": 1e-6,
    **dict.fromkeys(("RMSprop", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"), 1e-8),
}


def _always(value: str) -> Mistake:
    return Mistake(
        f"eps-is-{value}",
        f"ε = {value} whatever is set",
        f"`{value}` written into the formula; use the setting eps",
        _READ,
        (lines(("self.eps", value)),),
        # Its own default is the mistake `eps-ignored`.
        only=tuple(rule for rule, default in _DEFAULTS.items() if default != float(value)),
    )


MISTAKES = (
    Mistake(
        "eps-inside-root",
        "ε inside the square root",
        "`sqrt(v + eps)`; it is `sqrt(v) + eps`",
        _READ,
        (
            lines(("sqrt(_v) * c.unbias2 + c.eps", "sqrt(_v * (c.unbias2 * c.unbias2) + c.eps)")),
            lines(("sqrt(_v) + c.eps", "sqrt(_v + c.eps)")),
        ),
        conventions=by("RMSprop", "Adagrad", of=("optax", "keras")),
    ),
    Mistake(
        "eps-squared-inside-root",
        "ε² inside the square root",
        "`sqrt(v + eps**2)`; it is `sqrt(v) + eps`",
        _READ,
        (
            lines(("sqrt(_v) * c.unbias2 + c.eps", "sqrt(_v * (c.unbias2 * c.unbias2) + c.eps * c.eps)")),
            lines(("sqrt(_v) + c.eps", "sqrt(_v + c.eps * c.eps)")),
        ),
    ),
    Mistake(
        "eps-inside-before-correction",
        "ε inside the root and before the bias correction",
        "`sqrt(v + eps)` with the uncorrected v",
        _READ,
        (lines(("sqrt(_v) * c.unbias2 + c.eps", "sqrt(_v + c.eps) * c.unbias2")),),
    ),
    Mistake(
        "eps-outside-root",
        "ε outside the square roots",
        "`sqrt(v) + eps`; here it is `sqrt(v + eps)`, and it sets the size of the first steps",
        _READ,
        (lines(("sqrt(_v + c.eps)", "(sqrt(_v) + c.eps)")),),
    ),
    Mistake(
        "eps-before-correction",
        "ε before the bias correction",
        "`(sqrt(v) + eps)` divided by the root of `1 - beta2**t`: add ε to the root of the corrected v",
        ADAM_PAPER + ": the reordered form at the end of section 2, with its ε̂",
        (lines(("sqrt(_v) * c.unbias2 + c.eps", "(sqrt(_v) + c.eps) * c.unbias2")),),
        conventions=by("Adam", "AdamW", "NAdam", of=("paper", "keras", "bitsandbytes")),
    ),
    Mistake(
        "eps-after-correction",
        "ε after the bias correction",
        "`sqrt(v_hat) + eps`; torch's RAdam adds ε to the root of the uncorrected v",
        "Liu et al., arXiv:1908.03265, and torch.optim.RAdam",
        (lines(("self.eps if known else 1.0", "self.eps * bias2**0.5 if known else 1.0")),),
        conventions=by(of=("optax",)),
    ),
    Mistake(
        "eps-added-to-denominator",
        "ε added to the maximum instead of to |g|",
        "`m / (u + eps)`; torch has `max(beta2 * u, abs(g) + eps)`",
        "Kingma and Ba, arXiv:1412.6980, Algorithm 2, which has no ε; torch.optim.Adamax",
        (lines(("abs(g) + c.eps", "abs(g)"), ("_m / s.exp_inf", "_m / (s.exp_inf + c.eps)")),),
        conventions=by(of=("keras",)),
    ),
    Mistake(
        "eps-missing",
        "no ε",
        "a division by `sqrt(v)` alone",
        _READ,
        (lines(("self.eps", "0.0")),),
        only=tuple(_DEFAULTS),
    ),
    Mistake(
        "eps-max",
        "ε as the least value of the denominator instead of added to it",
        "`max(sqrt(v), eps)`; it is `sqrt(v) + eps`",
        _READ,
        (
            lines(("sqrt(_v) * c.unbias2 + c.eps", "maximum(sqrt(_v) * c.unbias2, c.eps + g * 0)")),
            lines(("sqrt(_v) + c.eps", "maximum(sqrt(_v), c.eps + g * 0)")),
        ),
    ),
    *(_always(value) for value in ("1e-08", "1e-06", "1e-07", "1e-05", "1e-10", "1e-12", "1e-04", "1e-03")),
)
