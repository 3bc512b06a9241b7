"""Layers and losses: against numbers by hand, and their bad inputs."""

import math

import numpy as np
import pytest

import gradstep.numpy as gn


def test_linear():
    layer = gn.Linear(2, 3)
    assert layer.bias is not None
    layer.weight.data[...] = [[1, 2, 3], [4, 5, 6]]
    layer.bias.data[...] = [0.5, 0, -0.5]
    y = layer(np.array([[1.0, -1.0], [2.0, 0.0]]))
    np.testing.assert_array_equal(y.data, [[-2.5, -3, -3.5], [2.5, 4, 5.5]])
    y.sum().backward()
    np.testing.assert_array_equal(layer.weight.grad, [[3, 3, 3], [-1, -1, -1]])
    np.testing.assert_array_equal(layer.bias.grad, [2, 2, 2])
    assert layer.parameters() == [layer.weight, layer.bias]
    assert gn.Linear(2, 3, bias=False).bias is None
    assert gn.Linear(2, 3, dtype=np.float64).weight.dtype == np.float64


def test_initial_weights():
    one, same = (gn.Linear(400, 300, rng=np.random.default_rng(3)).weight.data for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert one.std() == pytest.approx(1 / 20, rel=0.01)
    assert abs(one.mean()) < 1e-3
    assert not np.array_equal(gn.Linear(4, 3).weight.data, gn.Linear(4, 3).weight.data)
    with pytest.raises(ValueError, match="at least 1 feature"):
        gn.Linear(0, 3)


def test_sequential():
    first, relu, last = gn.Linear(3, 4), gn.ReLU(), gn.Linear(4, 2)
    model = gn.Sequential(first, relu, last)
    x = gn.Tensor(np.random.default_rng(0).standard_normal((5, 3)))
    np.testing.assert_array_equal(model(x).data, last(first(x).relu()).data)
    assert model.parameters() == [*first.parameters(), *last.parameters()]
    assert gn.Sequential([first, relu, last]).layers == model.layers


def test_mse():
    predictions = gn.Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    loss = gn.MSELoss()(predictions, [[0.0, 2.0], [5.0, 4.0]])
    assert loss.item() == 5 / 4
    loss.backward()
    np.testing.assert_array_equal(predictions.grad, [[0.5, 0], [-1, 0]])
    with pytest.raises(ValueError, match=r"\(2, 2\) and targets \(2,\)"):
        gn.MSELoss()(predictions, [1.0, 2.0])


def test_cross_entropy():
    logits = gn.Tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]], requires_grad=True)
    loss = gn.CrossEntropyLoss()(logits, [1, 1])  # probabilities 3/4 and 1/5
    assert loss.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 5)) / 2, rel=1e-6)
    loss.backward()
    np.testing.assert_allclose(logits.grad, [[1 / 8, -1 / 8], [2 / 5, -2 / 5]], rtol=1e-6)
    for same in (np.array([1, 1]), np.array([1.0, 1.0]), gn.Tensor([1, 1])):
        assert gn.CrossEntropyLoss().forward(logits, same).item() == loss.item()


def test_cross_entropy_of_huge_logits():
    logits = gn.Tensor([[1e38, -1e38]], requires_grad=True)
    loss = gn.CrossEntropyLoss()(logits, [1])
    assert loss.item() == pytest.approx(2e38, rel=1e-6)
    loss.backward()
    np.testing.assert_array_equal(logits.grad, [[1, -1]])


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([0, 2], "whole numbers from 0 to 1, but number 1 is 2"),
        ([-1, 0], "number 0 is -1"),
        ([0.5, 0], "number 0 is 0.5"),
        ([0, 1, 0], r"shape \(2,\), but have \(3,\)"),
        ([[0, 1], [1, 0]], r"shape \(2,\), but have \(2, 2\)"),
    ],
)
def test_bad_classes(targets, words):
    with pytest.raises(ValueError, match=words):
        gn.CrossEntropyLoss()(gn.Tensor(np.zeros((2, 2))), targets)


def test_logits_of_one_axis():
    with pytest.raises(ValueError, match=r"logits of shape \(n, classes\), but have \(2,\)"):
        gn.CrossEntropyLoss()(gn.Tensor([0.0, 1.0]), [0])
