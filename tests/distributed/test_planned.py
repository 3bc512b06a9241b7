"""The planner's bytes of state on each rank are those of torch's real processes."""

import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import gradstep
from gradstep.optimizers.memory import local_tensor
from tests.distributed.processes import run

STORAGES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"state": "bfloat16"},
    "8bit": {"state": "8bit"},
    "kahan": {"rounding": "kahan", "state": "8bit"},
    "24bit": {"rounding": "24bit"},
    "means of rows and columns": {"optimizer": "Adafactor"},
}


class Attention(nn.Module):
    """Two layers that tensor parallelism divides by rows and by columns, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(256, 512)
        self.o_proj = nn.Linear(512, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.o_proj(self.q_proj(x).relu())
        return result


class Model(nn.Module):
    """Rows that divide evenly and unevenly, fewer rows than ranks, an embedding, vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(97, 256)
        self.block = Attention()
        self.uneven = nn.Linear(256, 301)
        self.few = nn.Linear(2048, 3)
        self.norm = nn.LayerNorm(301)


def make(storage: str) -> Model:
    model = Model()
    return model.bfloat16() if storage in ("kahan", "24bit") else model


def measured(optimizer: Any) -> int:
    """Bytes of all tensors of this rank's state."""
    found = [local_tensor(v) for entry in optimizer.state.values() for v in entry.values() if torch.is_tensor(v)]
    return sum(t.numel() * t.element_size() for t in found)


def step(model: nn.Module, optimizer: Any) -> Any:
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    return optimizer


def all_state_bytes() -> dict[str, dict[str, int]]:
    return {storage: state_bytes(storage) for storage in STORAGES}


def state_bytes(storage: str) -> dict[str, int]:
    """The bytes of this rank's state under each engine."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    options, ranks = dict(STORAGES[storage]), dist.get_world_size()
    rule = getattr(gradstep, options.pop("optimizer", "AdamW"))
    found = {}
    for sharding, reshards in (("zero2", False), ("fsdp2", True)):
        model = make(storage)
        mesh = init_device_mesh("cpu", (ranks,))
        fully_shard(model, mesh=mesh, reshard_after_forward=reshards)
        optimizer = rule(model.named_parameters(), model=model, **options)
        found[sharding] = measured(step(model, optimizer))
    model = make(storage)
    groups = gradstep.param_groups(model, 0.01, policy="all")
    zero: Any = ZeroRedundancyOptimizer(groups, rule, **options)
    step(model, zero)
    found["zero1"] = measured(zero.optim)
    if ranks == 4:
        model = make(storage)
        fully_shard(model, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
        found["hsdp"] = measured(step(model, rule(model.named_parameters(), model=model, **options)))
    if ranks % 2 == 0:
        model = make(storage)
        square = init_device_mesh("cpu", (ranks // 2, 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(model.block, square["tensor"], {"q_proj": ColwiseParallel(), "o_proj": RowwiseParallel()})
        sharding = "fsdp2" if ranks > 2 else "ddp"
        if ranks > 2:
            fully_shard(model.block, mesh=square["data"])
        optimizer = rule(model.block.named_parameters(), model=model, **options)
        found[f"{sharding} and tensor parallelism"] = measured(step(model.block, optimizer))
    return found


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_the_state_of_every_rank_is_the_planned_one(ranks):
    for rank, found in enumerate(run(all_state_bytes, ranks)):
        for storage, name in itertools.product(STORAGES, found["float32"]):
            tensor, model = 2 if "tensor" in name else 1, make(storage)
            plan = gradstep.plan(
                model.block if tensor > 1 else model,
                ranks=ranks, sharding=name.split()[0], replicas=2 if name == "hsdp" else 1, tensor_parallel=tensor,
                rank=rank, **STORAGES[storage],
            )  # fmt: skip
            assert plan.of("state") == found[storage][name], f"{storage}, {name}, rank {rank}"


def test_the_plan_without_a_rank_is_that_of_the_largest():
    for sharding in ("zero1", "zero2", "fsdp2"):
        plans = [gradstep.plan(Model(), ranks=3, sharding=sharding, state="8bit", rank=rank) for rank in range(3)]
        largest = gradstep.plan(Model(), ranks=3, sharding=sharding, state="8bit")
        assert largest.of("state") == max(plan.of("state") for plan in plans)
        if sharding != "zero1":
            whole = gradstep.plan(Model())
            assert sum(plan.of("weights") for plan in plans) == whole.of("weights")
