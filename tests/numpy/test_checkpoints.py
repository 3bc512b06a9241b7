"""State written down and read back: copies, validated, all or nothing."""

import pickle

import numpy as np
import pytest

import gradstep.numpy as gn
from gradstep import RULES

THREE = (gn.SGD, gn.Adam, gn.AdamW)


def parameters(count=2):
    return [gn.Parameter(np.arange(1, 3) + i + 0.0) for i in range(count)]


def run(optimizer, *gradients):
    for row in gradients:
        for p, g in zip(optimizer.params, row, strict=True):
            p.grad = None if g is None else np.full(p.data.shape, g)
        optimizer.step()


def made(kind, params=None):
    return kind(parameters() if params is None else params, **({"momentum": 0.9} if kind is gn.SGD else {}))


def arrays(state):
    return [a for entry in state for a in (entry if isinstance(entry, tuple) else (entry,))]


@pytest.mark.parametrize("kind", THREE)
def test_momentum_state_is_a_copy(kind):
    optimizer = made(kind)
    run(optimizer, (1.0, 2.0))
    state = optimizer.get_momentum_state()
    before = [a.copy() for a in arrays(state)]
    run(optimizer, (5.0, 5.0))
    for a, b in zip(arrays(state), before, strict=True):
        np.testing.assert_array_equal(a, b)
    other = made(kind)
    other.set_momentum_state(state)
    run(other, (1.0, 1.0))
    for a, b in zip(arrays(state), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", THREE)
def test_momentum_state_resumes(kind):
    first, second = made(kind), made(kind)
    run(first, (1.0, 2.0), (0.5, None))
    second.set_momentum_state(first.get_momentum_state())
    second.update_counts = list(first.update_counts)
    for p, q in zip(first.params, second.params, strict=True):
        q.data[...] = p.data
    run(first, (1.0, -1.0), (2.0, 3.0))
    run(second, (1.0, -1.0), (2.0, 3.0))
    for p, q in zip(first.params, second.params, strict=True):
        np.testing.assert_array_equal(p.data, q.data)
    assert first.update_counts == second.update_counts == [4, 3]


def test_momentum_state_of_sgd():
    optimizer = made(gn.SGD)
    empty = optimizer.get_momentum_state()
    assert empty == [None, None]
    run(optimizer, (1.0, 1.0))
    optimizer.set_momentum_state(None)
    assert optimizer.momentum_buffers[0] is not None
    optimizer.set_momentum_state(empty)  # what comes later starts from nothing
    assert optimizer.momentum_buffers == [None, None]
    before = optimizer.params[0].data.copy()
    run(optimizer, (1.0, 1.0))
    np.testing.assert_allclose(optimizer.params[0].data, before - 0.01)
    plain = gn.SGD(parameters())
    plain.set_momentum_state([np.ones(2), np.ones(2)])  # ignored without momentum
    assert plain.momentum_buffers == [None, None]


def good(kind):
    return np.zeros(2) if kind is gn.SGD else (np.zeros(2), np.zeros(2))


@pytest.mark.parametrize("kind", THREE)
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (np.zeros((2, 2)), ValueError),
        (np.zeros(3), ValueError),
        ([0.0, 0.0], ValueError),
        (np.array([1j, 1j]), TypeError),
    ],
)
def test_a_bad_buffer_changes_nothing(kind, bad, error):
    optimizer = made(kind)
    run(optimizer, (1.0, 1.0))
    before = optimizer.get_momentum_state()
    corrupt = [good(kind), bad if kind is gn.SGD else (np.zeros(2), bad)]
    with pytest.raises(error, match="parameter 1"):
        optimizer.set_momentum_state(corrupt)
    for a, b in zip(arrays(optimizer.get_momentum_state()), arrays(before), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", THREE)
def test_another_number_of_buffers(kind):
    optimizer = made(kind)
    with pytest.raises(ValueError, match="length mismatch: it has 3 entries for 2 parameters"):
        optimizer.set_momentum_state([good(kind)] * 3)


@pytest.mark.parametrize("kind", [gn.Adam, gn.AdamW])
def test_half_a_pair(kind):
    optimizer = made(kind)
    both = (np.zeros(2), np.zeros(2))
    for pair in ((None, np.zeros(2)), (np.zeros(2), None)):
        with pytest.raises(ValueError, match="moments of parameter 1 must both be"):
            optimizer.set_momentum_state([both, pair])
    for wrong in (np.zeros((2, 2)), (np.zeros(2),), None):
        with pytest.raises(ValueError, match=r"parameter 1 must be a pair \(m, v\)"):
            optimizer.set_momentum_state([both, wrong])
    assert optimizer.m_buffers == optimizer.v_buffers == [None, None]


@pytest.mark.parametrize("name", RULES)
def test_state_dict_resumes_every_rule(name):
    kind = gn.optimizer(RULES[name])
    other = (2, 2) if RULES[name].sees == "matrix" else (4,)
    first = kind([gn.Parameter(np.ones((3, 2))), gn.Parameter(np.ones(other))], lr=0.02)
    run(first, (1.0, 2.0), (0.5, None), (-1.0, 0.25))
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = kind([gn.Parameter(p.data.copy()) for p in first.params])
    second.load_state_dict(state)
    for optimizer in (first, second):
        run(optimizer, (1.0, 1.0), (None, -2.0), (0.1, 0.1))
    for p, q in zip(first.params, second.params, strict=True):
        np.testing.assert_array_equal(p.data, q.data)
    assert (second.lr, second.step_count, second.update_counts) == (0.02, 6, [5, 5])
    assert state["step_count"] == 3  # what was loaded was copied


def test_the_state_of_another_rule_is_refused():
    """LaProp's averages have AdamW's names and settings, and are other numbers."""
    first, second = made(gn.LaProp), made(gn.AdamW)
    run(first, (1.0, 2.0))
    state, before = first.state_dict(), second.state_dict()
    with pytest.raises(ValueError, match=r"is of LaProp, and this optimizer is AdamW.*begin with fresh state"):
        second.load_state_dict(state)
    assert second.state_dict() == before
    del state["rule"]  # as states were before
    second.load_state_dict(state)


def test_resume_with_another_rate():
    first = made(gn.AdamW)
    run(first, (1.0, 2.0))
    second = made(gn.AdamW)
    second.load_state_dict(first.state_dict())
    second.lr = 0.5
    assert (first.lr, second.lr) == (0.001, 0.5)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"settings": {"lr": -1.0}}, ValueError, "lr must be finite and nonnegative"),
        ({"update_counts": [1]}, ValueError, "length mismatch"),
        ({"update_counts": [1, -1]}, ValueError, "whole number of at least 0"),
        ({"update_counts": [1, 1.5]}, ValueError, "whole number of at least 0"),
        ({"scalars": {}}, KeyError, "mu_product"),
        ({"scalars": {"mu_product": [1.0, float("nan")]}}, ValueError, "mu_product must be finite"),
        ({"buffers": {"exp_avg": [np.zeros(2), np.zeros(3)]}}, ValueError, "exp_avg of parameter 1"),
        ({"buffers": None}, KeyError, "buffers"),
    ],
)
def test_a_bad_state_dict_changes_nothing(change, error, words):
    optimizer = gn.NAdam(parameters())
    run(optimizer, (1.0, 1.0))
    state, before = gn.NAdam(parameters(), lr=0.5).state_dict(), pickle.dumps(optimizer.state_dict())
    state.update(change)
    with pytest.raises(error, match=words):
        optimizer.load_state_dict({name: part for name, part in state.items() if part is not None})
    assert pickle.dumps(optimizer.state_dict()) == before
