"""Paged state in memory-mapped files, of which a step has a few windows in memory at a time.

See :mod:`gradstep.storage.pages` for files and windows.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import Pieces
from gradstep.optimizers.paged.pages import Pages
from gradstep.optimizers.paged.placement import NewParameter, ParameterState, Placement, shaped
from gradstep.optimizers.state.arrays import complete_state
from gradstep.optimizers.state.storage import keys_of
from gradstep.optimizers.step.batch import TorchBatch
from gradstep.storage.pages import (
    Column,
    Item,
    PageFile,
    PageFileError,
    Pager,
    Preflight,
    Window,
    check_room,
    plan_windows,
    preflight,
)
from gradstep.storage.pages.header import read_head

SCALARS = "scalars"  # the array of step counts in each file
SEED = "seed"  # one number: of the noise that the state was rounded with
_MAX_CACHED = 64  # sets of parameters whose windows are remembered


@final
class StateFile:
    """The state of some parameters, in one file."""

    def __init__(self, path: Path, parameters: Sequence[NewParameter], scalars: int, *, resume: bool) -> None:
        parameters = _group_by_kind(parameters)
        self.params = [p for _, p, _ in parameters]
        self._position = {id(p): k for k, p in enumerate(self.params)}
        self._facts = {id(p): (p.shape, p.dtype, p.stride()) for p in self.params}
        self._columns = {
            id(p): {key: (f"{k}: {name}.{key}", field) for key, field in stored.fields.items()}
            for k, (name, p, stored) in enumerate(parameters)
        }
        arrays = [(SCALARS, "float32", scalars * len(self.params)), (SEED, "uint64", 1)] + [
            (array, field.element.stored, field.length(p.numel()))
            for p in self.params
            for array, field in self._columns[id(p)].values()
        ]
        self.opened = resume and path.exists()
        self.pages = PageFile.open(path, arrays) if self.opened else PageFile.create(path, arrays)
        self.used = self.opened
        self.seed = self.pages.array(SEED)
        self.scalars = self.pages.array(SCALARS).reshape(len(self.params), scalars)
        self.tensors = {
            id(p): {
                key: shaped(self.pages.array(array), field, p) for key, (array, field) in self._columns[id(p)].items()
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

    def pager(self, params: Sequence[Tensor], budget: int, *, whole: bool) -> Pager:
        """Walks through the state of these parameters.

        The windows are those of all parameters of the file: a step that takes them kind by kind keeps to one budget.
        """
        mine = frozenset(self._position[id(p)] for p in params)
        key = (mine, budget, whole)
        if key not in self._pagers:
            windows = [
                replace(window, pieces=tuple(piece for piece in window.pieces if piece.item in mine))
                for window in self._plan(budget, whole)
            ]
            if len(self._pagers) > _MAX_CACHED:
                self._pagers.clear()
            self._pagers[key] = Pager(self.pages, [window for window in windows if window.pieces])
        return self._pagers[key]

    def _plan(self, budget: int, whole: bool) -> tuple[Window, ...]:
        items = [
            Item(p.numel(), tuple(Column(a, field.per) for a, field in self._columns[id(p)].values()), whole=whole)
            for p in self.params
        ]
        return plan_windows(self.pages.layout, items, budget)


def read_seed(path: Path) -> int | None:
    """The seed that a file of an earlier run holds; None if there is no such file, or none with a seed."""
    try:
        layout, _ = read_head(path)
    except (FileNotFoundError, PageFileError):
        return None
    if SEED not in layout.ranges:
        return None
    with path.open("rb") as file:
        file.seek(layout.ranges[SEED][0])
        return int.from_bytes(file.read(8), sys.byteorder)


def _group_by_kind(parameters: Sequence[NewParameter]) -> list[NewParameter]:
    """Parameters that are stored in the same way beside each other, as a step takes them; the fewest bytes first."""
    kinds: defaultdict[Any, list[NewParameter]] = defaultdict(list)
    for name, p, stored in parameters:
        kinds[p.dtype, tuple(stored.fields.items())].append((name, p, stored))
    sizes = {kind: sum(p.numel() for _, p, _ in members) for kind, members in kinds.items()}
    return [member for kind in sorted(kinds, key=sizes.__getitem__) for member in kinds[kind]]


@final
class FilePlacement(Placement):
    """The page files of one optimizer."""

    on_host = False

    def __init__(self, pages: Pages) -> None:
        self.pages, self.seed = pages, 0
        if pages.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="gradstep-"))
            weakref.finalize(self, _remove, self.folder, os.getpid())
        else:
            self.folder = pages.folder
            self.folder.mkdir(parents=True, exist_ok=True)
        self._files: list[StateFile] = []
        self._process = os.getpid()

    def check_room(self, nbytes: int) -> None:
        check_room(self.folder, nbytes)

    def saved_seed(self) -> int | None:
        return read_seed(self.folder / "state-0.pages") if self.pages.resume else None

    def preflight(self, nbytes: int) -> Preflight:
        return preflight(self.folder, nbytes)

    def complete_state(self, parameters: Sequence[ParameterState], scalars: Sequence[str]) -> list[dict[str, Any]]:
        """The state, as in :meth:`Placement.complete_state`, in files.

        Raises:
            OSError: the disk has no room.
            FileExistsError: there are files of an earlier run, and ``resume`` was not asked for.
            PageFileError: such files do not fit, or are not whole.
        """
        self._check_process()
        new = [(name, p, stored) for name, p, stored, _ in parameters if self._file_of(p) is None]
        for name, p, _ in new:
            if p.device.type != "cpu":
                raise ValueError(
                    "this optimizer's state is paged to files, for parameters on the CPU, "
                    f"and {name} is on {p.device}: make an optimizer for each device"
                )
        if new:
            path = self.folder / f"state-{len(self._files)}.pages"
            self._files.append(StateFile(path, new, len(scalars), resume=self.pages.resume))
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
            entry = complete_state(p, stored, known, name)
            changed = changed or any(entry[key] is not pages[key] for key in pages)
            entries.append((pages, entry))
        if changed:
            anew = all(entry[key] is not pages[key] for pages, entry in entries for key in pages)
            with self.open_for_update(anew=anew):
                for pages, entry in entries:
                    for key, place in pages.items():
                        entry[key] = place if entry[key] is place else place.copy_(entry[key])
        return [entry for _, entry in entries]

    def _file_of(self, p: Tensor) -> StateFile | None:
        return next((file for file in self._files if file.serves(p)), None)

    @contextmanager
    def open_for_update(self, *, anew: bool = False) -> Iterator[None]:
        """What changes pages stands in this ``with``; if it is broken off, the files are not taken for whole.

        Raises:
            RuntimeError: in a forked process, which shares the pages with the one that made them.
        """
        self._check_process()
        for file in self._files:
            file.pages.begin(file.pages.step + 1, anew=anew)
            file.seed[:] = self.seed % 2**64
        yield
        for file in self._files:
            file.used = True
            file.pages.commit(file.pages.step)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"the state of this optimizer is paged to files of process {self._process}, which a forked process "
                "would change under it: step on copy.deepcopy(optimizer), whose pages are its own"
            )

    def scalar_rows(self, params: Sequence[Tensor]) -> list[NDArray[np.int64]]:
        place = {id(p): k for k, p in enumerate(params)}
        return [np.array([place[id(p)] for p in file.params if id(p) in place]) for file in self._files]

    def save_scalars(self, scalars: NDArray[np.float32], rows: Sequence[NDArray[np.int64]]) -> None:
        for file, taken in zip(self._files, rows, strict=True):
            if len(taken) == len(file.scalars):
                file.scalars[...] = scalars[taken]

    def update(self, batch: TorchBatch) -> None:
        batch.run(self._windows(batch))

    def _windows(self, batch: TorchBatch) -> Iterator[Pieces | None]:
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
            share = self.pages.budget * file.pages.layout.file_bytes // total
            pager = file.pager([params[k] for k in mine], share, whole=not batch.part.engine.parts)
            place = {file.position(params[k]): k for k in mine}
            for window in pager.windows():
                pieces = [(place[piece.item], piece.start, piece.stop) for piece in window.pieces]
                yield np.array(pieces, dtype=np.int64)


def _remove(folder: Path, process: int) -> None:
    """Remove a temporary folder, at the end of the process that made it and of no other."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
