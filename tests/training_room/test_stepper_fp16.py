"""fp16 against the sequence that torch's documentation writes by hand."""

import pytest
import torch
from torch import nn

import gradstep
from tests.training import assert_near, assert_same, normal, snapshot

KINDS = [torch.optim.AdamW, gradstep.AdamW]
ACCUMULATE = 4
BAD = (2, 5)  # windows with an overflow


def scaler():
    return torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def loss_of(model, window, part):
    x = normal(8, 6, seed=10 * window + part)
    factor = float("inf") if window in BAD and part == 1 else 1.0
    return nn.functional.cross_entropy(model(x), torch.arange(8) % 3) * factor


def by_hand(kind, clip, windows=8):
    model, scale = network(), scaler()
    optimizer = kind(model.parameters(), lr=0.01)
    told = []
    for window in range(windows):
        losses = []
        for part in range(ACCUMULATE):
            with torch.autocast("cpu", torch.float16):
                loss = loss_of(model, window, part)
            scale.scale(loss / ACCUMULATE).backward()
            losses.append(loss.item())
        scale.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip or float("inf"))
        scale.step(optimizer)
        told.append((sum(losses) / ACCUMULATE, float(norm), scale.get_scale()))
        scale.update()
        optimizer.zero_grad()
    return optimizer, told


def stepped(kind, clip, windows=8, weight=1.0):
    model = network()
    stepper = gradstep.Stepper(
        model,
        kind(model.parameters(), lr=0.01),
        accumulate=ACCUMULATE,
        max_grad_norm=clip,
        precision="fp16",
        scaler=scaler(),
    )
    told = []
    outcome = None
    for window in range(windows):
        for part in range(ACCUMULATE):
            with stepper.autocast():
                loss = loss_of(model, window, part)
            outcome = stepper.backward(loss, weight)
        assert outcome is not None
        assert outcome.stepped == (window not in BAD)
        assert outcome.parameter == ("0.weight" if window in BAD else None)
        told.append((outcome.loss, outcome.grad_norm, outcome.loss_scale))
    return stepper.optimizer, told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 0.05], ids=["free", "clipped"])
@pytest.mark.parametrize("weight", [1.0, 777.0])
def test_equals_the_sequence_by_hand(kind, clip, weight):
    """Without clipping bit for bit: every scale is a power of two. Torch's clip factor is rounded to float32 first."""
    ours, told = stepped(kind, clip, weight=weight)
    theirs, expected = by_hand(kind, clip)
    if clip is None:
        assert_same(ours, theirs)
    else:
        for (name, a), (_, b) in zip(snapshot(ours), snapshot(theirs), strict=True):
            assert_near(a, b, ulps=64 if "exp" in name else 8)  # moments are as small as the clipped gradients
    for (loss, norm, scale), (loss_, norm_, scale_) in zip(told, expected, strict=True):
        assert scale == scale_
        assert loss == pytest.approx(loss_, rel=1e-6, nan_ok=True)
        if torch.isfinite(torch.tensor(norm_)):
            assert norm == pytest.approx(norm_, rel=1e-6)
    # Grows after two updates, halves after the windows 2 and 5.
    assert [scale / 2**12 for _, _, scale in told] == [1, 1, 2, 1, 1, 2, 1, 1]


def test_ours_and_torchs_optimizer_agree():
    ours, _ = stepped(gradstep.AdamW, 0.05)
    theirs, _ = stepped(torch.optim.AdamW, 0.05)
    for p, q in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert_near(p, q, ulps=64)


@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_changes_nothing_but_the_scale(kind):
    model = network()
    optimizer = kind(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    stepper = gradstep.Stepper(model, optimizer, schedule=schedule, precision="fp16", scaler=scaler())
    for window in (0, 1):
        with stepper.autocast():
            loss = loss_of(model, window, 0)
        stepper.backward(loss)
    before = snapshot(optimizer), schedule.state_dict(), stepper.updates
    with stepper.autocast():
        loss = loss_of(model, BAD[0], 1)
    outcome = stepper.backward(loss)
    assert outcome is not None
    assert not outcome.stepped
    assert_same(optimizer, before[0])
    assert (schedule.state_dict(), stepper.updates) == before[1:]
    assert stepper.state_dict()["scaler"]["scale"] == 2.0**12  # grown once after two updates, now halved


def test_the_scaler_is_torchs_own_unless_given():
    model = network()
    stepper = gradstep.Stepper(model, gradstep.AdamW(model.parameters()), precision="fp16")
    expected = torch.amp.GradScaler("cpu").state_dict()
    assert stepper.state_dict()["scaler"] == expected


def test_weights_in_fp16_are_refused():
    model = network().half()
    with pytest.raises(ValueError, match="leave the model in float32"):
        gradstep.Stepper(model, torch.optim.SGD(model.parameters()), precision="fp16")
