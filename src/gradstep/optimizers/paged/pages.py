"""The user's settings ``paged=`` and ``page_budget=``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from gradstep.storage.sizes import parse_bytes

BUDGET = "512MB"


@final
@dataclass(frozen=True)
class Pages:
    """The folder and the memory budget of paged state.

    Attributes:
        folder: the folder of the files; None for a temporary one that is removed with the optimizer.
        budget: bytes of state that may be in memory.
        resume: continue with the files of an earlier run in the folder; otherwise they are never overwritten, and an
            error is raised.
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
        """Return the settings that ``paged=`` and ``page_budget=`` give; None for state in memory.

        Raises:
            TypeError, ValueError: invalid settings.
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
