"""Every point of 1,000 updates against torch.optim.lr_scheduler in training, to 1e-12 of each value.

torch computes most of its schedulers by multiplying the last value by a factor; over 1,000 updates those products drift
by less than 4e-13 from the closed form, so they can be held to the same bar.
"""

from typing import Any, Literal

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from gradstep.schedules import (
    Schedule,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    linear,
    multi_step,
    one_cycle,
    polynomial,
    step,
    triangular,
)
from tests.schedules.series import PEAK, UPDATES, Make, assert_same, groups, optimizer, rates


@pytest.mark.parametrize(("size", "gamma"), [(1, 0.99), (30, 0.7), (333, 0.1), (5000, 0.5), (10, 1.01)])
def test_step_lr(size, gamma):
    assert_same(step(PEAK, every_updates=size, factor=gamma), rates(lambda o: theirs.StepLR(o, size, gamma)))


@pytest.mark.parametrize("milestones", [[], [1], [100, 400, 900], [100, 100, 400], [900, 20, 20, 20]])
@pytest.mark.parametrize("gamma", [0.1, 0.7])
def test_multi_step_lr(milestones, gamma):
    schedule = multi_step(PEAK, at_updates=milestones, factor=gamma)
    assert_same(schedule, rates(lambda o: theirs.MultiStepLR(o, milestones, gamma)))


@pytest.mark.parametrize("gamma", [0.9, 0.993, 1.0, 1.001])
def test_exponential_lr(gamma):
    assert_same(exponential(PEAK, factor=gamma), rates(lambda o: theirs.ExponentialLR(o, gamma)))


@pytest.mark.parametrize("total", [1, 999, 5000])
@pytest.mark.parametrize("power", [0.3, 1.0, 2.0, 2.5])
def test_polynomial_lr(total, power):
    schedule = polynomial(PEAK, updates=total, power=power)
    assert_same(schedule, rates(lambda o: theirs.PolynomialLR(o, total, power)))


@pytest.mark.parametrize("total", [999, 1000, 1777, 5000])
@pytest.mark.parametrize("floor", [0.0, 1e-5, PEAK])
def test_cosine_annealing_lr(total, floor):
    schedule = cosine(PEAK, updates=total, floor=floor)
    assert_same(schedule, rates(lambda o: theirs.CosineAnnealingLR(o, total, floor)))


@pytest.mark.parametrize("first", [1, 7, 333, 5000])
@pytest.mark.parametrize("mult", [1, 2, 3])
@pytest.mark.parametrize("floor", [0.0, 1e-5])
def test_cosine_annealing_warm_restarts(first, mult, floor):
    schedule = cosine_restarts(PEAK, first_updates=first, mult=mult, floor=floor)
    assert_same(schedule, rates(lambda o: theirs.CosineAnnealingWarmRestarts(o, first, mult, floor)))


@pytest.mark.parametrize(("start", "end"), [(1 / 3, 1.0), (0.01, 1.0), (1.0, 0.0), (0.9, 0.2), (0.5, 0.5)])
@pytest.mark.parametrize("total", [1, 5, 700, 1000, 5000])
def test_linear_lr(start, end, total):
    schedule = linear(PEAK * start, PEAK * end, updates=total)
    assert_same(schedule, rates(lambda o: theirs.LinearLR(o, start, end, total)))


@pytest.mark.parametrize(("factor", "total"), [(1 / 3, 5), (0.1, 400), (0.5, 1000)])
def test_constant_lr(factor, total):
    schedule = constant(PEAK * factor, updates=total).then(constant(PEAK))
    assert_same(schedule, rates(lambda o: theirs.ConstantLR(o, factor, total)))


MODES: dict[str, dict[str, Any]] = {
    "triangular": {},
    "triangular2": {"cycle_factor": 0.5},
    "exp_range": {"update_factor": 0.997},
}


@pytest.mark.parametrize("kind", ["momentum", "betas"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("up", "down"), [(50, None), (20, 80), (7, 3), (1, 1), (2000, None)])
def test_cyclic_lr_with_its_momentum(mode, up, down, kind):
    driven = optimizer(momentum=0.9) if kind == "momentum" else optimizer(torch.optim.AdamW)
    base, peak = 1e-4, 2e-3
    used = groups(lambda o: theirs.CyclicLR(o, base, peak, up, down, mode, gamma=0.997), of=driven)
    lr = triangular(base, peak, up_updates=up, down_updates=down, **MODES[mode])
    momentum = triangular(0.9, 0.8, up_updates=up, down_updates=down, **MODES[mode])
    assert_same(lr, [group["lr"] for group in used])
    assert_same(momentum, [group["momentum"] if kind == "momentum" else group["betas"][0] for group in used])


@pytest.mark.parametrize("kind", ["momentum", "betas"])
@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize(("share", "div", "final", "low", "high"), [
    (0.3, 25.0, 1e4, 0.85, 0.95),
    (0.4, 10.0, 1e2, 0.5, 0.9),
    (0.2515, 4.0, 1.0, 0.85, 0.85),  # the rise ends between two updates
])  # fmt: skip
def test_one_cycle_lr_with_its_momentum(share, div, final, low, high, three_phase, shape, kind):
    strategy: Literal["cos", "linear"] = "cos" if shape == "cosine" else "linear"
    driven = optimizer(momentum=0.9) if kind == "momentum" else optimizer(torch.optim.AdamW)
    used = groups(
        lambda o: theirs.OneCycleLR(
            o,
            PEAK,
            UPDATES,
            pct_start=share,
            anneal_strategy=strategy,
            base_momentum=low,
            max_momentum=high,
            div_factor=div,
            final_div_factor=final,
            three_phase=three_phase,
        ),
        of=driven,
    )
    lr, momentum = one_cycle(
        PEAK,
        updates=UPDATES,
        warmup_share=share,
        div_factor=div,
        final_div_factor=final,
        low_momentum=low,
        high_momentum=high,
        shape=shape,
        three_phase=three_phase,
    )
    # The straight line is (end - start) * share + start in torch, which at the end is off by the rounding of `start`:
    # 1.2000000000188943e-08 for a `min_lr` of 1.2e-08. Ours comes from the lower end, and is right.
    assert_same(lr, [group["lr"] for group in used], absolute=PEAK * 2**-53 if shape == "linear" else 0.0)
    assert lr(UPDATES - 1) == pytest.approx(PEAK / div / final, rel=1e-15, abs=0)
    assert_same(momentum, [group["momentum"] if kind == "momentum" else group["betas"][0] for group in used])


def sequential(*parts: Make, milestones: list[int]) -> Make:
    return lambda o: theirs.SequentialLR(o, [part(o) for part in parts], milestones)


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # SequentialLR uses what torch itself deprecates
@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        pytest.param(
            linear(PEAK * 0.01, PEAK, updates=100).then(cosine(PEAK, updates=900)),
            sequential(
                lambda o: theirs.LinearLR(o, 0.01, 1.0, 100),
                lambda o: theirs.CosineAnnealingLR(o, 900),
                milestones=[100],
            ),
            id="warmup, cosine",
        ),
        pytest.param(
            linear(PEAK * 0.5, PEAK, updates=100).then(exponential(PEAK, factor=0.99), at=50),
            sequential(
                lambda o: theirs.LinearLR(o, 0.5, 1.0, 100),
                lambda o: theirs.ExponentialLR(o, 0.99),
                milestones=[50],
            ),
            id="warmup cut short, exponential",
        ),
        pytest.param(
            linear(PEAK * 0.25, PEAK, updates=10)
            .then(step(PEAK, every_updates=30, factor=0.5), at=40)
            .then(cosine_restarts(PEAK, first_updates=50, mult=2, floor=1e-6), at=440),
            sequential(
                lambda o: theirs.LinearLR(o, 0.25, 1.0, 10),
                lambda o: theirs.StepLR(o, 30, 0.5),
                lambda o: theirs.CosineAnnealingWarmRestarts(o, 50, 2, 1e-6),
                milestones=[40, 440],
            ),
            id="three, the first held and the second cut",
        ),
    ],
)
def test_sequential_lr(schedule: Schedule, make: Make):
    assert_same(schedule, rates(make))
