"""Cautious updates: only the elements whose step agrees with the gradient move."""

from __future__ import annotations

from dataclasses import dataclass

from gradstep.rules.base import Array, Coefficients, State, sign, where
from gradstep.rules.modify import Modifier
from gradstep.rules.ops import elements, mean


@dataclass(frozen=True)
class Cautious(Modifier):
    r"""A cautious step: momentum moves no element against its own gradient; the others move so much the further.

    .. math::
        \phi_t = \mathbb 1(u_t \circ g_t > 0), \qquad
        \theta_t = (1-\eta\lambda)\,\theta_{t-1} - u_t \circ \phi_t \cdot \frac{d}{\lVert\phi_t\rVert_0 + 1}

    with the step u of the modified rule and the number d of elements of the tensor.

    Args:
        maximize: climb instead of descend.

    Source: Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", arXiv:2411.16085,
    Algorithm 2. The scale is the paper's, d/(k + 1) for k elements that agree. The authors' code divides by the mean of
    φ, at least 10⁻³ (they differ by 1/k, and where fewer than one element in 1,000 agrees); other code by max(k, 1)/d.

    >>> from gradstep import modify, rules
    >>> modify(rules.AdamW, Cautious).__name__
    'CautiousAdamW'
    """

    sees = "means"

    @classmethod
    def step(cls, p: Array, g: Array, s: State, c: Coefficients) -> Array:
        u = super().step(p, g, s, c)
        agrees = where(sign(u) * sign(g) > 0.0, abs(sign(u)), 0.0)  # u * g could underflow
        return u * (agrees / (mean(agrees) + 1.0 / elements(u)))
