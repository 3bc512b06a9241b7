"""Whose rows there are in what a step tells of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np

from gradstep.engines.base import Int64s

Detail = Literal["parameters", "groups"]
"""What has a row of statistics of its own: every parameter, or every group."""

DETAILS: tuple[Detail, ...] = get_args(Detail)

_FINENESS = {None: 0, "groups": 1, "parameters": 2}


def finest(wanted: Sequence[Detail | None]) -> Detail | None:
    """What satisfies all; None if nobody wants anything.

    Raises:
        ValueError: something else is wanted.
    """
    try:
        return max(wanted, key=_FINENESS.__getitem__)
    except (KeyError, TypeError) as error:
        given = next(detail for detail in wanted if detail not in (None, *DETAILS))
        raise ValueError(
            f"statistics can be had of {' or of '.join(map(repr, DETAILS))}, or None, but not of {given!r}"
        ) from error


@final
@dataclass(frozen=True, eq=False)
class Who:
    """Parameters or groups, as those are told who ask what became of them: it holds neither a parameter nor a gradient.

    Attributes:
        names: what they are called.
        index: (n,) the number of each among all of the optimizer, ascending.
        groups: (n,) the number of each one's group.
        elements: (n,) how many each has.
        owners: (parameters,) which of them each parameter counts for.
        key: the same as bytes, by which it can be looked up.
    """

    names: Sequence[str]
    index: Int64s
    groups: Int64s
    elements: Int64s
    owners: Int64s
    key: bytes

    @staticmethod
    def of(detail: Detail, names: Sequence[str], members: Int64s, groups: Int64s, elements: Int64s) -> Who:
        """These parameters, or their groups."""
        if detail == "parameters":
            every = np.arange(len(members))
            return Who(names, members, groups, elements, every, every.tobytes())
        present, first, owners = np.unique(groups, return_index=True, return_inverse=True)
        sums = np.add.reduceat(elements, first) if len(first) else elements
        return Who([f"group {group}" for group in present.tolist()], present, present, sums, owners, owners.tobytes())
