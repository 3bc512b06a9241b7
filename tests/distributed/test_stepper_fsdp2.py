"""The Stepper and the Monitor on FSDP2 and HSDP: the bits of a loop by hand, errors and decisions of all together."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import gradstep
from gradstep.monitor import JsonLines, read_run
from gradstep.optimizers.memory import local_tensor
from tests.distributed.processes import run
from tests.distributed.test_sharded_parameters import fsdp, whole

WINDOWS = 3
OPTIONS: dict[str, Any] = {"lr": 1e-2, "state": "8bit"}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 38), nn.ReLU(), nn.Linear(38, 7), nn.LayerNorm(7))


def sharded() -> Any:
    """The model with FSDP2 on two ranks, and with HSDP, two copies of two shards each, on four."""
    model = network()
    sizes = (2,) * (dist.get_world_size() // 2)
    fsdp(model, init_device_mesh("cpu", sizes, mesh_dim_names=("copies", "shards")[-len(sizes) :]))
    return model


def batch(window: int, part: int) -> torch.Tensor:
    """What this rank has of a micro-batch."""
    return torch.randn(5, 256, generator=torch.Generator().manual_seed(100 * window + 10 * part + dist.get_rank()))


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = model(x).square().mean()
    return loss


def push(stepper: gradstep.Stepper, x: torch.Tensor, weight: float = 1.0, *, last: bool = False) -> Any:
    with stepper.autocast(last=last):
        loss = loss_of(stepper.model, x)
    return stepper.backward(loss, weight)


def bits(optimizer: Any) -> list[torch.Tensor]:
    """This rank's weights and state; after a forward pass the model has whole weights in their place."""
    found = []
    for p in optimizer.param_groups[0]["params"]:
        state = [v for v in optimizer.state[p].values() if torch.is_tensor(v)] if p in optimizer.state else []
        found += [local_tensor(t.detach()).clone() for t in (p, *state)]
    return found


def same(tensors: Any, others: Any) -> bool:
    return len(tensors) == len(others) and all(map(torch.equal, tensors, others))


def windows_equal_those_by_hand() -> list[str]:
    """Windows of 2 micro-batches, and a last one of 1, which is announced."""
    model, by_hand, one = sharded(), sharded(), network()
    optimizer, other, single = (gradstep.AdamW(m.named_parameters(), **OPTIONS) for m in (model, by_hand, one))
    stepper = gradstep.Stepper(model, optimizer, accumulate=2, max_grad_norm=0.1)
    found, exchanges = [], 0
    for window in range(WINDOWS):
        parts = 1 if window == WINDOWS - 1 else 2
        outcome = None
        for part in range(parts):
            outcome = push(stepper, batch(window, part), last=part == parts - 1)
            exchanges += any(p.grad is not None for p in model.parameters())
            by_hand.set_requires_gradient_sync(part == parts - 1)
            (loss_of(by_hand, batch(window, part)) / parts).backward()
        for p, q in zip(one.parameters(), by_hand.parameters(), strict=True):
            assert q.grad is not None
            p.grad = whole(q.grad)
        for each in (other, single):
            each.step(max_grad_norm=0.1)
            each.zero_grad()
        found += [] if same(bits(optimizer), bits(other)) else [f"window {window}: not as by hand"]
        wholes = [whole(p.detach()) for p in model.parameters()]
        found += [] if same(wholes, list(one.parameters())) else [f"window {window}: not as in one process"]
        assert other.last_step is not None
        expected = other.last_step.grad_norm
        found += [] if outcome is not None and outcome.grad_norm == expected else [f"{outcome}, norm {expected}"]
    return found + [f"gradients outlived {exchanges} windows"] * exchanges


def late_ends_are_refused() -> list[str]:
    model = sharded()
    optimizer = gradstep.AdamW(model.named_parameters(), **OPTIONS)
    stepper = gradstep.Stepper(model, optimizer, accumulate=2, max_grad_norm=0.1)
    expected = copy.deepcopy([local_tensor(p.detach()) for p in model.parameters()])
    push(stepper, batch(0, 0))
    found = []
    try:
        stepper.finish()
        found.append("finish() updated without the gradients of the other rank")
    except RuntimeError as error:
        found += [] if "autocast(last=True)" in str(error) else [str(error)]
    found += [] if same([local_tensor(p.detach()) for p in model.parameters()], expected) else ["a weight changed"]
    stepper.discard()
    clean = sharded()
    other: Any = gradstep.AdamW(clean.named_parameters(), **OPTIONS)
    push(stepper, batch(1, 0), last=True)
    push(gradstep.Stepper(clean, other, accumulate=2, max_grad_norm=0.1), batch(1, 0), last=True)
    return found + ([] if same(bits(optimizer), bits(other)) else ["discarded gradients came back"])


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except (RuntimeError, ValueError) as error:
        return str(error)
    return "no error"


def errors_reach_all() -> list[str]:
    """An error on the last rank, which has a part of the gradients only: all raise, and go on after it."""
    model = sharded()
    optimizer = gradstep.AdamW(model.named_parameters(), **OPTIONS)
    stepper = gradstep.Stepper(model, optimizer, accumulate=2, max_grad_norm=0.1)
    is_last, found = dist.get_rank() == dist.get_world_size() - 1, []
    push(stepper, batch(0, 0)), push(stepper, batch(0, 1))
    before = bits(optimizer)

    def expect(label: str, call: Callable[[], Any], own: str, others: str = "another rank could not use") -> None:
        error, message = error_of(call), own if is_last else others
        found.extend([] if message in error else [f"{label}: {error}"])
        found.extend([] if same(bits(optimizer), before) else [f"{label}: something changed"])
        stepper.discard()

    expect("weight", lambda: push(stepper, batch(1, 0), -1.0 if is_last else 1.0), "Invalid weight: -1.0")
    if is_last:
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
    expect("old gradients", lambda: push(stepper, batch(1, 0)), "gradients from before the window")
    end = f"the window ends with this micro-batch on 1 of {dist.get_world_size()} ranks"
    expect("end", lambda: push(stepper, batch(1, 0), last=is_last), end, end)
    push(stepper, batch(1, 0))
    if is_last:
        optimizer.param_groups[0]["lr"] = -1.0
    expect("setting", lambda: push(stepper, batch(1, 1)), "Invalid learning rate", "another rank could not take")
    optimizer.param_groups[0]["lr"] = OPTIONS["lr"]
    push(stepper, batch(1, 0))
    outcome = push(stepper, batch(1, 1))
    return found + ([] if outcome is not None and outcome.stepped else [f"{outcome}"])


def float16_overflows_together() -> list[str]:
    """Windows of 2 micro-batches as by hand; in the third, the last rank's overflow: all skip and halve the scale."""
    model, by_hand = sharded(), sharded()
    optimizer, other = (gradstep.AdamW(m.named_parameters(), **OPTIONS) for m in (model, by_hand))
    scaler, scale = torch.amp.GradScaler("cpu", init_scale=2.0**10), 2.0**10
    stepper = gradstep.Stepper(model, optimizer, accumulate=2, max_grad_norm=0.1, precision="float16", scaler=scaler)
    is_last, found = dist.get_rank() == dist.get_world_size() - 1, []
    for window in range(4):
        outcome = None
        for part in range(2):
            x = batch(window, part) * (1e6 if window == 2 and part == 0 and is_last else 1.0)
            outcome = push(stepper, x)
            by_hand.set_requires_gradient_sync(part == 1)
            with torch.autocast("cpu", torch.float16):
                loss = loss_of(by_hand, x)
            (loss / 2 * scale).backward()
        other.step(max_grad_norm=0.1, grad_scale=scale)
        other.zero_grad()
        assert outcome is not None
        report = outcome.stepped, outcome.reason, outcome.loss_scale, scaler.get_scale()
        reason = "the gradient of 0.weight is not finite" if window == 2 else ""
        expected = (window != 2, reason, scale, scale / 2 if window == 2 else scale)
        found += [] if report == expected else [f"window {window}: {report}, not {expected}"]
        found += [] if same(bits(optimizer), bits(other)) else [f"window {window}: not as by hand"]
        scale = expected[-1]
    return found


def other_optimizers_share_the_norm() -> list[str]:
    """One of torch's, and a list of both: bit for bit torch's steps by hand with this norm; a NaN makes all skip."""
    found, is_last = [], dist.get_rank() == dist.get_world_size() - 1
    for several in (False, True):
        model, by_hand, one = sharded(), sharded(), network()
        optimizers, others = make_optimizers(model, several), make_optimizers(by_hand, several)
        stepper = gradstep.Stepper(model, optimizers, accumulate=2, max_grad_norm=0.1)
        for window in range(3):
            broken, outcome = window == 1, None
            one.zero_grad()
            for part in range(2):
                x = batch(window, part) * (float("nan") if broken and part == 0 and is_last else 1.0)
                outcome = push(stepper, x)
                by_hand.set_requires_gradient_sync(part == 1)
                (loss_of(by_hand, x) / 2).backward()
            for p, q in zip(one.parameters(), by_hand.parameters(), strict=True):
                assert q.grad is not None
                p.grad = whole(q.grad)
            assert outcome is not None
            if not broken:
                norm = float(nn.utils.get_total_norm([p.grad for p in one.parameters() if p.grad is not None]))
                found += [] if abs(outcome.grad_norm / norm - 1) < 1e-6 else [f"{outcome}, norm {norm}"]
                for q in by_hand.parameters():
                    assert q.grad is not None
                    local_tensor(q.grad).mul_(outcome.clip)
                for optimizer in others:
                    optimizer.step()
            by_hand.zero_grad()
            reason = "the gradient of 0.weight is not finite" if broken else ""
            found += [] if (outcome.stepped, outcome.reason) == (not broken, reason) else [f"{several}: {outcome}"]
            wholes = [whole(p.detach()) for p in model.parameters()]
            right = [whole(p.detach()) for p in by_hand.parameters()]
            found += [] if same(wholes, right) else [f"window {window}, {several=}: not as by hand"]
    return found


def torch_s_optimizer_on_parallel_matrices() -> list[str]:
    """Tensor parallelism on two ranks, with FSDP2 on four: one process's steps and norm, within rounding."""
    one, model = network(), network()
    sizes = (dist.get_world_size() // 2, 2)
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("dp", "tp"))
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    if sizes[0] > 1:
        fully_shard(model, mesh=mesh["dp"])
    settings: dict[str, Any] = {"lr": 1e-2, "eps": 1e-3}  # a larger eps: noise of a gradient near 0 stays noise
    single = torch.optim.AdamW(one.parameters(), **settings)
    optimizer = torch.optim.AdamW(model.parameters(), **settings)
    stepper = gradstep.Stepper(model, optimizer, accumulate=2, max_grad_norm=0.1)
    found, generator = [], torch.Generator().manual_seed(1)
    for window in range(WINDOWS):
        outcome = None
        for _ in range(2):
            data = torch.randn(sizes[0], 5, 256, generator=generator)
            outcome = push(stepper, data[mesh["dp"].get_local_rank()])
            for x in data:
                (loss_of(one, x) / 2 / len(data)).backward()
        norm = float(nn.utils.clip_grad_norm_(one.parameters(), 0.1))
        single.step()
        single.zero_grad()
        assert outcome is not None
        found += [] if abs(outcome.grad_norm / norm - 1) < 1e-5 and norm > 0.1 else [f"{outcome}, norm {norm}"]
        for (name, p), q in zip(model.named_parameters(), one.parameters(), strict=True):
            near = torch.allclose(whole(p.detach()), q, rtol=0, atol=1e-5)
            found += [] if near else [f"window {window}: {name} is not as in one process"]
    return found


def make_optimizers(model: nn.Module, several: bool) -> list[torch.optim.Optimizer]:
    params = list(model.parameters())
    if not several:
        return [torch.optim.AdamW(params, lr=1e-2)]
    return [gradstep.SGD(params[:2], lr=0.1, momentum=0.9), torch.optim.AdamW(params[2:], lr=1e-2)]


def kept_gradients_are_not_discarded() -> list[str]:
    """FSDP2 keeps a window's gradients to itself if it reduces them in another type: the error says what to do."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model: Any = network()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model, mp_policy=policy)
    optimizer = gradstep.AdamW(model.named_parameters(), **OPTIONS)
    stepper = gradstep.Stepper(model, optimizer, accumulate=3, max_grad_norm=0.1)
    push(stepper, batch(0, 0))
    error = error_of(stepper.discard)
    found = [] if "one more micro-batch" in error else [error]
    outcome = push(stepper, batch(0, 1), last=True)
    return found + ([] if outcome is not None and outcome.stepped and outcome.micro_batches == 2 else [f"{outcome}"])


def refusals() -> list[str]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    flat = FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
    error = error_of(lambda: gradstep.Stepper(flat, gradstep.AdamW(flat.parameters())))
    return [] if "Use fully_shard" in error else [error]


def monitored(folder: str) -> list[str]:
    """The record of two ranks, in which the second has a NaN once, is that of one process with their gradients."""
    model, one = sharded(), network()
    optimizer = gradstep.AdamW(model.named_parameters(), **OPTIONS)
    single = gradstep.AdamW(one.named_parameters(), **OPTIONS)
    stepper, rank = gradstep.Stepper(model, optimizer, max_grad_norm=0.1), dist.get_rank()
    found = []
    with (
        gradstep.Monitor(stepper, per_parameter=True, sinks=[JsonLines(f"{folder}/{rank}")]) as monitor,
        gradstep.Monitor(single, per_parameter=True, sinks=[JsonLines(f"{folder}/one{rank}")]) as other,
    ):
        for window in range(4):
            x = batch(window, 0)
            if window == 1 and rank == 1:
                x[0, 0] = float("nan")
            for p, q in zip(one.parameters(), gradients_of(model, x), strict=True):
                p.grad = q
            single.step(max_grad_norm=0.1)
            other.log()
            outcome = push(stepper, x)
            monitor.log(outcome)
            skipped = window == 1
            if outcome is None or outcome.stepped == skipped or (outcome.parameter == "0.weight") != skipped:
                found.append(f"window {window}: {outcome}")
    found += [] if Path(f"{folder}/{rank}").exists() == (rank == 0) else ["not one record"]
    if rank == 0:
        updates, expected = read_run(f"{folder}/0").updates, read_run(f"{folder}/one0").updates
        for update, right in zip(updates, expected, strict=True):
            for name in ("grad_norm", "update_norm", "weight_norm", "skipped"):
                pair = getattr(update, name), getattr(right, name)
                near = pair[0] == pair[1] or (isinstance(pair[0], float) and abs(pair[0] / pair[1] - 1) < 1e-6)
                found += [] if near else [f"{name} of {update.update}: {pair}"]
    return found


def gradients_of(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    loss_of(model, x).backward()
    found = [whole(p.grad) for p in model.parameters()]
    model.zero_grad()
    return found


def together(folder: str) -> list[str]:
    parts = [windows_equal_those_by_hand, float16_overflows_together, other_optimizers_share_the_norm]
    parts += [torch_s_optimizer_on_parallel_matrices, late_ends_are_refused, errors_reach_all]
    parts += [kept_gradients_are_not_discarded, refusals]
    return [f"{part.__name__}: {fault}" for part in parts for fault in part()] + monitored(folder)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_train_together(ranks, tmp_path):
    assert run(together, ranks, str(tmp_path)) == [[]] * ranks
