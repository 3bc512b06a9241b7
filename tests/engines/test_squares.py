"""The sum of squares: exact enough, in float64, and not finite exactly when an element is not."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gradstep
from gradstep.engines.fused.job import CHUNK
from gradstep.engines.fused.skeleton import LANES
from tests.training import normal

ENGINES = ("fused", "eager", "foreach", "reference")


def norm(g, engine):
    p = torch.zeros_like(g).requires_grad_()
    p.grad = g
    optimizer: Any = gradstep.SGD([p], lr=0.0, engine=engine)
    optimizer.step(max_grad_norm=1.0)
    return optimizer.last_step.grad_norm


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n", [0, 1, LANES - 1, LANES, LANES + 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_against_exact_addition(n, dtype, engine):
    g = normal(n, dtype=dtype)
    exact = math.fsum(x * x for x in g.double().tolist())
    assert norm(g, engine) == pytest.approx(math.sqrt(exact), rel=1e-13)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, LANES, CHUNK - 1, CHUNK, CHUNK + 69])
def test_one_element_is_enough(where, bad):
    g = normal(CHUNK + 70)
    g[where] = bad
    assert not math.isfinite(norm(g, "fused"))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_any_finite_numbers(numbers):
    exact = math.sqrt(math.fsum(x * x for x in numbers))
    assert norm(torch.tensor(numbers), "fused") == pytest.approx(exact, rel=1e-13, abs=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_squares_beyond_its_range(engine):
    assert norm(torch.full((4,), 3e38), engine) == pytest.approx(2 * float(torch.tensor(3e38)), rel=1e-13)
    assert norm(torch.full((4,), 1e-45), engine) == pytest.approx(2 * float(torch.tensor(1e-45)), rel=1e-13)
