"""Paged state: every slot in memory-mapped files, of which a step has a few windows in memory at a time.

See :mod:`gradstep.storage.pages` for files and windows, and :mod:`gradstep.optimizers.state_file` for which array
belongs to which parameter.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradstep.engines.base import Pieces
from gradstep.optimizers.batch import TorchBatch
from gradstep.optimizers.pages import Pages
from gradstep.optimizers.placement import Placement, Wanted
from gradstep.optimizers.state import filled
from gradstep.optimizers.state_file import StateFile, seed_in
from gradstep.optimizers.storage import keys_of
from gradstep.storage.pages import Preflight, check_room, preflight


@final
class Paged(Placement):
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
        return seed_in(self.folder / "state-0.pages") if self.pages.resume else None

    def preflight(self, nbytes: int) -> Preflight:
        return preflight(self.folder, nbytes)

    def filled(self, parameters: Sequence[Wanted], scalars: Sequence[str]) -> list[dict[str, Any]]:
        """The state, as in :meth:`Placement.filled`, in files.

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

    def _file_of(self, p: Tensor) -> StateFile | None:
        return next((file for file in self._files if file.serves(p)), None)

    @contextmanager
    def changing(self, *, anew: bool = False) -> Iterator[None]:
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

    def rows(self, params: Sequence[Tensor]) -> list[NDArray[np.int64]]:
        place = {id(p): k for k, p in enumerate(params)}
        return [np.array([place[id(p)] for p in file.params if id(p) in place]) for file in self._files]

    def keep(self, scalars: NDArray[np.float32], rows: Sequence[NDArray[np.int64]]) -> None:
        for file, taken in zip(self._files, rows, strict=True):
            if len(taken) == len(file.scalars):
                file.scalars[...] = scalars[taken]

    def update(self, batch: TorchBatch) -> None:
        batch.run(self._walk(batch))

    def _walk(self, batch: TorchBatch) -> Iterator[Pieces | None]:
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
