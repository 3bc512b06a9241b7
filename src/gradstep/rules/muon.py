"""Muon: momentum for matrices, with all singular values made about 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from gradstep.rules.base import Array, Coefficients, Slot, State, StepRule, maximum, sqrt
from gradstep.rules.newton_schulz import JORDAN, POLAR_EXPRESS, newton_schulz
from gradstep.rules.ops import as_matrices, columns, lerp, reshape_as, rows
from gradstep.rules.settings import choice, count, epsilon, flag, learning_rate, matrices, nonnegative, quintic


@dataclass(frozen=True)
class MuonRule(StepRule):
    """Muon and what is made of it: a rule of matrices, with AdamW beside it for the other parameters of a model.

    Args:
        matrices: how a parameter that is not a matrix is one or several, as of :class:`Muon`.
        maximize: climb instead of descend.
    """

    matrices: str | int | None = matrices()

    sees = "matrix"
    beyond_torch: ClassVar[frozenset[str]] = frozenset({"matrices"})

    def explain_refusal(self, shape: tuple[int, ...]) -> str | None:
        refusal = super().explain_refusal(shape)
        if refusal is not None:
            own = f"gradstep.{type(self).__name__}(model.named_parameters(), model=model)"
            return (
                f'{refusal}; {own} and gradstep.param_groups(model, policy="muon", matrix_lr=...) group a whole model'
            )
        if len(shape) > 2 and self.matrices is None:
            return (
                'it has more than two dimensions: give its group "matrices": "flatten" (kernels of a convolution) or '
                '"stack" (a matrix for each index of the first axes)'
            )
        if isinstance(self.matrices, int) and shape[0] % self.matrices:
            return f"its {shape[0]} rows cannot be cut into {self.matrices} equal matrices"
        return None

    @property
    def blocks(self) -> float:
        """The number of matrices as :func:`gradstep.rules.ops.as_matrices` takes it."""
        return self.matrices if isinstance(self.matrices, int) else 0.0 if self.matrices == "stack" else 1.0


@final
@dataclass(frozen=True)
class Muon(MuonRule):
    r"""Muon: a matrix moves along the nearest orthogonal matrix to its momentum; for the hidden layers of a network.

    .. math::
        B_t &= \mu B_{t-1} + (1-\mu)\,g_t, \qquad
            \widetilde B_t = \mu B_t + (1-\mu)\,g_t \ \text{(Nesterov)} \text{ or } B_t \\
        O_t &= \operatorname{NewtonSchulz}_k(\widetilde B_t): \qquad
            X_0 = \widetilde B_t / \max(\lVert\widetilde B_t\rVert_F, \epsilon), \\
            A &= X X^{\mathsf T}, \qquad X \leftarrow a X + (b A + c A^2) X \quad (k \text{ times}) \\
        \theta_t &= (1-\eta\lambda)\,\theta_{t-1} - \eta\,s\,O_t, \qquad
            s = \sqrt{\max(1, r/n)} \text{ (original)} \text{ or } 0.2\sqrt{\max(r, n)} \text{ (match_rms_adamw)}

    for a matrix of r rows and n columns. ``Muon(model.named_parameters())`` of a whole model, with a bias or a norm
    among its parameters, updates biases, norms, embeddings and the output layer by AdamW, with its own settings except
    ``weight_decay``, and ``lr`` with ``"match_rms_adamw"``: ``print(optimizer.grouping.table())`` says which and why.
    ``model=model`` finds embeddings, tied weights and convolutions by their modules, not by their names. For other
    settings, :func:`gradstep.param_groups` makes the groups.

    Args:
        lr: η, at least 0.
        weight_decay: λ, at least 0, on the weight itself and not scaled by s.
        momentum: μ, at least 0.
        nesterov: look ahead along the momentum.
        ns_coefficients: (a, b, c), or ``"polar_express"`` for its own three in each iteration.
        eps: ε, at least 0.
        ns_steps: k, the number of iterations, 1 to 99.
        adjust_lr_fn: the scale s: ``"original"`` (None is the same) or ``"match_rms_adamw"``, with which learning rate
            and decay can be AdamW's.
        matrices: how a parameter that is not a matrix is one or several: ``"flatten"``, the first axis by all others
            (a convolution's kernels); ``"stack"``, the last two axes, once for each index of those before (experts); a
            number n, n matrices of equal numbers of rows (n heads, each orthogonal by itself). None takes matrices
            only.
        maximize: climb instead of descend.

    State: ``momentum_buffer`` B, of the parameter's shape.

    The products are computed in bfloat16, as in torch.optim, for float64 parameters in float64.

    Family: SGD, momentum; the orthogonal factor of the mean direction.
    Taken for: hidden matrices of language models, beside AdamW.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, with its coefficients;
    Liu et al., "Muon is Scalable for LLM Training", arXiv:2502.16982, equations 1 to 4 (decay; the scale 0.2); in
    torch.optim's form: B is an average, where both sources have a sum; the direction is the same. Deviations from
    torch.optim: a float16 or bfloat16 parameter has float32 momentum; float64 is computed in float64; more than two
    dimensions, heads and the Polar Express.

    >>> import numpy as np
    >>> step = Muon.update(np.zeros((2, 2)), np.diag([4.0, 1.0]), State(momentum_buffer=np.zeros((2, 2))),
    ...     State(**Muon(lr=1.0).coefficients(1)))
    >>> np.linalg.svd(step, compute_uv=False).round(2).tolist()  # from 4 and 1
    [0.74, 0.74]
    """

    lr: float = learning_rate(1e-3)
    weight_decay: float = nonnegative(0.1)
    momentum: float = nonnegative(0.95)
    nesterov: bool = flag(True)
    ns_coefficients: tuple[float, float, float] | str = quintic(JORDAN)
    eps: float = epsilon(1e-7)
    ns_steps: int = count(5, most=99)
    adjust_lr_fn: str | None = choice(None, "original", "match_rms_adamw")

    beyond_torch: ClassVar[frozenset[str]] = frozenset({"matrices", "maximize"})

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        return (Slot("momentum_buffer"),)

    def adamw_lr(self) -> float:
        """Return the learning rate of AdamW for the other parameters of a model: its own, or here the same."""
        return self.lr if self.adjust_lr_fn == "match_rms_adamw" else 1e-3

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        named: Any = POLAR_EXPRESS[0] if isinstance(self.ns_coefficients, str) else self.ns_coefficients
        return {
            "rest": 1 - self.momentum,
            "along": self.momentum if self.nesterov else 1.0,
            "blocks": self.blocks,
            "polar": float(isinstance(self.ns_coefficients, str)),
            "a": named[0],
            "b": named[1],
            "c": named[2],
            "ns_steps": self.ns_steps,
            "eps": self.eps,
            "lr": self.lr,
            "original": 0.0 if self.adjust_lr_fn == "match_rms_adamw" else 1.0,
            "match_rms": 0.2 if self.adjust_lr_fn == "match_rms_adamw" else 0.0,
            "keep": 1 - self.lr * self.weight_decay,
        }

    @staticmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        s.momentum_buffer = lerp(s.momentum_buffer, g, c.rest)
        x = as_matrices(lerp(g, s.momentum_buffer, c.along), c.blocks)
        o = newton_schulz(x, POLAR_EXPRESS if c.polar else (c.a, c.b, c.c), c.ns_steps, c.eps)
        scale = c.original * sqrt(maximum(rows(x) / columns(x), 1.0)) + c.match_rms * sqrt(maximum(rows(x), columns(x)))
        return c.lr * scale * reshape_as(o, p)
