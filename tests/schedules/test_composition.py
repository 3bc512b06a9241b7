"""What holds for every schedule, and for any composition of them."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradstep.schedules import constant, cosine, linear, polynomial, warmup
from tests.schedules.every import EVERY

levels = st.floats(0, 1e6)
lengths = st.integers(0, 2000)
updates = st.integers(0, 10**9)
schedules = st.sampled_from(list(EVERY.values()))
every = pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)


@given(schedules, schedules, st.integers(0, 500), st.integers(0, 1000))
def test_composed_it_is_one_before_the_boundary_and_the_other_from_it_on(first, following, at, update):
    composed = first.then(following, at=at)
    assert composed(update) == (first(update) if update < at else following(update - at))
    assert composed.updates == (None if following.updates is None else at + following.updates)
    assert (at in composed.boundaries(1000)) == (at > 0)
    held = first.updates is not None and 0 < first.updates < at
    assert not held or first.updates in composed.boundaries(1000)


@given(schedules, schedules, schedules, st.integers(0, 50), st.integers(0, 50), st.integers(0, 300))
def test_composition_is_associative(a, b, c, first, second, update):
    left = a.then(b, at=first).then(c, at=first + second)
    right = a.then(b.then(c, at=second), at=first)
    assert left(update) == right(update)
    assert left.boundaries(300) == right.boundaries(300)


@given(lengths, levels, levels, st.sampled_from(["linear", "cosine", "1-sqrt"]), st.integers(0, 2000))
def test_a_warmup_never_falls_and_ends_exactly(length, a, b, shape, update):
    low, high = sorted((a, b))
    schedule = warmup(updates=length, to=high, start=low, shape=shape)
    assert low <= schedule(update) <= schedule(update + 1) <= high
    assert schedule(length) == high
    assert length == 0 or schedule(0) == low


@given(lengths, levels, levels, st.floats(0.1, 5), st.integers(0, 2000))
def test_a_decay_never_rises_and_ends_exactly(length, a, b, power, update):
    low, high = sorted((a, b))
    for schedule in (
        linear(high, low, updates=length),
        cosine(high, updates=length, floor=low),
        polynomial(high, updates=length, power=power, floor=low),
    ):
        assert high >= schedule(update) >= schedule(update + 1) >= low
        assert schedule(length) == low
        assert length == 0 or schedule(0) == high


@pytest.mark.parametrize("schedule", [schedule for schedule in EVERY.values() if schedule.updates is not None])
def test_after_its_end_it_holds_its_last_value(schedule):
    held = schedule(schedule.updates)
    assert {schedule(schedule.updates + more) for more in (1, 2, 50, 10**9)} == {held}


@given(schedules, updates, st.lists(updates, max_size=5))
def test_a_value_depends_on_nothing_but_the_number_of_the_update(schedule, update, others):
    value = schedule(update)
    for other in others:
        schedule(other)
    assert schedule(update) == value
    assert pickle.loads(pickle.dumps(schedule))(update) == value


@every
def test_it_is_a_value_that_can_be_compared_pickled_and_hashed(schedule):
    copy = pickle.loads(pickle.dumps(schedule))
    assert copy == schedule
    assert hash(copy) == hash(schedule)
    assert copy.then(constant(1.0), at=3) != schedule


BOUNDARIES = {
    "step": [13, 26, 39, 52, 65, 78, 91],
    "multi_step": [10, 20, 70],
    "cosine_restarts": [5, 15, 35, 75],
    "cosine_restarts, ended": [15, 29, 43, 58, 72, 86],  # multiples of 100/7, rounded up
    "triangular": [6, 15, 21, 30, 36, 45, 51, 60, 66, 75, 81, 90, 96],
    "triangular, ended": [6, 12, 18, 24, 30],
    "one_cycle lr": [23, 46],
    "one_cycle momentum": [23],
    "warmup_stable_decay": [9, 39],
    "composed": [5, 9, 12, 15, 18, 20],
}


@pytest.mark.parametrize("name", EVERY)
def test_boundaries(name):
    assert list(EVERY[name].boundaries(100)) == BOUNDARIES.get(name, [])
    assert list(EVERY[name].boundaries(10)) == [b for b in BOUNDARIES.get(name, []) if b < 10]


@given(schedules, st.floats(0, 100), updates)
def test_scaling_multiplies(schedule, factor, update):
    assert (schedule * factor)(update) == (factor * schedule)(update) == factor * schedule(update)
    assert (schedule * factor).updates == schedule.updates
    assert (schedule * factor).boundaries(90) == schedule.boundaries(90)
