"""The CUDA engine: one launch of a rule's kernel for all parameters of one spec and device, after a check of it there.

It has not been run on a device. What a CPU can prove of it, the tests do with a stand-in for the driver.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import final

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.base import KEY, Batch, Engine, Traits
from gradstep.engines.cuda.card import Card, TorchCard, launch_pieces
from gradstep.engines.cuda.driver import CudaDriver, DriverError, open_driver
from gradstep.engines.foreach import Foreach
from gradstep.engines.fused import divide_pieces
from gradstep.engines.statistics import Int64s
from gradstep.rules import Rule
from gradstep.storage.elements import ELEMENTS, move_keys
from gradstep.storage.policy import UpdateSpec
from gradstep.switches import is_switched_off
from gradstep.warn import warn_user

SWITCH = "GRADSTEP_CUDA_KERNELS"
"""The environment variable that switches all kernels off."""

OLDEST = (8, 0)
"""The oldest version of a card's instructions that has all that a kernel uses."""

PIECE_ELEMENTS = 8_192
"""Elements of the pieces into which large tensors are divided: 8 vectors of a thread. Not tuned on a device."""


class KernelRefusedError(RuntimeError):
    """A kernel cannot be used on a card, for the reason given."""


@final
class FusedCuda(Engine):
    """One kernel call for all parameters of one spec on one card: it reads, updates and writes each once.

    At its first use on a card a kernel updates a few thousand elements there, which must be the reference's bit for
    bit. If they are not, the engine refuses the parameters with a warning. The engine `foreach` takes norms, steps with
    statistics, and steps that are recorded in a CUDA graph.

    Args:
        device: the type of torch's devices that it serves.
        find_driver: returns the driver, or raises DriverError.
        find_card: returns a card by its number.
    """

    name = "fused"
    parts = False
    by_address = True

    def __init__(
        self,
        device: str = "cuda",
        find_driver: Callable[[], CudaDriver] = open_driver,
        find_card: Callable[[int], Card] = TorchCard,
    ) -> None:
        self._device, self._find_driver, self._find_card = device, find_driver, find_card
        self._foreach = Foreach()
        self._lock = threading.RLock()
        self._cards: dict[int, Card] = {}
        self._kernels: dict[tuple[UpdateSpec, int], int | str] = {}
        self._upload = lru_cache(maxsize=128)(self._upload_bytes)

    def refuse(self, rule: type[Rule], traits: Traits) -> str | None:
        if rule.sees != "elements":
            return f"{rule.__name__} looks at whole tensors (means, rows, products), the kernel at single elements"
        if traits.device != self._device:
            return f"it is on {traits.device} and the kernel runs on {self._device}"
        if traits.dtype not in ELEMENTS:
            return f"the kernel has no codec for {traits.dtype} (it has {', '.join(ELEMENTS)})"
        if not traits.plain:
            return "it is a tensor subclass, or has no memory of its own"
        if not traits.dense:
            return "its memory has gaps or overlaps"
        try:
            self._find_driver_and_card(traits.number)
            if traits.spec is not None:
                self._find_kernel(traits.spec, traits.number)
        except (DriverError, KernelRefusedError) as error:
            return str(error)
        return None

    def update(self, batch: Batch) -> None:
        number = batch.columns[1][0].device.index or 0
        try:
            driver, card = self._find_driver_and_card(number)
            with card.use() as stream:
                kernel = None
                if batch.owners is None and not card.is_capturing():
                    kernel = self._find_kernel(batch.spec, number)
                    self._launch(driver, card, kernel, stream, number, batch)
        except KernelRefusedError:
            kernel = None
        if kernel is None:
            self._foreach.update(batch)

    @torch.no_grad()
    def _launch(self, driver: CudaDriver, card: Card, kernel: int, stream: int, number: int, batch: Batch) -> None:
        pieces = batch.pieces
        work = _divide(batch.lengths_key if pieces is None else pieces.tobytes(), whole=pieces is None)
        if not len(work):
            return
        table = np.ascontiguousarray(batch.table) if batch.starts is None else _address_parts(batch, batch.starts)
        if batch.spec.noise:  # its keys are others at each step
            tensors = card.upload(table)
        else:
            tensors = self._upload(table.tobytes(), number, stream)
        places = self._upload(work.tobytes(), number, stream)
        coefficients = card.upload(np.ascontiguousarray(batch.coefficients, dtype=batch.spec.arithmetic))
        launch_pieces(driver, card, kernel, stream, (tensors, places, coefficients), len(work))

    def sum_squares(self, batch: Batch) -> float:
        return self._foreach.sum_squares(batch)

    def _upload_bytes(self, content: bytes, number: int, stream: int) -> Tensor:
        """Return bytes in a card's memory; cached for a stream, on which uses follow the upload in order."""
        del stream
        return self._cards[number].upload(np.frombuffer(bytearray(content), dtype=np.uint8))

    def _find_driver_and_card(self, number: int) -> tuple[CudaDriver, Card]:
        """Return the driver and a card.

        Raises:
            DriverError: there is no driver.
            KernelRefusedError: kernels are switched off, or the card is too old.
        """
        if is_switched_off(SWITCH):
            raise KernelRefusedError(f"{SWITCH}={os.environ[SWITCH]} switches its kernels off")
        driver = self._find_driver()
        with self._lock:
            if number not in self._cards:
                self._cards[number] = self._find_card(number)
        card = self._cards[number]
        if card.capability < OLDEST:
            version = "{}.{}".format(*card.capability)
            raise KernelRefusedError(f"{card.name} has compute capability {version} and the kernel needs 8.0")
        return driver, card

    def _find_kernel(self, spec: UpdateSpec, number: int) -> int:
        """Return the kernel of an update on a card, which has been checked there.

        Raises:
            KernelRefusedError: it cannot be assembled, or computes other numbers than the reference; or it was not
                checked yet, and cannot be while the stream records a graph.
        """
        with self._lock:
            found = self._kernels.get((spec, number))
            if found is None:
                found = self._kernels[spec, number] = self._make_kernel(spec, number)
        if isinstance(found, str):
            raise KernelRefusedError(found)
        return found

    def _make_kernel(self, spec: UpdateSpec, number: int) -> int | str:
        """Load and check a kernel, and return it; or, with a warning, the reason why it is not used.

        Raises:
            KernelRefusedError: the stream records a graph.
        """
        from gradstep.engines.cuda.check import count_differences  # with LLVM, which is slow to import
        from gradstep.engines.cuda.ptx import emit_ptx

        driver, card = self._find_driver_and_card(number)
        with card.use() as stream:
            if card.is_capturing():
                raise KernelRefusedError("its kernel was not checked before a CUDA graph was recorded")
            try:
                card.upload(np.zeros(1))  # torch makes the card's context, if it has not yet
                kernel = driver.load(emit_ptx(spec))
            except ValueError as error:  # the rule and the storage have no kernel
                return str(error)
            except DriverError as error:
                fault = f"its kernel cannot be loaded on {card.name}: {error}"
            else:
                try:
                    differences, elements = count_differences(driver, card, kernel, stream, spec)
                except RuntimeError as error:
                    raise RuntimeError(
                        f"the check of the kernel of {spec.rule.__name__} has failed on {card.name}; set {SWITCH}=0 in "
                        f"the environment to train without kernels: {error}"
                    ) from error
                if not differences:
                    return kernel
                fault = f"its kernel computed {differences} of {elements} numbers wrongly on {card.name}"
        storage = ", ".join(codec.name for codec in spec.codecs)
        warn_user(
            f"gradstep's kernel of {spec.rule.__name__} (gradient, parameter and slots: {storage}) is not used, "
            f"because {fault}. The step goes on without it, slower. Please report it with this text, your driver's "
            f"version and torch.__version__; {SWITCH}=0 in the environment avoids the check"
        )
        return fault


@lru_cache(maxsize=64)
def _divide(key: bytes, *, whole: bool) -> Int64s:
    """Return (pieces, 3) the pieces of tensors by their lengths, or of parts of tensors, as bytes of int64."""
    numbers = np.frombuffer(key, dtype=np.int64)
    if whole:
        numbers = np.column_stack((np.arange(len(numbers)), np.zeros_like(numbers), numbers))
    return divide_pieces(numbers.reshape(-1, 3), size=PIECE_ELEMENTS).pieces


def _address_parts(batch: Batch, starts: Int64s) -> Int64s:
    """Return the table of a batch of parts of parameters, whose own table has the addresses of whole ones.

    Args:
        batch: the batch.
        starts: (n,) the number of the first element of each part.
    """
    table: Int64s = batch.table.copy()
    for j, column in enumerate(batch.columns):
        table[:, j] = [part.data_ptr() for part in column]
    table[:, KEY] = move_keys(table[:, KEY], starts)
    return table
