"""Muon: steps worked by hand, the singular value decomposition in float64, and torch's class over 100 steps."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

import gradstep
import gradstep.numpy
from gradstep.rules import Muon, State
from gradstep.rules.newton_schulz import COEFFICIENTS, JORDAN, POLAR_EXPRESS, newton_schulz
from tests.registry import cases
from tests.rules.by_hand import steps
from tests.training import give, normal, unchanged

MUON = [case for case in cases(matrices=True, in_torch=True) if case.values[0].name == "Muon"]
SHAPES = [(64, 64), (48, 100), (100, 48), (7, 3), (1, 5)]


def iterated(sigma: Any, triples: Any) -> Any:
    for a, b, c in triples:
        sigma = a * sigma + b * sigma**3 + c * sigma**5
    return sigma


# -- by hand ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 1.0),
        ({"nesterov": False}, 1.0),
        ({"adjust_lr_fn": "original"}, 1.0),
        ({"adjust_lr_fn": "match_rms_adamw"}, 0.2 * 2**0.5),
    ],
)
def test_the_first_step_of_a_diagonal_matrix(settings, scale):
    """Singular values 0.8 and 0.6 after the division by the norm, 5; each goes through the quintic by itself."""
    rule = Muon(lr=0.1, weight_decay=0.5, **settings)
    (p,) = steps(rule, np.diag([1.0, -2.0]), np.diag([4.0, 3.0]))
    moved = [iterated(sigma, [JORDAN] * 5) for sigma in (0.8, 0.6)]
    expected = np.diag([0.95 * 1.0 - 0.1 * scale * moved[0], 0.95 * -2.0 - 0.1 * scale * moved[1]])
    np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-15)


def test_the_second_step_goes_by_the_momentum():
    """Momentum 0.5: B₁ = (2, 0), B₂ = (1, 1); Nesterov's is half of B₂ and half of g₂ = (0, 2): (0.5, 1.5)."""
    rule = Muon(lr=1.0, weight_decay=0.0, momentum=0.5, ns_steps=1)
    first, second = np.diag([4.0, 0.0]), np.diag([0.0, 2.0])
    one, two = steps(rule, np.zeros((2, 2)), first, second)
    norm = (0.5**2 + 1.5**2) ** 0.5
    expected = [iterated(x / norm, [JORDAN]) for x in (0.5, 1.5)]
    np.testing.assert_allclose(np.diag(one - two), expected, rtol=1e-12)


@pytest.mark.parametrize(("shape", "scale"), [((8, 2), 2.0), ((2, 8), 1.0)])
def test_the_scale_goes_by_rows_over_columns(shape, scale):
    g = np.zeros(shape)
    g[0, 0] = 3.0
    (p,) = steps(Muon(lr=1.0, weight_decay=0.0), np.zeros(shape), g)
    assert p[0, 0] == pytest.approx(-scale * iterated(1.0, [JORDAN] * 5), rel=1e-12)


# -- the iteration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4), (3, 4, 6)])
def test_newton_schulz_moves_singular_values_alone(kind, name, shape):
    """In float64, against the singular value decomposition."""
    x = np.random.default_rng(0).normal(size=shape)
    out = newton_schulz(x if kind == "numpy" else torch.from_numpy(x), name)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    s /= np.sqrt((s**2).sum(-1, keepdims=True))
    triples = [JORDAN] * 5 if name == "jordan" else POLAR_EXPRESS[:5]
    np.testing.assert_allclose(np.asarray(out), (u * iterated(s, triples)[..., None, :]) @ vt, atol=1e-13)


@pytest.mark.parametrize("shape", [(517, 530), (700, 600)])
def test_large_symmetric_products_are_computed_in_blocks(shape):
    """NumPy multiplies in full; 517 is no multiple of the number of blocks."""
    x = np.random.default_rng(4).normal(size=shape)
    out = newton_schulz(torch.from_numpy(x), steps=2)
    np.testing.assert_allclose(out.numpy(), newton_schulz(x, steps=2), atol=1e-14)


def test_the_polar_express_ends_at_the_orthogonal_matrix():
    u, _, vt = np.linalg.svd(np.random.default_rng(1).normal(size=(6, 6)))
    x = (u * np.logspace(0, -2, 6)) @ vt
    np.testing.assert_allclose(newton_schulz(x, "polar_express", 10), u @ vt, atol=1e-9)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_float32_is_computed_in_bfloat16_and_stays_near_float64(kind):
    x = np.random.default_rng(2).normal(size=(40, 60))
    narrow: Any = x.astype(np.float32)
    out = np.asarray(newton_schulz(narrow if kind == "numpy" else torch.from_numpy(narrow)))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out.view(np.uint32) & 0xFFFF, 0)  # every number is a bfloat16
    exact = newton_schulz(x)
    assert 1e-4 < np.linalg.norm(out - exact) / np.linalg.norm(exact) < 0.02


def test_matrices_without_numbers_stay_harmless():
    for x in (np.zeros((3, 4)), torch.zeros(3, 4)):
        assert not np.asarray(newton_schulz(x)).any()
    nan = np.full((2, 2), np.nan, np.float32)
    assert np.isnan(newton_schulz(nan)).all()
    assert torch.isnan(newton_schulz(torch.from_numpy(nan))).all()


@pytest.mark.parametrize(
    ("x", "coefficients", "words"),
    [
        (np.zeros(3), "jordan", r"newton_schulz is for matrices, and this array has the shape \(3,\)"),
        (torch.zeros(3), "jordan", r"newton_schulz is for matrices, and this array has the shape \(3,\)"),
        (np.zeros((3, 3)), "jordon", r"Unknown coefficients: 'jordon' \(choose jordan, polar_express\)"),
    ],
)
def test_what_newton_schulz_refuses(x, coefficients, words):
    with pytest.raises(ValueError, match=words):
        newton_schulz(x, coefficients)


# -- torch's class ------------------------------------------------------------------------------------------------


def trained(make, dtype=torch.float32, count=100, shapes=SHAPES, **options):
    params = [normal(*shape, seed=i, dtype=dtype).mul_(0.1).requires_grad_() for i, shape in enumerate(shapes)]
    optimizer = make(params, **options)
    for t in range(count):
        give(params, [normal(*p.shape, seed=100 + 10 * t + i, dtype=dtype) for i, p in enumerate(params)])
        optimizer.step()
    return optimizer, params


def movements(params, shapes=SHAPES):
    """The way that each parameter of :func:`trained` has come, in float64."""
    starts = [normal(*shape, seed=i, dtype=p.dtype).mul_(0.1) for i, (p, shape) in enumerate(zip(params, shapes))]
    return [(p.detach() - start).double() for p, start in zip(params, starts, strict=True)]


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize(("subject", "options"), MUON)
def test_steps_against_torch(subject, options, engine, count):
    """The momentum within rounding; parameters within 1% of their movement, which bfloat16 products leave open.

    torch's own numbers are as far from the exact ones, which the last lines check.
    """
    ours, params = trained(gradstep.Muon, engine=engine, count=count, **options)
    theirs, targets = trained(torch.optim.Muon, count=count, **options)
    exact = movements(trained(gradstep.Muon, torch.float64, count=count, **options)[1])
    for p, q, mine, other, right in zip(params, targets, movements(params), movements(targets), exact, strict=True):
        buffer = theirs.state[q]["momentum_buffer"]
        torch.testing.assert_close(ours.state[p]["momentum_buffer"], buffer, rtol=1e-5, atol=1e-7)
        assert (mine - other).norm() <= 0.01 * other.norm()
        assert (mine - right).norm() <= 1.5 * (other - right).norm() + 1e-6 * right.norm()


def test_float64_of_two_engines_agrees_to_rounding():
    _, params = trained(gradstep.Muon, torch.float64, engine="eager")
    _, others = trained(gradstep.Muon, torch.float64, engine="reference")
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("first", "second"), [(gradstep.Muon, torch.optim.Muon), (torch.optim.Muon, gradstep.Muon)])
def test_checkpoints_go_both_ways(first, second):
    options = {"lr": 0.02, "momentum": 0.8, "adjust_lr_fn": "match_rms_adamw"}
    before, params = trained(first, count=5, **options)
    saved = copy.deepcopy(before.state_dict())
    copies = [p.detach().clone().requires_grad_() for p in params]
    after = second(copies)
    after.load_state_dict(saved)
    group = {key: value for key, value in after.param_groups[0].items() if key in options}
    assert group == options
    for optimizer, members in ((before, params), (after, copies)):
        give(members, [normal(*p.shape, seed=7 + i) for i, p in enumerate(members)])
        optimizer.step()
    for p, q in zip(params, copies, strict=True):
        step = 0.02 * 0.2 * max(p.shape) ** 0.5
        torch.testing.assert_close(p, q, rtol=0, atol=0.03 * step)


def test_groups_have_torch_s_keys():
    ours, theirs = (make([normal(4, 4).requires_grad_()]) for make in (gradstep.Muon, torch.optim.Muon))
    assert set(theirs.param_groups[0]) <= set(ours.param_groups[0])
    assert not {"matrices", "maximize"} & set(ours.param_groups[0])


def test_torch_overwrites_its_momentum_in_bfloat16_without_nesterov():
    """A fault of torch.optim.Muon 2.13: the division by the norm is in place, on the momentum itself."""
    g = torch.eye(2, dtype=torch.bfloat16) * 4
    buffers = []
    for make in (torch.optim.Muon, gradstep.Muon):
        p = torch.zeros(2, 2, dtype=torch.bfloat16, requires_grad=True)
        p.grad = g.clone()
        optimizer = make([p], momentum=0.5, nesterov=False)
        optimizer.step()
        buffers.append(optimizer.state[p]["momentum_buffer"].float().diagonal().tolist())
    torch_s, ours = buffers
    assert ours == [2.0, 2.0]  # half of the gradient
    if torch.__version__.startswith("2.13"):
        assert torch_s == pytest.approx([0.5**0.5] * 2, rel=1e-2)  # divided by its norm


# -- parameters that are not one matrix ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["eager", "reference"])
@pytest.mark.parametrize(
    ("matrices", "shape", "parts"),
    [
        ("flatten", (6, 2, 3, 3), lambda x: [x.reshape(6, 18)]),
        ("stack", (4, 5, 6), list),
        (3, (12, 7), lambda x: list(x.reshape(3, 4, 7))),
        (2, (8, 3, 2), lambda x: list(x.reshape(2, 4, 6))),
    ],
)
def test_a_tensor_as_several_matrices(engine, matrices, shape, parts):
    """Each part moves as a parameter of its own does, its scale included."""
    start, g = normal(*shape, dtype=torch.float64), normal(*shape, seed=1, dtype=torch.float64)
    whole = start.clone().requires_grad_()
    give([whole], [g.clone()])
    gradstep.Muon([{"params": [whole], "matrices": matrices}], lr=0.1, engine=engine).step()
    single = [x.clone().requires_grad_() for x in parts(start)]
    give(single, [x.clone() for x in parts(g)])
    gradstep.Muon(single, lr=0.1, engine=engine).step()
    for p, q in zip(parts(whole.detach()), single, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-13)


REFUSED: list[tuple[dict[str, Any], tuple[int, ...], str]] = [
    (
        {},
        (4,),
        r"Muon cannot update .* of shape \(4,\): it has no rows and columns: .*\"rule\": \"AdamW\"; .*policy=\"muon\"",
    ),
    ({}, (), r"of shape \(\): it has no rows and columns"),
    ({}, (4, 2, 3), 'more than two dimensions: give its group "matrices": "flatten"'),
    ({"matrices": 3}, (4, 2), "its 4 rows cannot be cut into 3 equal matrices"),
]


@pytest.mark.parametrize(("settings", "shape", "words"), REFUSED)
def test_what_is_no_matrix_is_refused_at_construction(settings, shape, words):
    good = normal(3, 3).requires_grad_()
    with pytest.raises(ValueError, match=words):
        gradstep.Muon([good, normal(*shape).requires_grad_()], **settings)
    optimizer = gradstep.Muon([good])
    with unchanged(optimizer), pytest.raises(ValueError, match=words):
        optimizer.add_param_group({"params": [normal(*shape).requires_grad_()], **settings})
    with pytest.raises(ValueError, match=words):
        gradstep.numpy.Muon([gradstep.numpy.Parameter(np.zeros(shape))], **settings)


def test_matrices_that_are_changed_in_mid_run_are_checked_again():
    p = normal(4, 2).requires_grad_()
    optimizer = gradstep.Muon([p])
    give([p], [normal(4, 2, seed=1)])
    optimizer.step()
    optimizer.param_groups[0]["matrices"] = 3
    with unchanged(optimizer), pytest.raises(ValueError, match="its 4 rows cannot be cut into 3"):
        optimizer.step()
    optimizer.param_groups[0]["matrices"] = 2
    optimizer.step()


def test_complex_and_paged_parameters_are_refused():
    with pytest.raises(ValueError, match=r"Muon looks at whole tensors and is for real ones, .*complex64"):
        gradstep.Muon([torch.zeros(2, 2, dtype=torch.complex64, requires_grad=True)])
    with pytest.raises(ValueError, match=r"paged= .* Muon looks at whole parameters"):
        gradstep.Muon([normal(100, 100).requires_grad_()], paged=True)
    with pytest.raises(ValueError, match=r"engine='fused' cannot serve .* Muon looks at whole tensors"):
        gradstep.Muon([normal(100, 100).requires_grad_()], engine="fused")


# -- storages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["bfloat16", "8bit"])
def test_smaller_state_stays_near(state):
    shapes = [(80, 96)]
    small, params = trained(gradstep.Muon, count=20, shapes=shapes, state=state)
    _, targets = trained(gradstep.Muon, count=20, shapes=shapes)
    assert state in str(small.state_summary())
    [mine], [right] = movements(params, shapes), movements(targets, shapes)
    assert (mine - right).norm() <= 0.1 * right.norm()
    assert torch.equal(params[0], trained(gradstep.Muon8bit, count=20, shapes=shapes)[1][0]) == (state == "8bit")


def test_a_rule_of_numbers_alone():
    """The update as a function, on a state that is given."""
    state = State(momentum_buffer=np.zeros((2, 2)))
    rule = Muon(lr=1.0, weight_decay=0.0, maximize=True)
    new = Muon.update(np.zeros((2, 2)), np.eye(2), state, State(**rule.coefficients(1)))
    np.testing.assert_allclose(state.momentum_buffer, 0.05 * np.eye(2))
    np.testing.assert_allclose(new, -iterated(0.5**0.5, [JORDAN] * 5) * np.eye(2))
