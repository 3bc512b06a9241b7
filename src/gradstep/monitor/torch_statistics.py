"""Statistics of any torch optimizer, by torch operations around its step.

What it costs, in the steps that are wanted: a copy of the weights until the step is over, and about six passes over
memory beside the optimizer's own. A gradstep optimizer needs neither (``fused_statistics.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from gradstep.monitor.statistics import NOT_SQUARED, Collected, Floats, Found, Statistics, non_finite, parameters

SECOND = ("exp_avg_sq", "square_avg", "sum", NOT_SQUARED, "variance", "row_var")
"""What torch's optimizers call their first state that is never negative."""

PIECE = 2**13
"""Elements whose squares are added up in float32: torch adds one by one, and is off by 0.1% after 25 million."""


@final
class TorchStatistics(Statistics):
    """Keeps the old weights over the step and compares.

    A gradient is read after the step, as the step left it: torch's optimizers leave it alone, or unscaled.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._old: dict[int, Tensor] = {}

    @torch.no_grad()
    def before(self, *, closure: bool) -> None:
        params = enumerate(parameters(self._optimizer))
        self._old = {i: _real(p).clone() for i, p in params if closure or p.grad is not None}

    @torch.no_grad()
    def collect(self) -> Found:
        params = parameters(self._optimizer)
        found = [(i, params[i], old) for i, old in self._old.items() if params[i].grad is not None]
        self.drop()
        index = np.array([i for i, _, _ in found], dtype=np.int64)
        weights = [_real(p) for _, p, _ in found]
        gradients = [_gradient(p) for _, p, _ in found]
        changes = [_wide(new) - _wide(old) for new, (_, _, old) in zip(weights, found)]
        second = [self._range_of_second(p) for _, p, _ in found]
        columns = (
            _squares(gradients),
            _squares(weights),
            _squares(changes),
            _fetched([((d == 0) & (g != 0)).sum() for d, g in zip(changes, gradients)]),
            _fetched([low for low, _ in second]),
            _fetched([high for _, high in second]),
        )
        finite = bool(np.isfinite(columns[0]).all())
        bad = None if finite else non_finite(columns[0], lambda row: [params[index[row]]])
        elements = np.array([p.numel() for p in weights], dtype=np.int64)
        sizes = [len(group["params"]) for group in self._optimizer.param_groups]
        groups = np.repeat(np.arange(len(sizes)), sizes)[index]
        collected = Collected(index, groups, elements, np.column_stack(columns), bad)
        return Found(finite, lambda: collected)

    def drop(self) -> None:
        self._old = {}

    def _range_of_second(self, p: Tensor) -> tuple[Tensor, Tensor]:
        state = self._optimizer.state.get(p, {})
        key = next((key for key in SECOND if isinstance(state.get(key), Tensor)), None)
        if key is None or not state[key].numel():
            nan = torch.full((), torch.nan, dtype=torch.float32, device=p.device)
            return nan, nan
        low, high = _real(state[key]).aminmax()
        return (low**2, high**2) if key == NOT_SQUARED else (low, high)


def _real(t: Tensor) -> Tensor:
    t = t.detach()
    return torch.view_as_real(t) if t.is_complex() else t


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return _real(p.grad.to_dense() if p.grad.is_sparse else p.grad)


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in {torch.float16, torch.bfloat16} else t


def _squares(tensors: Sequence[Tensor]) -> Floats:
    """The sum of squares of each."""
    if not tensors:
        return np.zeros(0)
    pieces = [_wide(t).reshape(-1).split(PIECE) for t in tensors]
    norms = _fetched(torch._foreach_norm([piece for parts in pieces for piece in parts]))
    return np.add.reduceat(np.square(norms), np.cumsum([0, *map(len, pieces[:-1])]))


def _fetched(scalars: Sequence[Tensor]) -> Floats:
    """Numbers that lie on any device, fetched together."""
    if not scalars:
        return np.zeros(0)
    where = scalars[0].device
    result: Floats = torch.stack([one.to(where) for one in scalars]).to("cpu", torch.float64).numpy()
    return result
