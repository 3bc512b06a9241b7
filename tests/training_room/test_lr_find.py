"""The learning-rate finder: its curve by hand, and what it says of curves whose answer is known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from typer.testing import CliRunner

import gradstep
from gradstep.training.lr_sweep import SUGGESTION_METHODS, refusal, suggestions, sweep_refusal, valley

LRS = np.geomspace(1e-7, 10, 101)


class Bowl(nn.Module):
    """½ · 4 · x²: gradient descent diverges above 2/4."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))

    def forward(self) -> Tensor:
        return 2 * self.x.square().sum()


def bowl_loss(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model() * batch
    return loss


def curve(losses: Any, **more: Any) -> gradstep.LrSweep:
    return gradstep.LrSweep(0, LRS[: len(losses)], np.asarray(losses, dtype=np.float64), **more)


# -- the sweep, by hand ---------------------------------------------------------------------------------------------


def test_each_update_has_the_next_learning_rate_and_the_loss_after_it():
    model = Bowl()
    stepper = gradstep.Stepper(model, torch.optim.SGD(model.parameters(), lr=1.0))
    told: list[Any] = []
    found = gradstep.lr_find(
        stepper, bowl_loss, [1.0], start=1e-3, end=0.4, updates=20, on_update=lambda *a: told.append(a)
    )
    (sweep,) = found.sweeps
    x, losses = 1.0, []
    for i in range(20):
        x -= 1e-3 * 400 ** (i / 19) * 4 * x
        losses.append(2 * x * x)
    np.testing.assert_allclose(sweep.losses, losses, rtol=1e-12)
    np.testing.assert_allclose(sweep.lrs, [1e-3 * 400 ** (i / 19) for i in range(20)], rtol=1e-12)
    assert told == [(0, i, float(sweep.lrs[i]), float(sweep.losses[i])) for i in range(20)]
    assert model.x.item() == 1.0


@pytest.mark.parametrize("kind", [gradstep.SGD, torch.optim.SGD])
def test_every_sweep_begins_where_the_first_did(kind):
    model = Bowl()
    stepper = gradstep.Stepper(model, kind(model.parameters(), lr=1.0, momentum=0.9))
    found = gradstep.lr_find(stepper, bowl_loss, [1.0], end=0.1, updates=20, sweeps=3)
    for sweep in found.sweeps:
        np.testing.assert_array_equal(sweep.losses, found.sweeps[0].losses)


def test_gradient_descent_explodes_where_mathematics_says():
    model = Bowl()
    stepper = gradstep.Stepper(model, torch.optim.SGD(model.parameters(), lr=1.0))
    found = gradstep.lr_find(stepper, bowl_loss, [1.0], end=1e3, updates=200)
    (sweep,) = found.sweeps
    assert sweep.explosion is not None
    assert 2 / 4 < sweep.explosion < 10 * 2 / 4  # it has to climb all the way that it had fallen before
    assert len(sweep.lrs) < 200
    assert 1e-3 < found.lr < 2 / 4
    assert found.suggestions["a tenth of the explosion"].lr == pytest.approx(sweep.explosion / 10)
    assert "exploded" in str(found)


def test_micro_batches_and_their_weights_make_the_update():
    def weighed(model: nn.Module, batch: Any) -> tuple[Tensor, float]:
        return bowl_loss(model, batch[0]), batch[1]

    losses = []
    for batches, accumulate in (([(1.0, 1.0), (3.0, 3.0)], 2), ([(2.5, 1.0)], 1)):  # (1·1 + 3·3) / 4
        model = Bowl()
        stepper = gradstep.Stepper(model, torch.optim.SGD(model.parameters()), accumulate=accumulate)
        found = gradstep.lr_find(stepper, weighed, batches, start=1e-3, end=0.1, updates=10)
        losses.append(found.sweeps[0].losses)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12, atol=1e-30)


@pytest.mark.parametrize("scheduled", [False, True])
def test_groups_keep_their_ratio_and_the_highest_is_reported(scheduled):
    params = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    model = nn.ParameterList(params)
    groups = [{"params": [p], "lr": lr} for p, lr in zip(params, (0.1, 0.4, 0.0), strict=True)]
    optimizer = torch.optim.SGD(groups)
    schedule = None
    if scheduled:  # a warmup that begins at 0: the ratios are those of the initial rates
        schedule = gradstep.Scheduler(optimizer, lr_factor=gradstep.schedules.warmup(updates=5, to=1.0))
    seen = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        seen.append([group["lr"] for group in optimizer.param_groups])
        total: Tensor = sum(p.square().sum() for p in model.parameters())  # type: ignore[assignment]
        return total

    found = gradstep.lr_find(
        gradstep.Stepper(model, optimizer, schedule=schedule), loss, [0], start=1e-3, end=1e-1, updates=10
    )
    for lr, rates in zip(found.sweeps[0].lrs, seen, strict=False):
        assert rates == pytest.approx([lr / 4, lr, 0.0])
    assert [group["lr"] for group in optimizer.param_groups] == ([0.0] * 3 if scheduled else [0.1, 0.4, 0.0])


def test_a_loss_that_ceases_to_be_finite_ends_the_sweep():
    def loss(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        return bowl_loss(model, math.inf if len(calls) == 14 else 1.0)

    calls: list[int] = []
    model = Bowl()
    stepper = gradstep.Stepper(model, gradstep.SGD(model.parameters(), lr=1.0))
    (sweep,) = gradstep.lr_find(stepper, loss, [0], end=1.0, updates=30).sweeps
    assert len(sweep.lrs) == 12  # the 14th loss, after the 13th update, is not one of them
    assert sweep.explosion == pytest.approx(1e-7 * 1e7 ** (12 / 29))
    assert "not finite" in sweep.stopped
    calls[:] = [1] * 13
    found = gradstep.lr_find(stepper, loss, [0])
    assert "before any update" in found.refusal
    assert str(found)


# -- curves whose answer is known -----------------------------------------------------------------------------------


@given(st.floats(-4, -1), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_the_steepest_point_is_found_wherever_the_curve_and_its_zero_are(place, offset, size):
    decades = np.log10(LRS)
    losses = offset - size * np.tanh(2 * (decades - place)) * (decades < 0.5)
    found = suggestions([curve(losses)])
    assert math.log10(found["steepest"].lr) == pytest.approx(place, abs=0.05)  # points are 0.08 apart


def test_a_tenth_of_the_minimum_and_of_the_explosion():
    decades = np.log10(LRS)
    found = suggestions([curve((decades + 2) ** 2, explosion=0.5)])
    assert found["a tenth of the minimum"].lr == pytest.approx(1e-3, rel=0.1)  # half a point away
    assert found["a tenth of the explosion"].lr == pytest.approx(0.05)
    assert "a tenth of the explosion" not in suggestions([curve((decades + 2) ** 2)])


def test_the_valley_is_the_middle_of_the_longest_decreasing_subsequence():
    smooth = -np.clip(np.log10(LRS), -5, -1) + np.clip(np.log10(LRS) + 1, 0, None)  # falls from 1e-5 to 1e-1
    # Smoothing makes the falling part longer, by as much on both sides but for the ends of the kernel.
    assert valley(curve(smooth)) < 1e-3
    assert valley(curve(smooth)) > 1e-5
    assert valley(curve(-np.log10(LRS))) == pytest.approx(1e-3, rel=1e-6)  # all of it: the middle of 1e-7 and 10


def test_smoothing_by_hand():
    lrs = 10.0 ** np.array([-3, -2.5, -2])
    sweep = gradstep.LrSweep(0, lrs, np.array([1.0, 2.0, 4.0]))
    near, far = math.exp(-0.5 * 1.5**2), math.exp(-0.5 * 3**2)  # half a decade is 1.5 standard deviations
    # The first losses have the median 2 and the lowest is 1 below: 4 is taken to be 3.
    expected = [
        (1 + 2 * near + 3 * far) / (1 + near + far),
        (near + 2 + 3 * near) / (1 + 2 * near),
        (far + 2 * near + 3) / (1 + near + far),
    ]
    np.testing.assert_allclose(sweep.smoothed, expected, rtol=1e-12)


def test_an_explosion_does_not_hide_the_fall_beside_it():
    losses = 2 - 1 / (1 + np.exp(-8 * (np.log10(LRS) + 2)))
    losses[80:] = 1e12
    found = suggestions([curve(losses)])
    assert found["steepest"].lr == pytest.approx(1e-2, rel=0.25)


def test_the_range_is_that_of_the_sweeps():
    suggestion = gradstep.LrSuggestion("steepest", (1e-3, 4e-3, 1e-2, 2e-3))
    assert suggestion.lr == pytest.approx(math.sqrt(2e-3 * 4e-3))
    assert (suggestion.low, suggestion.high) == (1e-3, 1e-2)
    assert str(suggestion) == "0.0028 (0.001 to 0.01)"
    assert str(gradstep.LrSuggestion("steepest", (1e-3,))) == "0.001"


# -- refusals -------------------------------------------------------------------------------------------------------


def test_it_refuses_with_the_reason():
    decades = np.log10(LRS)
    assert sweep_refusal(curve((decades + 2) ** 2)) == ""
    assert "flat" in sweep_refusal(curve(np.full(101, 2.3)))
    assert "without having fallen" in sweep_refusal(curve(1 + np.exp(decades + 7), explosion=1.0))
    assert "too few" in sweep_refusal(curve([3.0, 2.0, 1.0], stopped="the loss is not finite"))
    assert "still falling" in sweep_refusal(curve(-decades))
    assert "still falling" in sweep_refusal(curve(-np.exp(decades))), "ever faster"
    slowing = curve(-np.tanh(decades + 1.5) - 0.02 * decades)  # steepest at lr 0.03, and lowest at the end
    assert sweep_refusal(slowing) == ""
    found = suggestions([slowing])
    assert found["steepest"].lr == pytest.approx(10**-1.5, rel=0.1)
    assert "a tenth of the minimum" not in found, "where the minimum is, nobody has seen"
    fine, other = (curve(3 * (decades > at + 2) - np.tanh(2 * (decades - at))) for at in (-4, -2.5))
    assert refusal([fine, fine]) == ""
    assert "disagree" in refusal([fine, other])
    assert "1 of 2 sweeps say nothing" in refusal([fine, curve(np.full(101, 2.3))])
    assert refusal([fine, fine, curve(np.full(101, 2.3))]) == ""
    refused = gradstep.LrFound((curve(np.full(101, 2.3)),), 0)
    assert "no learning rate is recommended: the loss is flat" in str(refused)
    with pytest.raises(ValueError, match="no learning rate is recommended: the loss is flat"):
        _ = refused.lr


def noisy_bowl(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model() + batch
    return loss


def scattered(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return (float(4 * rng.normal()) for _ in range(10**6))


def test_a_fall_that_is_lost_in_noise_asks_for_more_micro_batches_and_finds_it_with_them():
    """The bowl's loss falls by 2 and explodes above lr 0.5; each micro-batch adds noise of deviation 4.

    A lower start, which earlier versions asked for, changes nothing.
    """

    def find(accumulate: int, start: float) -> gradstep.LrFound:
        model = Bowl()
        stepper = gradstep.Stepper(model, torch.optim.SGD(model.parameters(), lr=1.0), accumulate=accumulate)
        return gradstep.lr_find(stepper, noisy_bowl, scattered, start=start)

    for start in (1e-7, 1e-9):
        reason = find(1, start).refusal
        assert "if the loss falls, noise hides it" in reason
        assert "times as many examples an update (the stepper's accumulate=" in reason
        assert "start=" not in reason
    found = find(36, 1e-7)
    assert found.refusal == ""
    assert 1e-3 < found.lr < 0.5


def test_a_start_that_is_too_high_is_lowered():
    model = Bowl()
    stepper = gradstep.Stepper(model, torch.optim.SGD(model.parameters(), lr=1.0))
    assert gradstep.lr_find(stepper, bowl_loss, [1.0], start=0.51, updates=200).refusal.endswith("lower start=")
    assert gradstep.lr_find(stepper, bowl_loss, [1.0], start=1e-5, updates=200).refusal == ""


def test_a_loss_that_is_not_finite_before_any_update_is_not_the_learning_rate_s():
    model = Bowl()
    stepper = gradstep.Stepper(model, torch.optim.SGD(model.parameters(), lr=1.0))
    reason = gradstep.lr_find(stepper, bowl_loss, [math.nan]).refusal
    assert reason.endswith("no learning rate is the cause; look at the data and at the model's weights")


def test_noise_alone_is_no_fall_and_no_explosion():
    rng = np.random.default_rng(0)
    noisy = [curve(rng.normal(size=101)) for _ in range(200)]
    assert sum(not sweep_refusal(sweep) for sweep in noisy) == 0
    assert sum(sweep.exploding for sweep in noisy) == 0


def test_what_is_wrong_is_said_before_anything_happens():
    model = Bowl()
    stepper = gradstep.Stepper(model, gradstep.SGD(model.parameters(), lr=0.0), accumulate=2)
    for wrong in ({"start": 0.0}, {"start": 1.0, "end": 1.0}, {"end": math.inf}, {"updates": 9}, {"sweeps": 0}):
        with pytest.raises(ValueError, match="Invalid"):
            gradstep.lr_find(stepper, bowl_loss, [1.0], **wrong)
    with pytest.raises(ValueError, match="a learning rate above 0"):
        gradstep.lr_find(stepper, bowl_loss, [1.0])
    with stepper.autocast():
        loss = bowl_loss(model, 1.0)
    stepper.backward(loss)
    with pytest.raises(RuntimeError, match="in the middle of a window"):
        gradstep.lr_find(stepper, bowl_loss, [1.0])
    assert stepper.open
    assert model.x.grad is not None


# -- what people see ------------------------------------------------------------------------------------------------


def test_text_and_picture_show_every_curve_and_suggestion():
    decades = np.log10(LRS)
    sweeps = tuple(gradstep.LrSweep(i, LRS, (decades + 2 + i / 8) ** 2, explosion=0.5) for i in range(3))
    found = gradstep.LrFound(sweeps, 0)
    text = str(found)
    assert text.startswith(f"learning rate {found.recommended}")
    assert all(name in text for name in SUGGESTION_METHODS)
    chart = found.plot()
    assert chart.x_log
    assert [line.name for line in chart.lines if len(line.x) == 101] == ["loss"] * 3 + ["smoothed"] * 3
    drawn = chart.file()
    assert all(f"{name}: " in drawn for name in SUGGESTION_METHODS)
    refused = gradstep.LrFound((curve(np.full(101, 2.3)),), 0).plot()
    assert "flat" in refused.title


def test_the_command(tmp_path):
    from gradstep.cli import app

    chart = tmp_path / "deep" / "lr.svg"
    words = ["lr-find", "ravine", "-o", "sgd", "--sweeps", "1", "--updates", "60", "--chart", str(chart)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "learning rate" in done.output
    assert "steepest" in done.output
    assert chart.read_text(encoding="utf-8").startswith("<svg xmlns=")
    for wrong, says in ((["digit"], "digits"), (["text", "-o", "lyon"], "lion"), (["text", "--start", "0"], "start")):
        refused = CliRunner().invoke(app, ["lr-find", *wrong], env={"COLUMNS": "160", "TERM": "dumb"})
        assert refused.exit_code == 2
        assert says in refused.output


def test_a_model_in_the_place_of_the_stepper_is_said():
    with pytest.raises(TypeError, match=r"takes a gradstep\.Stepper\(model, optimizer, \.\.\.\), not Linear"):
        gradstep.lr_find(torch.nn.Linear(2, 2), lambda model, batch: None, [])  # type: ignore[arg-type, return-value]
