"""The other processes of a step: sums over those that share distributed parameters, for the norm and the statistics.

The processes of flat shards (FSDP1, DeepSpeed), one-dimensional pieces of many parameters, are unknown here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, final
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from gradstep.engines.base import ANOTHER_FAILED, Batch, Ranks
from gradstep.engines.statistics import SUMS, StepReport, Tally
from gradstep.optimizers.arguments import GroupRules
from gradstep.optimizers.memory import is_distributed
from gradstep.optimizers.sharded import Place, ShardedParameter
from gradstep.optimizers.state.storage import Storage
from gradstep.optimizers.step.part import TorchBatch
from gradstep.rules import Rule

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@final
class MeshRanks(Ranks):
    """The processes of the meshes of an optimizer's parameters.

    Each dimension of a mesh needs one collective: one for FSDP2, two for HSDP and for FSDP2 with tensor parallelism.
    Over a dimension of copies nothing is added up, but all copies must skip a step, or raise, together.

    Args:
        places: of the distributed parameters, each once, in an order that is the same on all ranks.
        names: of all parameters.
    """

    def __init__(self, places: Sequence[Place], names: Sequence[str]) -> None:
        # Small meshes first: what they find is passed on, so that all ranks of the largest one know it.
        meshes = sorted({place.mesh: None for place in places}, key=lambda mesh: mesh.size())
        self._exchanges = [(mesh, dim) for mesh in meshes for dim in range(mesh.ndim) if mesh.size(dim) > 1]
        self._places, self._names = places, names

    @staticmethod
    def of(groups: Sequence[Mapping[str, Any]]) -> MeshRanks | None:
        """Return the processes that have parts of the parameters of these groups; None if this process has them all."""
        # This is called for a step that raised, too, perhaps because these groups are malformed.
        lists = [group.get("params") for group in groups]
        params = [p for each in lists if isinstance(each, list) for p in each]
        places = dict.fromkeys(ShardedParameter(p, "", {}).place for p in params if is_distributed(p))
        divided = [place for place in places if place.dims]
        return MeshRanks(divided, []) if divided else None

    def fail(self, *, measured: bool) -> None:
        del measured  # the caller calls this for steps with an exchange only
        self._add_up(dict.fromkeys([None, *self._places], 0.0), {}, {}, failed=True)

    def agree(self, batches: Sequence[Batch]) -> None:
        self.combine(batches, [0.0] * len(batches), "sum", ())

    def combine(
        self,
        batches: Sequence[Batch],
        values: Sequence[float],
        how: Literal["sum", "max"],
        settings: Sequence[float] | None = None,
    ) -> float:
        if how == "max":
            largest = max(values, default=-math.inf)
            for mesh, dim in self._exchanges:
                largest = float(_all_reduce(np.array([largest]), mesh, dim, "max")[0])
            return largest
        totals = dict.fromkeys([None, *self._places], 0.0)
        members = dict.fromkeys(self._places, b"")
        coefficients = dict.fromkeys(self._places, b"" if settings is None else _leading_bits(np.array(settings)))
        for batch, value in zip(batches, values, strict=True):
            place = _place(batch)
            totals[place] += value
            if place is not None and isinstance(batch, TorchBatch):
                members[place] += batch.members.tobytes()
                if settings is not None:
                    noise = batch.keys.tobytes() if batch.spec.noise else b""
                    coefficients[place] += _leading_bits(batch.coefficients) + noise
        failure = self._add_up(totals, members, coefficients, failed=False)
        if failure:
            raise RuntimeError(failure)
        return sum(totals.values())

    def _add_up(
        self,
        totals: dict[Place | None, float],
        members: Mapping[Place, bytes],
        coefficients: Mapping[Place, bytes],
        *,
        failed: bool,
    ) -> str:
        """Add up the numbers of all ranks, and tell them whether this one cannot take the step.

        Args:
            totals: this rank's sum for each place, and for the parameters that it has whole; replaced by those of all.
            members: which parameters of each place have a gradient; all ranks must have the same.
            coefficients: those of each place, the keys of its noise, and the settings of the step; all ranks must have
                the same.
            failed: whether this rank cannot take the step.

        Returns:
            Why no rank may take the step; empty if all can.
        """
        failures, unlike, unequal = float(failed), 0.0, 0.0
        for mesh, dim in self._exchanges:
            places = [place for place in self._places if place.mesh == mesh and dim in place.dims]
            others = sum(total for place, total in totals.items() if place not in places)
            member, coefficient = (
                float(crc32(b"".join(found for place, found in each.items() if place.mesh == mesh)) >> 12)
                for each in (members, coefficients)
            )
            # What is not finite, and errors, must reach every rank, so that all of them skip the step or raise.
            numbers = [*(totals[place] for place in places), 0.0 if math.isfinite(others) else others]
            numbers += [failures, unlike, unequal, member, member**2, coefficient, coefficient**2]
            reduced = _all_reduce(np.array(numbers), mesh, dim, "sum").tolist()
            *sums, unfinite, failures, unlike, unequal = reduced[:-4]
            totals.update(zip(places, sums, strict=True))
            totals[None] = totals.get(None, 0.0) + unfinite
            # All ranks have the same number n if, and only if, their count times the sum of n² is the square of the sum
            # of n. Sums of these numbers of 20 bits and of their squares are exact in float64. The two products of more
            # than 90 ranks may not be, but a multiplication rounds equal ones alike, which a power does not.
            member, member_squares, coefficient, coefficient_squares = reduced[-4:]
            unlike += float(mesh.size(dim) * member_squares != member * member)
            unequal += float(mesh.size(dim) * coefficient_squares != coefficient * coefficient)
        if failures:
            return ANOTHER_FAILED
        return _UNLIKE if unlike else _UNEQUAL if unequal else ""

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


@final
class FlatShards(Ranks):
    """The ranks of flat shards, which this process does not know: it cannot take a norm over all of them."""

    def fail(self, *, measured: bool) -> None:
        """Do nothing: no step of these ranks exchanges anything."""

    def agree(self, batches: Sequence[Batch]) -> None:
        """Do nothing, as above."""

    def combine(
        self,
        batches: Sequence[Batch],
        values: Sequence[float],
        how: Literal["sum", "max"],
        settings: Sequence[float] | None = None,
    ) -> float:
        if how == "sum":
            raise RuntimeError(
                "these parameters are flat shards (FSDP1, DeepSpeed), so that the norm would be that of this rank's "
                "shards only, and nothing was changed: call the model's clip_grad_norm_() before step(), without "
                "max_grad_norm= and grad_scale="
            )
        return max(values, default=0.0)

    def first_name(self, name: str | None) -> str:
        return str(name)

    def combine_statistics(self, batches: Sequence[Batch]) -> None:
        """Do nothing: the statistics are of this rank's shards."""


def check_flat_shards(storage: Storage, rules: Sequence[Rule], groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what goes by the shapes of parameters, for flat shards.

    Raises:
        ValueError: state with fewer bits than float32, or a rule that computes with rows and columns.
    """
    for rule, group in zip(rules, groups, strict=True):
        state = storage.state_of(group)
        if state != "float32" or rule.sees != "elements":
            what = f"{type(rule).__name__} goes" if state == "float32" else f"state={state!r} goes"
            raise ValueError(
                f"{what} by the shapes of parameters, and these are flat shards, which have lost them (FSDP1, "
                "DeepSpeed): shard the model with torch.distributed.fsdp.fully_shard, which keeps them, or take "
                "state='float32' and an elementwise rule such as AdamW"
            )


def is_first_update(last_step: StepReport | None) -> bool:
    """Return whether a step is the first that updates: in it, ranks compare their settings and seeds in any case."""
    return last_step is None or not last_step.stepped


def fail_on_other_ranks(
    zero: Ranks | None,
    rules: GroupRules,
    groups: Sequence[Mapping[str, Any]],
    state: Mapping[Any, Any],
    *,
    measured: bool,
    watched: bool,
) -> None:
    """Make the other ranks raise an error too, if they will wait in an exchange for this one, which cannot step.

    Args:
        zero: the ranks of the ``ZeroRedundancyOptimizer`` around this optimizer; None without it.
        rules, groups, state: the optimizer's.
        measured: whether the step takes the norm.
        watched: whether it collects statistics, or is the first update.
    """
    ranks = MeshRanks.of(groups) if zero is None else zero
    creates_state = not state and all(group.get("lr") == 0 for group in groups)
    elementwise = all(rule.sees == "elements" for rule in rules.in_use(groups))
    if ranks is not None and (measured or watched or not elementwise or creates_state):
        ranks.fail(measured=measured)


_UNLIKE = (
    "some parameters have a gradient on some ranks only, so that their parts would be updated differently; nothing was "
    "changed: every rank must compute a loss from the same parameters, or set the same gradients to None"
)

_UNEQUAL = (
    "the ranks would take different steps with their parts of the same parameters; nothing was changed: every rank "
    "must have the same settings (lr, betas, …), the same seed=, max_grad_norm= and grad_scale=, and the same step "
    "counts: load a checkpoint on all ranks"
)


def _leading_bits(numbers: NDArray[np.float64]) -> bytes:
    """Return the leading 24 bits of each number in float32: the last bits may differ between processors."""
    with np.errstate(over="ignore"):
        return (numbers.astype(np.float32).view(np.uint32) >> 8).tobytes()


def _place(batch: Batch) -> Place | None:
    return batch.part.place if isinstance(batch, TorchBatch) else None


def _all_reduce(
    numbers: NDArray[np.float64], mesh: DeviceMesh, dim: int, how: Literal["sum", "max"]
) -> NDArray[np.float64]:
    """Return the sum or the largest of every rank's numbers, over one dimension of a mesh."""
    import torch.distributed as dist

    tensor: Any = torch.from_numpy(np.ascontiguousarray(numbers)).to(mesh.device_type, copy=True)
    dist.all_reduce(tensor, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX, group=mesh.get_group(dim))
    return tensor.cpu().numpy()  # type: ignore[no-any-return]
