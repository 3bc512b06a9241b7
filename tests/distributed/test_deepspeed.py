"""DeepSpeed's ZeRO around gradstep's optimizers: it is not among the packages of the tests, so install it for these."""

import importlib
import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradstep
from tests.distributed.processes import run

STAGES = (0, 1, 2, 3)
CASES: list[tuple[str, dict[str, Any]]] = [
    ("AdamW", {"lr": 1e-2}),
    ("AdamW", {"lr": 1e-2, "paged": True}),
    ("Lion", {"lr": 1e-3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
]
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "8bit": ("AdamW", {"state": "8bit"}),
    "bfloat16": ("AdamW", {"state": "bfloat16"}),
    "Adafactor": ("Adafactor", {}),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 130), nn.ReLU(), nn.Linear(130, 64), nn.LayerNorm(64), nn.Linear(64, 64))


def loss_of(model: Any, step: int) -> torch.Tensor:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(100 * step + dist.get_rank()))
    x = x.to(next(model.parameters()).dtype)
    loss: torch.Tensor = (model(x) - x).square().mean()
    return loss


def optimizer_of(rule: str, model: nn.Module, **options: Any) -> Any:
    return getattr(gradstep, rule)(gradstep.param_groups(model, weight_decay=0.1), **{"lr": 1e-2, **options})


class Engine:
    """A model under DeepSpeed; its partitions are so small that stage 3 steps several in each group."""

    def __init__(self, stage: int, optimizer: Any, model: nn.Module, **settings: Any) -> None:
        zero = {"stage": stage, "overlap_comm": False, "sub_group_size": 3000}
        config = {
            "train_micro_batch_size_per_gpu": 4,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": 0.0,
            **settings,
        }
        self._deepspeed: Any = importlib.import_module("deepspeed")
        self._deepspeed.init_distributed(dist_backend="gloo")
        self.engine = self._deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )[0]

    def train(self, steps: range) -> list[torch.Tensor]:
        for step in steps:
            self.engine.backward(loss_of(self.engine, step))
            self.engine.step()
        params = list(self.engine.module.parameters())
        with self._deepspeed.zero.GatheredParameters(params):
            return [p.detach().clone() for p in params]


def by_hand(rule: str, options: dict[str, Any]) -> list[torch.Tensor]:
    model = network()
    replica, optimizer = DistributedDataParallel(model), optimizer_of(rule, model, **options)
    for step in range(5):
        optimizer.zero_grad()
        loss_of(replica, step).backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def differ(label: str, tensors: list[torch.Tensor], others: list[torch.Tensor]) -> list[str]:
    return [] if all(map(torch.equal, tensors, others)) else [label]


def on_two_ranks(folder: str) -> list[str]:
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": str(dist.get_rank())}
    os.environ |= {"RANK": str(dist.get_rank()), "WORLD_SIZE": str(dist.get_world_size())}
    found = []
    for stage in STAGES:
        for rule, options in CASES:
            model = network()
            trained = Engine(stage, optimizer_of(rule, model, **options), model).train(range(5))
            found += differ(f"{rule} {options} in stage {stage} unlike DDP", trained, by_hand(rule, options))
        if stage == 0:
            continue
        for name, (rule, options) in REFUSED.items():
            model = network()
            engine = Engine(stage, optimizer_of(rule, model, **options), model)
            try:
                engine.train(range(1))
                found.append(f"{name} in stage {stage} was not refused")
            except ValueError as error:
                found += [] if "these are flat shards" in str(error) else [f"{name} in stage {stage}: {error}"]
        model = network()
        before = Engine(stage, optimizer_of("AdamW", model), model)
        before.train(range(3))
        before.engine.save_checkpoint(f"{folder}/{stage}")
        expected = before.train(range(3, 6))
        model = network()
        after = Engine(stage, optimizer_of("AdamW", model), model)
        after.engine.load_checkpoint(f"{folder}/{stage}")
        found += differ(f"resumed in stage {stage}", after.train(range(3, 6)), expected)
    return found


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_every_stage_has_the_bits_of_ddp_or_is_refused(tmp_path):
    assert run(on_two_ranks, 2, str(tmp_path)) == [[]] * 2
