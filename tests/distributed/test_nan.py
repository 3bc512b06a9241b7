"""A NaN in the backward pass of one rank, under every engine: all ranks skip with the same reason, and go on."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import gradstep
from gradstep.optimizers.memory import local_tensor
from tests.distributed.processes import run
from tests.distributed.test_sharded_parameters import fsdp, fsdp_and_tensor_parallel


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 6))


def divided(shard: Any, sizes: Any, names: Any) -> tuple[Any, Any]:
    model = network()
    shard(model, init_device_mesh("cpu", sizes, mesh_dim_names=names))
    return model, gradstep.AdamW(model.named_parameters(), lr=1e-2)


def tensor_parallel(model: Any, mesh: Any) -> None:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def make(engine: str) -> tuple[Any, Any]:
    if engine in ("DDP", "ZeRO"):
        model = DistributedDataParallel(network())
        if engine == "DDP":
            return model, gradstep.AdamW(model.named_parameters(), lr=1e-2)
        from torch.distributed.optim import ZeroRedundancyOptimizer  # it warns of its own

        return model, ZeroRedundancyOptimizer(gradstep.param_groups(model), gradstep.AdamW, lr=1e-2)
    if engine == "FSDP2":
        return divided(fsdp, (2,), ("shards",))
    if engine == "HSDP":
        return divided(fsdp, (2, 2), ("copies", "shards"))
    if engine == "TP":
        return divided(tensor_parallel, (2,), ("tp",))
    return divided(fsdp_and_tensor_parallel, (2, 2), ("dp", "tp"))


def backward(model: Any, engine: str, *, broken: bool) -> None:
    """Ranks of tensor parallelism have the same input: there, the NaN is in what the last rank has of a gradient."""
    is_last = dist.get_rank() == dist.get_world_size() - 1
    loss = model(torch.linspace(-1, 1, 64).reshape(4, 16)).square().mean()
    (loss * (float("nan") if broken and is_last and "TP" not in engine else 1.0)).backward()
    if broken and is_last and "TP" in engine:
        local_tensor(next(model.parameters()).grad).view(-1)[0] = float("nan")


def parts(model: Any) -> list[torch.Tensor]:
    return [local_tensor(p.detach()).clone() for p in model.parameters()]


def found_with(engine: str, **arguments: Any) -> list[str]:
    model, optimizer = make(engine)
    inner = getattr(optimizer, "optim", optimizer)  # of ZeroRedundancyOptimizer
    found, reports = [], []
    for broken in (False, True, False):
        before = parts(model)
        optimizer.zero_grad()
        backward(model, engine, broken=broken)
        optimizer.step(**arguments)
        changed = [not torch.equal(p, old) for p, old in zip(parts(model), before, strict=True)]
        found += [] if all(changed) != broken and any(changed) != broken else [f"{engine}: {changed} with {broken=}"]
        reports.append((inner.last_step.stepped, inner.last_step.reason))
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, reports)
    name = "module.0.weight" if engine in ("DDP", "ZeRO") else "0.weight"
    expected = [(True, ""), (False, f"the gradient of {name} is not finite"), (True, "")]
    return found + [f"{engine} {arguments}: {told}"] * (told != [expected] * len(told))


def on_ranks() -> list[str]:
    engines = ("DDP", "ZeRO", "FSDP2", "TP") if dist.get_world_size() == 2 else ("HSDP", "FSDP2 + TP")
    every = [(engine, arguments) for engine in engines for arguments in ({"max_grad_norm": 1.0}, {"grad_scale": 1.0})]
    return [fault for engine, arguments in every for fault in found_with(engine, **arguments)]


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_all_ranks_skip(ranks):
    assert run(on_ranks, ranks) == [[]] * ranks
