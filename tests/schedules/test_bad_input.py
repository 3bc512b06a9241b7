"""What is refused, and what is said."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gradstep.schedules import (
    constant,
    cosine,
    cosine_restarts,
    exponential,
    inverse_sqrt,
    linear,
    multi_step,
    one_cycle,
    polynomial,
    step,
    triangular,
    warmup,
    warmup_stable_decay,
)

NAN = float("nan")
FRACTION: Any = 2.5
TEXT: Any = "1"
NOTHING: Any = None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: constant(-1.0), "Invalid value: -1.0"),
        (lambda: constant(NAN), "finite"),
        (lambda: constant(1.0, updates=-1), "Invalid updates: -1"),
        (lambda: step(1.0, every_updates=0), "Invalid every_updates: 0"),
        (lambda: step(1.0, every_updates=3, factor=0.0), "Invalid factor: 0.0"),
        (lambda: multi_step(1.0, at_updates=[3, -2]), "Invalid at_updates: -2"),
        (lambda: exponential(1.0, factor=-0.5), "Invalid factor: -0.5"),
        (lambda: exponential(1.0, factor=0.5, per_updates=0), "Invalid per_updates: 0"),
        (lambda: inverse_sqrt(1.0, timescale_updates=0), "Invalid timescale_updates: 0"),
        (lambda: linear(1.0, float("inf"), updates=3), "finite"),
        (lambda: polynomial(1.0, updates=3, power=0), "Invalid power: 0"),
        (lambda: cosine(1.0, updates=-3), "Invalid updates: -3"),
        (lambda: cosine(1.0, updates=3, floor=2.0), "Invalid floor: 2.0 .*at most peak, 1.0.*warmup"),
        (lambda: cosine(1.0, updates=3, waves=0), "Invalid waves: 0"),
        (lambda: cosine_restarts(1.0, first_updates=0), "Invalid first_updates: 0"),
        (lambda: cosine_restarts(1.0, first_updates=Fraction(1, 2)), "Invalid first_updates: 1/2"),
        (lambda: cosine_restarts(1.0, first_updates=2, mult=0), "Invalid mult: 0"),
        (lambda: cosine_restarts(1.0, first_updates=2, cycles=0), "Invalid cycles: 0"),
        (lambda: triangular(0.1, 1.0, up_updates=0), "Invalid up_updates: 0"),
        (lambda: triangular(0.1, 1.0, up_updates=1, down_updates=0), "Invalid down_updates: 0"),
        (lambda: triangular(0.1, 1.0, up_updates=1, cycle_factor=1.1), "Invalid cycle_factor: 1.1"),
        (lambda: triangular(0.1, 1.0, up_updates=1, update_factor=0.0), "Invalid update_factor: 0.0"),
        (lambda: triangular(0.1, 1.0, up_updates=1, cycles=0), "Invalid cycles: 0"),
        (lambda: warmup(updates=3, to=1.0, start=2.0), "Invalid start: 2.0 .*at most to, 1.0.*linear"),
        (lambda: warmup(updates=3, to=1.0, shape="sine"), "'sine' .*'linear', 'cosine', '1-sqrt'"),
        (lambda: one_cycle(1.0, updates=1), "Invalid updates: 1"),
        (lambda: one_cycle(1.0, updates=10, warmup_share=0.1), "Invalid warmup_share: 0.1 .*1/10.*less than 1"),
        (lambda: one_cycle(1.0, updates=10, warmup_share=1.0), "Invalid warmup_share"),
        (lambda: one_cycle(1.0, updates=10, warmup_share=0.6, three_phase=True), "less than 1/2"),
        (lambda: one_cycle(1.0, updates=10, div_factor=0.5), "Invalid div_factor: 0.5"),
        (lambda: one_cycle(1.0, updates=10, final_div_factor=0.5), "Invalid final_div_factor: 0.5"),
        (lambda: one_cycle(1.0, updates=10, low_momentum=0.99), "Invalid momentum: 0.99 to 0.95"),
        (lambda: one_cycle(1.0, updates=10, shape="1-sqrt"), "'1-sqrt' .*'cosine', 'linear'"),
        (lambda: warmup_stable_decay(1.0, warmup_updates=-1, stable_updates=1, decay_updates=1), "warmup_updates: -1"),
        (lambda: warmup_stable_decay(1.0, warmup_updates=1, stable_updates=-1, decay_updates=1), "stable_updates: -1"),
        (lambda: warmup_stable_decay(1.0, warmup_updates=1, stable_updates=1, decay_updates=-1), "decay_updates: -1"),
        (lambda: constant(1.0) * -2, "Invalid factor: -2"),
        (lambda: constant(1.0)(-1), "Invalid update: -1"),
        (lambda: constant(1.0).then(constant(2.0)), "no end.*at="),
        (lambda: constant(1.0).then(constant(2.0), at=-1), "Invalid at: -1"),
        (lambda: constant(1.0).preview(updates=0), "Invalid updates: 0"),
    ],
)  # fmt: skip
def test_values_out_of_bounds(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: cosine(1.0, updates=FRACTION), "updates must be a whole number, but is 2.5"),
        (lambda: cosine(TEXT, updates=10), "peak must be a number"),
        (lambda: step(1.0, every_updates=NOTHING), "every_updates must be a whole number"),
        (lambda: constant(1.0)(FRACTION), "update must be a whole number, but is 2.5"),
        (lambda: constant(1.0, updates=2).then(FRACTION), "takes a schedule, but got 2.5.*constant"),
    ],
)
def test_values_of_the_wrong_type(make, words):
    with pytest.raises(TypeError, match=words):
        make()


def test_numbers_of_numpy_are_numbers():
    assert cosine(np.float32(0.5), updates=np.int64(10))(np.int64(5)) == 0.25
