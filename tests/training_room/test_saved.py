"""A run in a file: bit for bit in a fresh process, all or nothing, and the old file when the new one fails."""

import copy
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradstep
from gradstep.training.random_state import random_state, restore_random_state
from tests.training import assert_same, normal, snapshot, unchanged

ROOT = Path(__file__).parents[2]


def made(kind: Any = gradstep.AdamW, **options: Any) -> dict[str, Any]:
    """A model with dropout and a batch norm, its optimizer and its schedule."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 80), nn.BatchNorm1d(80), nn.Dropout(0.5), nn.Linear(80, 1))
    optimizer = kind(model.named_parameters(), lr=0.01, **options)
    schedule = gradstep.Scheduler(optimizer, lr=gradstep.schedules.cosine(0.01, updates=20))
    return {"model": model, "optimizer": optimizer, "schedule": schedule}


def train(run: dict[str, Any], updates: int) -> list[float]:
    """All three random generators decide what happens."""
    losses = []
    for _ in range(updates):
        x = torch.randn(8, 64) * random.random() + torch.from_numpy(np.random.rand(8, 64)).float()  # noqa: NPY002
        run["optimizer"].zero_grad()
        loss = (run["model"](x) - 1).square().mean()
        loss.backward()
        run["optimizer"].step()
        run["schedule"].step()
        losses.append(loss.item())
    return losses


def everything(run: dict[str, Any]) -> Any:
    """A copy of all that a checkpoint holds."""
    return copy.deepcopy({name: part.state_dict() for name, part in run.items()})


def same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


@pytest.mark.parametrize("kind", [gradstep.AdamW, torch.optim.AdamW])
def test_a_run_goes_on_bit_for_bit(kind, tmp_path):
    options: dict[str, Any] = {"state": "8bit"} if kind is gradstep.AdamW else {}
    run = made(kind, **options)
    train(run, 3)
    gradstep.save_checkpoint(tmp_path / "run.pt", **run, epoch=3, seen={"names": ["a"], "mean": torch.ones(2)})
    expected = train(run, 3)

    again = made(kind, **options)
    extra = gradstep.load_checkpoint(tmp_path / "run.pt", **again)
    assert same(extra, {"epoch": 3, "seen": {"names": ["a"], "mean": torch.ones(2)}})
    assert train(again, 3) == expected
    assert same(everything(again), everything(run))
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.slow
def test_in_a_fresh_process(tmp_path):
    run = made(state="8bit")
    train(run, 3)
    gradstep.save_checkpoint(tmp_path / "half", **run)
    expected = train(run, 3)
    code = """
import sys, torch, gradstep
from tests.training_room.test_saved import made, train, snapshot
run = made(state="8bit")
assert gradstep.load_checkpoint(sys.argv[1] + "/half", **run) == {}
torch.save((train(run, 3), snapshot(run["optimizer"])), sys.argv[1] + "/end")
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=200, cwd=ROOT)
    losses, end = torch.load(tmp_path / "end", weights_only=True)
    assert losses == expected
    assert_same(run["optimizer"], end)


KILLED = """
import sys, torch, gradstep
path = sys.argv[1]
model = torch.nn.Linear(1000, 1000)
with torch.no_grad():
    model.weight.fill_(1.0)
gradstep.save_checkpoint(path, model=model, number=0)
print("saved", flush=True)
for number in range(1, 10000):
    with torch.no_grad():
        model.weight.fill_(float(number + 1))
    gradstep.save_checkpoint(path, model=model, number=number)
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 0.017])
def test_kill_while_saving_leaves_a_whole_file(after, tmp_path):
    path = tmp_path / "run.pt"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    for _ in range(3):
        child.stdout.readline()
    time.sleep(after)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(timeout=60)
    done = [int(line) for line in child.stdout.read().split()]
    child.stdout.close()
    model = nn.Linear(1000, 1000)
    number = gradstep.load_checkpoint(path, model=model)["number"]
    assert number >= max([2, *done])
    assert (model.weight == number + 1).all()


def test_what_cannot_be_read_back_without_running_it_is_refused_and_the_old_file_stays(tmp_path):
    run, path = made(), tmp_path / "run.pt"
    gradstep.save_checkpoint(path, **run, epoch=1)
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"tensors, numbers, text.*; where holds something else"):
        gradstep.save_checkpoint(path, **run, epoch=2, where=tmp_path)
    with pytest.raises(Exception, match=r"[Pp]ickle"):
        gradstep.save_checkpoint(path, **run, function=lambda: None)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


# -- all or nothing --------------------------------------------------------------------------------------------------


def _another_layer(run):
    run["model"] = nn.Sequential(nn.Linear(64, 80), nn.BatchNorm1d(80), nn.Dropout(0.5), nn.Linear(80, 1, bias=False))


def _another_width(run):
    run["model"] = nn.Sequential(nn.Linear(64, 81), nn.BatchNorm1d(81), nn.Dropout(0.5), nn.Linear(81, 1))


def _another_rule(run):
    run["optimizer"] = gradstep.Lion(run["model"].named_parameters())


def _fewer_bits(run):
    run["optimizer"] = gradstep.AdamW(run["model"].named_parameters(), state="8bit")


def _another_schedule(run):
    run["schedule"] = torch.optim.lr_scheduler.StepLR(run["optimizer"], 3)


def _a_scaler(run):
    run["scaler"] = torch.amp.GradScaler("cpu")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (_another_layer, RuntimeError, "of another model:\n  unexpected: 3.bias"),
        (_another_width, RuntimeError, r"0.weight has shape \(80, 64\) in the checkpoint, and \(81, 64\) in the model"),
        (_another_rule, ValueError, "is of AdamW, and this optimizer is Lion"),
        (_fewer_bits, RuntimeError, r"exp_avg is stored as float32, and here as 8bit[\s\S]*convert_state"),
        (_another_schedule, KeyError, "schedule in the checkpoint is of another kind: it has no .*step_size"),
        (_a_scaler, KeyError, r"run.pt holds no scaler \(it holds model, optimizer, schedule\)"),
    ],
)
def test_whoever_refuses_nothing_is_changed(change, error, words, tmp_path):
    saved = made()
    train(saved, 2)
    gradstep.save_checkpoint(tmp_path / "run.pt", **saved)
    run = made()
    train(run, 1)
    change(run)
    before, drawn = everything(run), random_state()
    with unchanged(run["optimizer"]), pytest.raises(error, match=words):
        gradstep.load_checkpoint(tmp_path / "run.pt", **run)
    assert same(everything(run), before)
    assert same(random_state(), drawn)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is damaged, or no checkpoint"),
        (b"hello", "is damaged, or no checkpoint"),
        ("short", "is damaged, or no checkpoint"),
        ("torch", "was not written by gradstep.save_checkpoint"),
        ("later", "in format 99.*update gradstep"),
    ],
)
def test_files_that_are_none(content, words, tmp_path):
    run, path = made(), tmp_path / "run.pt"
    gradstep.save_checkpoint(path, **run)
    if content == "short":
        path.write_bytes(path.read_bytes()[:-100])
    elif content == "torch":
        torch.save(run["model"].state_dict(), path)
    elif content == "later":
        whole = torch.load(path, weights_only=True)
        whole["gradstep"]["format"] = 99
        torch.save(whole, path)
    else:
        path.write_bytes(content)
    before = everything(run)
    with pytest.raises(ValueError, match=words):
        gradstep.load_checkpoint(path, **run)
    assert same(everything(run), before)
    with pytest.raises(FileNotFoundError):
        gradstep.load_checkpoint(tmp_path / "none", **run)


class Stubborn(torch.optim.lr_scheduler.ExponentialLR):
    """Refuses its state, and only once it is loaded."""

    def load_state_dict(self, state_dict):
        if state_dict["last_epoch"] > 1:
            raise RuntimeError("not this one")
        super().load_state_dict(state_dict)


@pytest.mark.parametrize("kind", [gradstep.AdamW, torch.optim.AdamW])
def test_what_was_loaded_before_somebody_refused_is_put_back(kind, tmp_path):
    saved = made(kind)
    saved["schedule"] = Stubborn(saved["optimizer"], 0.5)
    train(saved, 2)
    gradstep.save_checkpoint(tmp_path / "run.pt", **saved)
    run = made(kind)
    run["schedule"] = Stubborn(run["optimizer"], 0.5)
    train(run, 1)
    before, drawn = everything(run), random_state()
    with pytest.raises(RuntimeError, match="not this one"):
        gradstep.load_checkpoint(tmp_path / "run.pt", **run)
    assert same(everything(run), before)
    assert same(random_state(), drawn)


# -- file objects ------------------------------------------------------------------------------------------------------


def test_file_objects(tmp_path):
    """In memory, open on the disk, and behind something else in the same file."""
    run = made()
    train(run, 2)
    with (tmp_path / "run.pt").open("w+b") as on_disk:
        for file in (io.BytesIO(), on_disk):
            for start in (0, 5):
                file.seek(0)
                file.truncate()
                file.write(b"x" * start)
                gradstep.save_checkpoint(file, **run, epoch=3)
                again = made()
                with pytest.raises(ValueError, match=r"it is at its end: call its seek\(0\) before"):
                    gradstep.load_checkpoint(file, **again)
                file.seek(start)
                assert gradstep.load_checkpoint(file, **again) == {"epoch": 3}
                assert same(everything(again), everything(run))
    gradstep.save_checkpoint(tmp_path / "path.pt", **run, epoch=3)
    assert torch.load(tmp_path / "path.pt", weights_only=True)["extra"] == {"epoch": 3}


def test_a_file_object_gets_nothing_of_what_cannot_be_read_back(tmp_path):
    file = io.BytesIO()
    with pytest.raises(TypeError, match="where holds something else"):
        gradstep.save_checkpoint(file, **made(), where=tmp_path)
    assert file.getvalue() == b""
    with pytest.raises(ValueError, match="it is empty"):
        gradstep.load_checkpoint(file)


# -- loading in part ---------------------------------------------------------------------------------------------------


def grown(kind: Any, *more: nn.Module, head: int = 1) -> dict[str, Any]:
    """The model of :func:`made`, with another head or more layers."""
    torch.manual_seed(1)
    layers = [nn.Linear(64, 80), nn.BatchNorm1d(80), nn.Dropout(0.5), nn.Linear(80, head), *more]
    model = nn.Sequential(*layers)
    return {"model": model, "optimizer": kind(model.named_parameters(), lr=0.01)}


def test_another_head(tmp_path):
    """All but the head: 4 parameters, 3 buffers, and the state of the 4."""
    saved, path = made(), tmp_path / "run.pt"
    train(saved, 2)
    gradstep.save_checkpoint(path, **saved, epoch=3)
    run = grown(gradstep.AdamW, head=5)
    head = run["model"][3].weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"3.weight has shape [^$]*strict=False\) loads what matches"):
        gradstep.load_checkpoint(path, **run)
    report = gradstep.load_checkpoint(path, **run, strict=False)
    assert report.extra == {"epoch": 3}
    assert len(report.loaded) == 7 + 4
    assert report.left_out == {
        "model 3.weight": "has shape (1, 80) in the checkpoint, and (5, 80) in the model",
        "model 3.bias": "has shape (1,) in the checkpoint, and (5,) in the model",
        "optimizer 3.weight": "exp_avg has shape (1, 80), but must have (5, 80); "
        "exp_avg_sq has shape (1, 80), but must have (5, 80)",
        "optimizer 3.bias": "exp_avg has shape (1,), but must have (5,); exp_avg_sq has shape (1,), but must have (5,)",
    }
    assert torch.equal(run["model"][3].weight, head)
    assert torch.equal(run["model"][0].weight, saved["model"][0].weight)
    state, old = run["optimizer"].state, saved["optimizer"].state
    assert same(dict(state[run["model"][0].weight]), dict(old[saved["model"][0].weight]))
    assert not state[run["model"][3].weight]
    run["schedule"] = gradstep.Scheduler(run["optimizer"], gradstep.schedules.constant(0.01))
    train(run, 1)
    assert state[run["model"][3].weight]["step"] == 1
    assert state[run["model"][0].weight]["step"] == 3


def test_a_layer_more_and_a_layer_less(tmp_path):
    small, large, path = made(), grown(gradstep.AdamW, nn.Linear(1, 1)), tmp_path / "run.pt"
    train(small, 1)
    gradstep.save_checkpoint(path, **small)
    report = gradstep.load_checkpoint(path, **large, strict=False)
    assert set(report.left_out.items()) == {
        (f"{part} 4.{name}", "not in the checkpoint") for part in ("model", "optimizer") for name in ("weight", "bias")
    }
    run = large | {"schedule": gradstep.Scheduler(large["optimizer"], gradstep.schedules.constant(0.01))}
    train(run, 1)
    gradstep.save_checkpoint(path, **large)
    again = made()
    del again["schedule"]
    report = gradstep.load_checkpoint(path, **again, strict=False)
    assert str(report).endswith(
        "left out 4:\n  model 4.weight: in the checkpoint only\n  model 4.bias: in the checkpoint only\n"
        "  optimizer 4.weight: in the checkpoint only\n  optimizer 4.bias: in the checkpoint only"
    )
    states = [dict(r["optimizer"].state[r["model"][0].bias]) for r in (again, large)]
    assert same(*states)


def test_a_stepper_in_part(tmp_path):
    saved, run = (grown(gradstep.AdamW, head=head) for head in (1, 5))
    first, second = (gradstep.Stepper(r["model"], r["optimizer"]) for r in (saved, run))
    with first.autocast():
        loss = saved["model"](normal(8, 64)).square().mean()
    first.backward(loss)
    gradstep.save_checkpoint(tmp_path / "run.pt", stepper=first)
    report = gradstep.load_checkpoint(tmp_path / "run.pt", stepper=second, strict=False)
    assert sum(name.startswith("optimizer") for name in report.loaded) == 4
    assert set(report.left_out) == {f"{p} 3.{n}" for p in ("model", "optimizer") for n in ("weight", "bias")}
    assert second.updates == 1


def test_an_optimizer_of_torch_is_loaded_as_always_beside_a_model_in_part(tmp_path):
    saved, run = (grown(torch.optim.AdamW, *([nn.Flatten()] * more)) for more in (0, 1))
    saved["model"].register_buffer("count", torch.ones(1))
    saved["optimizer"].param_groups[0]["lr"] = 0.5
    gradstep.save_checkpoint(tmp_path / "run.pt", **saved)
    report = gradstep.load_checkpoint(tmp_path / "run.pt", **run, strict=False)
    assert report.left_out == {"model count": "in the checkpoint only"}
    assert run["optimizer"].param_groups[0]["lr"] == 0.5


# -- parts -----------------------------------------------------------------------------------------------------------


def test_a_model_alone_and_wrapped(tmp_path):
    """What compiling or wrapping puts before the names does not count, on either side."""
    run, path = made(), tmp_path / "run.pt"
    gradstep.save_checkpoint(path, **run)
    plain, wrapped = made()["model"], nn.ModuleDict({"module": made()["model"]})
    for model in (plain, wrapped):
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        drawn = random_state()
        gradstep.load_checkpoint(path, model=model, rng=False)
        assert same(random_state(), drawn)
    assert same(dict(plain.state_dict()), dict(run["model"].state_dict()))
    assert same(dict(wrapped["module"].state_dict()), dict(run["model"].state_dict()))


def test_a_stepper_stands_for_its_parts(tmp_path):
    def run() -> gradstep.Stepper:
        torch.manual_seed(0)
        model = nn.Linear(6, 1)
        optimizer = gradstep.AdamW(model.parameters(), lr=0.1)
        schedule = gradstep.schedules.cosine(0.1, updates=9)
        return gradstep.Stepper(model, optimizer, schedule=schedule, accumulate=2, precision="fp16")

    def train(stepper: gradstep.Stepper, seeds: range) -> list[str]:
        told = []
        for seed in seeds:
            with stepper.autocast():
                loss = stepper.model(normal(4, 6, seed=seed)).square().mean()
            told.append(repr(stepper.backward(loss)))
        return told

    stepper, path = run(), tmp_path / "run.pt"
    train(stepper, range(4))
    gradstep.save_checkpoint(path, stepper=stepper, epoch=1)
    again = run()
    assert gradstep.load_checkpoint(path, stepper=again) == {"epoch": 1}
    assert train(again, range(4, 8)) == train(stepper, range(4, 8))
    assert_same(again.optimizer, snapshot(stepper.optimizer))

    with pytest.raises(ValueError, match="stands for its optimizer too"):
        gradstep.save_checkpoint(path, stepper=stepper, optimizer=stepper.optimizer)
    train(stepper, range(1))
    with pytest.raises(RuntimeError, match="window"):
        gradstep.load_checkpoint(path, stepper=stepper)


def test_random_generators_go_on():
    state = random_state()
    np.random.standard_normal()  # noqa: NPY002 (leaves a second number for the next call)
    half = random_state()

    def draw() -> tuple[Any, ...]:
        return torch.rand(3).tolist(), np.random.standard_normal(), random.gauss(0, 1)  # noqa: NPY002

    first = draw()
    restore_random_state(half)
    assert draw() == first
    restore_random_state(state)
    assert draw() != first


def test_a_pure_schedule_has_no_state_to_save(tmp_path):
    pure: Any = gradstep.schedules.constant(0.1)
    for save in (gradstep.save_checkpoint, gradstep.load_checkpoint):
        with pytest.raises(TypeError, match=r"schedule= is .*, which has no state: leave it out"):
            save(tmp_path / "run.pt", schedule=pure)
    assert not list(tmp_path.iterdir())
