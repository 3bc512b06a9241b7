"""The eager rule under ``torch.compile``: for devices whose kernels torch can generate."""

from __future__ import annotations

from functools import cache
from typing import Any, final

import torch
from torch import Tensor

from gradstep.engines.base import Batch, Engine, Traits
from gradstep.engines.eager import apply, arithmetic, real, squares
from gradstep.rules import Rule, State


@final
class Compiled(Engine):
    """One compiled function per rule and slot list, for tensors of any length.

    The first step takes as long as torch's compiler does (tens of seconds on a CPU).
    """

    name = "compiled"

    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        if not rule.elementwise:
            return f"{rule.__name__} looks at whole tensors, and would be compiled again for every shape"
        if not traits.dense:
            return "its memory has gaps or overlaps"
        if not traits.plain:
            return "it is a tensor subclass"
        return None

    def update(self, batch: Batch) -> None:
        spec = batch.spec
        step = _compiled(spec.rule, spec.slots, spec.coefficients)
        for row, p, *others in zip(batch.rows, *batch.columns, strict=True):
            if p.numel():
                # Tensors, not Python numbers: a number would be a constant of the code and compile it anew each step.
                numbers = torch.from_numpy(batch.coefficients[row]).to(p.device, arithmetic(real(p).dtype))
                step(numbers, *(_flat(t) for t in (p, *others)))

    def squares(self, batch: Batch) -> float:
        return squares(batch.columns[1])


def _flat(tensor: Tensor) -> Tensor:
    tensor = real(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


@cache
def _compiled(rule: type[Rule], slots: tuple[str, ...], coefficients: tuple[str, ...]) -> Any:
    def step(numbers: Tensor, p: Tensor, g: Tensor, *state: Tensor) -> None:
        c = State(**dict(zip(coefficients, numbers.unbind(), strict=True)))
        apply(rule, slots, c, p, g, state)

    return torch.compile(step, dynamic=True, fullgraph=True)
