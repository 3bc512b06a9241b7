"""NorMuon: first steps by hand, pytorch_optimizer over 50 steps, and the parameters that it refuses."""

import numpy as np
import pytest
import torch

import gradstep
import gradstep.numpy
from gradstep.rules import NorMuon
from gradstep.rules.newton_schulz import JORDAN, newton_schulz
from tests.rules.by_hand import steps
from tests.training import gradients, leaves, normal, starts, trained, unchanged, walk


def iterate(x: float) -> float:
    """One iteration on one singular value."""
    a, b, c = JORDAN
    return float(a * x + b * x**3 + c * x**5)


def test_the_first_step_gives_both_rows_one_size():
    """O = diag(o₁, o₂) has v = oᵢ²/2 · (1 − β₂) = oᵢ²/8, so that Ô = diag(√8, √8) and ‖Ô‖ = 4.

    The paper's length is 0.2 · √(2 · 2) = 0.4: each number of the diagonal moves by lr · 0.4 · √8/4.
    """
    rule = NorMuon(lr=0.1, weight_decay=0.5, beta2=0.75, eps=0.0)
    (p,) = steps(rule, np.diag([1.0, -2.0]), np.diag([4.0, 3.0]))
    moved = 0.1 * 0.4 / 2**0.5
    np.testing.assert_allclose(p, np.diag([0.95 - moved, -1.9 - moved]), rtol=1e-12)


def test_the_second_step_remembers_the_size_of_the_rows():
    """Momentum 0 and one iteration; v₁ = (o(0.8)², o(0.6)²)/4, and then half of it and (o(0.6)², o(0.8)²)/4."""
    rule = NorMuon(lr=1.0, weight_decay=0.0, momentum=0.0, beta2=0.5, eps=0.0, ns_steps=1, adjust_lr_fn="original")
    one, two = steps(rule, np.zeros((2, 2)), np.diag([4.0, 3.0]), np.diag([3.0, 4.0]))
    large, small = iterate(0.8), iterate(0.6)
    rows = np.array([small / (large**2 / 8 + small**2 / 4) ** 0.5, large / (small**2 / 8 + large**2 / 4) ** 0.5])
    expected = (
        (large**2 + small**2) ** 0.5 * rows / (rows @ rows) ** 0.5
    )  # the length of O, in the rows' new proportion
    np.testing.assert_allclose(np.diag(one - two), expected, rtol=1e-12)


def test_a_gradient_of_zeros_moves_nothing():
    (p,) = steps(NorMuon(weight_decay=0.0), np.eye(3), np.zeros((3, 3)))
    np.testing.assert_array_equal(p, np.eye(3))


@pytest.mark.parametrize("engine", ["reference", "eager"])
@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"weight_decay": 0.1}, "match_rms"),
        ({"momentum": 0.8, "beta2": 0.5, "nesterov": False, "adjust_lr_fn": "original"}, "preserve_norm"),
    ],
)
def test_fifty_steps_of_the_package(settings, scale, engine, monkeypatch):
    """The package's iteration is in bfloat16; it gets ours, in float64, which has tests of its own."""
    package = pytest.importorskip("pytorch_optimizer.optimizer.muon.normuon")
    monkeypatch.setattr(
        package, "zero_power_via_newton_schulz_5", lambda x, num_steps, weights: newton_schulz(x, JORDAN, num_steps)
    )
    shapes = [(3, 5), (30, 8), (40, 40)]
    start, grads = starts(shapes, torch.float64), gradients(50, shapes, torch.float64)
    _, params = trained(gradstep.NorMuon, start, grads, lr=0.02, engine=engine, **{"weight_decay": 0.0} | settings)
    targets = leaves(start)
    theirs = {key: value for key, value in settings.items() if key != "adjust_lr_fn"}
    group = {"params": targets, "use_muon": True, "lr": 0.02}
    walk(package.NorMuon([group], update_scale=scale, foreach=False, **theirs), targets, grads)
    for p, q in zip(params, targets, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10)


@pytest.mark.parametrize("engine", ["reference", "eager"])
@pytest.mark.parametrize(
    ("shape", "matrices", "parts"),
    [((4, 2, 3), "flatten", lambda x: [x.flatten(1)]), ((4, 2, 3), "stack", list), ((4, 6), 2, lambda x: x.split(2))],
)
def test_kernels_experts_and_heads_step_as_single_matrices(shape, matrices, parts, engine):
    start, grads = normal(*shape), [normal(*shape) for _ in range(3)]
    group = {"params": [whole := start.clone().requires_grad_()], "matrices": matrices}
    single = [part.clone().requires_grad_() for part in parts(start)]
    ours, theirs = gradstep.NorMuon([group], engine=engine), gradstep.NorMuon(single, engine=engine)
    for grad in grads:
        whole.grad = grad
        for p, part in zip(single, parts(grad), strict=True):
            p.grad = part.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(torch.cat([p.flatten() for p in single]), whole.flatten(), rtol=0, atol=1e-6)
    assert ours.state[whole]["second_momentum_buffer"].numel() == sum(len(p) for p in single)


def test_a_whole_model_has_adamw_beside_it():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
    )
    optimizer = gradstep.NorMuon(model.named_parameters(), lr=0.01, model=model)
    assert {group["name"]: (group.get("rule"), group["lr"]) for group in optimizer.param_groups} == {
        "normuon/kernels": (None, 0.01),
        "normuon": (None, 0.01),
        "adamw/decay": ("AdamW", 0.01),
        "adamw/no_decay": ("AdamW", 0.01),
    }
    model(torch.ones(1, 2, 3, 3)).sum().backward()
    optimizer.step()
    again = gradstep.NorMuon(model.named_parameters(), lr=0.01, model=model)
    again.load_state_dict(optimizer.state_dict())


def test_it_refuses_what_is_no_matrix():
    for shape, words in (
        ((4,), r"it has no rows and columns: .*gradstep\.NorMuon"),
        ((4, 2, 3), "than two dimensions"),
    ):
        with pytest.raises(ValueError, match=f"NorMuon cannot update .*{words}"):
            gradstep.NorMuon([normal(*shape).requires_grad_()])
        with pytest.raises(ValueError, match=f"NorMuon cannot update .*{words}"):
            gradstep.numpy.NorMuon([gradstep.numpy.Parameter(np.zeros(shape))])
    optimizer = gradstep.NorMuon([normal(2, 2).requires_grad_()])
    with unchanged(optimizer), pytest.raises(ValueError, match="it has no rows and columns"):
        optimizer.add_param_group({"params": [normal(4).requires_grad_()]})
    for option in ({"engine": "fused"}, {"paged": True}):
        with pytest.raises(ValueError, match=r"NorMuon|matri"):
            gradstep.NorMuon([normal(2, 2).requires_grad_()], **option)
