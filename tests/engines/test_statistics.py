"""What a watched step tells of itself, against sums made after the fact in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import gradstep
from tests.training import normal

SHAPES = [(64, 65), (3, 5), (), (0,), (20_000,)]


def watched(kind: Any, dtype=torch.float32, engine="auto", **options):
    params = [normal(*s, seed=i, dtype=dtype).requires_grad_() for i, s in enumerate(SHAPES)]
    optimizer = kind(
        [
            {"params": [("a", params[0]), ("b", params[1])]},
            {"params": [("c", p) if i == 0 else (f"d{i}", p) for i, p in enumerate(params[2:])]},
        ],
        engine=engine,
        **options,
    )
    before: list[torch.Tensor] = []
    for t in range(3):
        for i, p in enumerate(params):
            p.grad = normal(*SHAPES[i], seed=10 * t + i, dtype=dtype) * 0.1
        before = [p.detach().double().clone() for p in params]
        optimizer.watch = t == 2
        optimizer.step(max_grad_norm=0.5, grad_scale=4.0)
    return optimizer, params, before


@pytest.mark.parametrize("engine", ["fused", "reference", "eager"])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.float32, {"state": "8bit"}),
        (torch.float64, {}),
        (torch.bfloat16, {}),
    ],
    ids=str,
)
def test_against_sums_in_float64(engine, dtype, options):
    optimizer, params, before = watched(gradstep.AdamW, dtype, engine, weight_decay=0.1, **options)
    found = optimizer.last_step.statistics
    assert list(found.names) == ["a", "b", "c", "d1", "d2"]
    assert found.groups.tolist() == [0, 0, 1, 1, 1]
    assert found.elements.tolist() == [p.numel() for p in params]
    near: Any = {"rel": 1e-5 if dtype != torch.float64 else 1e-12, "abs": 0}
    for i, (p, old) in enumerate(zip(params, before, strict=True)):
        new, g = p.detach().double(), p.grad.double() / 4.0
        assert found.grad_square[i] == pytest.approx(float((g**2).sum()), **near)
        assert found.param_square[i] == pytest.approx(float((new**2).sum()), **near)
        assert found.update_square[i] == pytest.approx(float(((new - old) ** 2).sum()), **near)
        assert found.unmoved[i] == int(((new == old) & (g != 0)).sum())
        if p.numel() == 0:
            assert math.isnan(found.second_min[i])
        elif "state" not in options:
            second = optimizer.state[p]["exp_avg_sq"].double()
            assert found.second_min[i] == pytest.approx(float(second.min()), rel=1e-6)
            assert found.second_max[i] == pytest.approx(float(second.max()), rel=1e-6)


def test_a_rule_without_a_second_moment():
    optimizer, *_ = watched(gradstep.Lion)
    assert np.isnan(optimizer.last_step.statistics.second_min).all()


def test_engines_agree():
    found = [watched(gradstep.AdamW, torch.bfloat16, e)[0].last_step.statistics for e in ("fused", "reference")]
    np.testing.assert_array_equal(found[0].unmoved, found[1].unmoved)
    assert found[0].unmoved[0] > 0, "bfloat16 loses some updates here"
    np.testing.assert_allclose(found[0].update_square, found[1].update_square, rtol=1e-12)


def test_watching_changes_nothing():
    one, two = (watched(gradstep.AdamW, state="8bit", seed=1)[1] for _ in range(2))
    plain = watched(gradstep.AdamW, state="8bit", seed=1)[1]
    for a, b, c in zip(one, two, plain, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_none_without_watching_and_none_where_nothing_was_updated():
    p = torch.ones(3, requires_grad=True)
    optimizer = gradstep.AdamW([p])
    p.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.last_step is not None
    assert optimizer.last_step.statistics is None
    p.grad = None
    optimizer.watch = True
    optimizer.step()
    assert optimizer.last_step.statistics is not None
    assert len(optimizer.last_step.statistics.names) == 0
