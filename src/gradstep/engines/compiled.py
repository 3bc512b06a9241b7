"""The eager engine under ``torch.compile``, for devices that torch can generate kernels for."""

from __future__ import annotations

from functools import cache
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.base import Batch, Engine, Traits
from gradstep.engines.eager import ARRAYS, Eager, flatten, sum_squares
from gradstep.rules import Rule, State
from gradstep.storage.policy import UpdateSpec

_EAGER = Eager()


@final
class Compiled(Engine):
    """One compiled function per rule and slot list, for tensors of any length.

    The first step takes as long as torch's compiler does (tens of seconds on a CPU).
    """

    name = "compiled"
    parts = False

    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        if rule.sees != "elements":
            return f"{rule.__name__} looks at whole tensors, and would be compiled again for every shape"
        if traits.noisy:
            return "it is rounded at random, for which every step would be compiled anew"
        if not traits.dense:
            return "its memory has gaps or overlaps"
        if not traits.plain:
            return "it is a tensor subclass"
        return None

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        if batch.owners is not None:
            _EAGER.update(batch)  # the same code, not compiled, can collect statistics
            return
        step = _compiled(batch.spec)
        for k, columns in batch.iterate_parameters(batch.columns):
            if columns[0].numel():
                row = batch.rows[k]
                # Tensors, not Python numbers: torch would compile a number in as a constant, anew at each step.
                kind = torch.float64 if batch.spec.arithmetic is np.float64 else torch.float32
                numbers = torch.from_numpy(batch.coefficients[row]).to(columns[1].device, kind)
                step(numbers, *(flatten(t) for t in columns))

    def sum_squares(self, batch: Batch) -> float:
        return sum_squares(batch.columns[0])


@cache
def _compiled(spec: UpdateSpec) -> Any:
    def step(numbers: Tensor, *columns: Tensor) -> None:
        ARRAYS.update(
            spec, State(**dict(zip(spec.coefficients, numbers.unbind(), strict=True))), 0, columns, watched=False
        )

    return torch.compile(step, dynamic=True, fullgraph=True)
