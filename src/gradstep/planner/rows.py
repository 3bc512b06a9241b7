"""Where everything is, and how much of it on each device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from gradstep.planner.items import GATHERED, Item
from gradstep.planner.options import SHARDINGS, Choice
from gradstep.planner.request import Request


@final
@dataclass(frozen=True)
class Row:
    """One kind of memory.

    Attributes:
        name: what is kept; a slot of state by its own name.
        kind: ``"weights"``, ``"gradients"``, ``"state"`` or ``"extra"``.
        nbytes: how much of it, on each GPU where there are several.
        place: ``"device"`` (the GPU; for a plan on the CPU the machine's memory), ``"host"`` or ``"disk"``.
        note: what to know about the figure.
    """

    name: str
    kind: str
    nbytes: int
    place: str = "device"
    note: str = ""


def rows(request: Request, choice: Choice, whole: Sequence[Item]) -> Iterator[Row]:
    """What is kept where.

    Args:
        request: what is asked about.
        choice: how things are stored.
        whole: the :func:`items` of both.
    """
    stage = SHARDINGS.index(choice.sharded)
    outside = "host" if request.gpus else "disk"
    paged = 0
    for item in whole:
        if item.name == GATHERED and choice.sharded != "weights":
            continue
        dealt = bool(item.dealt) and SHARDINGS.index(item.dealt) <= stage
        nbytes = -(-item.nbytes // request.gpus) if dealt else item.nbytes
        leaves = choice.paged and item.pageable
        paged += nbytes if leaves else 0
        yield Row(item.name, item.kind, nbytes, outside if leaves else "device", item.note)
    if choice.paged:
        yield Row("pages in memory", "extra", min(request.pages, paged))
