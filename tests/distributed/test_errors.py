"""An error on one rank: all ranks raise, none waits, and nothing has changed."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import gradstep
from gradstep.optimizers.sharded import Place
from gradstep.optimizers.step.ranks import MeshRanks
from tests.distributed.processes import run
from tests.distributed.test_sharded_parameters import placed, whole


def no_gradient(optimizer: Any, params: Any) -> None:
    params[1].grad = None


def bad_setting(optimizer: Any, params: Any) -> None:
    optimizer.param_groups[0]["lr"] = -1.0


def bad_state(optimizer: Any, params: Any) -> None:
    optimizer.state[params[0]]["step"] = torch.tensor(-3.0)


def other_setting(optimizer: Any, params: Any) -> None:
    optimizer.param_groups[0]["lr"] *= 2


UNEQUAL = "would take different steps with their parts"
FAULTS: dict[str, tuple[Callable[..., None], str]] = {
    "bad setting": (bad_setting, "Invalid learning rate"),
    "other setting": (other_setting, UNEQUAL),
    "no gradient": (no_gradient, "have a gradient on some ranks only"),
    "bad state": (bad_state, "step is -3"),
    "no DTensor": (lambda optimizer, params: setattr(params[0], "grad", torch.zeros(8, 6)), "must be a DTensor"),
}
OTHERS = "another rank could not take this step"
STEPS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "norm": ("AdamW", {"max_grad_norm": 1.0}, None),
    "unscaled": ("AdamW", {"grad_scale": 2.0}, None),
    "watched": ("AdamW", {}, "groups"),
    "Adafactor": ("Adafactor", {}, None),
    "Adafactor, norm": ("Adafactor", {"max_grad_norm": 1.0}, None),
}


def raises_everywhere(mesh: Any, kinds: Any, step: str, fault: str, *, first: bool) -> list[str]:
    """Break something on the last rank, at the first step or a later one."""
    rule, arguments, watch = STEPS[step]
    change, message = FAULTS[fault]
    params = [nn.Parameter(t) for t in placed(mesh, kinds, [torch.ones(8, 6), torch.ones(4, 4)])]
    optimizer: Any = getattr(gradstep, rule)([("w", params[0]), ("v", params[1])])
    optimizer.watch = watch

    def set_gradients() -> None:
        for p, g in zip(params, placed(mesh, kinds, [torch.full((8, 6), 0.5), torch.ones(4, 4)]), strict=True):
            p.grad = g

    set_gradients()
    if not first:
        optimizer.step(**arguments)
        set_gradients()
    before = [whole(p.detach()).clone() for p in params]
    counts = [int(entry["step"]) for entry in optimizer.state.values()]
    is_last = dist.get_rank() == dist.get_world_size() - 1
    label, found = f"{step}, {fault}, first={first}", []
    if is_last:
        change(optimizer, params)
    try:
        optimizer.step(**arguments)
        found.append(f"{label}: no error")
    except (RuntimeError, ValueError) as error:
        expected = message if is_last or fault in ("no gradient", "other setting") else OTHERS
        found += [] if expected in str(error) else [f"{label}: {error}"]
    if not is_last or fault != "bad state":
        found += [f"{label}: steps"] * ([int(entry["step"]) for entry in optimizer.state.values()] != counts)
    if not all(torch.equal(whole(p.detach()), b) for p, b in zip(params, before, strict=True)):
        found.append(f"{label}: a parameter changed")
    return found


def other_arguments() -> list[str]:
    """The last rank clips to, unscales by, or counts steps from another number: all ranks raise."""
    from torch.distributed.tensor import Shard

    is_last, found = dist.get_rank() == dist.get_world_size() - 1, []
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name in ("max_grad_norm", "grad_scale", "step"):
        parameter, gradient = placed(mesh, [Shard(0)], [torch.ones(8, 6), torch.ones(8, 6)])
        optimizer: Any = gradstep.AdamW([nn.Parameter(parameter)])
        (p,) = optimizer.param_groups[0]["params"]
        p.grad = gradient
        optimizer.step(max_grad_norm=1.0)
        arguments: dict[str, Any] = {"max_grad_norm": 1.0, "grad_scale": 1.0}
        if is_last and name in arguments:
            arguments[name] = 2.0
        elif is_last:
            optimizer.load_state_dict(gradstep.AdamW([p]).state_dict())
        before = whole(p.detach()).clone()
        try:
            optimizer.step(**arguments)
            found.append(f"{name}: no error")
        except RuntimeError as error:
            found += [] if UNEQUAL in str(error) else [f"{name}: {error}"]
        found += [] if torch.equal(before, whole(p.detach())) else [f"{name}: the parameter changed"]
    return found


def other_first_updates(mesh: Any, kinds: Any) -> list[str]:
    """The first update compares seeds and settings, also where it exchanges nothing else; later ones do not."""
    rank, found = dist.get_rank(), []
    storages: list[dict[str, Any]] = [{}, {"state": "bfloat16"}, {"rounding": "stochastic"}]
    for storage, clipping, same in itertools.product(storages, ({}, {"max_grad_norm": 1.0}), (False, True)):
        parameter, gradient = placed(mesh, kinds, [torch.ones(80, 80), torch.ones(80, 80)])
        p = nn.Parameter(parameter.bfloat16())
        p.grad = gradient.bfloat16()
        unlike = 0 if same else rank
        settings = {"seed": unlike} if storage else {"lr": 0.5 + unlike}
        optimizer: Any = gradstep.AdamW([p], **{"lr": 0.5, **storage, **settings})
        label = f"{storage}, {clipping}, {same}"
        try:
            optimizer.step(**clipping)
            found += [] if same else [f"{label}: no error"]
        except RuntimeError as error:
            found += [f"{label}: {error}"] * (same or UNEQUAL not in str(error))
        changed = not torch.equal(whole(p.detach()), torch.ones(80, 80, dtype=torch.bfloat16))
        found += [f"{label}: the parameter, {changed}"] * (changed != same)
        if same and not clipping:
            p.grad = gradient.bfloat16() if rank else None
            optimizer.step()  # later ones exchange nothing
            p.grad = gradient.bfloat16()
    for state in ("float32", "bfloat16"):
        p = nn.Parameter(placed(mesh, kinds, [torch.ones(80, 80)])[0])
        p.grad = placed(mesh, kinds, [torch.ones(80, 80)])[0] if rank else torch.ones(80, 80)
        try:
            gradstep.AdamW([p], state=state).step()
            found.append("first step: no error")
        except RuntimeError as error:
            found += [] if (OTHERS if rank else "must be a DTensor") in str(error) else [f"first step: {error}"]
    return found


def on_ranks() -> list[str]:
    """FSDP2; on four ranks FSDP2 with tensor parallelism, and HSDP, where an error must reach the other copy too."""
    from torch.distributed.tensor import Replicate, Shard

    placements: list[list[Any]] = [[Shard(0)]]
    mesh = init_device_mesh("cpu", (2,) * (dist.get_world_size() // 2))
    if mesh.ndim == 2:
        placements = [[Shard(0), Shard(1)], [Replicate(), Shard(0)]]
    cases = itertools.product(placements, STEPS, FAULTS, (True, False))
    first_updates = [found for kinds in placements for found in other_first_updates(mesh, kinds)]
    return (
        other_arguments()
        + first_updates
        + [
            found
            for kinds, step, fault, first in cases
            if not (first and fault == "bad state")
            for found in raises_everywhere(mesh, kinds, step, fault, first=first)
        ]
    )


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_all_ranks_raise(ranks):
    assert run(on_ranks, ranks) == [[]] * ranks


class Mesh:
    """A mesh of one dimension and this many equal ranks, without processes."""

    ndim = 1

    def __init__(self, ranks: int) -> None:
        self.size = lambda dim=0: ranks


@pytest.mark.parametrize("ranks", [2, 96, 99, 1000, 1024, 6000])
def test_any_number_of_equal_ranks_agrees(ranks, monkeypatch):
    def add_up(numbers: Any, mesh: Any, dim: int, how: str) -> Any:
        return numbers * ranks

    monkeypatch.setattr("gradstep.optimizers.step.ranks._all_reduce", add_up)
    equal = MeshRanks([Place(Mesh(ranks), (0,))], [])  # type: ignore[arg-type]
    for step in range(500):
        equal.combine([], [], "sum", [step])


@pytest.mark.parametrize("ranks", [2, 96, 99, 1000, 1024, 6000])
def test_one_unequal_rank_of_many_is_found(ranks, monkeypatch):
    def add_up(numbers: Any, mesh: Any, dim: int, how: str) -> Any:
        coefficient = numbers[-2] + 1
        return numbers * (ranks - 1) + [*numbers[:-2], coefficient, coefficient**2]

    monkeypatch.setattr("gradstep.optimizers.step.ranks._all_reduce", add_up)
    unequal = MeshRanks([Place(Mesh(ranks), (0,))], [])  # type: ignore[arg-type]
    for step in range(50):
        with pytest.raises(RuntimeError, match=UNEQUAL):
            unequal.combine([], [], "sum", [step])
