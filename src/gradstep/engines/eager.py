"""The rule in plain torch operations: any device, any dtype, any strides."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, final

import torch
from torch import Tensor

from gradstep.engines.base import Batch, Engine, Traits
from gradstep.rules import Rule, State


def real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers (as torch.optim sees it); any other as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """What a rule computes in for parameters of this (real) type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def apply(rule: type[Rule], names: Sequence[str], c: Any, p: Tensor, g: Tensor, slots: Sequence[Tensor]) -> None:
    """One step of one parameter, in place."""
    kind = arithmetic(p.dtype)
    state = State(**{name: slot.to(kind) for name, slot in zip(names, slots, strict=True)})
    old = (p, *slots)
    new = [rule.update(p.to(kind), g.to(kind) * c.gradient, state, c), *(getattr(state, name) for name in names)]
    # A rule may hand an old value on (s.before = s.last): keep it until every place is written.
    new = [value.clone() if any(value is other for other in old) else value for value in new]
    for place, value in zip(old, new, strict=True):
        place.copy_(value)


@final
class Eager(Engine):
    """Plain torch operations, parameter by parameter; needs temporaries of a parameter's size."""

    name = "eager"

    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        return None

    def update(self, batch: Batch) -> None:
        spec = batch.spec
        rows = [
            SimpleNamespace(**dict(zip(spec.coefficients, map(float, row), strict=True))) for row in batch.coefficients
        ]
        for row, p, g, *slots in zip(batch.rows, *batch.columns, strict=True):
            if p.numel():
                apply(spec.rule, spec.slots, rows[row], real(p), real(g), [real(s) for s in slots])

    def squares(self, batch: Batch) -> float:
        return squares(batch.columns[1])


def squares(gradients: Sequence[Tensor]) -> float:
    """The sum of the squares of all elements, in float64."""
    norms = [torch.linalg.vector_norm(real(g).to(torch.float64)) for g in gradients if g.numel()]
    return float(torch.stack([n.to("cpu") for n in norms]).square().sum()) if norms else 0.0
