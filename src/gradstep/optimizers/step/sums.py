"""Update sharded parameters by a rule that needs means of whole tensors (Adafactor), with sums over processes.

The rule's own lines run on :class:`LocalPart` values. A local part has this process's elements, the shape of the whole
tensor, and the axes that are divided among processes. A mean along such an axis needs a sum over processes.

So the rule runs several times. The first run computes what needs no sum over processes, and each process's own sums.
One collective adds up the sums of all parameters, and the next run continues with the totals, until the update is
complete. Adafactor needs two such rounds, whatever the number of parameters: the squares of the gradient, then those of
the update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.arrays import apply_rule, build_tally
from gradstep.engines.base import StepBatch
from gradstep.engines.eager import ARRAYS, name_coefficients, read_rows
from gradstep.optimizers.sharded import ShardedParameter, find_runs, sharded_axes
from gradstep.rules.ops import mean
from gradstep.storage.elements import split_key
from gradstep.storage.policy import UpdateSpec

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@final
@dataclass(eq=False)
class Sum:
    """A sum over the processes along some dimensions of the mesh.

    Attributes:
        value: first this process's own sum, later the total; in float64.
        dims: the dimensions of the mesh.
        is_total: whether the processes have added it up.
    """

    value: Tensor
    dims: Sequence[int]
    is_total: bool = False


@final
class ShardedUpdate:
    """The update of one sharded parameter by this process.

    Args:
        shard: the parameter.
        spec: its update.
    """

    def __init__(self, shard: ShardedParameter, spec: UpdateSpec) -> None:
        p = shard.parameter
        self._shape, self._spec = tuple(p.shape), spec
        self.dtype = torch.float64 if spec.arithmetic is np.float64 else torch.float32
        # The dimensions of the mesh that divide each axis; axes are counted from the end.
        self._dims: dict[int, list[int]] = {}
        for dim, axis in enumerate(sharded_axes(p)):
            if axis is not None:
                self._dims.setdefault(axis - p.dim(), []).append(dim)
        self._collapsed = [None, None, *map(shard.collapsed.get, spec.slots)]
        self.sums: list[Sum | None] = []
        self._next = 0

    def run(self, c: Any, old: Sequence[Tensor | None]) -> list[Tensor] | None:
        """Run the rule; return the new parameter and slots, or None while a total is missing.

        Args:
            c: the coefficients, by name.
            old: this process's part of the parameter, of its gradient, and of every slot; None to run without numbers.
        """
        self._next = 0
        values = [self._part(value, axis) for value, axis in zip(old, self._collapsed, strict=True)]
        new = [part.value for part in apply_rule(self._spec, c, values)]
        complete = [value for value in new if value is not None]
        return complete if len(complete) == len(new) else None

    def _part(self, value: Tensor | None, collapsed: int | None) -> LocalPart:
        shape = tuple(1 if k - len(self._shape) == collapsed else n for k, n in enumerate(self._shape))
        return LocalPart(self, value, shape, frozenset(self._dims.keys() - {collapsed}))

    def add_up(self, axes: frozenset[int], local: Callable[[], Tensor] | None) -> Tensor | None:
        """Return the total over all processes; None while it is missing. Store this process's sum for :func:`add_up`.

        Args:
            axes: the axes that are divided among the processes.
            local: computes this process's sum; None if the sum depends on a total that is missing.
        """
        number, self._next = self._next, self._next + 1
        if number == len(self.sums):
            self.sums.append(None)
        total = self.sums[number]
        if total is None and local is not None:
            dims = sorted({dim for axis in axes for dim in self._dims[axis]})
            self.sums[number] = Sum(local(), dims)
        return total.value if total is not None and total.is_total else None


def _operation(function: Callable[..., Any]) -> Callable[..., LocalPart]:
    return lambda part, *others: part.apply(function, *others)


def _reversed(function: Callable[..., Any]) -> Callable[..., LocalPart]:
    return lambda part, other: part.apply(lambda a, b: function(b, a), other)


@final
class LocalPart:
    """This process's part of a value, with the operations that rules use.

    Args:
        update: the update that computes it.
        value: the part; None while it depends on a total that is missing.
        shape: the shape of the whole value.
        divided: the axes, counted from the end, along which the processes have different parts.
    """

    def __init__(
        self, update: ShardedUpdate, value: Tensor | None, shape: tuple[int, ...], divided: frozenset[int]
    ) -> None:
        self._update, self.value, self._shape, self._divided = update, value, shape, divided

    @property
    def dtype(self) -> torch.dtype:
        """The type that the rule computes in."""
        return self._update.dtype

    def apply(self, function: Callable[..., Any], *others: Any) -> LocalPart:
        """Apply a function of single elements; other arguments are values too, or numbers."""
        values, shape, divided = [self.value], self._shape, self._divided
        for other in others:
            if isinstance(other, LocalPart):
                shape = tuple(torch.broadcast_shapes(shape, other._shape))
                divided |= other._divided
            values.append(other.value if isinstance(other, LocalPart) else other)
        return LocalPart(self._update, None if any(v is None for v in values) else function(*values), shape, divided)

    __add__ = __radd__ = _operation(torch.add)
    __mul__ = __rmul__ = _operation(torch.mul)
    __sub__, __rsub__ = _operation(lambda a, b: a - b), _reversed(lambda a, b: a - b)
    __truediv__, __rtruediv__ = _operation(lambda a, b: a / b), _reversed(lambda a, b: a / b)
    __neg__, __abs__ = _operation(torch.neg), _operation(torch.abs)
    __lt__, __le__, __gt__, __ge__ = map(_operation, (torch.lt, torch.le, torch.gt, torch.ge))
    __eq__, __ne__ = _operation(torch.eq), _operation(torch.ne)  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]  # == is elementwise
    sqrt, sign, maximum = _operation(torch.sqrt), _operation(torch.sign), _operation(torch.maximum)
    where = _operation(lambda x, condition, y: x.where(condition, y))

    def clamp(self, *, min: float) -> LocalPart:  # torch's name
        """Return the larger of each element and a number."""
        return self.apply(lambda x: x.clamp(min=min))

    def whole_mean(self) -> LocalPart:
        """Return the mean of all elements, added up in float64."""
        if self._divided or self.value is None:
            return self.mean()
        return LocalPart(self._update, mean(self.value), (), frozenset())

    def elements(self) -> float:
        """Return the number of elements of the whole value."""
        return float(math.prod(self._shape))

    def mean(self, axis: int | None = None, *, keepdim: bool = False) -> LocalPart:
        """Return the mean along an axis, which must be kept, or of all elements."""
        del keepdim  # an axis is always kept
        count, whole = len(self._shape), axis is None
        axes = tuple(range(-count, 0)) if axis is None else (axis if axis < 0 else axis - count,)
        shape = () if whole else tuple(1 if k - count in axes else n for k, n in enumerate(self._shape))
        divided, x = self._divided.intersection(axes), self.value
        if not divided:
            value = x if x is None else x.mean() if whole else x.mean(axes, keepdim=True)
        else:
            double = torch.float64
            total = self._update.add_up(
                divided, None if x is None else lambda: x.sum(axes, keepdim=not whole, dtype=double)
            )
            elements = math.prod(self._shape[axis] for axis in axes)
            value = None if total is None else (total / elements).to(self.dtype)
        return LocalPart(self._update, value, shape, frozenset() if whole else self._divided - divided)


@torch.no_grad()
def update_with_sums(batch: StepBatch, shards: Sequence[ShardedParameter]) -> None:
    """Update the parameters of a batch; all processes of their mesh must call it for the same parameters.

    Args:
        batch: the batch, of local tensors.
        shards: the parameters, all on one mesh.
    """
    spec, rows, columns = batch.spec, name_coefficients(batch), batch.columns
    updates = {k: ShardedUpdate(shard, spec) for k, shard in enumerate(shards) if shard.parameter.numel()}
    statistics: dict[int, Any] = {}
    while updates:
        for k, update in list(updates.items()):
            own, row = [column[k] for column in columns], rows[int(batch.rows[k])]
            old = ARRAYS.decode(spec, row, own)
            new = update.run(row, old)
            if new is None:
                continue
            del updates[k]
            watched = batch.owners is not None and own[0].numel() > 0
            numbers = _number_elements(shards[k]) if spec.noise else None
            row_of_statistics = ARRAYS.store(
                spec, split_key(int(batch.keys[k])), own, old, new, numbers, watched=watched
            )
            if watched:
                statistics[k] = row_of_statistics
        add_up([total for update in updates.values() for total in update.sums], shards[0].mesh)
    if batch.owners is not None:
        batch.tally = build_tally(list(statistics), read_rows(list(statistics.values())), batch.owners)


def check_rule(shard: ShardedParameter, spec: UpdateSpec) -> None:
    """Run a rule without numbers, and refuse it if it uses an operation that local parts do not have.

    Raises:
        RuntimeError: the rule uses such an operation.
    """
    c = SimpleNamespace(**dict.fromkeys(spec.coefficients, 1.0))
    try:
        ShardedUpdate(shard, spec).run(c, [None] * (2 + len(spec.slots)))
    except Exception as error:  # a rule may raise anything
        raise RuntimeError(
            f"{spec.rule.__name__} cannot update {shard.name}, of which each process has a part: {error}. For such "
            "parameters a rule may use arithmetic and the functions of gradstep.rules"
        ) from error


def add_up(sums: Sequence[Sum | None], mesh: DeviceMesh) -> None:
    """Replace each process's own sums by totals over the processes: one collective for each dimension of the mesh."""
    import torch.distributed as dist

    new = [total for total in sums if total is not None and not total.is_total]
    for dim in range(mesh.ndim):
        over = [total for total in new if dim in total.dims]
        if over:
            flat = torch.cat([total.value.reshape(-1) for total in over])
            dist.all_reduce(flat, group=mesh.get_group(dim))
            pieces = flat.split([total.value.numel() for total in over])
            for total, piece in zip(over, pieces, strict=True):
                total.value = piece.reshape(total.value.shape)
    for total in new:
        total.is_total = True


def _number_elements(shard: ShardedParameter) -> Tensor:
    """Return (n,) int32 the number of each local element within the whole parameter."""
    numbers = [np.arange(first, first + length) for first, length in find_runs(shard.parameter).tolist()]
    return torch.from_numpy(np.concatenate(numbers).astype(np.int32)).to(shard.local.device)
