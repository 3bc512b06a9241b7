"""What a conversion of state did to the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

FAR = 0.1
"""A relative error above this is counted."""


@final
@dataclass(frozen=True)
class Change:
    """One slot, over all parameters in which it was stored, and is, in the same way.

    Attributes:
        slot: its name.
        before, after: how it was stored, and is; after is ``"nothing"`` if it was dropped.
        parameters: in how many parameters.
        error: the largest relative error of one number, |new − old| / |old|.
        far: the share of the numbers other than 0 that are off by more than 10%: those that are small beside the
            largest of their block.
    """

    slot: str
    before: str
    after: str
    parameters: int
    error: float
    far: float

    @property
    def lossless(self) -> bool:
        """Whether every number is what it was."""
        return self.error == 0

    def __str__(self) -> str:
        what = f"{self.slot}: {self.before} → {self.after} in {self.parameters} parameter{'s' * (self.parameters > 1)}"
        if self.lossless:
            return f"{what}, lossless"
        if self.after == "nothing":
            return f"{what}, dropped"
        return f"{what}, off by at most {self.error:.2%}; {self.far:.2%} of the numbers by more than {FAR:.0%}"


@final
@dataclass(frozen=True)
class Conversion:
    """A converted state dictionary, and what that did to it.

    Attributes:
        state_dict: to be loaded.
        changes: slot by slot.
    """

    state_dict: dict[str, Any]
    changes: tuple[Change, ...]

    @property
    def lossless(self) -> bool:
        """Whether every number is what it was."""
        return all(change.lossless for change in self.changes)

    @property
    def losses(self) -> tuple[Change, ...]:
        """The slots that are not what they were."""
        return tuple(change for change in self.changes if not change.lossless)

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) or "no state"


@final
@dataclass(frozen=True)
class Seen:
    """One slot of one parameter.

    Attributes:
        slot, before, after: as in :class:`Change`.
        error: the largest relative error.
        far: how many numbers are far off.
        count: how many are not 0.
    """

    slot: str
    before: str
    after: str
    error: float
    far: int
    count: int


def seen(slot: str, before: str, after: str, old: Tensor, new: Tensor | None) -> Seen:
    """Compare a slot before and after; None for one that was dropped."""
    old = old.bfloat16() if old.dtype.itemsize == 1 else old  # of float8, torch has no arithmetic
    count = int(torch.count_nonzero(old))
    if new is None:
        return Seen(slot, before, after, float(count > 0), count, count)
    wide = torch.promote_types(old.dtype, new.dtype)
    old, new = old.to(wide), new.to(old.device, wide)
    same = (old == new) | (old.isnan() & new.isnan())
    error = ((new - old).abs() / old.abs()).masked_fill(same, 0.0)
    largest = float(error.nan_to_num(nan=torch.inf, posinf=torch.inf).max()) if error.numel() else 0.0
    return Seen(slot, before, after, largest, int((error > FAR).sum()), count)


def summed(found: Iterable[Seen]) -> tuple[Change, ...]:
    """Slot by slot, in the order in which they came."""
    by_kind: dict[tuple[str, str, str], list[Seen]] = {}
    for one in found:
        by_kind.setdefault((one.slot, one.before, one.after), []).append(one)
    return tuple(_changes(by_kind))


def _changes(by_kind: dict[tuple[str, str, str], list[Seen]]) -> Iterator[Change]:
    for (slot, before, after), members in by_kind.items():
        far, count = sum(m.far for m in members), sum(m.count for m in members)
        yield Change(slot, before, after, len(members), max(m.error for m in members), far / max(count, 1))
