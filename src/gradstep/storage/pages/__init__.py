"""State in files: arrays mapped from the disk, of which a step has a few windows in memory at a time.

`PageFile` keeps the arrays and knows whether they are whole; `plan_windows` parts a step's work to fit a budget;
`Pager` walks through it; `preflight` says beforehand whether a folder has the room, and how fast it is.
"""

from gradstep.storage.pages.allocate import check_room
from gradstep.storage.pages.file import PageFile
from gradstep.storage.pages.header import PageFileError
from gradstep.storage.pages.layout import Layout
from gradstep.storage.pages.memory import resident_bytes
from gradstep.storage.pages.pager import Pager
from gradstep.storage.pages.preflight import Preflight, preflight
from gradstep.storage.pages.windows import Column, Item, Piece, Window, check_budget, parted, plan_windows

__all__ = [
    "Column",
    "Item",
    "Layout",
    "PageFile",
    "PageFileError",
    "Pager",
    "Piece",
    "Preflight",
    "Window",
    "check_budget",
    "check_room",
    "parted",
    "plan_windows",
    "preflight",
    "resident_bytes",
]
