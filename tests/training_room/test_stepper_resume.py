"""2N updates are N, a checkpoint, a fresh process and N more: bit for bit."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradstep
from tests.training import assert_same, normal, snapshot

N = 5
ACCUMULATE = 3


def made(kind: Any, precision: Any = "fp16") -> tuple[nn.Module, gradstep.Stepper]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = kind(gradstep.param_groups(model, weight_decay=0.1), lr=0.01)
    schedule: Any = gradstep.schedules.warmup(updates=3, to=0.02).then(gradstep.schedules.cosine(0.02, updates=9))
    if kind is torch.optim.AdamW:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=3 * N)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3) if precision == "fp16" else None
    return model, gradstep.Stepper(
        model,
        optimizer,
        schedule=schedule,
        accumulate=ACCUMULATE,
        max_grad_norm=0.1,
        precision=precision,
        scaler=scaler,
    )


def train(model: nn.Module, stepper: gradstep.Stepper, windows: range) -> list[Any]:
    """Unequal micro-batches; the window before the checkpoint is partial, and one overflows after it."""
    told = []
    for window in windows:
        count = 2 if window == N - 1 else ACCUMULATE
        outcome = None
        for part in range(count):
            x = normal(2 + (window + part) % 4, 6, seed=10 * window + part)
            with stepper.autocast():
                loss = (model(x) - 1).square().mean() * (float("inf") if window == N + 1 else 1.0)
            outcome = stepper.backward(loss, weight=len(x))
        told.append(outcome or stepper.finish())
    return told


@pytest.mark.parametrize("kind", [torch.optim.AdamW, gradstep.AdamW])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_in_one_process(kind, precision):
    model, through = made(kind, precision)
    train(model, through, range(N))
    checkpoint = {"model": model.state_dict(), "stepper": through.state_dict()}
    saved = _through_a_file(checkpoint)
    expected = train(model, through, range(N, 2 * N))

    again, resumed = made(kind, precision)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["stepper"])
    assert list(map(repr, train(again, resumed, range(N, 2 * N)))) == list(map(repr, expected))
    assert_same(resumed.optimizer, through.optimizer)
    assert repr(resumed.state_dict()["schedule"]) == repr(through.state_dict()["schedule"])


def _through_a_file(checkpoint: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.optim.AdamW, gradstep.AdamW])
def test_in_a_fresh_process(kind, tmp_path):
    model, through = made(kind)
    train(model, through, range(N))
    torch.save({"model": model.state_dict(), "stepper": through.state_dict()}, tmp_path / "half")
    train(model, through, range(N, 2 * N))

    code = f"""
import sys, torch, gradstep
from tests.training_room.test_stepper_resume import made, train, snapshot, N
model, stepper = made({kind.__module__.partition(".")[0]}.{"optim." if kind is torch.optim.AdamW else ""}AdamW)
half = torch.load(sys.argv[1] + "/half", weights_only=True)
model.load_state_dict(half["model"])
stepper.load_state_dict(half["stepper"])
train(model, stepper, range(N, 2 * N))
torch.save((snapshot(stepper.optimizer), repr(stepper.state_dict()["schedule"]), stepper.updates), sys.argv[1] + "/end")
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=200, cwd=Path(__file__).parents[2])
    end, schedule, updates = torch.load(tmp_path / "end", weights_only=True)
    assert_same(through.optimizer, end)
    assert (schedule, updates) == (repr(through.state_dict()["schedule"]), through.updates)
    assert updates == 2 * N - 1  # one overflowed


def test_checkpoints_of_another_kind_are_refused_and_change_nothing():
    model, stepper = made(gradstep.AdamW)
    train(model, stepper, range(2))
    before = snapshot(stepper.optimizer)
    other, plain = made(gradstep.AdamW, "bf16")
    train(other, plain, range(1))
    with pytest.raises(ValueError, match="this stepper has a scaler, and the checkpoint has none"):
        stepper.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match="this stepper has no scaler, and the checkpoint has one"):
        plain.load_state_dict(stepper.state_dict())
    with pytest.raises(KeyError, match="optimizer, scaler, schedule, unit, updates missing"):
        stepper.load_state_dict({})
    assert_same(stepper.optimizer, before)
    assert stepper.updates == 2
