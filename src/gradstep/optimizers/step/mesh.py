"""Sums over the processes that share distributed parameters: the norm of a step, and its statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray

from gradstep.engines.base import Batch, Ranks
from gradstep.engines.statistics import SUMS, Tally
from gradstep.optimizers.sharded import Place
from gradstep.optimizers.step.table import TorchBatch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@final
class MeshRanks(Ranks):
    """The processes of the meshes of an optimizer's parameters.

    Each dimension of a mesh needs one collective: one for FSDP2 and HSDP, two for FSDP2 with tensor parallelism.

    Args:
        places: of the distributed parameters, each once, in an order that is the same on all ranks.
        names: of all parameters.
    """

    def __init__(self, places: Sequence[Place], names: Sequence[str]) -> None:
        # Small meshes first: what they find is passed on, so that all ranks of the largest one know it.
        meshes = sorted({place.mesh: None for place in places}, key=lambda mesh: mesh.size())
        self._exchanges = [
            (mesh, dim)
            for mesh in meshes
            for dim in sorted({dim for place in places if place.mesh == mesh for dim in place.dims})
        ]
        self._places, self._names = places, names

    def combine(self, batches: Sequence[Batch], values: Sequence[float], how: Literal["sum", "max"]) -> float:
        if how == "max":
            largest = max(values, default=-math.inf)
            for mesh, dim in self._exchanges:
                largest = float(_all_reduce(np.array([largest]), mesh, dim, "max")[0])
            return largest
        totals = dict.fromkeys([None, *self._places], 0.0)
        for batch, value in zip(batches, values, strict=True):
            totals[_place(batch)] += value
        for mesh, dim in self._exchanges:
            places = [place for place in self._places if place.mesh == mesh and dim in place.dims]
            others = sum(total for place, total in totals.items() if place not in places)
            # What is not finite must reach every rank, so that all of them skip the step.
            numbers = [*(totals[place] for place in places), 0.0 if math.isfinite(others) else others]
            *sums, unfinite = _all_reduce(np.array(numbers), mesh, dim, "sum").tolist()
            totals.update(zip(places, sums, strict=True))
            totals[None] += unfinite
        return sum(totals.values())

    def first_name(self, name: str | None) -> str:
        before = -math.inf if name is None else -float(self._names.index(name))
        return self._names[int(-self.combine([], [before], "max"))]

    def combine_statistics(self, batches: Sequence[Batch]) -> None:
        for mesh, dim in self._exchanges:
            members = [
                batch for batch in batches if (place := _place(batch)) and place.mesh == mesh and dim in place.dims
            ]
            if not members:
                continue
            table = np.concatenate([batch.tally.table for batch in members])
            rows = np.array([not batch.tally.finite for batch in members], dtype=np.float64)
            extremes = np.column_stack((-table[:, SUMS], table[:, SUMS + 1]))  # NaN where there is none
            extremes = np.where(np.isnan(extremes), -np.inf, extremes)
            table[:, :SUMS] = _all_reduce(table[:, :SUMS], mesh, dim, "sum")
            largest = _all_reduce(np.append(extremes.ravel(), rows), mesh, dim, "max")
            extremes = largest[: extremes.size].reshape(extremes.shape)
            extremes = np.where(np.isneginf(extremes), np.nan, extremes)
            table[:, SUMS], table[:, SUMS + 1] = -extremes[:, 0], extremes[:, 1]
            first = 0
            for batch, unfinite in zip(members, largest[extremes.size :], strict=True):
                stop = first + len(batch.tally.table)
                batch.tally, first = Tally(table[first:stop], not unfinite), stop


def _place(batch: Batch) -> Place | None:
    """Return where the elements of a batch are; None if this process has them all."""
    shards = batch.part.shards if isinstance(batch, TorchBatch) else ()
    return shards[0].place if shards and shards[0].place.dims else None  # the place of all


def _all_reduce(
    numbers: NDArray[np.float64], mesh: DeviceMesh, dim: int, how: Literal["sum", "max"]
) -> NDArray[np.float64]:
    """Return the sum or the largest of every rank's numbers, over one dimension of a mesh."""
    import torch.distributed as dist

    tensor: Any = torch.from_numpy(np.ascontiguousarray(numbers)).to(mesh.device_type, copy=True)
    dist.all_reduce(tensor, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX, group=mesh.get_group(dim))
    return tensor.cpu().numpy()  # type: ignore[no-any-return]
