"""Gradients against finite differences in float64, over every operation and over shapes that broadcast."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes

import gradstep.numpy as gn


def leaf(shape, seed=0, low=-2.0, high=2.0):
    values = np.random.default_rng(seed).uniform(low, high, shape)
    return gn.Tensor(values, requires_grad=True, dtype=np.float64)


def numerical(function, tensors, t, h=1e-6):
    """Central differences of the sum of the function's elements with respect to one of its tensors."""
    slopes = np.empty_like(t.data)
    for index in np.ndindex(*t.shape):
        kept = t.data[index]
        values = []
        for side in (kept + h, kept - h):
            t.data[index] = side
            values.append(function(*tensors).sum().item())
        t.data[index] = kept
        slopes[index] = (values[0] - values[1]) / (2 * h)
    return slopes


def check(function, *tensors):
    """The gradient of a sum that weighs every element of the result differently."""
    shape = function(*tensors).shape
    weights = np.random.default_rng(9).uniform(0.5, 1.5, shape)

    def weighed(*given):
        return function(*given) * weights

    for t in tensors:
        t.grad = None
    weighed(*tensors).sum().backward()
    for t in tensors:
        assert t.grad.shape == t.shape
        assert t.grad.dtype == t.dtype
        np.testing.assert_allclose(t.grad, numerical(weighed, tensors, t), rtol=1e-6, atol=1e-7)


BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (b * b + 1),
}


@pytest.mark.parametrize("operation", BINARY.values(), ids=BINARY)
@given(mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
def test_broadcasting(operation, shapes):
    a, b = (leaf(shape, seed) for seed, shape in enumerate(shapes.input_shapes))
    assert operation(a, b).shape == shapes.result_shape
    check(operation, a, b)


UNARY = {
    "neg": lambda x: -x,
    "exp": lambda x: x.exp(),
    "log": lambda x: (x * x + 1).log(),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "relu": lambda x: x.relu(),
    "square": lambda x: x**2,
    "inverse root": lambda x: (x * x + 1) ** -0.5,
    "power 0": lambda x: x**0,
    "twice the same": lambda x: x * x + x,
    "number left": lambda x: 1 - 2 / (3 + x * x) + 4 * x,
    "array left": lambda x: np.array(2.0) * x - np.array(1.0),
}


@pytest.mark.parametrize("operation", UNARY.values(), ids=UNARY)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0, 2)])
def test_elementwise(operation, shape):
    check(operation, leaf(shape))


def test_power_0_of_0():
    x = gn.Tensor([0.0, 2.0], requires_grad=True)
    (x**0).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 0])


@given(array_shapes(min_dims=1, max_dims=3, max_side=3), st.data())
def test_sums(shape, data):
    axis = data.draw(
        st.one_of(st.none(), st.sampled_from(range(-len(shape), len(shape))), st.just((0, -1)[: len(shape)]))
    )
    axis = (0,) if axis == (0, -1) and len(shape) == 1 else axis
    keepdims = data.draw(st.booleans())
    x = leaf(shape)
    np.testing.assert_allclose(x.mean(axis, keepdims).data, x.data.mean(axis, keepdims=keepdims))
    check(lambda x: x.sum(axis, keepdims) * 3, x)
    check(lambda x: x.mean(axis, keepdims), x)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 3), (3, 4)),
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 2)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 1, 2, 3), (4, 3, 2)),
        ((3,), (5, 3, 2)),
        ((5, 2, 3), (3,)),
    ],
)
def test_matmul(a, b):
    x, y = leaf(a, 1), leaf(b, 2)
    np.testing.assert_allclose((x @ y).data, x.data @ y.data)
    assert (x @ y).shape == (x.data @ y.data).shape
    check(lambda x, y: x @ y, x, y)


def test_matmul_with_arrays():
    x, m = leaf((2, 3)), np.ones((3, 2))
    check(lambda x: x @ m, x)
    check(lambda x: m @ x, x)


INDICES = {
    "number": 1,
    "last": (..., -1),
    "slice": (slice(None, None, 2), slice(1, None)),
    "repeated": ([0, 0, 2],),
    "pairs": ([0, 1, 1], [2, 0, 0]),
    "mask": (np.arange(3) > 0,),
    "new axis": (None, 2),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_index(index):
    x = leaf((3, 4))
    np.testing.assert_array_equal(x[index].data, x.data[index])
    check(lambda x: x[index], x)


SHAPES = {
    "reshape": lambda x: x.reshape(4, 6),
    "reshape to fit": lambda x: x.reshape(-1, 2),
    "T": lambda x: x.T,
    "transpose": lambda x: x.transpose(2, 0, 1),
    "rows": lambda x: sum(row.sum() * (i + 1) for i, row in enumerate(x)),
    "log_softmax": lambda x: x.log_softmax(),
    "log_softmax over rows": lambda x: x.log_softmax(axis=1),
}


@pytest.mark.parametrize("operation", SHAPES.values(), ids=SHAPES)
def test_shapes(operation):
    check(operation, leaf((2, 3, 4)))


def test_log_softmax_does_not_overflow():
    x = gn.Tensor([[1e30, 0.0, -1e30], [3e38, 3e38, -3e38]], requires_grad=True)
    y = x.log_softmax()
    np.testing.assert_allclose(y.data[0], [0, -1e30, -2e30], rtol=1e-6)
    np.testing.assert_allclose(y.data[1][:2], [-np.log(2)] * 2, rtol=1e-6)
    y[0].sum().backward()
    assert np.isfinite(x.grad).all()


def test_sigmoid_does_not_overflow():
    x = gn.Tensor([-1e30, 0.0, 1e30], requires_grad=True)
    x.sigmoid().sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 0.25, 0])


# -- the graph ------------------------------------------------------------------------------------------------------


def test_gradients_accumulate_and_own_their_memory():
    a, b = leaf((2,)), leaf((2,))
    (a + b).sum().backward()
    a.grad *= 0.5  # what a trainer does; b's must not follow
    np.testing.assert_array_equal(a.grad, [0.5, 0.5])
    np.testing.assert_array_equal(b.grad, [1, 1])
    (a + b).sum().backward()
    np.testing.assert_array_equal(a.grad, [1.5, 1.5])
    a.grad = gn.Tensor([1.0, 2.0])  # set by hand
    a.sum().backward()
    np.testing.assert_array_equal(a.grad, [2, 3])


def test_deep_graph():
    x = y = leaf((2,))
    for _ in range(20_000):
        y = y + 1
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [1, 1])
    del y  # freeing it must not overflow the stack either


def test_a_shared_result_is_walked_once():
    x = y = leaf(())
    for _ in range(60):
        y = y * 0.5 + y * 0.5  # 2⁶⁰ paths
    y.backward()
    assert x.grad == pytest.approx(1)


def test_only_leaves_keep_a_gradient():
    x, constant = leaf((2,)), gn.Tensor([1.0, 2.0])
    y = x * constant
    y.sum().backward()
    assert y.grad is None
    assert constant.grad is None
    assert x.grad is not None


def test_no_grad_keeps_nothing():
    x = leaf((2,))
    with gn.no_grad():
        y = x * 2
        with gn.no_grad():
            pass
        z = x * 3
    assert not y.requires_grad
    assert not z.requires_grad
    assert (x * 2).requires_grad
    alive = weakref.ref(x)
    del x
    gc.collect()
    assert alive() is None
    with pytest.raises(RuntimeError, match="nothing that requires a gradient"):
        y.sum().backward()
    with pytest.raises(ZeroDivisionError), gn.no_grad():
        _ = 1 / 0
    assert (leaf((1,)) * 2).requires_grad


def test_a_graph_of_constants_is_not_kept():
    x = gn.Tensor([1.0])
    alive = weakref.ref(x)
    y = x * 2
    del x
    gc.collect()
    assert alive() is None
    assert y.data[0] == 2


def test_detach_and_item():
    x = leaf((1,))
    y = (x * 2).detach()
    assert not y.requires_grad
    assert y.item() == 2 * x.item()
    assert np.shares_memory(x.detach().data, x.data)


def test_backward_with_a_gradient():
    x = leaf((2, 3))
    g = np.arange(6).reshape(2, 3)
    (x * 2).backward(g)
    np.testing.assert_array_equal(x.grad, 2 * g)
    with pytest.raises(ValueError, match=r"starts from one number, not from shape \(2, 3\)"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"gradient has shape \(3,\), the tensor \(2, 3\)"):
        (x * 2).backward([1.0, 2.0, 3.0])


def test_types():
    x = gn.Tensor(np.arange(3), requires_grad=True)  # integers, as float32
    y = 2.5 * x + np.float64(1) * x - np.ones(3)
    y.sum().backward()
    assert x.dtype == y.dtype == x.grad.dtype == np.float32
    wide = gn.Tensor([1.0], requires_grad=True, dtype=np.float64)
    (x.sum() * wide).backward()
    assert wide.grad.dtype == np.float64
    assert x.grad.dtype == np.float32
    with pytest.raises(TypeError, match="float32 or float64, not of int64"):
        gn.Tensor([1], dtype=np.int64)


def test_data_is_copied():
    values = np.ones(2, np.float32)
    for source in (values, gn.Tensor(values)):
        t = gn.Tensor(source)
        t.data[0] = 5
    assert values[0] == 1


def test_repr_len_and_array():
    x = gn.Tensor([1.0, 2.5])
    assert repr(x) == "Tensor([1. , 2.5], requires_grad=False)"
    assert len(x) == x.size == 2
    assert x.ndim == 1
    np.testing.assert_array_equal(np.asarray(x), x.data)
