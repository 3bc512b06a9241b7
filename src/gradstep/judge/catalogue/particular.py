"""Mistakes that one rule alone invites."""

from gradstep.judge.catalogue.mistake import Mistake, by, lines

_LION = "Chen et al., arXiv:2302.06675, Algorithm 2"
_NADAM = "Dozat, ICLR 2016 workshop, Algorithm 2"
_RADAM = "Liu et al., arXiv:1908.03265, Algorithm 2"
_ADAFACTOR = "Shazeer and Stern, arXiv:1804.04235, Algorithms 4 to 6"
_ADADELTA = "Zeiler, arXiv:1212.5701, Algorithm 1"
_ADAMAX = "Kingma and Ba, arXiv:1412.6980, Algorithm 2"
_AMSGRAD = "Reddi et al., arXiv:1904.09237, Algorithm 2"

_ADAM_FAMILY = (
    Mistake(
        "amsgrad-of-corrected",
        "AMSGrad's maximum taken of the corrected v",
        "`max(v_max, v_hat)`; torch and the paper take the maximum of v itself",
        _AMSGRAD,
        (
            lines(
                (
                    "v = s.max_exp_avg_sq = maximum(s.max_exp_avg_sq, v)",
                    "s.max_exp_avg_sq = maximum(s.max_exp_avg_sq, v * (c.unbias2 * c.unbias2))\n"
                    "v = s.max_exp_avg_sq / (c.unbias2 * c.unbias2)",
                )
            ),
        ),
        conventions=by(of=("optax",)),
    ),
    Mistake(
        "amsgrad-in-average",
        "AMSGrad's maximum written into the average itself",
        "`exp_avg_sq = max(...)`: the maximum is a state of its own",
        _AMSGRAD,
        (
            lines(
                (
                    "v = s.max_exp_avg_sq = maximum(s.max_exp_avg_sq, v)",
                    "v = s.max_exp_avg_sq = s.exp_avg_sq = maximum(s.max_exp_avg_sq, v)",
                )
            ),
        ),
    ),
    Mistake(
        "mu-constant",
        "a constant momentum β₁ in the place of the schedule μ_t",
        "`beta1` where the rule has `beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))`",
        _NADAM,
        (lines(("self.mu(_t)", "self.betas[0]")),),
        conventions=by(of=("optax",)),
    ),
    Mistake(
        "mu-not-ahead",
        "this step's μ where the next one's belongs",
        "`mu_t * m / (1 - mu_product)`; the look-ahead has `mu_next * m / (1 - mu_product * mu_next)`",
        _NADAM,
        (lines(("self.lr * mu_next / (1 - mu_product * mu_next)", "self.lr * mu / (1 - mu_product)")),),
    ),
    Mistake(
        "mu-product-not-kept",
        "the product of the μ not kept from step to step",
        "`mu_product = mu`; it is `mu_product *= mu`",
        _NADAM,
        (lines(("scalars['mu_product'] * mu", "mu")),),
    ),
    Mistake(
        "no-look-ahead",
        "no gradient term in the step: Adam's with NAdam's schedule",
        "the term `(1 - mu_t) * grad / (1 - mu_product)`",
        _NADAM,
        (lines(("c.along_gradient * g + c.along_average * s.exp_avg", "c.along_average * s.exp_avg")),),
    ),
    Mistake(
        "threshold-4",
        "rectification from ρ > 4 on instead of 5",
        "`rho > 4`; the authors' code and torch wait for 5",
        _RADAM,
        (lines(("rho > 5", "rho > 4")),),
        conventions=by(of=("paper",)),
    ),
    Mistake(
        "no-early-steps",
        "no step at all before the variance is known",
        "the branch for ρ ≤ 5: torch takes a plain momentum step there",
        _RADAM + "; the authors' code has it as degenerated_to_sgd",
        (lines(("0.0 if known else unbiased", "0.0")),),
    ),
    Mistake(
        "no-early-steps-nor-decay",
        "no step at all and no decay before the variance is known",
        "the branch for ρ ≤ 5: torch takes a plain momentum step there, along the gradient with the decay in it",
        _RADAM + "; pytorch_optimizer's RAdam",
        (
            lines(
                ("0.0 if known else unbiased", "0.0"),
                ("decay(self.lr, _wd, decoupled=_d)", "decay(self.lr, _wd if known else 0.0, decoupled=_d)"),
            ),
        ),
    ),
    Mistake(
        "never-rectified",
        "no rectification: r = 1",
        "the factor r_t of the adaptive step",
        _RADAM,
        (lines(("unbiased * rectification * _b", "unbiased * (1.0 if known else 0.0) * _b")),),
    ),
    Mistake(
        "rectification-not-rooted",
        "the rectification not square-rooted",
        "`sqrt` around r_t",
        _RADAM,
        (lines(("_r ** 0.5 if known else 0.0", "_r if known else 0.0")),),
    ),
    Mistake(
        "rho-inf",
        "ρ∞ without the − 1",
        "`2 / (1 - beta2) - 1`",
        _RADAM,
        (lines(("2 / (1 - beta2) - 1", "2 / (1 - beta2)")),),
    ),
    Mistake(
        "no-maximum",
        "a sum in the place of the maximum",
        "`max(beta2 * u, abs(grad))`",
        _ADAMAX,
        (lines(("maximum(c.beta2 * s.exp_inf, _x)", "c.beta2 * s.exp_inf + _x")),),
    ),
    Mistake(
        "maximum-never-forgets",
        "β₂ missing from the running maximum",
        "`max(beta2 * u, abs(grad))`",
        _ADAMAX,
        (lines(("c.beta2 * s.exp_inf", "s.exp_inf")),),
    ),
    Mistake(
        "no-magnitude",
        "the gradient instead of its magnitude in the maximum",
        "`abs(grad)`",
        _ADAMAX,
        (lines(("abs(g) + c.eps", "g + c.eps")),),
    ),
)

_LIONS = (
    Mistake(
        "sign-of-average",
        "the sign of the updated average instead of the interpolation",
        "`sign(m)` after `m = beta2 * m + (1 - beta2) * grad`; the direction has β₁ and the old m",
        _LION,
        (lines(("sign(c.beta1 * s.exp_avg + c.rest1 * g)", "sign(c.beta2 * s.exp_avg + c.rest2 * g)")),),
    ),
    Mistake(
        "one-beta",
        "β₁ for the average too",
        "`m = beta1 * m + (1 - beta1) * grad`; the average has β₂",
        _LION,
        (lines(("c.beta2 * s.exp_avg + c.rest2 * g", "c.beta1 * s.exp_avg + c.rest1 * g")),),
    ),
    Mistake(
        "sign-of-gradient",
        "the sign of the gradient alone",
        "`sign(grad)`, or an average that is not kept: the direction is `sign(beta1 * m + (1 - beta1) * grad)`",
        _LION,
        (lines(("sign(c.beta1 * s.exp_avg + c.rest1 * g)", "sign(g)")),),
    ),
    Mistake(
        "sign-of-old-average",
        "the sign of the average before the gradient",
        "`sign(m)`; the direction is `sign(beta1 * m + (1 - beta1) * grad)`",
        _LION,
        (lines(("sign(c.beta1 * s.exp_avg + c.rest1 * g)", "sign(s.exp_avg)")),),
    ),
    Mistake(
        "no-sign",
        "no sign: the step is as long as the interpolation",
        "`sign(...)` around the direction",
        _LION,
        (lines(("sign(_x)", "(_x)")),),
    ),
)

_OTHERS = (
    Mistake(
        "lr-decay-off-by-one",
        "the decay of the learning rate one step ahead",
        "`lr / (1 + t * lr_decay)`; it is `(t - 1)`",
        "torch.optim.Adagrad",
        (lines(("(step - 1) * self.lr_decay", "step * self.lr_decay")),),
        only=("Adagrad",),
    ),
    Mistake(
        "sum-as-average",
        "an average of the squares instead of their sum",
        "`sum / t`; Adagrad divides by the root of the whole sum",
        "Duchi, Hazan and Singer, JMLR 12 (2011)",
        (lines(("sqrt(s.sum)", "sqrt(s.sum / c.step)")),),
    ),
    Mistake(
        "no-root-of-steps",
        "no root of past steps in the numerator",
        "`sqrt(acc_delta + eps)` over `sqrt(square_avg + eps)`",
        _ADADELTA,
        (lines(("sqrt(s.acc_delta + c.eps) / _x", "1.0 / _x")),),
    ),
    Mistake(
        "steps-with-lr",
        "the learning rate inside the average of squared steps",
        "`(lr * delta)**2`; torch averages `delta**2`",
        _ADADELTA,
        (lines(("c.rest * (delta * delta)", "c.rest * (c.lr * delta * (c.lr * delta))")),),
    ),
    Mistake(
        "steps-from-gradient",
        "the average of squared steps taken of the gradient",
        "`acc_delta` averages `delta**2`, not `grad**2`",
        _ADADELTA,
        (lines(("c.rest * (delta * delta)", "c.rest * (g * g)")),),
    ),
    Mistake(
        "centered-not-squared",
        "the average gradient subtracted without being squared",
        "`v - grad_avg**2`",
        "Graves, arXiv:1308.0850, eq. 40",
        (lines(("s.grad_avg * s.grad_avg", "s.grad_avg")),),
    ),
    Mistake(
        "momentum-of-gradient",
        "the learning rate and the root outside the momentum",
        "`buf = momentum * buf + grad; p -= lr * buf / sqrt(v)`; the division comes first",
        "torch.optim.RMSprop",
        (
            lines(
                ("g / (sqrt(v) + c.eps)", "g"),
                ("p - c.lr * step", "p - c.lr * (step / (sqrt(v) + c.eps))"),
            ),
        ),
        only=("RMSprop",),
    ),
)

_FACTORED = (
    Mistake(
        "eps1-added",
        "ε₁ added to the squared gradient instead of bounding v",
        "`grad**2 + eps1`; torch takes `max(v, eps1**2)`",
        _ADAFACTOR,
        (
            lines(
                ("square = g * g", "square = g * g + eps1"),
                ("maximum(v, eps1 * eps1)", "v"),
                ("maximum(mean(s.row_var, -2), eps1)", "mean(s.row_var, -2)"),
            ),
        ),
        conventions=by(of=("paper", "huggingface")),
    ),
    Mistake(
        "decay-by-alpha",
        "the decay multiplied by the relative step α instead of lr",
        "`alpha * weight_decay * p`; torch has `lr * weight_decay * p`",
        "transformers' Adafactor and torch.optim.Adafactor",
        (lines(("c.keep * p - _u", "p - step_size * c.rule.weight_decay * p - _u")),),
        conventions=by(of=("huggingface",)),
        only=("Adafactor",),
    ),
    Mistake(
        "not-relative",
        "steps that do not depend on the parameter's size",
        "`max(eps2, rms(p))`; Hugging Face's scale_parameter=False",
        _ADAFACTOR,
        (lines(("maximum(rms(p), c.eps2) * c.relative_step", "c.relative_step")),),
    ),
    Mistake(
        "rate-not-falling",
        "a learning rate that does not fall as 1/√t",
        "`min(lr, 1 / sqrt(t))`; Hugging Face's relative_step=False",
        _ADAFACTOR,
        (lines(("min(self.lr, step**-0.5)", "self.lr")),),
    ),
    Mistake(
        "not-clipped",
        "the update not clipped",
        "`update / max(1, rms(update) / d)`",
        _ADAFACTOR,
        (lines(("_u / maximum(rms(u) / c.d, 1.0)", "_u")),),
    ),
    Mistake(
        "factors-not-normalised",
        "rows times columns not divided by the rows' mean",
        "`row * col / mean(row)`",
        _ADAFACTOR,
        (lines(("s.row_var * s.col_var / _n", "s.row_var * s.col_var")),),
    ),
    Mistake(
        "beta2-reversed",
        "the weights of old and new square exchanged",
        "`t**beta2_decay` is the weight of the new square, one minus it that of the old",
        _ADAFACTOR,
        (lines(("step**self.beta2_decay", "1 - step**self.beta2_decay")),),
    ),
    Mistake(
        "not-factored",
        "the average square kept in full for matrices",
        "rows and columns for parameters of two and more dimensions",
        _ADAFACTOR,
        (
            lines(
                (
                    "v = s.row_var * s.col_var / _n",
                    "full = s.row_var if c.step > 1 else 0.0\nv = s.row_var = full + c.rest2 * (square - full)",
                ),
                ("s.row_var = s.row_var + c.rest2 * (mean(square, -1) - s.row_var)", "pass"),
                ("s.col_var = s.col_var + c.rest2 * (mean(square, -2) - s.col_var)", "pass"),
            ),
        ),
    ),
)

MISTAKES = (*_ADAM_FAMILY, *_LIONS, *_OTHERS, *_FACTORED)
