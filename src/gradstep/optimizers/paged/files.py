"""Paged state in memory-mapped files; a step has a few windows of them in memory at a time.

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
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import Pieces, StepBatch
from gradstep.engines.statistics import Tally, add_rows, count_rows, empty_table
from gradstep.optimizers.paged.placement import NewParameter, ParameterState, Placement, shaped
from gradstep.optimizers.state.arrays import complete_state
from gradstep.optimizers.state.storage import Storage
from gradstep.storage.elements import NOISES
from gradstep.storage.pages import (
    Item,
    PageColumn,
    PageFile,
    PageFileError,
    Pager,
    PageWindow,
    Preflight,
    check_room,
    plan_windows,
    preflight,
)
from gradstep.storage.pages.header import read_head
from gradstep.storage.policy import Pages, keys_of

SCALARS = "scalars"  # the array of step counts in each file
SEED = "seed"  # an array of one number: the seed of the rounding noise
NOISE = "noise"  # an array of one number: index in NOISES of what identifies a parameter; older files lack it
FIRST = "state-0.pages"  # the name of an optimizer's first file
_MAX_CACHED = 64  # sets of parameters with cached windows


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
        self.opened = resume and path.exists()
        arrays: list[tuple[str, Any, int]] = [(SCALARS, "float32", scalars * len(self.params)), (SEED, "uint64", 1)]
        if not self.opened or _has_noise(path):
            arrays.append((NOISE, "uint64", 1))
        arrays += [
            (array, field.element.stored, field.length(p.numel()))
            for p in self.params
            for array, field in self._columns[id(p)].values()
        ]
        self.pages = PageFile.open(path, arrays) if self.opened else PageFile.create(path, arrays)
        self.used = self.opened
        self._noise = [(self.pages.array(name), name) for name, *_ in arrays if name in (SEED, NOISE)]
        self.scalars = self.pages.array(SCALARS).reshape(len(self.params), scalars)
        self.tensors = {
            id(p): {
                key: shaped(self.pages.array(array), field, p) for key, (array, field) in self._columns[id(p)].items()
            }
            for p in self.params
        }
        self._pagers: dict[Any, Pager] = {}

    def serves(self, p: Tensor) -> bool:
        """Return whether this file has the parameter's state, for its present shape, type and strides."""
        return self._facts.get(id(p)) == (p.shape, p.dtype, p.stride())

    def save_noise(self, storage: Storage) -> None:
        """Write the seed of the rounding noise, and how it knows parameters."""
        for array, name in self._noise:
            array[:] = storage.seed % 2**64 if name == SEED else NOISES.index(storage.noise)

    def position(self, p: Tensor) -> int:
        """Return the number of a parameter in the file."""
        return self._position[id(p)]

    def pager(self, params: Sequence[Tensor], budget: int, *, whole: bool) -> Pager:
        """Return the pager that walks through the state of these parameters.

        Its windows are planned for all parameters of the file, so that batches of different parameters share one
        budget.

        Args:
            params: the parameters to update.
            budget: bytes that may be in memory.
            whole: whether a parameter must not be divided among windows.
        """
        positions = frozenset(self._position[id(p)] for p in params)
        key = (positions, budget, whole)
        if key not in self._pagers:
            windows = [
                replace(window, pieces=tuple(piece for piece in window.pieces if piece.item in positions))
                for window in self._plan(budget, whole)
            ]
            if len(self._pagers) > _MAX_CACHED:
                self._pagers.clear()
            self._pagers[key] = Pager(self.pages, [window for window in windows if window.pieces])
        return self._pagers[key]

    def _plan(self, budget: int, whole: bool) -> tuple[PageWindow, ...]:
        items = [
            Item(p.numel(), tuple(PageColumn(a, field.per) for a, field in self._columns[id(p)].values()), whole=whole)
            for p in self.params
        ]
        return plan_windows(self.pages.layout, items, budget)


def read_noise(path: Path, storage: Storage) -> Storage:
    """Return the storage with the noise of an earlier run's file; unchanged without such a file, or noise in it."""
    try:
        layout, _ = read_head(path)
    except (FileNotFoundError, PageFileError):
        return storage
    numbers = {NOISE: NOISES.index("positions")}
    with path.open("rb") as file:
        for name in {SEED, NOISE} & layout.ranges.keys():
            file.seek(layout.ranges[name][0])
            numbers[name] = int.from_bytes(file.read(8), sys.byteorder)
    return replace(storage, seed=numbers[SEED], noise=NOISES[numbers[NOISE]]) if SEED in numbers else storage


def _has_noise(path: Path) -> bool:
    try:
        return NOISE in read_head(path)[0].ranges
    except PageFileError:  # opening it says why
        return True


def rank_folder(folder: Path) -> Path:
    """Return this rank's own folder in a folder of pages; the folder itself without other ranks, or if it has pages.

    >>> rank_folder(Path("pages"))  # in a process of its own
    PosixPath('pages')
    """
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if ranks == 1 or (folder / FIRST).exists():
        return folder
    return folder / f"rank-{dist.get_rank()}"


def _group_by_kind(parameters: Sequence[NewParameter]) -> list[NewParameter]:
    """Sort parameters so that those with the same storage are neighbours; the kind with the fewest elements first."""
    kinds: defaultdict[Any, list[NewParameter]] = defaultdict(list)
    for name, p, stored in parameters:
        kinds[p.dtype, tuple(stored.fields.items())].append((name, p, stored))
    sizes = {kind: sum(p.numel() for _, p, _ in members) for kind, members in kinds.items()}
    return [member for kind in sorted(kinds, key=sizes.__getitem__) for member in kinds[kind]]


@final
class FilePlacement(Placement):
    """State in the page files of one optimizer, for parameters on the CPU."""

    on_host = False

    def __init__(self, pages: Pages) -> None:
        self.pages, self.storage = pages, Storage()
        if pages.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="gradstep-"))
            weakref.finalize(self, _remove, self.folder, os.getpid())
        else:
            self.folder = rank_folder(pages.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        self._files: list[StateFile] = []
        self._process = os.getpid()

    def check_room(self, nbytes: int) -> None:
        check_room(self.folder, nbytes)

    def saved_noise(self, storage: Storage) -> Storage:
        return read_noise(self.folder / FIRST, storage) if self.pages.resume else storage

    def preflight(self, nbytes: int) -> Preflight:
        return preflight(self.folder, nbytes)

    def complete_state(self, parameters: Sequence[ParameterState], scalars: Sequence[str]) -> list[dict[str, Any]]:
        """Return the state as :meth:`Placement.complete_state` does, in files.

        Raises:
            OSError: the disk has not enough room.
            FileExistsError: there are files of an earlier run, and ``resume`` is False.
            PageFileError: such files do not fit, or are incomplete.
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
            pages, present = file.tensors[id(p)], dict(old)
            if file.opened and "step" not in present:
                numbers = dict(zip(scalars, map(float, file.scalars[file.position(p)]), strict=True))
                present.update(pages, **{key: numbers[key] for key in ("step", *stored.scalars)})
            if "step" not in present and not file.used:  # a new file is full of zeros
                for slot, codec in zip(stored.slots, stored.codecs, strict=True):
                    if slot.name not in present and slot.fill == 0:
                        present.update({key: pages[key] for key in keys_of(slot, codec)}, step=0.0)
            entry = complete_state(p, stored, present, name)
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
        """Return the context in which pages may change; if it is interrupted, the files count as incomplete.

        Raises:
            RuntimeError: in a forked process, which shares the pages with the process that made them.
        """
        self._check_process()
        for file in self._files:
            file.pages.begin(file.pages.step + 1, anew=anew)
            file.save_noise(self.storage)
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
        for file, positions in zip(self._files, rows, strict=True):
            if len(positions) == len(file.scalars):
                file.scalars[...] = scalars[positions]

    def update(self, batch: StepBatch) -> None:
        owners = batch.owners
        table, finite = empty_table(0 if owners is None else count_rows(owners)), True
        for pieces in self._windows(batch):
            batch.pieces = pieces
            batch.engine.update(batch)
            if owners is not None:
                add_rows(table, np.arange(len(table)), batch.tally.table)
                finite = finite and batch.tally.finite
        batch.tally = Tally(table, finite)

    def _windows(self, batch: StepBatch) -> Iterator[Pieces | None]:
        """Yield the pieces of a batch window by window; None for the whole batch at once."""
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
            pager = file.pager([params[k] for k in mine], share, whole=not batch.engine.parts)
            place = {file.position(params[k]): k for k in mine}
            for window in pager.windows():
                pieces = [(place[piece.item], piece.start, piece.stop) for piece in window.pieces]
                yield np.array(pieces, dtype=np.int64)


def _remove(folder: Path, process: int) -> None:
    """Remove a temporary folder, but only in the process that made it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
