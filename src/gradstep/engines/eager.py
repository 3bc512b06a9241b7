"""The eager engine: the rule in plain torch operations, for any device, dtype and strides."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.arrays import Arrays, build_tally
from gradstep.engines.base import Batch, Engine, Traits
from gradstep.engines.rounding import CorrectRounding
from gradstep.rules import Rule
from gradstep.rules.base import Array


def real(tensor: Tensor) -> Tensor:
    """Return a complex tensor as pairs of real numbers (as torch.optim does); any other tensor unchanged."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def flatten(tensor: Tensor) -> Tensor:
    """Return a view (n,) of a dense tensor, in memory order; complex numbers as pairs of real ones."""
    tensor = real(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


def flatten_each(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return what :func:`flatten` returns of each tensor, in less time."""
    if not any(map(Tensor.is_complex, tensors)):
        try:
            return [tensor.view(-1) for tensor in tensors]  # of a dense tensor, it keeps the order of memory or raises
        except RuntimeError:
            pass
    return [flatten(tensor) for tensor in tensors]


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """Return the type for sums over a tensor: float64, or float32 on Apple's devices, which have no float64."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


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
        return x.to(wide_dtype(x) if dtype is np.float64 else torch.float32)

    def join_numbers(self, numbers: Sequence[Array]) -> Array:
        first = self.cast(numbers[0], np.float64)
        return torch.stack(
            [self.cast(x, np.float64) if isinstance(x, Tensor) else first.new_full((), x) for x in numbers]
        )

    def write(self, places: Sequence[Array], codes: Sequence[Array]) -> None:
        moved = [(place, code) for place, code in zip(places, codes, strict=True) if code is not place]
        moved = [(place, code.clone() if any(code is other for other in places) else code) for place, code in moved]
        for place, code in moved:
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
        statistics: dict[int, Any] = {}
        for k, columns in batch.iterate_parameters(batch.columns):
            if columns[0].numel():
                row, key, fields = rows[batch.rows[k]], int(batch.keys[k]), [real(t) for t in columns]
                start = 0 if batch.starts is None else int(batch.starts[k])
                with CorrectRounding():
                    statistics[k] = ARRAYS.update(spec, row, key, fields, watched=batch.owners is not None, start=start)
        if batch.owners is not None:
            batch.tally = build_tally(list(statistics), read_rows(list(statistics.values())), batch.owners)

    def sum_squares(self, batch: Batch) -> float:
        return sum_squares(batch.columns[0])


def read_rows(rows: Sequence[Tensor]) -> NDArray[np.float64]:
    """Return (m, n) float64 numbers of arrays (n,) on any devices; one transfer for each device."""
    by_device: dict[torch.device, list[int]] = {}
    for number, row in enumerate(rows):
        by_device.setdefault(row.device, []).append(number)
    result = np.empty((len(rows), len(rows[0]) if rows else 0))
    for numbers in by_device.values():
        result[numbers] = torch.stack([rows[number] for number in numbers]).cpu().double().numpy()
    return result


@torch.no_grad()
def sum_squares(gradients: Sequence[Tensor]) -> float:
    """Return the sum of the squares of all elements, in float64; not finite if an element is not."""
    norms = [torch.linalg.vector_norm(real(g).to(wide_dtype(g))).reshape(1) for g in gradients if g.numel()]
    with np.errstate(over="ignore"):
        return float(np.square(read_rows(norms)).sum())
