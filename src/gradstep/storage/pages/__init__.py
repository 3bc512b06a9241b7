"""State in files: arrays mapped from the disk, with a few windows of them in memory at a time during a step.

`PageFile` stores the arrays and checks that they are whole; `plan_windows` splits a step's work to fit a budget;
`Pager` walks through the windows; `preflight` checks the room in a folder beforehand, and measures its speed.
"""

from gradstep.storage.pages.allocate import check_room
from gradstep.storage.pages.file import PageFile
from gradstep.storage.pages.header import PageFileError
from gradstep.storage.pages.layout import Layout
from gradstep.storage.pages.memory import resident_bytes
from gradstep.storage.pages.preflight import Preflight, preflight
from gradstep.storage.pages.windows import (
    Item,
    PageColumn,
    Pager,
    PageWindow,
    Piece,
    check_budget,
    plan_windows,
    split_work,
)

__all__ = [
    "Item",
    "Layout",
    "PageColumn",
    "PageFile",
    "PageFileError",
    "PageWindow",
    "Pager",
    "Piece",
    "Preflight",
    "check_budget",
    "check_room",
    "plan_windows",
    "preflight",
    "resident_bytes",
    "split_work",
]
