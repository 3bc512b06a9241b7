"""The eager engine: the rule in plain torch operations, for any device, dtype and strides."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.arrays import Arrays, build_tally
from gradstep.engines.base import Batch, Engine, Traits
from gradstep.rules import Rule
from gradstep.rules.ops import Array


def real(tensor: Tensor) -> Tensor:
    """Return a complex tensor as pairs of real numbers (as torch.optim does); any other tensor unchanged."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


@final
class TorchArrays(Arrays):
    """The operations of :class:`Arrays` on torch tensors."""

    def strides(self, a: Array) -> Sequence[int]:
        return a.stride()  # type: ignore[no-any-return]

    def permute(self, a: Array, axes: Sequence[int]) -> Array:
        return a.permute(axes)

    def number_elements(self, like: Array, start: int = 0) -> Array:
        return torch.arange(start, start + like.numel(), device=like.device).to(torch.int32)

    def repeat(self, a: Array, times: int) -> Array:
        return a.repeat_interleave(times)

    def chunk_maxima(self, a: Array, every: int) -> Array:
        return torch.nn.functional.pad(a, (0, -len(a) % every)).reshape(-1, every).amax(1)

    def cast(self, x: Array, dtype: type[np.floating[Any]]) -> Array:
        return x.to(torch.float64 if dtype is np.float64 else torch.float32)

    def write(self, places: Sequence[Array], codes: Sequence[Array]) -> None:
        codes = [code.clone() if any(code is place for place in places) else code for code in codes]
        for place, code in zip(places, codes, strict=True):
            place.copy_(code)


ARRAYS = TorchArrays()


def name_coefficients(batch: Batch) -> list[SimpleNamespace]:
    """Return each row of a batch's coefficients by their names."""
    names = batch.spec.coefficients
    return [SimpleNamespace(**dict(zip(names, map(float, row), strict=True))) for row in batch.coefficients]


@final
class Eager(Engine):
    """Updates one parameter after the other with torch operations; needs temporaries of a parameter's size."""

    name = "eager"
    parts = False

    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        return None

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        spec = batch.spec
        rows = name_coefficients(batch)
        statistics = {}
        for k, columns in batch.iterate_parameters(batch.columns):
            if columns[0].numel():
                row, key, fields = rows[batch.rows[k]], int(batch.keys[k]), [real(t) for t in columns]
                start = 0 if batch.starts is None else int(batch.starts[k])
                statistics[k] = ARRAYS.update(spec, row, key, fields, watched=batch.owners is not None, start=start)
        if batch.owners is not None:
            batch.tally = build_tally(statistics, batch.owners)

    def sum_squares(self, batch: Batch) -> float:
        return sum_squares(batch.columns[0])


@torch.no_grad()
def sum_squares(gradients: Sequence[Tensor]) -> float:
    """Return the sum of the squares of all elements, in float64."""
    norms = [torch.linalg.vector_norm(real(g).to(torch.float64)) for g in gradients if g.numel()]
    return float(torch.stack([n.to("cpu") for n in norms]).square().sum()) if norms else 0.0
