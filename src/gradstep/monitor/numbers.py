"""From what was collected of each parameter to the rows of a record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

from gradstep.monitor.record import Numbers, PerParameter
from gradstep.monitor.statistics import Collected, Floats


def settings(optimizer: Optimizer) -> tuple[Numbers, ...]:
    """The settings of every group as they are now, without any statistics."""
    return tuple(Numbers(**_settings(group)) for group in optimizer.param_groups)


def per_group(found: Collected, starts: NDArray[np.int32], now: Sequence[Numbers], clip: float) -> tuple[Numbers, ...]:
    """A row for each group.

    Args:
        found: the statistics.
        starts: (groups + 1) the first parameter of every group, and how many there are.
        now: the settings of the groups.
        clip: what the gradients had been multiplied by before the optimizer was given them.
    """
    bounds = found.index.searchsorted(starts)
    present = np.flatnonzero(bounds[1:] > bounds[:-1])
    first = bounds[present]
    table = np.array([getattr(found, name) for name in _SUMS])
    columns = [
        *np.add.reduceat(table, first, axis=1).tolist(),
        np.fmin.reduceat(found.second_min, first).tolist(),
        np.fmax.reduceat(found.second_max, first).tolist(),
    ]
    rows = list(now)
    for group, elements, grad, weight, update, unmoved, bad, least, most in zip(present.tolist(), *columns):
        if elements:
            rows[group] = replace(
                now[group],
                elements=int(elements),
                grad_norm=_root(grad) / clip,
                weight_norm=_root(weight),
                update_norm=_root(update),
                unmoved=int(unmoved),
                root_min=None if math.isnan(least) else _root(least),
                root_max=None if math.isnan(most) else _root(most),
                non_finite=int(bad),
            )
    return tuple(rows)


_SUMS = ("elements", "grad_square", "weight_square", "update_square", "unmoved", "non_finite")


def per_parameter(found: Collected, clip: float) -> PerParameter:
    """A row for each parameter; ``clip`` as above."""

    def root(column: Floats) -> NDArray[np.float32]:
        return np.sqrt(column).astype(np.float32)

    return PerParameter(
        index=found.index,
        grad_norm=root(found.grad_square / clip**2),
        weight_norm=root(found.weight_square),
        update_norm=root(found.update_square),
        unmoved=found.unmoved.astype(np.float32),
        root_min=root(found.second_min),
        root_max=root(found.second_max),
        non_finite=found.non_finite.astype(np.float32),
    )


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {
        key: float(group[key]) for key in ("lr", "weight_decay", "momentum") if group.get(key) is not None
    }
    betas = group.get("betas")
    if betas is not None and len(betas) == 2:
        result["betas"] = (float(betas[0]), float(betas[1]))
    return result
