"""Paged state: every slot in memory-mapped files, of which a step has a few windows in memory at a time.

See :mod:`gradstep.storage.pages` for the files and the windows; here is which array belongs to which parameter.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import Pieces
from gradstep.optimizers.batch import TorchBatch
from gradstep.optimizers.state import filled
from gradstep.optimizers.storage import Stored, keys_of
from gradstep.storage.codecs import Field
from gradstep.storage.pages import Column, Item, PageFile, Pager, Preflight, plan_windows, preflight
from gradstep.storage.sizes import parse_bytes

BUDGET = "512MB"
SCALARS = "scalars"  # the array of step counts in each file


@final
@dataclass(frozen=True)
class Pages:
    """Where state is paged to.

    Attributes:
        folder: of the files; None for a temporary one, removed with the optimizer.
        budget: bytes of state that may be in memory.
        resume: go on with the files that an earlier run has left there, instead of refusing to overwrite them.
    """

    folder: Path | None = None
    budget: int = parse_bytes(BUDGET)
    resume: bool = False

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise ValueError(f"Invalid page budget: {self.budget} (must be more than 0 bytes)")
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"state is paged to a folder, and {self.folder} is a file: name another place")

    @classmethod
    def of(cls, paged: bool | str | Path | Pages, budget: str | int | None) -> Pages | None:
        """What a user's ``paged=`` and ``page_budget=`` mean; None for resident state.

        Raises:
            TypeError, ValueError: settings that mean nothing.
        """
        if isinstance(paged, Pages):
            if budget is not None:
                raise ValueError("page_budget= is given by Pages(budget=...) already")
            return paged
        if paged is False:
            if budget is not None:
                raise ValueError("page_budget= is for paged state: give paged=True or a folder")
            return None
        if not (paged is True or isinstance(paged, (str, Path))):
            raise TypeError(f"paged must be True, False, a folder or gradstep.Pages, but is {paged!r}")
        return cls(None if paged is True else Path(paged), parse_bytes(BUDGET if budget is None else budget))


@final
class Paged:
    """The page files of one optimizer."""

    def __init__(self, pages: Pages) -> None:
        self.pages = pages
        if pages.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="gradstep-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        else:
            self.folder = pages.folder
            self.folder.mkdir(parents=True, exist_ok=True)
        self._files: list[_File] = []

    def preflight(self, nbytes: int) -> Preflight:
        """Whether there is room for so many bytes, and how long a step takes if they have to come from the disk."""
        return preflight(self.folder, nbytes)

    def filled(
        self, parameters: Sequence[tuple[str, Tensor, Stored, dict[str, Any]]], scalars: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The state of parameters with every array in its page; parameters that have none yet get a file of their own.

        Args:
            parameters: name, parameter, how it is stored, and the state that there is.
            scalars: the names of the numbers kept once per parameter.

        Raises:
            OSError: the disk has no room.
            FileExistsError: there are files of an earlier run, and ``resume`` was not asked for.
            PageFileError: such files do not fit, or are not whole.
        """
        new = [(name, p, stored) for name, p, stored, _ in parameters if self._file_of(p) is None]
        if new:
            path = self.folder / f"state-{len(self._files)}.pages"
            self._files.append(_File(path, new, len(scalars), resume=self.pages.resume))
        entries, changed = [], False
        for name, p, stored, old in parameters:
            file = self._file_of(p)
            assert file is not None
            pages, known = file.tensors[id(p)], dict(old)
            if file.opened and "step" not in known:
                known.update(pages, **dict(zip(scalars, map(float, file.scalars[file.position(p)]), strict=True)))
            if "step" not in known and not file.used:  # a new file is full of zeros
                for slot, codec in zip(stored.slots, stored.codecs, strict=True):
                    if slot.name not in known and slot.fill == 0:
                        known.update({key: pages[key] for key in keys_of(slot, codec)}, step=0.0)
            entry = filled(p, stored, known, name)
            changed = changed or any(entry[key] is not pages[key] for key in pages)
            entries.append((pages, entry))
        if changed:
            anew = all(entry[key] is not pages[key] for pages, entry in entries for key in pages)
            with self.changing(anew=anew):
                for pages, entry in entries:
                    for key, place in pages.items():
                        entry[key] = place if entry[key] is place else place.copy_(entry[key])
        return [entry for _, entry in entries]

    def _file_of(self, p: Tensor) -> _File | None:
        return next((file for file in self._files if file.serves(p)), None)

    @contextmanager
    def changing(self, *, anew: bool = False) -> Iterator[None]:
        """What changes pages stands in this ``with``; if it is broken off, the files are not taken for whole.

        Ctrl-C waits until it is done: a step that has moved some of the weights cannot be taken back.
        """
        with _uninterrupted():
            for file in self._files:
                file.pages.begin(file.pages.step + 1, anew=anew)
            yield
            for file in self._files:
                file.used = True
                file.pages.commit(file.pages.step)

    def rows(self, params: Sequence[Tensor]) -> list[NDArray[np.int64]]:
        """For each file, where its parameters stand among these."""
        place = {id(p): k for k, p in enumerate(params)}
        return [np.array([place[id(p)] for p in file.params if id(p) in place]) for file in self._files]

    def keep(self, scalars: NDArray[np.float32], rows: Sequence[NDArray[np.int64]]) -> None:
        """Write the scalars of all parameters beside their state.

        Args:
            scalars: of every parameter.
            rows: which of them go to which file, from :meth:`rows`.
        """
        for file, taken in zip(self._files, rows, strict=True):
            if len(taken) == len(file.scalars):
                file.scalars[...] = scalars[taken]

    def walk(self, batch: TorchBatch) -> Iterator[Pieces | None]:
        """The work of a batch in windows; None means all of it at once."""
        total = sum(file.pages.layout.file_bytes for file in self._files)
        if total <= self.pages.budget:
            yield None
            return
        params = batch.columns[1]
        for file in self._files:
            mine = [k for k, p in enumerate(params) if file.serves(p)]
            if not mine:
                continue
            whole = not batch.part.engine.parts
            share = self.pages.budget * file.pages.layout.file_bytes // total
            pager = file.pager(tuple(id(params[k]) for k in mine), share, whole=whole)
            for window in pager.windows():
                pieces = [(mine[piece.item], piece.start, piece.stop) for piece in window.pieces]
                yield np.array(pieces, dtype=np.int64)


@final
class _File:
    """One page file and the parameters whose state it holds."""

    def __init__(
        self, path: Path, parameters: Sequence[tuple[str, Tensor, Stored]], scalars: int, *, resume: bool
    ) -> None:
        self.params = [p for _, p, _ in parameters]
        self._position = {id(p): k for k, p in enumerate(self.params)}
        self._facts = {id(p): (p.shape, p.dtype, p.stride()) for p in self.params}
        self._columns = {
            id(p): {key: (f"{k}: {name}.{key}", field) for key, field in stored.fields.items()}
            for k, (name, p, stored) in enumerate(parameters)
        }
        arrays = [(SCALARS, "float32", scalars * len(self.params))] + [
            (array, field.element.stored, field.length(p.numel()))
            for p in self.params
            for array, field in self._columns[id(p)].values()
        ]
        self.opened = resume and path.exists()
        self.pages = PageFile.open(path, arrays) if self.opened else PageFile.create(path, arrays)
        self.used = self.opened
        self.scalars = self.pages.array(SCALARS).reshape(len(self.params), scalars)
        self.tensors = {
            id(p): {
                key: _mapped(self.pages.array(array), field, p) for key, (array, field) in self._columns[id(p)].items()
            }
            for p in self.params
        }
        self._pagers: dict[Any, Pager] = {}

    def serves(self, p: Tensor) -> bool:
        """Whether the state of this parameter is here, and fits it still."""
        return self._facts.get(id(p)) == (p.shape, p.dtype, p.stride())

    def position(self, p: Tensor) -> int:
        """The number of a parameter in the file."""
        return self._position[id(p)]

    def pager(self, params: tuple[int, ...], budget: int, *, whole: bool) -> Pager:
        """Walks through the state of these parameters, given by their ``id``."""
        key = (params, budget, whole)
        if key not in self._pagers:
            items = [
                Item(
                    self.params[self._position[i]].numel(),
                    tuple(Column(array, field.per) for array, field in self._columns[i].values()),
                    whole=whole,
                )
                for i in params
            ]
            self._pagers = {key: Pager(self.pages, plan_windows(self.pages.layout, items, budget))}
        return self._pagers[key]


def _mapped(array: NDArray[Any], field: Field, p: Tensor) -> Tensor:
    """The array as a tensor in the parameter's layout of memory."""
    flat = torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
    flat = flat.view(getattr(torch, field.element.name))
    return flat if field.per > 1 else flat.as_strided(p.shape, torch.empty_like(p, device="meta").stride())


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block is done. (Only the main thread is ever interrupted.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *what: waiting.append(what))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting and callable(before):
        before(*waiting[0])
