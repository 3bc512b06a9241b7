"""Where gradstep and torch.optim are meant to differ. `docs/fuzzing.md` shows this table."""

from __future__ import annotations

import re
from typing import NamedTuple

from fuzzing.cases import Case


class Difference(NamedTuple):
    """A difference that is meant.

    Attributes:
        name: what it is.
        ours: pattern of what gradstep does (``"goes on"``, or its error).
        theirs: pattern of what torch does.
        where: pattern of what is unusual in the case.
        reason: why.
    """

    name: str
    ours: str
    theirs: str
    where: str
    reason: str


DIFFERENCES: tuple[Difference, ...] = ()


def explained(case: Case, ours: str, theirs: str) -> str:
    """The name of the difference that is meant; nothing if none is."""
    for known in DIFFERENCES:
        if all(
            re.search(pattern, text)
            for pattern, text in ((known.ours, ours), (known.theirs, theirs), (known.where, case.kind))
        ):
            return known.name
    return ""
