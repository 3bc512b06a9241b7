"""Trying a step on copies before the first one that counts, where an engine meets tensors that it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import Batch
from gradstep.optimizers.batch import Part
from gradstep.optimizers.gradients import usable

_KNOWN = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex32, torch.complex64, torch.complex128}
)


@torch.no_grad()
def rehearse(part: Part) -> None:
    """Try the update of each parameter of a part on copies, if they are tensor subclasses or of an uncommon type.

    What such a tensor cannot do shows only when it is done. In the middle of a step that would leave some parameters
    updated and others not, so it is tried before the first step of a table, one parameter at a time.

    Raises:
        RuntimeError: an operation that a parameter, its gradient or its state refuses; nothing was changed.
    """
    if part.plain and {p.dtype for p in part.params} <= _KNOWN:
        return
    for k, p in enumerate(part.params):
        if p.grad is None or p.numel() == 0:
            continue
        gradient = usable(p, p.grad, part.names[k])
        try:
            p.detach().copy_(p.detach())  # whether it can be written to at all
            columns = [gradient, p.detach().clone(), *(slot[k].detach().clone() for slot in part.slots)]
            part.engine.update(_Trial(part, [[t] for t in columns]))
        except Exception as error:  # a subclass may raise anything
            raise RuntimeError(
                f"{part.names[k]}, a {type(p).__name__} of {p.dtype}, cannot be updated by {part.spec.rule.__name__}: "
                f"{error}"
            ) from error


@final
class _Trial(Batch):
    """One parameter and its state, as copies, at a first step of length 0."""

    def __init__(self, part: Part, columns: Sequence[Sequence[Tensor]]) -> None:
        self.spec = part.spec
        self.coefficients = np.ones((1, len(part.spec.coefficients)))
        self.threads = 1
        self.table = np.zeros((1, len(columns) + 3), dtype=np.int64)
        self.table[0, -3] = columns[1][0].numel()
        self._columns = columns

    @property
    def columns(self) -> Sequence[Sequence[Tensor]]:
        return self._columns

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        raise TypeError("a tensor subclass is no NumPy array")
