"""The functions of rules mean the same on floats, NumPy arrays and torch tensors, NaN and −0.0 included."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from gradstep.rules import ops

NAN, INF = math.nan, math.inf
CASES = [
    (ops.sqrt, (4.0,), 2.0),
    (ops.sqrt, (INF,), INF),
    (ops.sqrt, (NAN,), NAN),
    (ops.sign, (-0.25,), -1.0),
    (ops.sign, (3.0,), 1.0),
    (ops.sign, (0.0,), 0.0),
    (ops.sign, (-0.0,), 0.0),
    (ops.sign, (NAN,), NAN),
    (ops.maximum, (1.0, 2.0), 2.0),
    (ops.maximum, (NAN, 2.0), NAN),
    (ops.maximum, (2.0, NAN), NAN),
    (ops.maximum, (-INF, 2.0), 2.0),
]


def wrapped(kind, x):
    if kind is float:
        return x
    return np.full(3, x, np.float32) if kind is np else torch.full((3,), x)


@pytest.mark.parametrize("kind", [float, np, torch], ids=["float", "numpy", "torch"])
@pytest.mark.parametrize(("function", "arguments", "expected"), CASES)
def test_values(kind, function, arguments, expected):
    result = function(*(wrapped(kind, x) for x in arguments))
    np.testing.assert_array_equal(np.asarray(result), np.asarray(wrapped(kind, expected)))


@pytest.mark.parametrize("kind", [np, torch], ids=["numpy", "torch"])
def test_float32_stays_float32(kind):
    x = wrapped(kind, 2.0)
    for y in (ops.sqrt(x), ops.sign(x), ops.maximum(x, 0.0), ops.where(x > 1.0, x, 0.0), ops.rms(x)):
        assert str(y.dtype).removeprefix("torch.") == "float32"


@pytest.mark.parametrize("kind", [np, torch], ids=["numpy", "torch"])
def test_maximum_with_a_number_keeps_nan(kind):
    assert np.isnan(np.asarray(ops.maximum(wrapped(kind, NAN), 0.0))).all()


@pytest.mark.parametrize("kind", [np, torch], ids=["numpy", "torch"])
def test_whole_tensor_functions(kind):
    x: Any = np.array([[1.0, 3.0], [2.0, 6.0]])
    x = x if kind is np else torch.from_numpy(x)
    assert np.asarray(ops.mean(x, -1)).tolist() == [[2.0], [4.0]]
    assert np.asarray(ops.mean(x, -2)).tolist() == [[1.5, 4.5]]
    assert float(ops.rms(x)) == pytest.approx(math.sqrt(12.5))
    assert ops.epsilon(x) == 2.0**-52
