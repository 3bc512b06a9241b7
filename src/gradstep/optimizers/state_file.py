"""A page file and the parameters whose state it holds: which array belongs to which."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from torch import Tensor

from gradstep.optimizers.placement import New, shaped
from gradstep.storage.pages import Column, Item, PageFile, PageFileError, Pager, Window, plan_windows
from gradstep.storage.pages.header import read_head

SCALARS = "scalars"  # the array of step counts in each file
SEED = "seed"  # one number: of the noise that the state was rounded with
_KEPT = 64  # sets of parameters whose windows are remembered


@final
class StateFile:
    """The state of some parameters, in one file."""

    def __init__(self, path: Path, parameters: Sequence[New], scalars: int, *, resume: bool) -> None:
        parameters = _by_kind(parameters)
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
            if len(self._pagers) > _KEPT:
                self._pagers.clear()
            self._pagers[key] = Pager(self.pages, [window for window in windows if window.pieces])
        return self._pagers[key]

    def _plan(self, budget: int, whole: bool) -> tuple[Window, ...]:
        items = [
            Item(p.numel(), tuple(Column(a, field.per) for a, field in self._columns[id(p)].values()), whole=whole)
            for p in self.params
        ]
        return plan_windows(self.pages.layout, items, budget)


def seed_in(path: Path) -> int | None:
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


def _by_kind(parameters: Sequence[New]) -> list[New]:
    """Parameters that are stored in the same way beside each other, as a step takes them; the fewest bytes first."""
    kinds: defaultdict[Any, list[New]] = defaultdict(list)
    for name, p, stored in parameters:
        kinds[p.dtype, tuple(stored.fields.items())].append((name, p, stored))
    sizes = {kind: sum(p.numel() for _, p, _ in members) for kind, members in kinds.items()}
    return [member for kind in sorted(kinds, key=sizes.__getitem__) for member in kinds[kind]]
