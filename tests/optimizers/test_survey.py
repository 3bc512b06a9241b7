"""The compiled loop that asks many tensors at once sees what Python sees."""

import itertools
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import gradstep
from gradstep.optimizers import survey
from tests.training import normal

FORMS = {
    "plain": lambda: normal(4, 4),
    "transposed": lambda: normal(4, 4).t(),
    "other shape": lambda: normal(2, 8),
    "flat": lambda: normal(16),
    "gaps": lambda: normal(4, 8)[:, ::2],
    "offset": lambda: normal(20)[4:],
    "one": lambda: normal(1, 1),
    "no dimension": lambda: normal(),
    "empty": lambda: normal(0, 3),
    "half": lambda: normal(4, 4).half(),
    "double": lambda: normal(4, 4).double(),
    "complex": lambda: normal(4, 4) + 0j,
    "parameter": lambda: torch.nn.Parameter(normal(4, 4)),
    "meta": lambda: torch.zeros(4, 4, device="meta"),
    "sparse": lambda: normal(4, 4).to_sparse(),
    "channels last": lambda: normal(1, 4, 2, 2).to(memory_format=torch.channels_last),
    "many axes": lambda: normal(1, 2, 1, 2, 1, 2, 1, 2),
}


def test_pointers_lengths_and_equality_of_everything_else():
    tensors = [form() for form in FORMS.values()]
    facts = survey.facts([tensors])
    for fact, t in zip(facts.tolist(), tensors, strict=True):
        if t.layout == torch.strided and t.device.type == "cpu":
            assert fact[survey.POINTER] == t.data_ptr()
            assert fact[survey.NUMEL] == t.numel()

    def geometry(t):
        return tuple(t.shape), tuple(0 if n == 1 else s for n, s in zip(t.shape, t.stride(), strict=True))

    for (a, x), (b, y) in itertools.combinations(zip(facts.tolist(), tensors, strict=True), 2):
        if torch.sparse_coo in (x.layout, y.layout):
            assert a[survey.DTYPE] != b[survey.DTYPE]
            continue
        assert (a[survey.GEOMETRY] == b[survey.GEOMETRY]) == (geometry(x) == geometry(y))
        assert (a[survey.DTYPE] == b[survey.DTYPE]) == (x.dtype == y.dtype)
        assert (a[survey.DEVICE] == b[survey.DEVICE]) == (x.device == y.device)


@pytest.mark.parametrize("form", FORMS)
def test_the_slow_way_says_the_same(form, monkeypatch):
    """Where torch's C interface is missing, Python asks: same pointer, length and geometry."""
    t = FORMS[form]()
    fast = survey.facts([[t]])[0].tolist()
    monkeypatch.setattr(survey, "_loops", lambda: None)
    slow = survey.facts([[t]])[0].tolist()
    if t.layout == torch.strided:
        assert slow[: survey.GEOMETRY + 1] == fast[: survey.GEOMETRY + 1]
    else:
        assert slow[survey.DTYPE] == fast[survey.DTYPE] == -1


def test_a_tensor_that_changed_is_seen():
    t = normal(4, 4)
    known = survey.facts([[t]]).tolist()
    assert survey.facts([[t]]).tolist() == known
    for change in (lambda: t.data.t(), lambda: t.data.view(torch.int32), lambda: t.data.clone(), lambda: t.data[:2]):
        kept = t.data
        t.data = change()
        assert survey.facts([[t]]).tolist() != known
        t.data = kept
        assert survey.facts([[t]]).tolist() == known


def _grad(index, g):
    """A change of one parameter's gradient, also to one that torch would not have taken."""

    def change(params):
        if g is None or g.layout != torch.strided:
            params[index].grad = g
        else:
            params[index].grad.data = g

    return change


def _data(index, data):
    return lambda params: setattr(params[index], "data", data)


def _replaced(index, p):
    return lambda params: params.__setitem__(index, p)


CHANGES = {
    "nothing": ([], 0),
    "another parameter": ([_replaced(2, normal(3))], survey.MOVED),
    "moved": ([_data(2, normal(3))], survey.MOVED),
    "another type": ([_data(0, normal(4, 2).half())], survey.MOVED),
    "no gradient": ([_grad(0, None)], survey.ODD),
    "a gradient of another shape": ([_grad(0, normal(8))], survey.ODD),
    "of another type": ([_grad(0, normal(4, 2).double())], survey.ODD),
    "of another order": ([_grad(0, normal(2, 4).t())], survey.ODD),
    "of another kind": ([_grad(0, normal(4, 2).to_sparse())], survey.ODD),
    "both": ([_grad(2, None), _replaced(0, normal(4, 2))], survey.MOVED),
    "somebody else's": ([_grad(1, None), _replaced(1, normal(9))], 0),
    "another gradient": ([_grad(0, normal(4, 2))], 0),
}


_GRAD: Any = torch.Tensor.grad


class _Own(torch.Tensor):
    """A tensor that says itself what its gradient is."""

    grad = property(lambda self: _GRAD.__get__(self), lambda self, value: _GRAD.__set__(self, value))


@pytest.mark.parametrize("way", ["compiled", "subclass", "without gradients", "python"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_look_sees_what_changed(change, way, monkeypatch):
    loops = survey._loops()
    assert loops is not None
    assert None not in loops  # else the ways are all one
    if way == "python":
        monkeypatch.setattr(survey, "_loops", lambda: None)
    elif way == "without gradients":  # as where torch's libraries name their functions otherwise
        monkeypatch.setattr(survey, "_loops", lambda: loops._replace(look=None))
    params = [normal(4, 2), normal(7), normal(3)]
    if way == "subclass":
        params = [p.as_subclass(_Own) for p in params]
    for p in params:
        p.grad = torch.ones_like(p)
    mine = [params[0], params[2]]  # the second parameter is not asked about
    positions, table = np.array([0, 2]), np.zeros((2, 4), np.int64)
    facts = survey.facts([mine])
    look = survey.Look(positions, mine, facts, facts, table)
    changes, expected = CHANGES[change]
    for one in changes:
        one(params)
    found = look(params)
    assert found & survey.MOVED or found == expected
    assert found & survey.MOVED == expected & survey.MOVED
    if expected == 0:
        assert table.tolist() == [[g.data_ptr(), 0, 0, 0] for i in (0, 2) if (g := params[i].grad) is not None]


@pytest.mark.parametrize("way", ["compiled", "python"])
def test_what_was_written_to_has_another_version(way, monkeypatch):
    if way == "python":
        monkeypatch.setattr(survey, "_loops", lambda: None)
    params = [normal(4, 2), normal(7), torch.nn.Parameter(normal(3))]
    before = [p._version for p in params]
    survey.count_written(params, survey.handles(params))
    assert [p._version for p in params] == [v + 1 for v in before]


def test_what_has_no_version_is_left_alone():
    with torch.inference_mode():
        params = [normal(3)]
    survey.count_written(params, None)


@pytest.mark.parametrize("way", ["compiled", "without gradients", "python"])
def test_gradients_live_as_long_as_the_batch_that_has_their_addresses(way, monkeypatch):
    """Another thread may let go of them at any time: then nobody else gets their memory until the batch is gone."""
    loops = survey._loops()
    assert loops is not None
    if way != "compiled":
        monkeypatch.setattr(survey, "_loops", lambda: None if way == "python" else loops._replace(look=None))
    p = torch.zeros(1000, requires_grad=True)
    p.grad = torch.ones(1000)
    optimizer = gradstep.SGD([p], lr=1.0)
    optimizer.step()
    batches = optimizer._batches([optimizer._rule_of(g) for g in optimizer.param_groups])[1]
    gradient = weakref.ref(p.grad)
    p.grad = None
    assert gradient() is not None
    del batches
    assert gradient() is None


@pytest.mark.parametrize("count", [1, 11, 12, 13, 14, 50])
def test_what_is_fetched_ahead_may_be_gone(count):
    """Gradients are freed after each step, some parameters' memory is replaced: the bits are those of the reference."""
    mine, theirs = ([normal(5, seed=i).requires_grad_() for i in range(count)] for _ in range(2))
    ours, oracle = gradstep.SGD(mine, lr=0.1), gradstep.SGD(theirs, lr=0.1, engine="reference")
    for t in range(4):
        for i, (p, q) in enumerate(zip(mine, theirs, strict=True)):
            p.grad, q.grad = (normal(5, seed=100 * t + i) for _ in range(2))
            if (i + t) % 3 == 0:
                p.data = p.data.clone()
        ours.step()
        oracle.step()
        ours.zero_grad()
        assert all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))
