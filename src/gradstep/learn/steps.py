"""AdamW's step in slow motion: every number of it, computed by the rule itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import final

from gradstep.rules import AdamW, State

EXAMPLE = AdamW(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-3)
"""The settings of the worked example: weight 0.5 and gradient 0.02 give 0.49989995."""


@final
@dataclass(frozen=True)
class StepLine:
    """One line of the calculation."""

    step: int  # the number of its step
    name: str  # the symbol that it computes
    formula: str  # the formula in symbols
    numbers: str  # the formula in numbers; empty for an input
    value: float  # the result
    why: str  # its purpose

    def __str__(self) -> str:
        parts = [self.formula, self.numbers, _n(self.value)]
        return f"{self.name} = {' = '.join(part for part in parts if part)}"


def step_through(weight: float = 0.5, gradients: Sequence[float] = (0.02,), rule: AdamW = EXAMPLE) -> list[StepLine]:
    """Return the lines of one step for each gradient.

    Moments and weights come from :meth:`AdamW.update`, corrections from :meth:`AdamW.coefficients`. The two parts of a
    step come from the update of a weight of zero, which does not decay, and of a weight without gradient.

    >>> for line in step_through():
    ...     print(line)
    g = 0.02
    m = β₁ · m + (1 − β₁) · g = 0.9 · 0 + 0.1 · 0.02 = 0.002
    v = β₂ · v + (1 − β₂) · g² = 0.999 · 0 + 0.001 · 0.0004 = 4e-07
    m̂ = m / (1 − β₁ᵗ) = 0.002 / 0.1 = 0.02
    v̂ = v / (1 − β₂ᵗ) = 4e-07 / 0.001 = 0.0004
    step = lr · m̂ / (√v̂ + ε) = 0.0001 · 0.02 / (0.02 + 1e-08) = 9.999995e-05
    decay = lr · λ · p = 0.0001 · 0.001 · 0.5 = 5e-08
    p = p − decay − step = 0.5 − 5e-08 − 9.999995e-05 = 0.49989995
    """
    p, state, lines = weight, State(exp_avg=0.0, exp_avg_sq=0.0), list[StepLine]()
    for number, gradient in enumerate(gradients, 1):
        lines += _lines(rule, number, p, gradient, state.exp_avg, state.exp_avg_sq)
        p = rule.update(p, gradient, state, SimpleNamespace(**rule.coefficients(number)))
    return lines


def _lines(rule: AdamW, number: int, p: float, g: float, m: float, v: float) -> list[StepLine]:
    c = SimpleNamespace(**rule.coefficients(number))
    one = SimpleNamespace(**replace(rule, lr=1.0).coefficients(number))  # its step_size is 1 / (1 − β₁ᵗ)
    after = State(exp_avg=m, exp_avg_sq=v)
    new = rule.update(p, g, after, c)
    step = -rule.update(0.0, g, State(exp_avg=m, exp_avg_sq=v), c)
    decay = p - rule.update(p, 0.0, State(exp_avg=0.0, exp_avg_sq=0.0), c)
    m_hat, root = after.exp_avg * one.step_size, after.exp_avg_sq**0.5 * c.unbias2
    rows = (
        ("g", "", "", g),
        ("m", "β₁ · m + (1 − β₁) · g", f"{_n(c.beta1)} · {_n(m)} + {_n(c.rest1)} · {_n(g)}", after.exp_avg),
        ("v", "β₂ · v + (1 − β₂) · g²", f"{_n(c.beta2)} · {_n(v)} + {_n(c.rest2)} · {_n(g * g)}", after.exp_avg_sq),
        ("m̂", "m / (1 − β₁ᵗ)", f"{_n(after.exp_avg)} / {_n(1 / one.step_size)}", m_hat),
        ("v̂", "v / (1 − β₂ᵗ)", f"{_n(after.exp_avg_sq)} / {_n(c.unbias2**-2)}", root * root),
        ("step", "lr · m̂ / (√v̂ + ε)", f"{_n(rule.lr)} · {_n(m_hat)} / ({_n(root)} + {_n(c.eps)})", step),
        ("decay", "lr · λ · p", f"{_n(rule.lr)} · {_n(rule.weight_decay)} · {_n(p)}", decay),
        ("p", "p − decay − step", f"{_n(p)} − {_n(decay)} − {_n(step)}", new),
    )
    return [StepLine(number, name, formula, numbers, value, WHY[name]) for name, formula, numbers, value in rows]


WHY = {
    "g": "The gradient of this batch, from the backward pass.",
    "m": "The average gradient: which way, with the noise of single batches averaged out.",
    "v": "The average square: how large this weight's gradients usually are.",
    "m̂": "Corrected: m started at zero, and so far its weights add up to 1 − β₁ᵗ only.",
    "v̂": "Corrected in the same way; used in this step, not kept.",
    "step": "Adam's step: about lr long, since the gradient is divided by its own usual size.",
    "decay": "The W of AdamW: a share of the weight itself, whatever its gradient.",
    "p": "The new weight. m and v are kept for the next step.",
}
"""The purpose of each line."""


def _n(x: float) -> str:
    return f"{x:.8g}"
