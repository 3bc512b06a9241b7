"""The interface of placements: where paged state is stored, and how a step updates it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import StepBatch
from gradstep.optimizers.state.storage import Storage
from gradstep.storage.codecs import Field
from gradstep.storage.pages import Preflight
from gradstep.storage.policy import Pages, ParameterStorage

NewParameter = tuple[str, Tensor, ParameterStorage]
"""A parameter's name, the parameter, and its codecs."""

ParameterState = tuple[str, Tensor, ParameterStorage, dict[str, Any]]
"""A parameter's name, the parameter, its codecs, and its state so far."""


class Placement(ABC):
    """State that is stored outside the memory in which it is updated.

    Attributes:
        pages: the user's settings.
        on_host: whether the state is on the CPU although the parameters are not.
        storage: has the seed of the rounding noise, saved beside the state if that outlives the process.
    """

    pages: Pages
    on_host: bool
    storage: Storage

    @abstractmethod
    def check_room(self, nbytes: int) -> None:
        """Check before training that there is room for so many bytes of state.

        Raises:
            OSError, MemoryError: there is not enough room.
        """

    @abstractmethod
    def saved_noise(self, storage: Storage) -> Storage:
        """Return the storage with the noise of an earlier run that is resumed, if there is such a run."""

    @abstractmethod
    def preflight(self, nbytes: int) -> Preflight:
        """Return whether there is room for so many bytes, and the time of a step that reads them from the disk."""

    @abstractmethod
    def complete_state(self, parameters: Sequence[ParameterState], scalars: Sequence[str]) -> list[dict[str, Any]]:
        """Return the state of each parameter with every array in the placement's memory, allocated if necessary.

        Args:
            parameters: the parameters with their state so far.
            scalars: the names of the numbers kept once per parameter, of all rules.

        Raises:
            OSError, MemoryError: there is not enough room.
        """

    @abstractmethod
    def open_for_update(self) -> AbstractContextManager[None]:
        """Return the context in which state may change, entered inside :func:`~gradstep.engines.step.defer_signals`."""

    @abstractmethod
    def update(self, batch: StepBatch) -> None:
        """Update the parameters of a batch and their state, part by part."""

    @abstractmethod
    def scalar_rows(self, params: Sequence[Tensor]) -> list[NDArray[np.int64]]:
        """Return for each file the positions of its parameters in ``params``, as rows of :meth:`save_scalars`."""

    @abstractmethod
    def save_scalars(self, scalars: NDArray[np.float32], rows: Sequence[NDArray[np.int64]]) -> None:
        """Write the scalars of all parameters beside their state, if that outlives the process.

        Args:
            scalars: (parameters, scalars) of every parameter.
            rows: the rows for each file, from :meth:`scalar_rows`.
        """


def shaped(array: NDArray[Any], field: Field, p: Tensor) -> Tensor:
    """Return a flat array as a tensor in the parameter's shape and strides; a field with one number per block is flat.

    Args:
        array: (field.length(p.numel()),).
    """
    flat = torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
    flat = flat.view(getattr(torch, field.element.name))
    return flat if field.per > 1 else flat.as_strided(p.shape, torch.empty_like(p, device="meta").stride())
