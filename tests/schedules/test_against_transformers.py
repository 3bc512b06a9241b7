"""Every point of 1,000 updates against transformers.optimization, to 1e-12 of each value."""

from fractions import Fraction

import pytest

from gradstep.schedules import (
    constant,
    cosine,
    cosine_restarts,
    inverse_sqrt,
    linear,
    polynomial,
    warmup,
    warmup_stable_decay,
)
from tests.schedules.series import PEAK, UPDATES, assert_same, multiples

theirs = pytest.importorskip("transformers.optimization")

WARMUPS = pytest.mark.parametrize("w", [0, 1, 333])


def test_constant():
    assert_same(constant(PEAK), multiples(theirs.get_constant_schedule))


@WARMUPS
def test_constant_with_warmup(w):
    schedule = warmup(updates=w, to=PEAK).then(constant(PEAK))
    assert_same(schedule, multiples(lambda o: theirs.get_constant_schedule_with_warmup(o, w)))


@WARMUPS
@pytest.mark.parametrize("total", [700, 1000, 1500])
def test_linear(w, total):
    schedule = warmup(updates=w, to=PEAK).then(linear(PEAK, 0.0, updates=total - w))
    assert_same(schedule, multiples(lambda o: theirs.get_linear_schedule_with_warmup(o, w, total)))


@WARMUPS
@pytest.mark.parametrize("waves", [0.5, 0.7, 1.0, 2.5])
@pytest.mark.parametrize("total", [1000, 1500])
def test_cosine(w, waves, total):
    schedule = warmup(updates=w, to=PEAK).then(cosine(PEAK, updates=total - w, waves=waves))
    assert_same(schedule, multiples(lambda o: theirs.get_cosine_schedule_with_warmup(o, w, total, waves)))


@WARMUPS
@pytest.mark.parametrize("cycles", [1, 3, 7])
@pytest.mark.parametrize("total", [700, 1000])
def test_cosine_with_hard_restarts(w, cycles, total):
    restarts = cosine_restarts(PEAK, first_updates=Fraction(total - w, cycles), cycles=cycles)
    schedule = warmup(updates=w, to=PEAK).then(restarts)
    values = multiples(lambda o: theirs.get_cosine_with_hard_restarts_schedule_with_warmup(o, w, total, cycles))
    assert_same(schedule, values)


@WARMUPS
@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("end", [0.0, 1e-7, 1e-4])
@pytest.mark.parametrize("total", [700, 1000])
def test_polynomial(w, power, end, total):
    schedule = warmup(updates=w, to=PEAK).then(polynomial(PEAK, updates=total - w, power=power, floor=end))
    assert_same(
        schedule, multiples(lambda o: theirs.get_polynomial_decay_schedule_with_warmup(o, w, total, end, power))
    )


@WARMUPS
@pytest.mark.parametrize("timescale", [None, 50, 5000])
def test_inverse_sqrt(w, timescale):
    schedule = warmup(updates=w, to=PEAK).then(inverse_sqrt(PEAK, timescale_updates=timescale or w or 10_000))
    assert_same(schedule, multiples(lambda o: theirs.get_inverse_sqrt_schedule(o, w, timescale)))


@WARMUPS
@pytest.mark.parametrize("waves", [0.5, 1.0])
@pytest.mark.parametrize("floor", [{"min_lr": 1e-4}, {"min_lr_rate": 0.25}, {"min_lr": 0.0}])
def test_cosine_with_min_lr(w, waves, floor):
    low = floor.get("min_lr", PEAK * floor.get("min_lr_rate", 0))
    schedule = warmup(updates=w, to=PEAK).then(cosine(PEAK, updates=UPDATES - w, floor=low, waves=waves))
    values = multiples(lambda o: theirs.get_cosine_with_min_lr_schedule_with_warmup(o, w, UPDATES, waves, **floor))
    assert_same(schedule, values)


@pytest.mark.parametrize("w", [2, 100, 333])
@pytest.mark.parametrize("start", [None, 0.1])
@pytest.mark.parametrize("floor", [{"min_lr": 1e-4}, {"min_lr_rate": 0.25}])
def test_cosine_with_min_lr_and_a_first_update_above_zero(w, start, floor):
    # Here both the warmup and the cosine are one update ahead: peak at w - 1, floor at the very last update.
    low = floor.get("min_lr", PEAK * floor.get("min_lr_rate", 0))
    rise = warmup(updates=w - 1, to=PEAK, start=PEAK * (1 / w if start is None else start))
    schedule = rise.then(cosine(PEAK, updates=UPDATES - w, floor=low))
    values = multiples(
        lambda o: theirs.get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
            o, w, UPDATES, warmup_lr_rate=start, **floor
        )
    )
    assert_same(schedule, values)


@WARMUPS
@pytest.mark.parametrize("decay", [1, 567])
@pytest.mark.parametrize("rise", ["linear", "cosine", "1-sqrt"])
@pytest.mark.parametrize("fall", ["linear", "cosine", "1-sqrt"])
@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_warmup_stable_decay(w, decay, rise, fall, ratio):
    schedule = warmup_stable_decay(
        PEAK,
        warmup_updates=w,
        stable_updates=100,
        decay_updates=decay,
        start=ratio * PEAK,
        floor=ratio * PEAK,
        warmup_shape=rise,
        decay_shape=fall,
    )
    values = multiples(
        lambda o: theirs.get_wsd_schedule(
            o, w, decay, num_stable_steps=100, warmup_type=rise, decay_type=fall, min_lr_ratio=ratio
        )
    )
    assert_same(schedule, values)


def test_a_decay_of_several_waves_is_composed():
    # transformers' num_cycles; its end is a jump to the floor, and so is composed as one.
    schedule = (
        warmup(updates=100, to=PEAK)
        .then(constant(PEAK, updates=100))
        .then(cosine(PEAK, updates=500, waves=2.0))
        .then(constant(0.0))
    )
    assert_same(
        schedule, multiples(lambda o: theirs.get_wsd_schedule(o, 100, 500, num_stable_steps=100, num_cycles=2.0))
    )
