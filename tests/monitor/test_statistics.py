"""What is collected, against NumPy in float64 from weights and gradients before and after the step."""

from typing import Any

import numpy as np
import pytest
import torch

import gradstep
from gradstep.monitor.statistics import PIECE, CollectedStep, Collector, FusedCollector, TorchCollector

SECOND = {
    "AdamW": lambda state: state["exp_avg_sq"],
    "Adamax": lambda state: state["exp_inf"] ** 2,
    "RMSprop": lambda state: state["square_avg"],
    "Adagrad": lambda state: state["sum"],
    "SGD": lambda state: None,
}
SHAPES = [(5, 7), (3,), (), (0,), (PIECE + 3,)]


def made(dtype=torch.float32, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=dtype)
    return params


def collector(optimizer):
    return (
        FusedCollector(optimizer, "parameters")
        if isinstance(optimizer, gradstep.Optimizer)
        else TorchCollector(optimizer)
    )


class Named:
    """What was collected, by name."""

    def __init__(self, found: CollectedStep):
        step = found.statistics
        self.index, self.groups, self.elements = step.index, step.groups, step.elements
        self.grad_square, self.weight_square, self.update_square, *others = found.table.T
        self.unmoved, self.second_min, self.second_max = others
        self.non_finite = np.zeros(len(self.index)) if found.non_finite is None else found.non_finite


def stepped(optimizer: Any, **how: Any) -> Named:
    statistics: Collector = collector(optimizer)
    wanted = statistics.before(closure=False)
    if wanted is not None:
        optimizer.watch = wanted
    optimizer.step(**how)
    return Named(statistics.collect())


def exact(tensors):
    return np.array([float(t.detach().double().square().sum()) for t in tensors])


def check(found, params, old, gradients, second=None, rtol=1e-6):
    rows = [params[i] for i in found.index]
    new = [p.detach().double() for p in rows]
    changes = [a - b.double() for a, b in zip(new, (old[i] for i in found.index), strict=True)]
    grads = [gradients[i].double() for i in found.index]
    np.testing.assert_allclose(found.grad_square, exact(grads), rtol=rtol)
    np.testing.assert_allclose(found.weight_square, exact(new), rtol=rtol)
    np.testing.assert_allclose(found.update_square, exact(changes), rtol=1e-5)
    unmoved = [int(((d == 0) & (g != 0)).sum()) for d, g in zip(changes, grads, strict=True)]
    assert found.unmoved.tolist() == unmoved
    assert found.elements.tolist() == [p.numel() for p in rows]
    for place, p in enumerate(rows):
        v = None if second is None else second(p)
        if v is None or not p.numel():
            continue
        np.testing.assert_allclose(found.second_min[place], float(v.min()), rtol=1e-6)
        np.testing.assert_allclose(found.second_max[place], float(v.max()), rtol=1e-6)


@pytest.mark.parametrize("name", SECOND)
@pytest.mark.parametrize("library", [torch.optim, gradstep], ids=["torch", "gradstep"])
def test_every_number_against_float64(library, name):
    params = made()
    optimizer = getattr(library, name)([{"params": params[:2]}, {"params": params[2:], "lr": 1e-3}], lr=0.01)
    stepped(optimizer)
    old = [p.detach().clone() for p in params]
    found = stepped(optimizer)
    assert found.index.tolist() == list(range(len(params)))
    check(found, params, old, [p.grad for p in params], lambda p: SECOND[name](optimizer.state[p]))
    if name == "SGD":
        assert np.isnan(found.second_min).all()
        assert np.isnan(found.second_max).all()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, gradstep.AdamW], ids=["torch", "gradstep"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(kind, dtype):
    """A learning rate so small that rounding swallows most updates of a half-precision weight."""
    params = made(dtype, [(40, 25), (3,)])
    old = [p.detach().clone() for p in params]
    found = stepped(kind(params, lr=1e-4, weight_decay=0.0))
    check(found, params, old, [p.grad for p in params])
    share = found.unmoved.sum() / found.elements.sum()
    assert share == 0 if dtype == torch.float64 else share > 0.1


@pytest.mark.parametrize("engine", ["fused", "eager", "foreach", "reference"])
def test_every_engine_agrees_with_torch_operations(engine):
    optimizer = gradstep.AdamW(made(), lr=0.01, engine=engine)
    ours, theirs = FusedCollector(optimizer, "parameters"), TorchCollector(optimizer)
    optimizer.watch = ours.before(closure=False)
    theirs.before(closure=False)
    optimizer.step()
    a, b = (Named(statistics.collect()) for statistics in (ours, theirs))
    for name in vars(a):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=2e-6, err_msg=name)


def test_a_gradient_is_recorded_without_scale_and_before_clipping():
    params = made()
    old = [p.detach().clone() for p in params]
    gradients = [p.grad / 8 for p in params]
    found = stepped(gradstep.AdamW(params, lr=0.01), max_grad_norm=0.5, grad_scale=8.0)
    check(found, params, old, gradients)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, gradstep.AdamW], ids=["torch", "gradstep"])
def test_parameters_without_gradient_are_left_out(kind):
    params = made()
    params[1].grad = None
    optimizer = kind(params, lr=0.01)
    old = [p.detach().clone() for p in params]
    found = stepped(optimizer)
    assert found.index.tolist() == [0, 2, 3, 4]
    check(found, params, old, [p.grad for p in params])
    params[0].grad, params[1].grad = None, torch.ones_like(params[1])
    assert stepped(optimizer).index.tolist() == [1, 2, 3, 4]
    for p in params:
        p.grad = None
    assert stepped(optimizer).index.tolist() == []


@pytest.mark.parametrize("kind", [torch.optim.AdamW, gradstep.AdamW], ids=["torch", "gradstep"])
def test_elements_that_are_not_finite_are_counted(kind):
    params = made(shapes=[(5,), (4,)])
    params[0].grad = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf, 0.0])
    found = stepped(kind(params, lr=0.01))
    assert found.non_finite.tolist() == [3, 0]


@pytest.mark.parametrize("kind", [torch.optim.Adam, gradstep.Adam], ids=["torch", "gradstep"])
def test_complex_numbers_are_two_real_ones(kind):
    p = torch.tensor([3 + 4j], requires_grad=True)
    p.grad = torch.tensor([6 + 8j])
    found = stepped(kind([p], lr=0.0))
    assert found.grad_square.tolist() == pytest.approx([100])
    assert found.weight_square.tolist() == pytest.approx([25])
    assert found.unmoved.tolist() == [2]


def test_sparse_gradients_count_where_they_are():
    p = torch.ones(4, 2, requires_grad=True)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), [[3.0, 0.0], [0.0, 4.0]], (4, 2), check_invariants=True)
    found = stepped(torch.optim.SGD([p], lr=0.5))
    assert found.grad_square.tolist() == [25]
    assert found.update_square.tolist() == [6.25]


def test_gradients_that_the_step_computes_itself_are_seen():
    p = torch.tensor([3.0], requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum() / 2
        loss.backward()
        return loss

    statistics = TorchCollector(optimizer)
    statistics.before(closure=True)
    optimizer.step(closure)
    found = Named(statistics.collect())
    assert (found.grad_square.item(), found.update_square.item()) == (9.0, 2.25)


def test_large_tensors_are_added_up_without_loss():
    """torch's float32 norm of all of it at once is off by more than 1e-4."""
    p = torch.randn(8_000_000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    p.grad = p.detach()
    truth = float(p.detach().double().square().sum())
    assert float(p.detach().norm()) ** 2 != pytest.approx(truth, rel=1e-4)
    found = stepped(torch.optim.SGD([p], lr=0.0))
    assert found.grad_square.item() == pytest.approx(truth, rel=1e-6)
