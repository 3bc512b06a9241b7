"""The global norm of the gradients, and what of them is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from gradstep.optimizers.batch import TorchBatch


def positive(name: str, value: float | Tensor) -> float:
    """A number that is finite and greater than 0, or an error that names it."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, but is {value!r}") from error
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"Invalid {name}: {value} (must be finite and greater than 0)")
    return number


def norm_of(batches: Sequence[TorchBatch]) -> float:
    """The global 2-norm of the gradients as they are; not finite if one of them is not."""
    total = sum(batch.part.engine.squares(batch) for batch in batches)
    if math.isinf(total) and all(bool(g.isfinite().all()) for b in batches for g in b.gradients):
        # Only float64 can be finite and overflow when squared.
        largest = max(float(g.abs().max()) for b in batches for g in b.gradients if g.numel())
        total = sum(float((g / largest).abs().square().sum()) for b in batches for g in b.gradients)
        return largest * math.sqrt(total)
    return math.sqrt(total)


def first_not_finite(batches: Sequence[TorchBatch]) -> str:
    """The name of the first parameter, in the order of the groups, whose gradient is not finite."""
    found = [
        (batch.members[k], batch.names[k])
        for batch in batches
        for k, g in enumerate(batch.gradients)
        if not bool(g.isfinite().all())
    ]
    return min(found)[1]
