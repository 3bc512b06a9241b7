"""The rehearsal of an update, on copies, for parameters whose class or type may refuse an operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import Batch
from gradstep.optimizers.memory import conform_gradient
from gradstep.optimizers.step.part import Part

COMMON_DTYPES = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex32, torch.complex64, torch.complex128}
)
"""The types in which torch has every operation of an update, so that plain tensors of them need no rehearsal."""


@torch.no_grad()
def rehearse(part: Part) -> None:
    """Try the update of each parameter on copies, for tensor subclasses and types other than :data:`COMMON_DTYPES`.

    Such a tensor may refuse an operation. In the middle of a step that would leave some parameters updated and others
    not, so each parameter is tried alone before the first step of a table.

    Raises:
        RuntimeError: a parameter, its gradient or its state refuses an operation; nothing was changed.
    """
    for k, p in enumerate(part.params):
        if p.grad is None or p.numel() == 0:
            continue
        gradient = conform_gradient(p, p.grad, part.names[k])
        try:
            p.detach().copy_(p.detach())  # raises if it cannot be written to
            columns = [gradient, p.detach().clone(), *(slot[k].detach().clone() for slot in part.slots)]
            part.engine.update(_TrialBatch(part, [[t] for t in columns]))
        except Exception as error:  # a subclass may raise anything
            raise RuntimeError(
                f"{part.names[k]}, a {type(p).__name__} of {p.dtype}, cannot be updated by {part.spec.rule.__name__}: "
                f"{error}"
            ) from error


@final
class _TrialBatch(Batch):
    """Copies of one parameter, its gradient and its state, at a first step of length 0."""

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
