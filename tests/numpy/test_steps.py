"""Steps over arrays: against numbers by hand and the formulas in float64, in every layout, with every rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import gradstep.numpy as gn
from gradstep import RULES
from gradstep.engines.fused.job import CHUNK

# One option set that takes every slot and every coefficient of the rule.
FULL = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "dampening": 0.3, "maximize": True},
    "Adagrad": {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    "RMSprop": {"centered": True, "momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
    "NAdam": {"weight_decay": 0.1, "decoupled_weight_decay": True},
}
MORE = {"Rprop": {"etas": (0.3, 1.5)}}
EVERY = [(name, options) for name in RULES for options in ({}, (FULL | MORE).get(name, {"weight_decay": 0.1}))]


class Foreign:
    """A tensor of somebody else's framework; its gradient may be such a tensor too."""

    def __init__(self, data, grad=None):
        self.data = np.asarray(data)
        self.grad = grad


def normal(shape, seed, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def sgd(p, grads, lr=0.01, momentum=0.0, weight_decay=0.0):
    """The teaching framework's text, in float64."""
    v = np.zeros_like(p)
    for g in grads:
        g = g + weight_decay * p
        v = momentum * v + g
        p = p - lr * v
    return p


def adam(p, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    """The same, for Adam and AdamW."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    b1, b2 = betas
    for t, g in enumerate(grads, 1):
        if not decoupled:
            g = g + weight_decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        if decoupled:
            p = p * (1 - lr * weight_decay)
        p = p - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return p


def adamw(p, grads, weight_decay=0.01, **options):
    return adam(p, grads, weight_decay=weight_decay, decoupled=True, **options)


FORMULAS = [
    (gn.SGD, sgd, {}),
    (gn.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (gn.Adam, adam, {}),
    (gn.Adam, adam, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1e-3, "weight_decay": 0.1}),
    (gn.AdamW, adamw, {}),
    (gn.AdamW, adamw, {"lr": 0.1, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("kind", "formula", "options"), FORMULAS)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 2e-6), (np.float64, 1e-14)])
def test_formula(kind, formula, options, dtype, rtol):
    start, grads = normal(1000, 0, dtype), [normal(1000, t, dtype) for t in range(1, 21)]
    p = gn.Parameter(start.copy())
    optimizer = kind([p], **options)
    for g in grads:
        p.grad = g
        optimizer.step()
    expected = formula(start.astype(np.float64), [g.astype(np.float64) for g in grads], **options)
    np.testing.assert_allclose(p.data, expected, rtol=rtol, atol=rtol)
    assert p.data.dtype == dtype


def test_by_hand():
    p = gn.Parameter(np.array([0.5]), grad=np.array([0.02]))
    gn.AdamW([p], lr=1e-4, weight_decay=1e-3).step()
    # 0.5 · (1 − 1e-7) − 1e-4 · 0.02 / (0.02 + 1e-8)
    assert p.data[0] == pytest.approx(0.49989995 + 5e-11, abs=1e-12)


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_fused_is_the_reference_bit_for_bit(name, options):
    kind = gn.optimizer(RULES[name])
    results = []
    for engine in ("auto", "reference"):
        shapes: tuple[tuple[int, ...], ...] = ((CHUNK + 5,), (), (3, 5), (0,), (2, 3, 4))
        if RULES[name].sees == "matrix":
            shapes = ((65, 40), (1, 1), (3, 5), (0, 2), (6, 4))
        params = [gn.Parameter(normal(shape, 7)) for shape in shapes]
        optimizer = kind(params, **options, engine=engine)
        for step in range(4):
            for i, p in enumerate(params):
                # One of them comes later than the others, and one misses a step.
                missing = (i == 1 and step < 2) or (i == 2 and step == 1)
                p.grad = None if missing else normal(p.data.shape, 10 * step + i)
            optimizer.step()
        assert optimizer.update_counts == [4, 2, 3, 4, 4]
        results.append([p.data for p in params])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_every_rule_lowers_a_quadratic(name, options):
    options = {k: v for k, v in options.items() if k != "maximize"}
    p = gn.Parameter(normal((4, 3), 1, np.float64))
    before = np.sum(p.data**2)
    optimizer = gn.optimizer(RULES[name])([p], **options)
    for _ in range(10):
        p.grad = 2 * p.data
        optimizer.step()
    assert np.sum(p.data**2) < before


@given(array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6), st.data())
def test_layout_changes_nothing(shape, data):
    """Turned, reversed, sliced and unaligned arrays move as dense ones do."""
    axes = data.draw(st.permutations(range(len(shape))))
    steps = data.draw(st.lists(st.sampled_from((1, 2, -1)), min_size=len(shape), max_size=len(shape)))

    def strided(values):
        turned = [shape[a] for a in axes]
        room = np.zeros([n * abs(s) for n, s in zip(turned, steps, strict=True)], values.dtype)
        view = room[tuple(slice(None, None, s) for s in steps)].transpose(np.argsort(axes))
        view[...] = values
        return view

    start, grads = normal(shape, 3), [normal(shape, t) for t in (4, 5)]
    dense, odd = gn.Parameter(start.copy()), gn.Parameter(strided(start))
    for p in (dense, odd):
        optimizer = gn.AdamW([p])
        for g in grads:
            p.grad = g if p is dense else strided(g)
            optimizer.step()
    np.testing.assert_array_equal(dense.data, odd.data)


def test_unaligned_array():
    start = normal(20, 1)
    raw = np.zeros(20 * 4 + 1, np.uint8)[1:].view(np.float32)
    raw[...] = start
    assert not raw.flags.aligned
    p, q = gn.Parameter(raw), gn.Parameter(start.copy())
    assert [engine for _, engine, _ in gn.AdamW([p, q]).engines()] == ["reference", "fused"]
    for each in (p, q):
        each.grad = normal(20, 2)
        gn.AdamW([each]).step()
    np.testing.assert_array_equal(p.data, q.data)


@pytest.mark.parametrize("engine", ["fused", "reference"])
@pytest.mark.parametrize("decay", ["before", "after"])
def test_decay_before_or_after_the_update(decay, engine):
    """Against the two texts in float64; they differ by lr² · λ · (the update), 0.025 here in the first step."""
    p = gn.Parameter(normal(7, 0, np.float64))
    start, expected = p.data.copy(), p.data.copy()
    optimizer = gn.AdamW([p], lr=0.5, betas=(0.5, 0.75), weight_decay=0.1, decay=decay, engine=engine)
    m = v = np.zeros(7)
    for t in range(1, 5):
        p.grad = normal(7, t, np.float64)
        if t == 3:
            optimizer.lr = 0.25  # as a schedule does
        if t == 4:  # and from a checkpoint
            optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        lr = optimizer.lr
        m, v = 0.5 * m + 0.5 * p.grad, 0.75 * v + 0.25 * p.grad**2
        update = lr * (m / (1 - 0.5**t)) / (np.sqrt(v / (1 - 0.75**t)) + 1e-8)
        keep = 1 - lr * 0.1
        expected = keep * expected - update if decay == "before" else keep * (expected - update)
        np.testing.assert_allclose(p.data, expected, rtol=1e-12, atol=1e-14)
    assert not np.array_equal(p.data, start)


def test_another_decay_is_refused():
    with pytest.raises(ValueError, match="decay must be 'before' or 'after' the update, but is 'none'"):
        gn.AdamW([gn.Parameter(np.ones(1))], decay="none")  # type: ignore[arg-type]


def test_array_is_shared_and_gradient_untouched():
    w, g = np.ones((4, 4), np.float32), np.full((4, 4), 2.0, np.float32)
    view = w[1]
    p = gn.Parameter(w, grad=g)
    gn.SGD([p], lr=0.5).step()
    assert (view == 0).all()
    assert p.data is w
    assert p.grad is g
    assert (g == 2).all()


def test_array_replaced_between_steps():
    """A teaching framework's code says ``p.data = ...``: what counts is the array of the moment, in any layout."""
    p = gn.Parameter(np.ones((3, 2), np.float32))
    optimizer = gn.SGD([p], lr=0.1, momentum=0.9)
    p.grad = np.ones((3, 2), np.float32)
    optimizer.step()
    p.data = np.asfortranarray(np.ones((3, 2), np.float32))
    optimizer.step()
    np.testing.assert_allclose(p.data, 1 - 0.1 * 1.9, rtol=1e-6)


@pytest.mark.parametrize(
    "grad",
    [
        np.array([0.1, 0.2]),
        np.array([0.1, 0.2], dtype=np.float16),
        [0.1, 0.2],
        Foreign([0.1, 0.2]),
        gn.Tensor([0.1, 0.2]),
    ],
    ids=["float64", "float16", "list", "foreign", "Tensor"],
)
def test_any_gradient_leaves_the_parameter_float32(grad):
    p = Foreign(np.array([1.0, 2.0], np.float32), grad)
    optimizer = gn.Adam([p], lr=0.01)
    optimizer.step()
    np.testing.assert_allclose(p.data, [0.99, 1.99], rtol=1e-6)
    assert p.data.dtype == optimizer.m_buffers[0].dtype == np.float32


def test_gradient_that_is_the_parameter():
    p = gn.Parameter(np.array([1.0, -2.0]))
    p.grad = p.data  # of half the sum of squares
    gn.SGD([p], lr=0.25).step()
    np.testing.assert_array_equal(p.data, [0.75, -1.5])


def test_integer_gradient():
    p = gn.Parameter(np.array([1.0, 2.0]), grad=np.array([1, 2]))
    gn.SGD([p], lr=0.5).step()
    np.testing.assert_array_equal(p.data, [0.5, 1.0])


def test_age_is_the_parameters_own():
    active, late, alone = (gn.Parameter(np.ones(1)) for _ in range(3))
    optimizer, other = gn.Adam([active, late], lr=0.1), gn.Adam([alone], lr=0.1)
    for _ in range(4):
        active.grad = np.array([0.5])
        optimizer.step()
    assert (late.data == 1).all()
    for g in (2.0, -1.0, 0.5):
        late.grad, alone.grad = np.array([g]), np.array([g])
        optimizer.step()
        other.step()
        np.testing.assert_array_equal(late.data, alone.data)
    assert (optimizer.step_count, optimizer.update_counts) == (7, [7, 3])


def test_infinity_and_nan_pass_without_a_warning():
    p = gn.Parameter(np.zeros(3), grad=np.array([np.inf, np.nan, 1.0]))
    gn.Adam([p]).step()
    assert np.isnan(p.data[:2]).all()
    assert p.data[2] == pytest.approx(-1e-3)


def test_a_float64_gradient_beyond_float32_is_infinite():
    p = gn.Parameter(np.zeros(1, np.float32), grad=np.array([1e300]))
    gn.SGD([p]).step()
    assert p.data[0] == -np.inf


BAD = [
    (np.ones(3), ValueError, r"gradient of parameter 1 must be an array of shape \(2,\), but has shape \(3,\)"),
    (np.ones((2, 1)), ValueError, "shape"),
    (np.array([1j, 2j]), TypeError, "real numbers"),
    (np.array(["a", "b"]), TypeError, "real numbers"),
]


@pytest.mark.parametrize(("grad", "error", "words"), BAD)
def test_bad_gradient_changes_nothing(grad, error, words):
    first, second = gn.Parameter(np.ones(2), grad=np.ones(2)), gn.Parameter(np.ones(2), grad=grad)
    optimizer = gn.Adam([first, second])
    with pytest.raises(error, match=words):
        optimizer.step()
    assert (first.data == 1).all()
    assert optimizer.m_buffers == [None, None]
    assert (optimizer.step_count, optimizer.update_counts) == (0, [0, 0])


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (np.ones(2, np.int64), TypeError, "float32 or float64"),
        (np.ones(2, np.float16), TypeError, "float32 or float64"),
        (np.ones(2, ">f4"), TypeError, "float32 or float64"),
        (np.broadcast_to(np.ones(1), (2,)), ValueError, "read-only"),
    ],
)
def test_data_that_cannot_be_updated(data, error, words):
    optimizer = gn.SGD([gn.Parameter(data, grad=np.ones(2))])
    with pytest.raises(error, match=words):
        optimizer.step()


def test_engines_say_why():
    params = [gn.Parameter(np.ones((4, 6))), gn.Parameter(np.ones((4, 6))[:, ::2])]
    assert [engine for _, engine, _ in gn.SGD(params).engines()] == ["fused", "reference"]
    assert "whole tensors" in gn.Adafactor(params).engines()[0][2]
    params[1].grad = np.ones((4, 3))
    with pytest.raises(ValueError, match="cannot serve parameter 1 because its memory has gaps"):
        gn.SGD(params, engine="fused").step()


def test_matrix_class_is_updated_element_by_element():
    """np.matrix has a product of its own, which no rule means."""
    start = normal((2, 2), 0)
    with pytest.warns(PendingDeprecationWarning):
        odd = np.matrix(start)
    for w in (start, odd):
        optimizer = gn.RMSprop([gn.Parameter(w, grad=normal((2, 2), 1))], centered=True, engine="reference")
        optimizer.step()
        assert type(optimizer.buffers["grad_avg"][0]) is np.ndarray
    np.testing.assert_array_equal(np.asarray(odd), start)


def test_a_gradient_in_another_order_does_not_leave_the_kernel():
    p = gn.Parameter(np.zeros((3, 2)), grad=np.asfortranarray(np.arange(6.0).reshape(3, 2)))
    gn.SGD([p], lr=1.0, engine="fused").step()
    np.testing.assert_array_equal(p.data, -np.arange(6.0).reshape(3, 2))


def test_climbing():
    p = gn.Parameter(np.ones(2), grad=np.array([1.0, -2.0]))
    gn.SGD([p], lr=0.5, maximize=True).step()
    np.testing.assert_array_equal(p.data, [1.5, 0.0])


def test_what_a_slot_holds_at_first():
    p = gn.Parameter(np.ones(1), grad=np.ones(1))
    gn.Adagrad([p], lr=1.0, initial_accumulator_value=3.0, eps=0.0).step()
    assert p.data[0] == 0.5  # 1 − 1 / √(3 + 1)


def test_scalars_of_a_rule():
    p = gn.Parameter(np.ones(1), grad=np.ones(1))
    optimizer = gn.NAdam([p], betas=(0.8, 0.9), momentum_decay=0.0)
    for product in (0.4, 0.16):  # μ = 0.8 · (1 − ½)
        optimizer.step()
        assert optimizer.scalars["mu_product"] == [pytest.approx(product)]
