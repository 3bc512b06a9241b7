"""Rules that look at whole tensors, on parameters of which each process has a part: within 1e-6 of one process."""

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_state_dict, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh

import gradstep
from gradstep import rules
from gradstep.rules import Rule
from gradstep.rules.ops import maximum, rms, sign, where
from gradstep.rules.settings import learning_rate
from tests.distributed import test_sharded_parameters
from tests.distributed.processes import run
from tests.distributed.test_sharded_parameters import (
    fsdp,
    fsdp_and_tensor_parallel,
    make_models,
    placed,
    train_together,
    whole,
)

SHAPES = [(130, 48), (7, 33), (3, 20), (1, 9), (16, 6, 3, 5), (4, 2, 3), (40,), (3,), ()]
"""Rows that divide evenly and unevenly, and fewer than ranks; kernels of convolutions; vectors; a number."""

SETTINGS: list[dict[str, Any]] = [
    {},
    {"lr": 0.1, "beta2_decay": -0.5, "eps": (1e-6, 0.1), "d": 2.0, "weight_decay": 0.1, "maximize": True},
    {"lr": 0.5, "eps": (0.0, 0.0), "d": 1.0},
]
BOUND = 1e-6


@dataclass(frozen=True)
class SignedByNorm(Rule):
    """A user's rule with the operations that Adafactor does not use."""

    lr: float = learning_rate(0.1)
    sees = "tensor"

    def coefficients(self, step, **scalars):
        return {"lr": self.lr}

    @staticmethod
    def update(p, g, s, c):
        large = abs(g) > rms(g)
        return p - c.lr * where(large, sign(g), -(1.0 - g)) * rms(maximum(p, g)) / (2.0 + rms(p - g))


numbers = partial(test_sharded_parameters.numbers, shapes=SHAPES)


def distance(tensor: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest number."""
    difference = (whole(tensor.detach()).double() - expected.detach().double()).abs().max()
    return float(difference / expected.detach().double().abs().max())


def faults(optimizer: Any, params: Any, other: Any, others: Any, bound: float = BOUND) -> list[str]:
    found = []
    for k, (p, q) in enumerate(zip(params, others, strict=True)):
        pairs = {"parameter": (p, q)} | {key: (optimizer.state[p][key], value) for key, value in other.state[q].items()}
        found += [
            f"{key} of {k}, {tuple(q.shape)}: {distance(a, b):.1e}"
            for key, (a, b) in pairs.items()
            if tuple(a.shape) != tuple(b.shape) or not distance(a, b) <= bound
        ]
    return found


def differences(mesh: Any, kinds: Any, make: Any, steps: int = 20, watch: bool = False, **clipping: Any) -> list[str]:
    params = [nn.Parameter(t) for t in placed(mesh, kinds, numbers(0))]
    others = [nn.Parameter(t) for t in numbers(0)]
    optimizer, other = make(params), make(others)
    for t in range(1, steps + 1):
        gradients = numbers(t)
        for p, q, g, d in zip(params, others, gradients, placed(mesh, kinds, gradients), strict=True):
            p.grad, q.grad = d, g
        for one in (optimizer, other):
            one.watch = "parameters" if watch else None
            one.step(**clipping)
    found = faults(optimizer, params, other, others)
    if watch:
        got, expected = (torch.from_numpy(one.last_step.statistics.table) for one in (optimizer, other))
        if not torch.allclose(got, expected, rtol=1e-5, atol=1e-9, equal_nan=True):
            found.append(f"statistics {got} {expected}")
    return [f"{kinds} {optimizer.defaults}: {fault}" for fault in found]


def through_a_model(mesh: Any, shard: Any) -> list[str]:
    models = make_models(mesh, shard, width=64)
    optimizers = [gradstep.Adafactor(one.named_parameters(), lr=0.05) for one in models]
    train_together(mesh, models, optimizers, steps=20)
    (model, expected), (optimizer, other) = models, optimizers
    return [f"{shard.__name__}: {f}" for f in faults(optimizer, model.parameters(), other, expected.parameters())]


def collectives(mesh: Any, kinds: Any) -> int:
    """The number of collectives in one step."""
    params = [nn.Parameter(t) for t in placed(mesh, kinds, numbers(0))]
    optimizer = gradstep.Adafactor(params)
    for p, d in zip(params, placed(mesh, kinds, numbers(1)), strict=True):
        p.grad = d
    optimizer.step()
    count, real = 0, dist.all_reduce

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        return real(*arguments, **named)

    dist.all_reduce = counted
    try:
        optimizer.step(max_grad_norm=1.0)
    finally:
        dist.all_reduce = real
    return count


class Holder(nn.Module):
    def __init__(self, seed: int, mesh: Any) -> None:
        from torch.distributed.tensor import Shard

        super().__init__()
        tensors = numbers(seed)
        self.w = nn.ParameterList(map(nn.Parameter, tensors if mesh is None else placed(mesh, [Shard(0)], tensors)))

    def take_steps(self, optimizer: Any, first: int, stop: int) -> None:
        for t in range(first, stop):
            gradients = numbers(t)
            if hasattr(self.w[0], "placements"):
                gradients = placed(self.w[0].device_mesh, self.w[0].placements, gradients)
            for p, g in zip(self.w, gradients, strict=True):
                p.grad = g
            optimizer.step()


def save(folder: str, mesh: Any) -> None:
    model = Holder(0, mesh)
    optimizer = gradstep.Adafactor(model.named_parameters(), lr=0.1)
    model.take_steps(optimizer, 1, 11)
    state = get_state_dict(model, optimizer)
    state_dict_saver.save({"model": state[0], "optimizer": state[1]}, checkpoint_id=folder)


def load(folder: str, mesh: Any) -> list[str]:
    model, expected = Holder(9, mesh), Holder(0, None)
    optimizer, other = (gradstep.Adafactor(one.named_parameters(), lr=0.1) for one in (model, expected))
    state = get_state_dict(model, optimizer)
    state_dict_loader.load({"model": state[0], "optimizer": state[1]}, checkpoint_id=folder)
    set_model_state_dict(model, state[0])
    set_optimizer_state_dict(model, optimizer, state[1])
    expected.take_steps(other, 1, 11)
    found = faults(optimizer, model.w, other, expected.w)
    model.take_steps(optimizer, 11, 21)
    expected.take_steps(other, 11, 21)
    return [f"loaded: {fault}" for fault in found + faults(optimizer, model.w, other, expected.w)]


def takes_one_process_s_state(mesh: Any) -> list[str]:
    model, expected = Holder(0, mesh), Holder(0, None)
    optimizer, other = (gradstep.Adafactor(one.named_parameters(), lr=0.1) for one in (model, expected))
    expected.take_steps(other, 1, 4)
    for p, q in zip(model.w, expected.w, strict=True):
        with torch.no_grad():
            p.copy_(placed(p.device_mesh, p.placements, [q.detach()])[0])
    optimizer.load_state_dict(other.state_dict())
    for holder, one in ((model, optimizer), (expected, other)):
        holder.take_steps(one, 4, 7)
    return faults(optimizer, model.w, other, expected.w)


def rounds_alike(mesh: Any, kinds: Any) -> list[str]:
    """bfloat16 weights that are rounded at random: the same noise, so only roundings of the sums differ."""
    dtype = torch.bfloat16
    params = [nn.Parameter(t) for t in placed(mesh, kinds, numbers(0, dtype=dtype))]
    others = [nn.Parameter(t) for t in numbers(0, dtype=dtype)]
    optimizer, other = (gradstep.Adafactor(one, rounding="stochastic") for one in (params, others))
    gradients = numbers(1, dtype=dtype)
    for p, q, g, d in zip(params, others, gradients, placed(mesh, kinds, gradients), strict=True):
        p.grad, q.grad = d, g
    optimizer.step()
    other.step()
    same = [(whole(p.detach()) == q).double().mean() for p, q in zip(params, others, strict=True)]
    return [f"{k}: {share:.4f} of the elements" for k, share in enumerate(same) if share < 0.999]


def refusals(mesh: Any) -> list[str]:
    from torch.distributed.tensor import Shard

    (p,) = (nn.Parameter(t) for t in placed(mesh, [Shard(0)], [torch.ones(4, 4)]))
    found = []
    try:
        gradstep.Adafactor([("w", p)], engine="reference")
        found.append("engine='reference' was taken")
    except ValueError as error:
        found += [] if "for engine='eager'" in str(error) else [str(error)]

    try:
        gradstep.Muon([("w", p)])
        found.append("a shard was taken for a matrix")
    except ValueError as error:
        found += [] if "Muon multiplies whole matrices, and w has placements" in str(error) else [str(error)]

    @dataclass(frozen=True)
    class Sorts(Rule):
        sees = "tensor"

        def coefficients(self, step, **scalars):
            return {}

        @staticmethod
        def update(p, g, s, c):
            return p - g.sort()[0]

    p.grad = placed(mesh, [Shard(0)], [torch.ones(4, 4)])[0]
    try:
        gradstep.optimizer(Sorts)([("w", p)]).step()
        found.append("sort() was taken")
    except RuntimeError as error:
        found += [] if "Sorts cannot update w" in str(error) else [str(error)]
    return found


def adafactor(**settings: Any) -> Any:
    return lambda params: gradstep.Adafactor(params, **settings)


def own_rule(params: Any) -> Any:
    return gradstep.optimizer(SignedByNorm)(params)


def modified(params: Any) -> Any:
    return gradstep.optimizer(gradstep.modify(rules.AdamW, rules.Cautious, rules.RMSClip))(params, lr=0.01)


def on_two_ranks(all_settings: Any, folder: str) -> list[str]:
    from torch.distributed.tensor import Shard

    mesh = init_device_mesh("cpu", (2,))
    found = []
    for settings, axis in itertools.product(all_settings, (0, 1)):
        found += differences(mesh, [Shard(axis)], adafactor(**settings))
    found += differences(mesh, [Shard(0)], own_rule) + differences(mesh, [Shard(1)], modified)
    found += differences(mesh, [Shard(0)], adafactor(), watch=True, max_grad_norm=1.0)
    found += through_a_model(mesh, fsdp)
    save(folder, mesh)
    found += load(folder, mesh) + takes_one_process_s_state(mesh) + rounds_alike(mesh, [Shard(0)])
    found += rounds_alike(mesh, [Shard(1)]) + refusals(mesh)
    count = collectives(mesh, [Shard(0)])
    return found + ([] if count == 4 else [f"{count} collectives: one for the norm, two for matrices, one for vectors"])


def on_four_ranks(all_settings: Any, folder: str) -> list[str]:
    from torch.distributed.tensor import Replicate, Shard

    row, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    found = []
    for settings in all_settings:
        for mesh, kinds in (
            (row, [Shard(0)]),
            (square, [Replicate(), Shard(0)]),
            (square, [Shard(0), Shard(1)]),
            (square, [Shard(0), Shard(0)]),
        ):
            found += differences(mesh, kinds, adafactor(**settings))
    found += through_a_model(square, fsdp_and_tensor_parallel)
    return found + load(folder, row)


def on_one_rank(folder: str) -> list[str]:
    return load(folder, init_device_mesh("cpu", (1,)))


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_shards_are_updated_as_the_whole(slow, tmp_path):
    folder = str(tmp_path)
    assert run(on_two_ranks, 2, SETTINGS if slow else SETTINGS[:1], folder) == [[]] * 2
    if slow:
        assert run(on_four_ranks, 4, SETTINGS, folder) == [[]] * 4
        assert run(on_one_rank, 1, folder) == [[]]
