"""Roots and quotients of torch tensors: every bit as NumPy's, which are correctly rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradstep.engines.rounding import CorrectRounding, quotient, root
from gradstep.rules.ops import sqrt

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, 1e-45, 1.2e-38, 3.4e38, 1.0]


def numbers(dtype: torch.dtype, n: int = 100_000) -> Tensor:
    """Numbers of every size, special ones among them."""
    torch.manual_seed(0)
    x = torch.randn(n, dtype=torch.float64).abs() * 2.0 ** torch.randint(-130, 120, (n,))
    return torch.cat([torch.tensor(SPECIAL, dtype=torch.float64), x]).to(dtype)


def assert_same(ours: Tensor, numpy: Any) -> None:
    np.testing.assert_array_equal(ours.numpy(), numpy)
    assert np.array_equal(np.signbit(ours.numpy()) & (numpy == 0), np.signbit(numpy) & (numpy == 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roots(dtype: torch.dtype) -> None:
    x = numbers(dtype)
    with np.errstate(invalid="ignore"):
        expected = np.sqrt(x.numpy())
    assert_same(root(x), expected)
    if dtype == torch.float32:  # rounded once from a root with 53 bits, which is enough to round 24 of them rightly
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(expected, np.sqrt(x.double().numpy()).astype(np.float32))
    place = x.clone()
    assert root(place, out=place) is place
    assert_same(place, expected)
    with CorrectRounding():
        for found in (x.sqrt(), torch.sqrt(x), sqrt(x)):
            assert_same(found, expected)


def test_roots_of_any_layout() -> None:
    x = numbers(torch.float32, 6 * 7 * 8 - len(SPECIAL)).abs().reshape(6, 7, 8)
    for view in (x, x.permute(2, 0, 1), x[::2, :, ::3], x[0, 0, 0], x[:0], torch.nn.Parameter(x)):
        assert_same(root(view), np.sqrt(view.detach().numpy()))


@given(number=st.floats(width=32, allow_nan=False))
def test_quotients_with_a_number(number: float) -> None:
    x = numbers(torch.float32, 1_000)
    with np.errstate(all="ignore"):
        over, under = np.float32(number) / x.numpy(), x.numpy() / np.float32(number)
    with CorrectRounding():
        assert_same(number / x, over)
        assert_same(x / number, under)
    assert_same(quotient(number, x, out=torch.empty_like(x)), over)


def test_what_it_leaves_to_torch() -> None:
    with CorrectRounding():
        assert (1.0 / torch.tensor([True, False])).tolist() == [1.0, np.inf]
        assert (3 / torch.tensor([2, 4])).tolist() == [1.5, 0.75]
        assert torch.tensor([9.0], dtype=torch.float16).sqrt().dtype == torch.float16
        assert torch.zeros(3, device="meta").sqrt().device.type == "meta"
        assert torch._efficientzerotensor(3).sqrt().tolist() == [0.0, 0.0, 0.0]
        assert torch.func.vmap(torch.sqrt)(torch.tensor([4.0, 9.0])).tolist() == [2.0, 3.0]
        assert torch.div(torch.tensor([7.0]), 2, rounding_mode="floor").item() == 3.0


def test_no_number_is_made_on_the_default_device() -> None:
    x = torch.tensor([3.0, 7.0])
    with torch.device("meta"), CorrectRounding():
        assert torch.equal(1.0 / x, torch.div(x.new_ones(()), x))
