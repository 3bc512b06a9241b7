"""What a watched step tells of itself, against sums made after the fact in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradstep
from gradstep.engines import fused
from tests.training import normal

SHAPES = [(64, 65), (3, 5), (), (0,), (20_000,)]


@pytest.mark.parametrize("watch", [None, "parameters"])
def test_a_first_step_compiles_only_the_kernels_that_it_needs(monkeypatch, watch):
    """Half of the time of a first step that was watched went into kernels that it did not run."""
    kernels: dict[Any, Any] = {}
    monkeypatch.setattr(fused, "_kernels", kernels)
    p = normal(64).requires_grad_()
    p.grad = normal(64, seed=1)
    optimizer = gradstep.AdamW([p])
    optimizer.watch = watch
    optimizer.step()
    assert [is_watched for _, is_watched in kernels] == [watch is not None]
    assert optimizer.last_step is not None
    assert optimizer.last_step.stepped


def found_by(optimizer: Any) -> Any:
    return optimizer.last_step.statistics


def watched(kind: Any, dtype=torch.float32, engine="auto", detail="parameters", **options):
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
        optimizer.watch = detail if t == 2 else None
        optimizer.step(max_grad_norm=0.5, grad_scale=4.0)
    return optimizer, params, before


@pytest.mark.parametrize("engine", ["fused", "reference", "eager", "foreach"])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.float32, {"state": "8bit"}),
        (torch.float32, {"state": "4bit"}),
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
    np.testing.assert_allclose(found[0].update_square, found[1].update_square, rtol=2e-6)


def folded(table, groups):
    """Of each group, by hand: four sums, a minimum, a maximum."""
    rows = [table[groups == group] for group in sorted(set(groups.tolist()))]
    return np.array([[*row[:, :4].sum(0), np.fmin.reduce(row[:, 4]), np.fmax.reduce(row[:, 5])] for row in rows])


@pytest.mark.parametrize("engine", ["fused", "reference", "eager", "foreach"])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.float32, {"state": "8bit"}),
        (torch.float32, {"state": "4bit"}),
        (torch.float64, {}),
        (torch.bfloat16, {}),
    ],
    ids=str,
)
def test_groups_are_what_their_parameters_come_to(engine, dtype, options):
    each, groups = (
        watched(gradstep.AdamW, dtype, engine, detail, seed=1, **options)[0].last_step.statistics
        for detail in ("parameters", "groups")
    )
    assert groups.index.tolist() == groups.groups.tolist() == [0, 1]
    assert groups.elements.tolist() == [64 * 65 + 15, 20_001]
    assert list(groups.names) == ["group 0", "group 1"]
    np.testing.assert_allclose(groups.table, folded(each.table, each.groups), rtol=2e-6)
    assert groups.finite


def test_a_group_of_two_dtypes_is_one():
    """Each has an engine's batch of its own; the parameter without gradient, and its whole group, are left out."""
    made: list[Any] = []
    for detail in ("parameters", "groups"):
        params = [
            normal(20, 3, seed=i, dtype=dtype).requires_grad_()
            for i, dtype in enumerate([torch.float32, torch.bfloat16, torch.float32, torch.bfloat16, torch.float32])
        ]
        optimizer = gradstep.AdamW([{"params": params[:2]}, {"params": params[2:3]}, {"params": params[3:]}])
        for i, p in enumerate(params):
            p.grad = None if i == 2 else normal(20, 3, seed=10 + i, dtype=p.dtype)
        optimizer.watch = detail
        optimizer.step(max_grad_norm=0.5)
        made.append(found_by(optimizer))
    each, groups = made
    assert groups.index.tolist() == [0, 2]
    assert groups.elements.tolist() == [120, 120]
    np.testing.assert_allclose(groups.table, folded(each.table, each.groups), rtol=2e-6)


def test_what_is_not_finite_is_its_groups():
    params = [torch.ones(5, requires_grad=True) for _ in range(3)]
    for p in params:
        p.grad = torch.ones(5)
    params[1].grad = torch.tensor([1.0, math.nan, 1.0, 1.0, 1.0])
    optimizer = gradstep.AdamW([{"params": params[:2]}, {"params": params[2:]}])
    optimizer.watch = "groups"
    optimizer.step()
    found = found_by(optimizer)
    assert not found.finite
    assert np.isfinite(found.grad_square).tolist() == [False, True]


@pytest.mark.parametrize("pieces", [1, 7, 300])
@pytest.mark.parametrize("size", [1e-45, 1e-25, 1.0, 1e19, 3e38])
def test_a_doubtful_block_may_have_parts_of_several_tensors(size, pieces):
    """A run of tensors is one: numbers that float32 cannot square in one of them, ordinary ones in the others."""
    flat = torch.full((9_000,), 1e-3)
    flat[4_000:4_100] = size
    params = [torch.zeros(len(part), requires_grad=True) for part in flat.tensor_split(pieces)]
    for p, g in zip(params, flat.tensor_split(pieces), strict=True):
        p.grad = g.clone()
    optimizer = gradstep.SGD(params, lr=1.0)
    optimizer.watch = "groups"
    optimizer.step(grad_scale=2.0)
    half = flat.double() / 2
    if size < 1e-40:
        half[4_000:4_100] = 0.0  # the half of the least number, rounded to even
    found = found_by(optimizer)
    for square in (found.grad_square, found.param_square, found.update_square):
        assert square[0] == pytest.approx(float((half**2).sum()), rel=2e-6)


@pytest.mark.parametrize("wrong", [True, "parameter", 1, []])
def test_watch_has_few_values(wrong):
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    optimizer = gradstep.AdamW([p])
    optimizer.watch = wrong
    with pytest.raises(ValueError, match="of 'parameters' or of 'groups', or None, but not of"):
        optimizer.step()
    assert p.tolist() == [1, 1, 1]


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
    optimizer.watch = "parameters"
    optimizer.step()
    assert optimizer.last_step.statistics is not None
    assert len(optimizer.last_step.statistics.names) == 0


def test_a_parameter_without_elements_alone():
    p = torch.zeros(0, 3, requires_grad=True)
    p.grad = torch.zeros(0, 3)
    optimizer = gradstep.AdamW([p])
    optimizer.watch = "parameters"
    optimizer.step()
    found = found_by(optimizer)
    assert found.finite
    assert found.table[0, :4].tolist() == [0, 0, 0, 0]
    assert np.isnan(found.table[0, 4:]).all()


SIZES = st.one_of(
    st.sampled_from([0.0, 1e-45, 1e-38, 1e-25, 1e-19, 1.0, 1e19, 1e30, 3e38, math.inf, math.nan]),
    st.floats(-45.0, 38.4).map(lambda power: 10.0**power),
)
LENGTHS = st.sampled_from([1, 15, 16, 17, 255, 256, 257, 300, 16_384, 16_385, 16_700])


def drawn(length, sizes, seed):
    """Numbers of different sizes, in runs, so that a block may hold one size or several."""
    scale = np.resize(np.repeat(np.array(sizes), 100), length)
    with np.errstate(all="ignore"):
        numbers = np.random.default_rng(seed).uniform(-1, 1, length) * scale
        return torch.from_numpy(numbers.astype(np.float32))


@settings(max_examples=100, deadline=None)
@given(
    length=LENGTHS,
    weights=st.lists(SIZES, min_size=1, max_size=3),
    gradients=st.lists(SIZES, min_size=1, max_size=3),
    lr=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e20]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    state=st.sampled_from(["float32", "8bit", "4bit"]),
    seed=st.integers(0, 5),
)
def test_sums_are_right_at_every_magnitude(length, weights, gradients, lr, dtype, state, seed):
    p = drawn(length, weights, seed).to(dtype).reshape(1, -1)
    g = drawn(length, gradients, seed + 100).to(dtype).reshape(1, -1)
    old = p.double()
    p.requires_grad_()
    p.grad = g.clone()
    optimizer = gradstep.SGD([p], lr=lr, momentum=0.9, state=state, engine="fused")
    optimizer.watch = "parameters"
    optimizer.step()
    found, new = found_by(optimizer), p.detach().double()
    for sum_found, x in (
        (found.grad_square, g.double()),
        (found.param_square, new),
        (found.update_square, new - old),
    ):
        np.testing.assert_allclose(sum_found[0], float((x**2).sum()), rtol=2e-6)
    assert found.unmoved[0] == int(((new == old) & (g != 0)).sum())


@pytest.mark.parametrize("size", [1e-45, 1e-25, 1e-19, 1e19, 1e30, 3e38])
def test_a_block_that_float32_cannot_add_up(size):
    """Half a block of such numbers beside ordinary ones and zeros: the sums of their squares, by hand."""
    g = torch.zeros(1000)
    g[:128], g[500:] = size, 1e-3
    p = torch.zeros(1000, requires_grad=True)
    p.grad = g
    optimizer = gradstep.SGD([p], lr=1.0)
    optimizer.watch = "parameters"
    optimizer.step()
    found = found_by(optimizer)
    exact = 128 * float(torch.tensor(size)) ** 2 + 500 * float(torch.tensor(1e-3)) ** 2
    for square in (found.grad_square, found.param_square, found.update_square):
        assert square[0] == pytest.approx(exact, rel=2e-6)


def test_the_least_sum_is_seen_alone():
    p = torch.full((512,), 1e-45, requires_grad=True)
    p.grad = torch.zeros(512)
    optimizer = gradstep.SGD([p], lr=1.0)
    optimizer.watch = "parameters"
    optimizer.step()
    found = found_by(optimizer)
    assert found.param_square[0] == pytest.approx(512 * float(torch.tensor(1e-45)) ** 2)
    assert found.grad_square[0] == 0
    assert found.update_square[0] == 0


@pytest.mark.parametrize(
    ("dtype", "state"),
    [(torch.float32, "float32"), (torch.float32, "8bit"), (torch.bfloat16, "8bit"), (torch.float64, "float32")],
)
def test_a_watched_step_changes_what_an_unwatched_one_does(dtype, state):
    """Weights and all state bit for bit, at sizes where the statistics take their second way."""
    made = []
    for watch in (False, True):
        start = torch.cat([drawn(5_000, [1.0, 1e-30, 1e25], 1), torch.zeros(300)])
        p = start.to(dtype).reshape(53, 100).requires_grad_()
        optimizer = gradstep.AdamW([p], lr=1e-3, state=state, seed=0)
        optimizer.watch = "parameters" if watch else None
        for t in range(3):
            g = torch.cat([drawn(5_000, [1e-25, 1.0, 1e22], t), torch.zeros(300)])
            p.grad = g.to(dtype).reshape(53, 100)
            optimizer.step()
        made.append([p.detach(), *(x for x in optimizer.state[p].values() if x.numel() > 1)])
    for a, b in zip(*made, strict=True):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("detail", ["parameters", "groups"])
def test_state_that_comes_in_windows_is_one_step(detail):
    """Paged, with a budget for a part of it: what the windows find comes to what is found without them."""
    made: list[Any] = []
    kinds: list[dict[str, Any]] = [{}, {"paged": True, "page_budget": 2**20}]
    for options in kinds:
        shapes = [(300, 300), (50,), (200_000,), (64, 64), (100, 1000)]
        params = [normal(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
        optimizer: Any = gradstep.AdamW([{"params": params[:2]}, {"params": params[2:]}], **options)
        optimizer.watch = detail
        for i, p in enumerate(params):
            p.grad = normal(*shapes[i], seed=10 + i)
        optimizer.step(max_grad_norm=1.0)
        made.append(optimizer.last_step.statistics)
    resident, paged = made
    assert resident.elements.tolist() == paged.elements.tolist()
    assert len(resident.table) == (5 if detail == "parameters" else 2)
    np.testing.assert_allclose(resident.table, paged.table, rtol=2e-6)


@pytest.mark.parametrize("n", [1, 16, 1000])
@pytest.mark.parametrize("engine", ["fused", "reference"])
def test_a_second_moment_that_is_no_number_has_no_bounds(n, engine):
    p = torch.nn.Parameter(torch.ones(n))
    optimizer = gradstep.AdamW([p], engine=engine)
    p.grad = torch.full_like(p, torch.nan)
    optimizer.watch = "groups"
    optimizer.step()
    assert np.isnan(found_by(optimizer).table[0, -2:]).all()
