"""The parts of a model that one rank keeps, and the bytes that it sends in a step."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

from gradstep.planner.parameters import Model, ParameterSpec

SHARDINGS = ("ddp", "zero1", "zero2", "hsdp", "fsdp2")
"""The data parallel engines, from the least sharded on; ZeRO's stages 1 to 3 are those of arXiv:1910.02054."""

OTHER_NAMES = {"zero3": "fsdp2"}
"""Other names of :data:`SHARDINGS`: FSDP2 is ZeRO's stage 3."""

BY_ROWS = ("zero2", "hsdp", "fsdp2")
"""The shardings by ``fully_shard``, which cut every parameter by rows."""

OUTPUT_LAYERS = ("o_proj", "down_proj", "c_proj", "out_proj", "fc2", "dense_4h_to_h", "wo", "w2")
"""Names of layers that tensor parallelism divides by columns: the second of two that follow each other."""


@final
@dataclass(frozen=True)
class PlannedRanks:
    """The processes that train together: ``data`` × ``tensor`` of them, and the one that is planned for."""

    data: int = 1  # ranks with different data
    tensor: int = 1  # ranks with the same data, that divide each matrix (tensor parallelism)
    rank: int | None = None  # the number of the rank to plan for; None for the one that keeps the most
    replicas: int = 1  # copies of the shards with ``"hsdp"``; each copy is divided over ``data`` / ``replicas`` ranks

    @property
    def count(self) -> int:
        """The number of ranks."""
        return self.data * self.tensor

    @property
    def data_index(self) -> int:
        """The position among the ranks with different data; the first keeps the most."""
        return (self.rank or 0) // self.tensor

    def shards(self, sharding: str) -> int:
        """Return over how many ranks one copy of the weights is divided by rows."""
        if sharding not in BY_ROWS:
            return 1
        return self.data // self.replicas if sharding == "hsdp" else self.data

    @property
    def tensor_index(self) -> int:
        """The position among the ranks that divide a matrix; the first keeps the most."""
        return (self.rank or 0) % self.tensor


@final
@dataclass(frozen=True)
class Traffic:
    """The bytes that a rank sends in a step (one forward and one backward pass) by one kind of collective.

    Attributes:
        collective: ``"all-reduce"``, ``"reduce-scatter"``, ``"all-gather"`` or ``"broadcast"``.
        what: ``"gradients"``, ``"weights"`` or ``"activations"``.
        nbytes: the bytes.
    """

    collective: str
    what: str
    nbytes: int


def shard_rows(p: ParameterSpec, shards: int, index: int, *, evenly: bool = False, axis: int = 0) -> ParameterSpec:
    """Return a parameter with the part that rank ``index`` of several has, as ``torch.chunk`` cuts an axis.

    A part of a parameter is cut again. ``evenly`` divides the elements, whatever the shape, since the parameter stands
    for a count.

    >>> [shard_rows(ParameterSpec("w", (5, 8)), 4, index).local for index in range(4)]
    [(2, 8), (2, 8), (1, 8), (0, 8)]
    """
    shape = list(p.part)
    axis = len(shape) - 1 if evenly else axis
    if not shape:
        return p
    length = -(-shape[axis] // shards)
    shape[axis] = max(0, min(length, shape[axis] - index * length))
    return replace(p, local=tuple(shape))


def cut_matrices(model: Model, ranks: PlannedRanks) -> Model:
    """Return the model with the parts that tensor parallelism leaves to a rank.

    Matrices are cut by rows, those of :data:`OUTPUT_LAYERS` by columns; a bias follows its matrix: it is cut with
    rows, and copied with columns. Norms are copied.
    """
    if ranks.tensor == 1:
        return model
    matrices = {p.name.rpartition(".")[0]: p for p in model.parameters if len(p.shape) > 1}

    def cut(p: ParameterSpec) -> ParameterSpec:
        layer = matrices.get(p.name.rpartition(".")[0])
        if layer is None or (len(p.shape) == 1 and is_output_layer(layer)):
            return p
        axis = 1 if p is layer and is_output_layer(p) else 0
        return shard_rows(p, ranks.tensor, ranks.tensor_index, evenly=model.counted, axis=axis)

    return replace(model, parameters=tuple(map(cut, model.parameters)))


def is_output_layer(p: ParameterSpec) -> bool:
    """Return whether tensor parallelism cuts a matrix by columns, so that its outputs are added up over the ranks."""
    return p.name.rpartition(".")[0].rpartition(".")[2] in OUTPUT_LAYERS


def shard_parameters(model: Model, sharding: str, ranks: PlannedRanks) -> Model:
    """Return a model (after tensor parallelism) with the parts whose weights and gradients a rank keeps."""
    shards = ranks.shards(sharding)
    if shards == 1:
        return model
    parts = (shard_rows(p, shards, ranks.data_index % shards, evenly=model.counted) for p in model.parameters)
    return replace(model, parameters=tuple(parts))


def deal_out(sizes: Sequence[int], ranks: int) -> list[int]:
    """Return which rank gets each parameter of a ``ZeroRedundancyOptimizer`` with one group.

    The largest is dealt out first, to the rank with the fewest elements so far.

    >>> deal_out([5, 9, 4, 1], 2)
    [1, 0, 1, 0]
    """
    owners = [0] * len(sizes)
    loads = [(0, rank) for rank in range(ranks)]
    for k in sorted(range(len(sizes)), key=lambda k: sizes[k], reverse=True):
        load, rank = heapq.heappop(loads)
        owners[k] = rank
        heapq.heappush(loads, (load + sizes[k], rank))
    return owners


def traffic(
    model: Model, gradients: str | None, sharding: str, ranks: PlannedRanks, tokens: int | None
) -> Iterator[Traffic]:
    """Yield what a rank sends in a step with ring algorithms, whose volume is the least possible.

    Of B bytes over N ranks, reduce-scatter, all-gather and a pipelined broadcast send (N − 1) / N · B per rank
    (broadcast: in the mean over the ranks), and all-reduce, which is the first two, 2 (N − 1) / N · B. Uneven shards
    are padded to the first rank's.

    The model is the one after tensor parallelism, in the type of its weights. Activations follow from the tokens of a
    rank's batch, and are left out without them.

    Source: Rajbhandari et al., "ZeRO", arXiv:1910.02054, section 7; Patarasuk and Yuan, "Bandwidth optimal all-reduce
    algorithms for clusters of workstations", 2009; Shoeybi et al., "Megatron-LM", arXiv:1909.08053, section 3.
    """
    n = ranks.data
    if n > 1 and sharding in ("ddp", "zero1"):
        reduced = sum(p.local_nbytes(gradients) for p in model.trainable)
        yield Traffic("all-reduce", "gradients", _ring(2, n, reduced))
        if sharding == "zero1":
            yield Traffic("broadcast", "weights", _ring(1, n, sum(p.local_nbytes() for p in model.trainable)))
    elif n > 1:
        shards = ranks.shards(sharding)
        first = shard_parameters(model, sharding, replace(ranks, rank=0))
        gathered = sum(p.local_nbytes() for p in first.parameters)
        scattered = sum(p.local_nbytes(gradients) for p in first.trainable)
        passes = 1 if sharding == "zero2" else 2  # gathered for the forward pass, and again for the backward pass
        yield Traffic("all-gather", "weights", passes * (shards - 1) * gathered)
        yield Traffic("reduce-scatter", "gradients", (shards - 1) * scattered)
        if sharding == "hsdp":
            yield Traffic("all-reduce", "gradients", _ring(2, ranks.replicas, scattered))
    if ranks.tensor > 1 and tokens is not None:
        # One all-reduce behind the embedding and each output layer, and as many in the backward pass.
        widths = [p.shape[0] * p.itemsize for p in model.parameters if len(p.shape) > 1 and is_output_layer(p)]
        widths += [p.shape[1] * p.itemsize for p in model.parameters[:1]]
        yield Traffic("all-reduce", "activations", _ring(2, ranks.tensor, 2 * tokens * sum(widths)))


def _ring(times: int, ranks: int, nbytes: int) -> int:
    return -(-times * (ranks - 1) * nbytes // ranks)
