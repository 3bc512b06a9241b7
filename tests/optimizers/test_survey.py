"""The compiled loop that asks many tensors at once sees what Python sees."""

import itertools

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
    monkeypatch.setattr(survey, "_reader", lambda: None)
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
