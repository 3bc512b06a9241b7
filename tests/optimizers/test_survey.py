"""The compiled loop that asks many tensors at once sees what Python sees."""

import itertools

import numpy as np
import pytest
import torch

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


CHANGES = {
    "nothing": (lambda params, grads: None, 0),
    "another parameter": (lambda params, grads: params.__setitem__(2, normal(3)), survey.MOVED),
    "moved": (lambda params, grads: setattr(params[2], "data", normal(3)), survey.MOVED),
    "another type": (lambda params, grads: setattr(params[0], "data", params[0].data.half()), survey.MOVED),
    "no gradient": (lambda params, grads: grads.__setitem__(0, None), survey.ODD),
    "a gradient of another shape": (lambda params, grads: grads.__setitem__(0, normal(8)), survey.ODD),
    "of another type": (lambda params, grads: grads.__setitem__(0, normal(4, 2).double()), survey.ODD),
    "of another order": (lambda params, grads: grads.__setitem__(0, normal(2, 4).t()), survey.ODD),
    "of another kind": (lambda params, grads: grads.__setitem__(0, normal(4, 2).to_sparse()), survey.ODD),
    "both": (lambda params, grads: (params.__setitem__(0, normal(4, 2)), grads.__setitem__(2, None)), 3),
    "somebody else's": (lambda params, grads: (params.__setitem__(1, normal(9)), grads.__setitem__(1, None)), 0),
}


@pytest.mark.parametrize("loops", ["compiled", "python"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_look_sees_what_changed(change, loops, monkeypatch):
    params = [normal(4, 2), normal(7), normal(3)]
    grads: list[torch.Tensor | None] = [normal(4, 2), normal(7), normal(3)]
    mine = [params[0], params[2]]  # the second parameter is not asked about
    positions, table = np.array([0, 2]), np.zeros((2, 4), np.int64)
    facts = survey.facts([mine])
    look = survey.Look(positions, mine, facts, facts, table)
    if loops == "python":
        monkeypatch.setattr(survey, "_loops", lambda: None)
        facts[:] = survey.facts([mine])  # a dtype has another number there
        look = survey.Look(positions, mine, facts, facts, table)
    changed, expected = CHANGES[change]
    changed(params, grads)
    assert look(params, grads) == expected
    if expected == 0:
        assert table.tolist() == [[g.data_ptr(), 0, 0, 0] for g in (grads[0], grads[2]) if g is not None]
