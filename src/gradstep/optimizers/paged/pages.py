"""What a user's ``paged=`` and ``page_budget=`` mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from gradstep.storage.sizes import parse_bytes

BUDGET = "512MB"


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
