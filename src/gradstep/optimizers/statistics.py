"""What one step did to every parameter, gathered from the engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import Int64s
from gradstep.optimizers.batch import TorchBatch

Float64s = NDArray[np.float64]


@final
@dataclass(frozen=True)
class Statistics:
    """The parameters that one step updated, in the order of ``param_groups``; every array has one entry for each.

    Attributes:
        names: what they are called.
        index: which one each is, counted over all groups.
        groups: the number of each one's group.
        elements: how many it has.
        grad_square: sum of squares of its gradient, unscaled and before clipping.
        param_square: of the parameter after the step.
        update_square: of what the step changed in it, as stored.
        unmoved: how many elements with a gradient that is not 0 are stored as before: rounding lost their update.
        second_min, second_max: smallest and largest value of the first slot that is never negative (Adam's second
            moment); NaN if there is none.
    """

    names: Sequence[str]
    index: Int64s
    groups: Int64s
    elements: Int64s
    grad_square: Float64s
    param_square: Float64s
    update_square: Float64s
    unmoved: Float64s
    second_min: Float64s
    second_max: Float64s


def gathered(batches: Sequence[TorchBatch], clip: float) -> Statistics:
    """The statistics of watched batches after their update.

    Args:
        batches: of one step.
        clip: what clipping multiplied the gradients by.
    """
    if not batches:
        nothing = np.empty(0)
        none = np.empty(0, np.int64)
        return Statistics([], none, none, none, *[nothing] * 6)
    names, table = batches[0].names, batches[0].statistics
    index, groups, elements = batches[0].members, batches[0].groups, batches[0].lengths.copy()
    if len(batches) > 1:  # each is in the right order, but not one after the other
        members = np.concatenate([batch.members for batch in batches])
        order = np.argsort(members)
        every = [name for batch in batches for name in batch.names]
        names, index = [every[i] for i in order.tolist()], members[order]
        groups = np.concatenate([batch.groups for batch in batches])[order]
        elements = np.concatenate([batch.lengths for batch in batches])[order]
        table = np.concatenate([batch.statistics for batch in batches])[order]
    grad, *others = np.ascontiguousarray(table.T)  # as engines that look at every chunk leave it
    return Statistics(names, index, groups, elements, grad if clip == 1 else grad / clip**2, *others)
