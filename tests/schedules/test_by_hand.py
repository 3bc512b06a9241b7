"""Values worked by hand."""

from fractions import Fraction

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

HALF = 0.5**0.5  # cos 45°


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (constant(2.0), [2, 2, 2]),
        (step(8.0, every_updates=2, factor=0.5), [8, 8, 4, 4, 2, 2, 1]),
        (multi_step(8.0, at_updates=[3, 1, 3], factor=0.5), [8, 4, 4, 1, 1]),
        (exponential(8.0, factor=0.25, per_updates=2), [8, 4, 2, 1]),
        (inverse_sqrt(6.0, timescale_updates=1), [6, 6 / 2**0.5, 6 / 3**0.5, 3]),
        (linear(1.0, 3.0, updates=4), [1, 1.5, 2, 2.5, 3, 3]),
        (linear(3.0, 1.0, updates=1), [3, 1, 1]),
        (polynomial(10.0, updates=3, power=2, floor=1.0), [10, 5, 2, 1, 1]),
        (cosine(3.0, updates=4, floor=1.0), [3, 2 + HALF, 2, 2 - HALF, 1, 1]),
        (cosine(2.0, updates=4, waves=1.0), [2, 1, 0, 1, 2, 2]),
        (cosine_restarts(2.0, first_updates=2, mult=2), [2, 1, 2, 1 + HALF, 1, 1 - HALF, 2]),
        (cosine_restarts(2.0, first_updates=2, cycles=2), [2, 1, 2, 1, 0, 0]),
        (cosine_restarts(2.0, first_updates=Fraction(4, 3), cycles=3), [2, 1 - HALF, 1, 1 + HALF, 0, 0]),
        (triangular(1.0, 5.0, up_updates=2), [1, 3, 5, 3, 1, 3, 5]),
        (triangular(1.0, 5.0, up_updates=1, down_updates=2, cycle_factor=0.5), [1, 5, 3, 1, 3, 2, 1, 2, 1.5]),
        (triangular(1.0, 5.0, up_updates=1, update_factor=0.5), [1, 3, 1, 1.5, 1, 1.125]),
        (triangular(5.0, 1.0, up_updates=2, cycles=1), [5, 3, 1, 3, 5, 5, 5]),
        (warmup(updates=4, to=2.0), [0, 0.5, 1, 1.5, 2, 2]),
        (warmup(updates=4, to=2.0, shape="cosine"), [0, 1 - HALF, 1, 1 + HALF, 2]),
        (warmup(updates=25, to=1.0, shape="1-sqrt"), {0: 0, 9: 0.2, 16: 0.4, 24: 0.8, 25: 1}),
        (warmup(updates=0, to=2.0), [2, 2]),
        (
            warmup_stable_decay(1.0, warmup_updates=1, stable_updates=2, decay_updates=25),
            {0: 0, 1: 1, 2: 1, 3: 1, 4: 0.8, 12: 0.4, 19: 0.2, 28: 0, 29: 0},
        ),
        (one_cycle(8.0, updates=7, warmup_share=3 / 7, div_factor=4, final_div_factor=2, shape="linear").lr,
            [2, 5, 8, 6.25, 4.5, 2.75, 1, 1]),
        (one_cycle(8.0, updates=7, warmup_share=3 / 7, low_momentum=0.5, high_momentum=0.9, shape="linear").momentum,
            [0.9, 0.7, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9]),
        (one_cycle(8.0, updates=8, warmup_share=3 / 8, div_factor=4, final_div_factor=2, three_phase=True).lr,
            [2, 5, 8, 5, 2, 1.75, 1.25, 1, 1]),
    ],
)  # fmt: skip
def test_values(schedule, values):
    expected = values if isinstance(values, dict) else dict(enumerate(values))
    assert {update: schedule(update) for update in expected} == pytest.approx(expected, rel=1e-14, abs=1e-15)


def test_a_whole_number_of_restarts_is_not_missed_by_rounding():
    # 3/49 * 49 is 1 - 1e-16 in floating point, and the cosine would be at its floor instead of its peak.
    schedule = cosine_restarts(1.0, first_updates=Fraction(49 * 10, 49), cycles=49)
    assert [schedule(10 * cycle) for cycle in range(49)] == [1.0] * 49


def test_nothing_is_lost_at_the_end_of_a_very_long_way():
    end = 10**12
    assert linear(3.0, 0.0, updates=end)(end - 1) == pytest.approx(3e-12, rel=1e-15, abs=0)
    assert warmup(updates=end, to=3.0)(1) == pytest.approx(3e-12, rel=1e-15, abs=0)
