"""What the CUDA engine needs of torch: a card's properties, its current stream, bytes in its memory; and a launch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.cuda import THREADS
from gradstep.engines.cuda.driver import CudaDriver


class Card(ABC):
    """A device whose memory torch manages, and on whose streams it works.

    Attributes:
        name: its name in messages.
        capability: the version of its instructions, such as (8, 0).
        processors: the number of its multiprocessors.
    """

    name: str
    capability: tuple[int, int]
    processors: int

    @abstractmethod
    def use(self) -> AbstractContextManager[int]:
        """Return a context in which this card's context is current in the calling thread; it gives torch's stream."""

    @abstractmethod
    def upload(self, numbers: NDArray[Any]) -> Tensor:
        """Return a copy (bytes,) uint8 of an array in the card's memory, for the current stream; without waiting."""

    @abstractmethod
    def is_capturing(self) -> bool:
        """Return whether the current stream records a CUDA graph instead of running."""


@final
class TorchCard(Card):
    """A card of torch's, by its number among those that torch sees."""

    def __init__(self, number: int) -> None:
        self._device = torch.device("cuda", number)
        properties = torch.cuda.get_device_properties(number)
        self.name = f"{properties.name} (cuda:{number})"
        self.capability = properties.major, properties.minor
        self.processors = properties.multi_processor_count

    @contextmanager
    def use(self) -> Iterator[int]:
        with torch.cuda.device(self._device):
            yield torch.cuda.current_stream(self._device).cuda_stream

    def upload(self, numbers: NDArray[Any]) -> Tensor:
        # torch's allocator of pinned memory gives the copy's source to nobody else before the copy is done, and its
        # allocator of the card's memory does the same with the copy, on the stream that was current here.
        source = torch.from_numpy(np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)).pin_memory()
        return source.to(self._device, non_blocking=True)

    def is_capturing(self) -> bool:
        return torch.cuda.is_current_stream_capturing()


BLOCKS_PER_PROCESSOR = 8
"""Blocks that a launch has for each multiprocessor: as many threads as one can hold. Not tuned on a device."""


def launch_pieces(
    driver: CudaDriver, card: Card, kernel: int, stream: int, tables: Sequence[Tensor], pieces: int
) -> None:
    """Put a kernel on a stream, with enough blocks for the card or for the pieces.

    Args:
        driver, card: the driver, and the card, whose context must be current.
        kernel: the kernel, loaded there.
        stream: the current stream.
        tables: of tensors, of pieces, of coefficients, uploaded for the stream. torch gives their memory only to
            work that follows on it, so they may be dropped before the kernel has run.
        pieces: the number of pieces, at least 1.

    Raises:
        DriverError: the launch failed.
    """
    blocks = min(pieces, BLOCKS_PER_PROCESSOR * card.processors)
    driver.launch(kernel, blocks, THREADS, stream, [*(table.data_ptr() for table in tables), pieces])
