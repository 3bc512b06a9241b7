"""NorMuon: Muon whose neurons get steps of one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Slot, State, maximum, sqrt
from gradstep.rules.muon import MuonRule
from gradstep.rules.newton_schulz import JORDAN, newton_schulz
from gradstep.rules.ops import as_matrices, columns, lerp, mean, norm, reshape_as, rows
from gradstep.rules.settings import choice, count, epsilon, flag, fraction, learning_rate, nonnegative


@final
@dataclass(frozen=True)
class NorMuon(MuonRule):
    r"""NorMuon: Muon with a second moment for each row, so that all neurons of a layer get steps of about one size.

    .. math::
        M_t &= \mu M_{t-1} + (1-\mu)\,g_t, \qquad
            \widetilde M_t = \mu M_t + (1-\mu)\,g_t \ \text{(Nesterov)} \text{ or } M_t \\
        O_t &= \operatorname{NewtonSchulz}_k(\widetilde M_t) \\
        v_t &= \beta_2 v_{t-1} + (1-\beta_2)\operatorname{rowmean}(O_t \odot O_t), \qquad
            \widehat O_t = O_t \oslash (\sqrt{v_t} + \epsilon) \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta\,
            \frac{\ell}{\lVert\widehat O_t\rVert_F + \epsilon}\,\widehat O_t, \qquad
            \ell = 0.2\sqrt{rn} \text{ (match_rms_adamw)} \text{ or }
            \lVert O_t\rVert_F\sqrt{\max(1, r/n)} \text{ (original)}

    for a matrix of r rows and n columns; :math:`\operatorname{NewtonSchulz}` as in :class:`Muon`, with Jordan's
    coefficients.

    Args:
        lr: η, at least 0.
        weight_decay: λ, at least 0, on the weight itself and not scaled.
        momentum: μ, at least 0.
        beta2: β₂, in [0, 1], of the mean squares of the rows.
        nesterov: look ahead along the momentum.
        eps: ε, at least 0; also the least norm that the momentum is divided by before the iteration.
        ns_steps: k, the number of iterations, 1 to 99.
        adjust_lr_fn: the length ℓ of the step: ``"match_rms_adamw"``, the paper's, with which learning rate and decay
            can be AdamW's, or ``"original"``, the authors' code's.
        matrices: how a parameter that is not a matrix is one or several, as of :class:`Muon`.
        maximize: climb instead of descend.

    State: ``momentum_buffer`` M of the parameter's shape, and ``second_momentum_buffer`` v, a number for each
    row.

    ``NorMuon(model.named_parameters(), model=model)`` of a whole model gives other parameters to AdamW, as Muon does.

    Family: Muon; divided by each row's own root mean square.
    Taken for: hidden matrices of language models, beside AdamW.

    Source: Li, Liu, Liang, Chen and Zhao, "NorMuon: Making Muon more efficient and scalable", arXiv:2510.05491,
    Algorithm 1. Deviations: Nesterov's momentum and ε in the last norm are the authors' code's, and the paper has
    neither; with ``nesterov=False`` the rule is the paper's. v is not corrected for its start at 0 in either, and need
    not be: the norm takes out what all rows share.

    >>> import numpy as np
    >>> rule = NorMuon(lr=1.0)
    >>> zeros = State(momentum_buffer=np.zeros((2, 2)), second_momentum_buffer=np.zeros((2, 1)))
    >>> step = NorMuon.update(np.zeros((2, 2)), np.diag([4.0, 1.0]), zeros, State(**rule.coefficients(1)))
    >>> np.sqrt((step**2).mean(1)).round(3).tolist()  # rows of one size, AdamW's 0.2
    [0.2, 0.2]
    """

    lr: float = learning_rate(1e-3)
    weight_decay: float = nonnegative(0.1)
    momentum: float = nonnegative(0.95)
    beta2: float = fraction(0.95)
    nesterov: bool = flag(True)
    eps: float = epsilon(1e-10)
    ns_steps: int = count(5, most=99)
    adjust_lr_fn: str | None = choice("match_rms_adamw", "original")

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        row = -1 if ndim <= 2 or self.matrices == "stack" else tuple(range(1 - ndim, 0))
        return (Slot("momentum_buffer"), Slot("second_momentum_buffer", signed=False, collapsed=row))

    def adamw_lr(self) -> float:
        """Return the learning rate of AdamW for the other parameters of a model: its own, or here the same."""
        return self.lr if self.adjust_lr_fn == "match_rms_adamw" else 1e-3

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        return {
            "rest": 1 - self.momentum,
            "along": self.momentum if self.nesterov else 1.0,
            "blocks": self.blocks,
            "a": JORDAN[0],
            "b": JORDAN[1],
            "c": JORDAN[2],
            "ns_steps": self.ns_steps,
            "rest2": 1 - self.beta2,
            "eps": self.eps,
            "lr": self.lr,
            "original": 1.0 if self.adjust_lr_fn == "original" else 0.0,
            "match_rms": 0.0 if self.adjust_lr_fn == "original" else 0.2,
            "keep": 1 - self.lr * self.weight_decay,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        s.momentum_buffer = lerp(s.momentum_buffer, g, c.rest)
        x = as_matrices(lerp(g, s.momentum_buffer, c.along), c.blocks)
        o = newton_schulz(x, (c.a, c.b, c.c), c.ns_steps, c.eps)
        v = lerp(as_matrices(s.second_momentum_buffer, c.blocks), mean(o * o, -1), c.rest2)
        s.second_momentum_buffer = reshape_as(v, s.second_momentum_buffer)
        scaled = o / (sqrt(v) + c.eps)
        original = c.original * norm(o) * sqrt(maximum(rows(o) / columns(o), 1.0))
        length = original + c.match_rms * sqrt(rows(o) * columns(o))
        return c.lr * reshape_as(length / (norm(scaled) + c.eps) * scaled, p)
