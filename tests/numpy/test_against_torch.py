"""Torch as the oracle: every rule that it has, over every option set; gradients and losses of a network."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import gradstep
import gradstep.numpy as gn
from tests.registry import cases

SHAPES = ((3, 4), (5,), ())


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(
    "rule", [gradstep.rules.ScheduleFreeAdamW, gradstep.modify(gradstep.rules.SGD, gradstep.rules.EMA)]
)
def test_averaged_weights_are_those_of_the_torch_optimizer_bit_for_bit(rule):
    ours = [gn.Parameter(np.ones(shape, np.float32)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer: Any = gn.optimizer(rule)(ours, lr=0.1)
    other: Any = gradstep.optimizer(rule)(theirs, engine="reference", lr=0.1)
    for step in range(4):
        for i, (p, q) in enumerate(zip(ours[:2], theirs[:2], strict=True)):  # the last one never has a gradient
            p.grad = normal(p.data.shape, 10 * step + i).astype(np.float32)
            q.grad = torch.from_numpy(p.grad)
        optimizer.step()
        other.step()
    optimizer.eval()
    other.eval()
    assert all(np.array_equal(p.data, q.detach().numpy()) for p, q in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("subject", "options"), cases(in_torch=True))
def test_every_rule(subject, options):
    ours = [gn.Parameter(np.array(normal(shape, i))) for i, shape in enumerate(SHAPES)]
    theirs = [torch.tensor(p.data, requires_grad=True) for p in ours]
    optimizer = gn.optimizer(subject.rule)(ours, **options)
    other = subject.torch(theirs, **options)
    for step in range(30):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            g = None if (i, step) == (1, 5) else np.array(normal(p.data.shape, 100 * step + i))
            p.grad, q.grad = g, None if g is None else torch.tensor(g)
        optimizer.step()
        other.step()
    # Torch keeps NAdam's product of μ and ASGD's rates in float32.
    tolerance = 1e-6 if subject.rule.scalars else 1e-11
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=tolerance, atol=tolerance)


OPERATIONS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (b * b + 1),
    "mixed": lambda a, b: (a * b).tanh() + (a - b).exp() * (b * b + 1).log() - (a + b).relu() * b.sigmoid(),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@given(mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4))
def test_gradients(operation, shapes):
    ours = [
        gn.Tensor(normal(shape, i), requires_grad=True, dtype=np.float64) for i, shape in enumerate(shapes.input_shapes)
    ]
    theirs = [torch.tensor(t.data, requires_grad=True) for t in ours]
    result, other = operation(*ours), operation(*theirs)
    weights = normal(shapes.result_shape, 7)
    (result * weights).sum().backward()
    (other * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(result.data, other.detach().numpy(), rtol=1e-12, atol=1e-12)
    for t, q in zip(ours, theirs, strict=True):
        assert q.grad is not None
        np.testing.assert_allclose(t.grad, q.grad.numpy(), rtol=1e-12, atol=1e-12)


def test_network():
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((6, 5)), rng.integers(0, 3, 6)
    model = gn.Sequential(
        gn.Linear(5, 8, rng=rng, dtype=np.float64), gn.ReLU(), gn.Linear(8, 3, rng=rng, dtype=np.float64)
    )
    other = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    with torch.no_grad():
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            q.copy_(torch.tensor(p.data.T.copy()))
    loss = gn.CrossEntropyLoss()(model(gn.Tensor(x, dtype=np.float64)), labels)
    reference = torch.nn.functional.cross_entropy(other(torch.tensor(x)), torch.tensor(labels))
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-13)
    norm = torch.nn.utils.clip_grad_norm_(other.parameters(), 0.1)
    assert gn.clip_grad_norm(model.parameters(), 0.1) == pytest.approx(norm.item(), rel=1e-12)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert q.grad is not None
        np.testing.assert_allclose(p.grad.T, q.grad.numpy(), rtol=1e-4)  # torch adds 1e-6 to the norm
