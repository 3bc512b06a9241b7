"""Where paged state is kept, and how a step gets at it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.optimizers.paged.pages import Pages
from gradstep.optimizers.state.storage import ParameterStorage
from gradstep.optimizers.step.batch import TorchBatch
from gradstep.storage.codecs import Field
from gradstep.storage.pages import Preflight

NewParameter = tuple[str, Tensor, ParameterStorage]
"""Name, parameter, and how it is stored."""

ParameterState = tuple[str, Tensor, ParameterStorage, dict[str, Any]]
"""Name, parameter, how it is stored, and the state that there is."""


class Placement(ABC):
    """State outside of the memory in which it is computed.

    Attributes:
        pages: what was asked for.
        on_host: whether it is on the CPU although the parameters are not.
        seed: of the noise that state is rounded with, kept beside the state where that outlives the process.
    """

    pages: Pages
    on_host: bool
    seed: int

    @abstractmethod
    def check_room(self, nbytes: int) -> None:
        """Refuse what there is no room for, before training.

        Raises:
            OSError, MemoryError: the room is too little.
        """

    @abstractmethod
    def saved_seed(self) -> int | None:
        """The seed of the noise of an earlier run that is resumed; None if there is none."""

    @abstractmethod
    def preflight(self, nbytes: int) -> Preflight:
        """Whether there is room for so many bytes, and how long a step takes if they have to come from the disk."""

    @abstractmethod
    def complete_state(self, parameters: Sequence[ParameterState], scalars: Sequence[str]) -> list[dict[str, Any]]:
        """The state of parameters with every array in its place; parameters that have none yet get places.

        Args:
            parameters: whose state.
            scalars: the names of the numbers kept once per parameter.

        Raises:
            OSError, MemoryError: there is no room.
        """

    @abstractmethod
    def open_for_update(self) -> AbstractContextManager[None]:
        """What changes state stands in this ``with``, which is inside :func:`~gradstep.engines.step.defer_signals`."""

    @abstractmethod
    def update(self, batch: TorchBatch) -> None:
        """Update the parameters of a batch and their state, part by part."""

    @abstractmethod
    def scalar_rows(self, params: Sequence[Tensor]) -> list[NDArray[np.int64]]:
        """For each of the places where scalars are kept, where its parameters stand among these."""

    @abstractmethod
    def save_scalars(self, scalars: NDArray[np.float32], rows: Sequence[NDArray[np.int64]]) -> None:
        """Write the scalars of all parameters beside their state, where that outlives the process.

        Args:
            scalars: of every parameter.
            rows: which of them go where, from :meth:`rows`.
        """


def shaped(array: NDArray[Any], field: Field, p: Tensor) -> Tensor:
    """A flat array as a tensor in the parameter's layout of memory; one number for many elements stays flat."""
    flat = torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
    flat = flat.view(getattr(torch, field.element.name))
    return flat if field.per > 1 else flat.as_strided(p.shape, torch.empty_like(p, device="meta").stride())
