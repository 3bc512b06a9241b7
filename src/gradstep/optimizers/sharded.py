"""Distributed parameters (torch's DTensor): the elements of this process, and state that is distributed alike.

``fully_shard`` (FSDP2) and tensor parallelism turn parameters into DTensors: each process has one part of the whole
parameter in its local tensor. Engines update the local tensors. What depends on the whole parameter (which codec its
state has, where blocks are cut, the number of an element, from which its noise is drawn) is taken from the DTensor, so
that any number of processes gets the bits of one process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.reference import Reference
from gradstep.engines.statistics import Int64s
from gradstep.optimizers.memory import is_distributed, local_tensor
from gradstep.rules import Rule
from gradstep.storage.codecs import Field
from gradstep.storage.policy import ParameterStorage

if TYPE_CHECKING:  # importing it takes a second; a process that has a DTensor has imported it
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement


def sharded_axes(tensor: DTensor) -> list[int | None]:
    """Return, for each dimension of the mesh, the axis of the tensor that is sharded over it; None for copies."""
    return [None if kind.is_replicate() else kind.dim for kind in tensor.placements]  # type: ignore[attr-defined]


def any_sharded(tensor: DTensor) -> bool:
    """Return whether a process has only a part of the tensor."""
    return any(axis is not None for axis in sharded_axes(tensor))


def explain_refusal(p: DTensor, name: str) -> str | None:
    """Return why a DTensor cannot be updated through its local tensor, and what to do; None if it can."""
    if any(kind.is_partial() for kind in p.placements):
        return (
            f"{name} has placements {p.placements}: its processes hold summands, and no process has the numbers to "
            "update; give redistribute() with Shard or Replicate"
        )
    if not local_tensor(p).is_contiguous():
        return (
            f"the local tensor of {name} has strides {local_tensor(p).stride()}: distribute a contiguous parameter, so "
            "that every number of processes has its elements in the same order"
        )
    return None


def block_shape(p: DTensor, per: int) -> tuple[int, ...] | None:
    """Return the shape of the scales of a parameter's blocks, such that the parameter's placements shard them alike.

    Blocks are cut in the whole parameter, from its first element on. Every process gets the same result.

    Args:
        p: the parameter.
        per: elements of a block.

    Returns:
        The shape; None if the boundary of a shard may cut a block.
    """
    shape, count = tuple(p.shape), p.numel()
    ways: dict[int, int] = {}
    for axis, size in zip(sharded_axes(p), p.device_mesh.shape, strict=True):
        if axis is not None:
            ways[axis] = ways.get(axis, 1) * size
    if not ways:
        return (-(-count // per),)
    last, shards = max(ways), math.prod(ways.values())
    tail = math.prod(shape[last + 1 :])
    if last + 1 < len(shape) and tail % per == 0:
        return (*shape[: last + 1], tail // per)
    if last + 1 == len(shape) > 1 and shape[-1] % (per * ways[last]) == 0:
        return (*shape[:-1], shape[-1] // per)
    if ways.keys() == {0} and shape[0] % shards == 0 and count // shards % per == 0:
        return (count // per,)
    return None


def check_distributed(p: DTensor, rule: type[Rule], stored: ParameterStorage, name: str, engine: str) -> None:
    """Refuse a DTensor whose local tensor cannot be updated as one process would update the whole.

    Raises:
        ValueError: with the reason and what to do.
    """
    refusal = explain_refusal(p, name)
    if refusal is None and engine == Reference.name and rule.sees != "elements" and any_sharded(p):
        refusal = (
            f"{rule.__name__} looks at whole tensors (means, norms), and {name} has placements {p.placements}, so that "
            f"this process has a part of it: the sums over all processes are for engine='eager', not {engine!r}"
        )
    if refusal is None and rule.sees == "matrix" and any_sharded(p):
        refusal = (
            f"{rule.__name__} multiplies whole matrices, and {name} has placements {p.placements}, so that this "
            "process has a part of it: keep its module whole on every rank (DistributedDataParallel, Replicate()), or "
            "take an elementwise rule such as AdamW for it"
        )
    for field in stored.fields.values():
        if refusal is None and field.per > 1 and block_shape(p, field.per) is None:
            refusal = (
                f"{stored.reason} stores blocks of {field.per} elements, and the placements {p.placements} of {name}, "
                f"of shape {tuple(p.shape)} on a mesh of {tuple(p.device_mesh.shape)}, may cut through a block: give "
                f'its group "state": "bfloat16" or "float32", or make its rows a multiple of {field.per} long'
            )
    if refusal is not None:
        raise ValueError(refusal)


def find_runs(p: DTensor) -> Int64s:
    """Return (runs, 2) the stretches of the whole parameter that are neighbours in the local tensor, in its order.

    Each is the number of its first element in the whole parameter, in row-major order, and its length. If rows are
    divided among processes there is one run; if columns are, there is one per row. Without elements there is one of
    length 0.
    """
    shape, axes = tuple(p.shape), sharded_axes(p)
    if all(axis is None for axis in axes):
        return np.array([[0, p.numel()]], dtype=np.int64)
    last = max(axis for axis in axes if axis is not None)
    tail = math.prod(shape[last + 1 :])
    index = _local_index(p, last)
    bounds = np.flatnonzero(np.diff(index, prepend=-2) != 1)
    starts, lengths = index[bounds] * tail, np.diff(bounds, append=len(index)) * tail
    for axis in range(last - 1, -1, -1):
        rows = _local_index(p, axis) if axis in axes else np.arange(shape[axis])
        starts = (rows[:, None] * math.prod(shape[axis + 1 :]) + starts).reshape(-1)
        lengths = np.tile(lengths, len(rows))
    opens = np.flatnonzero(np.diff(starts, prepend=-1) != np.append(-1, lengths[:-1])[: len(starts)])
    if len(lengths):
        lengths = np.add.reduceat(lengths, opens)
    runs = np.column_stack((starts[opens], lengths)).astype(np.int64)
    if int(lengths.sum()) != local_tensor(p).numel():
        raise RuntimeError(
            f"a parameter of shape {shape} with placements {p.placements} has {local_tensor(p).numel():,} elements in "
            f"this process, and not the {int(lengths.sum()):,} that its placements say: distribute it anew"
        )
    return runs if len(runs) else np.zeros((1, 2), dtype=np.int64)


def _local_index(p: DTensor, axis: int) -> Int64s:
    """Return (n,) which indices of an axis this process has: torch distributes them as it does the parameter."""
    from torch.distributed.tensor import Replicate, distribute_tensor

    mesh, alone = p.device_mesh, Replicate()
    index = torch.arange(p.shape[axis]).reshape([-1 if k == axis else 1 for k in range(p.dim())])
    kinds = [kind if own == axis else alone for kind, own in zip(p.placements, sharded_axes(p), strict=True)]
    with torch.no_grad():
        local = distribute_tensor(index.to(mesh.device_type), mesh, kinds, src_data_rank=None).to_local()
    return local.reshape(-1).cpu().numpy()


class Place(NamedTuple):
    """Where the elements of a distributed parameter are: its mesh, and the dimensions that shard it.

    Along the other dimensions of the mesh the processes have copies, which count once.
    """

    mesh: DeviceMesh
    dims: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class ShardedParameter:
    """A DTensor parameter, and how its state is distributed: with the parameter's mesh and placements.

    Attributes:
        parameter: the parameter.
        name: its name in an error.
        collapsed: the keys of the slots that have length 1 along an axis, and this axis, counted from the end.
    """

    parameter: DTensor
    name: str
    collapsed: Mapping[str, int]

    @cached_property
    def local(self) -> Tensor:
        """The local tensor."""
        return local_tensor(self.parameter)

    @cached_property
    def mesh(self) -> DeviceMesh:
        """The mesh of the processes that have the parameter."""
        return self.parameter.device_mesh

    @cached_property
    def placements(self) -> tuple[Placement, ...]:
        """How the parameter is distributed over each dimension of the mesh."""
        return self.parameter.placements

    @cached_property
    def place(self) -> Place:
        """Where its elements are."""
        dims = (k for k, axis in enumerate(sharded_axes(self.parameter)) if axis is not None)
        return Place(self.mesh, tuple(dims))

    def gradient(self) -> Tensor | None:
        """Return the local tensor of the present gradient; None without a gradient. Call it without gradients enabled.

        A gradient with other placements (summands, under tensor parallelism) is redistributed first, which all
        processes of the mesh do together.

        Raises:
            RuntimeError: the gradient is no DTensor, or on another mesh.
        """
        g = self.parameter.grad
        if g is None:
            return None
        if not is_distributed(g) or g.device_mesh != self.mesh:
            kind = f"on {g.device_mesh}" if is_distributed(g) else f"a {type(g).__name__}"
            raise RuntimeError(
                f"the gradient of {self.name} is {kind} of shape {tuple(g.shape)}, but must be a DTensor of shape "
                f"{tuple(self.parameter.shape)} on {self.mesh}, as the parameter is: use distribute_tensor()"
            )
        if g.placements != self.placements:
            g = g.redistribute(placements=self.placements)
        return g.to_local()

    def localize(self, entry: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
        """Return an entry of state with the arrays of this process.

        Args:
            entry: the state; an array may be a DTensor, or a plain tensor with the numbers of the whole parameter.
            fields: every array by its key.

        Raises:
            RuntimeError: a DTensor is distributed unlike the parameter.
        """
        return {
            key: self._localize(key, value, fields.get(key)) if isinstance(value, Tensor) else value
            for key, value in entry.items()
        }

    def _localize(self, key: str, value: Tensor, field: Field | None) -> Tensor:
        from torch.distributed.tensor import distribute_tensor

        blocks = None if field is None or field.per == 1 else block_shape(self.parameter, field.per)
        shape, placements = self._distribution(key)
        with torch.no_grad():
            if not is_distributed(value):
                whole = shape if blocks is None else blocks
                if field is None or value.numel() != math.prod(whole) or not self.place.dims:
                    return value
                value = distribute_tensor(value.detach().reshape(whole), self.mesh, placements, src_data_rank=None)
            if value.device_mesh != self.mesh or value.placements != placements:
                raise RuntimeError(
                    f"{key} of {self.name} has placements {value.placements} on {value.device_mesh}, but must have "
                    f"{placements} on {self.mesh}, as the parameter has: load it with torch.distributed.checkpoint, "
                    "which reshards"
                )
            local = value.to_local()
            return local.reshape(-1) if blocks is not None else local

    def _distribution(self, key: str) -> tuple[tuple[int, ...], tuple[Placement, ...]]:
        """Return the shape and the placements of an array of the whole parameter's state."""
        from torch.distributed.tensor import Replicate

        p = self.parameter
        if key not in self.collapsed:
            return tuple(p.shape), self.placements
        axis = self.collapsed[key] % p.dim()
        shape = (*p.shape[:axis], 1, *p.shape[axis + 1 :])
        each = zip(self.placements, sharded_axes(p), strict=True)
        return shape, tuple(Replicate() if own == axis else kind for kind, own in each)

    def distribute(
        self, entry: Mapping[str, Any], fields: Mapping[str, Field], old: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return an entry with its arrays as DTensors, which share the memory of the local arrays.

        Args:
            entry: the arrays of this process.
            fields: every array by its key.
            old: DTensors to take where they have the same memory.
        """
        old = {} if old is None else old
        return {
            key: self._distribute(key, value, fields[key], old.get(key)) if key in fields else value
            for key, value in entry.items()
        }

    def _distribute(self, key: str, value: Tensor, field: Field, old: Any) -> DTensor:
        from torch.distributed.tensor import DTensor

        if isinstance(old, DTensor) and local_tensor(old).data_ptr() == value.data_ptr() and value.numel():
            return old
        whole, placements = self._distribution(key)
        shape = whole if self.place.dims else tuple(value.shape)
        if self.place.dims and field.per > 1:
            blocks = block_shape(self.parameter, field.per)
            assert blocks is not None  # such a parameter is refused
            shape, value = blocks, value.view(self._local_block_shape(blocks, field.per))
        return DTensor.from_local(
            value, self.mesh, placements, run_check=False, shape=torch.Size(shape), stride=_row_major(shape)
        )

    def _local_block_shape(self, blocks: Sequence[int], per: int) -> tuple[int, ...]:
        local = tuple(self.local.shape)
        if len(blocks) == 1:
            return (-(-math.prod(local) // per),)
        return (*local[: len(blocks) - 1], math.prod(local[len(blocks) - 1 :]) // per)


def local_tensors(shards: Sequence[ShardedParameter]) -> list[Tensor]:
    """Return the present local tensors of distributed parameters."""
    with torch.no_grad():
        return [shard.parameter.to_local() for shard in shards]


def local_gradients(shards: Sequence[ShardedParameter]) -> list[Tensor | None]:
    """Return the local tensors of the present gradients, as :meth:`ShardedParameter.gradient` does."""
    with torch.no_grad():
        return [shard.gradient() for shard in shards]


def _row_major(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))
