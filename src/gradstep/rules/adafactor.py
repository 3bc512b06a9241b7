"""Adafactor: the second moment of a matrix as the product of a column and a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.rules.base import Array, Coefficients, Rule, Slot, State, maximum, sqrt
from gradstep.rules.ops import epsilon, mean, rms
from gradstep.rules.settings import at_least_one, learning_rate, nonnegative, nonnegative_pair, nonpositive


@final
@dataclass(frozen=True)
class Adafactor(Rule):
    r"""Adafactor: adaptive steps with r + c numbers of state for an r × c matrix, relative to the parameter's size.

    .. math::
        \hat\beta_t &= t^{\gamma}, \qquad \rho_t = \min(\eta, 1/\sqrt t), \qquad
            \alpha_t = \max(\epsilon_2, \operatorname{RMS}(\theta_{t-1}))\,\rho_t \\
        R_t &= R_{t-1} + \hat\beta_t\,(\operatorname{rowmean}(g_t^2) - R_{t-1}), \qquad
        C_t = C_{t-1} + \hat\beta_t\,(\operatorname{colmean}(g_t^2) - C_{t-1}) \\
        V_t &= \frac{R_t C_t}{\max(\operatorname{mean}(R_t), \epsilon_1)}, \qquad
        U_t = \frac{g_t}{\sqrt{\max(V_t, \epsilon_1^2)}} \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \alpha_t\,\frac{U_t}{\max(1, \operatorname{RMS}(U_t)/d)}

    A parameter of fewer than two dimensions keeps an unfactored V.

    Args:
        lr: η, at least 0; an upper bound of the relative step size ρ.
        beta2_decay: γ, at most 0: how fast the average of the squares slows down.
        eps: (ε₁, ε₂), each at least 0; ε₁ = None stands for the machine epsilon of the arithmetic. ε₂ is the least
            size that a parameter counts as.
        d: the update's root mean square is clipped to d, at least 1.
        weight_decay: λ, at least 0, on the weight itself.
        maximize: climb instead of descend.

    State: ``row_var`` R of shape (…, r, 1) and ``col_var`` C of shape (…, 1, c), or ``variance`` V of the parameter's
    shape.

    Family: Adam; row and column means of g² only.
    Taken for: very large models, least memory.

    Source: Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv:1804.04235,
    Algorithms 4 to 6, in torch.optim's form: it factors the last two axes and bounds V below by ε₁², where the paper
    and Hugging Face add ε₁ to g². Deviation from torch.optim: for a float16 or bfloat16 parameter ε₁ = None is
    float32's epsilon, since that is the arithmetic here; torch takes the parameter's own.

    >>> [(slot.name, slot.shape((8, 3))) for slot in Adafactor().slots(2)]  # 11 numbers instead of 24
    [('row_var', (8, 1)), ('col_var', (1, 3))]
    """

    lr: float = learning_rate(1e-2)
    beta2_decay: float = nonpositive(-0.8)
    eps: tuple[float | None, float] = nonnegative_pair(None, 1e-3)
    d: float = at_least_one(1.0)
    weight_decay: float = nonnegative(0.0)

    sees = "tensor"

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        if ndim < 2:
            return (Slot("variance", signed=False),)
        return (Slot("row_var", signed=False, collapsed=-1), Slot("col_var", signed=False, collapsed=-2))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        return {
            "rest2": step**self.beta2_decay,
            "relative_step": min(self.lr, step**-0.5),
            "eps1": 0.0 if self.eps[0] is None else self.eps[0],
            "machine": 1.0 if self.eps[0] is None else 0.0,
            "eps2": self.eps[1],
            "d": self.d,
            "keep": 1 - self.lr * self.weight_decay,
        }

    @staticmethod
    def update(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        eps1 = c.eps1 + c.machine * epsilon(p)
        square = g * g
        if "row_var" in s:
            s.row_var = s.row_var + c.rest2 * (mean(square, -1) - s.row_var)
            s.col_var = s.col_var + c.rest2 * (mean(square, -2) - s.col_var)
            v = s.row_var * s.col_var / maximum(mean(s.row_var, -2), eps1)
        else:
            v = s.variance = s.variance + c.rest2 * (square - s.variance)
        u = g / sqrt(maximum(v, eps1 * eps1))
        step_size = maximum(rms(p), c.eps2) * c.relative_step
        return c.keep * p - step_size * u / maximum(rms(u) / c.d, 1.0)
