"""Layouts of tensors: the compiled loop sees what Python sees, and each sees what changed."""

import gc
import itertools
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

import gradstep
from gradstep.optimizers import memory
from gradstep.optimizers.arguments import build_rule
from gradstep.optimizers.memory import Layouts, find_overlaps
from gradstep.optimizers.step import part
from gradstep.optimizers.step.part import NativeLayouts
from tests.training import leaked, normal

native = pytest.mark.skipif(not part.is_native(), reason="this release of torch is not in TESTED")
WAYS = [pytest.param(NativeLayouts, id="native", marks=native), pytest.param(Layouts, id="python")]

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
    "channels last": lambda: normal(1, 4, 2, 2).to(memory_format=torch.channels_last),
    "many axes": lambda: normal(1, 2, 1, 2, 1, 2, 1, 2),
}


def test_the_loop_is_in_use_where_it_was_tested():
    release = tuple(map(int, torch.__version__.split(".")[:2]))
    assert part.is_native() == (release in part.TESTED)


@native
def test_rows_tell_apart_what_differs_and_nothing_else():
    tensors = [form() for form in FORMS.values()]
    rows = part.read_layouts(tensors)
    for row, t in zip(rows.tolist(), tensors, strict=True):
        assert row[part.DATA_POINTER] == t.data_ptr()
        assert row[part.NUMEL] == t.numel()

    def geometry(t):
        return tuple(t.shape), tuple(0 if n == 1 else s for n, s in zip(t.shape, t.stride(), strict=True))

    for (a, x), (b, y) in itertools.combinations(zip(rows.tolist(), tensors, strict=True), 2):
        assert (a[part.GEOMETRY] == b[part.GEOMETRY]) == (geometry(x) == geometry(y))
        assert (a[part.DTYPE] == b[part.DTYPE]) == (x.dtype == y.dtype)
        assert (a[part.DEVICE] == b[part.DEVICE]) == (x.device == y.device)


@native
@pytest.mark.parametrize("form", FORMS)
def test_both_ways_say_the_same_of_likes(form):
    """Whether another tensor is like one of these, and where it lies."""
    t = FORMS[form]()
    for other in [make() for make in FORMS.values()]:
        answers = []
        for kind in (NativeLayouts, Layouts):
            pointers = kind.of([t]).pointers_of_likes([other], t.dtype)
            answers.append(None if pointers is None else list(pointers))
        assert answers[0] == answers[1]
        if answers[0] is not None:
            assert answers[0] == [other.data_ptr()]


@pytest.mark.parametrize("kind", WAYS)
def test_a_tensor_that_changed_is_seen(kind):
    t = normal(4, 4)
    layouts = kind.of([t])
    assert layouts.are_unchanged([t])
    for change in (
        lambda: t.data.t(),
        lambda: t.data.view(torch.int32),
        lambda: t.data.clone(),
        lambda: t.data[:2],
        lambda: torch._neg_view(t.data),
    ):
        kept = t.data
        t.data = change()
        assert not layouts.are_unchanged([t])
        t.data = kept
        assert layouts.are_unchanged([t])
    t.untyped_storage().resize_(0)
    assert not layouts.are_unchanged([t])


@pytest.mark.parametrize("engine", ["auto", "eager", "foreach", "reference"])
def test_a_parameter_that_was_negated_in_its_place(engine):
    """Same address, shape and strides, and the opposite numbers."""
    outcomes = []
    for kind, options in ((gradstep.SGD, {"engine": engine}), (torch.optim.SGD, {})):
        p = normal(3).requires_grad_()
        optimizer = kind([p], lr=0.5, **options)
        p.grad = torch.ones(3)
        optimizer.step()
        p.data = torch._neg_view(p.data)
        before = p.detach().clone()
        if options.get("engine") in ("foreach", "reference"):
            with pytest.raises(ValueError, match="cannot serve"):
                optimizer.step()
            assert torch.equal(p, before)
            return
        optimizer.step()
        outcomes.append(p.detach().clone())
    torch.testing.assert_close(*outcomes)


class Own(torch.Tensor):
    """A tensor subclass."""


def short_of_memory():
    t = normal(4, 2)
    t.untyped_storage().resize_(t.untyped_storage().nbytes() - 4)
    return t


ODD = {
    "short of memory": short_of_memory,
    "of another shape": lambda: normal(8),
    "of another type": lambda: normal(4, 2).double(),
    "of another order": lambda: normal(2, 4).t(),
    "sparse": lambda: normal(4, 2).to_sparse(),
    "meta": lambda: normal(4, 2).to("meta"),
    "symbolic zeros": lambda: torch._efficientzerotensor(4, 2),
    "of torch.func": lambda: leaked(normal(4, 2)),
    "a subclass": lambda: normal(4, 2).as_subclass(Own),
    "negated lazily": lambda: torch._neg_view(normal(4, 2)),
    "no tensor": lambda: None,
}


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("form", ODD)
def test_what_no_kernel_may_read_is_not_alike(form, kind):
    layouts = kind.of([normal(4, 2), normal(4, 2)])
    assert layouts.pointers_of_likes([normal(4, 2), ODD[form]()], torch.float32) is None
    if form == "of torch.func":  # nor where there is nothing to read: all engines agree with torch
        assert kind.of([normal(0, 2)]).pointers_of_likes([leaked(normal(0, 2))], torch.float32) is None
    like = [normal(4, 2), normal(4, 2)]
    assert list(layouts.pointers_of_likes(like, torch.float32)) == [t.data_ptr() for t in like]


@pytest.mark.parametrize("kind", WAYS)
def test_room_in_a_storage(kind):
    """Elements behind an offset, between gaps, and a storage that is as long as needed and no longer."""
    makers = (lambda: normal(9)[3:7], lambda: normal(4, 3)[1:, ::2], lambda: normal(3, 4).t())
    for make in makers:
        like, t = make(), make()
        layouts = kind.of([like])
        needed = t.storage_offset() + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) + 1
        t.untyped_storage().resize_(4 * int(needed))
        assert layouts.pointers_of_likes([t], torch.float32) is not None
        t.untyped_storage().resize_(4 * int(needed) - 1)
        assert layouts.pointers_of_likes([t], torch.float32) is None


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("engine", ["auto", "eager", "foreach", "reference"])
def test_a_gradient_that_is_short_of_memory(engine, count):
    p = normal(1000).requires_grad_()
    optimizer = gradstep.AdamW([p], engine=engine)
    for _ in range(count):
        p.grad = normal(1000)
        optimizer.step()
    p.grad = normal(1000)
    p.grad.untyped_storage().resize_(16)
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match="gradient of parameter 0 of group 0 has no memory for its 1,000 elements"):
        optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("kind", WAYS)
def test_some_of_them(kind):
    tensors = [normal(3), normal(4), normal(5)]
    layouts = kind.of(tensors).select([0, 2])
    assert layouts.are_unchanged([tensors[0], tensors[2]])
    assert not layouts.are_unchanged([tensors[0], tensors[1]])


def test_the_loop_can_be_switched_off():
    code = (
        "import torch, gradstep\n"
        "from gradstep.optimizers.step import part\n"
        "p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)\n"
        "gradstep.SGD([p], lr=0.5).step()\n"
        "print(part.is_native(), p.tolist())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GRADSTEP_NATIVE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "False [0.5, 0.5, 0.5]"


def test_lacks_memory():
    freed = normal(4)
    freed.untyped_storage().resize_(0)
    cut = normal(4)
    cut.untyped_storage().resize_(8)
    for t in (
        freed,
        cut,
        torch._efficientzerotensor(3),
        normal(3).to("meta"),
        normal(3).to_sparse(),
        leaked(normal(3)),
    ):
        assert memory.lacks_memory(t)
    for t in (normal(4), normal(8)[::2], normal(0), normal(2, 3).t(), torch._lazy_clone(normal(3))):
        assert not memory.lacks_memory(t)


@pytest.mark.parametrize("kind", [torch.Tensor, Own])
def test_a_parameter_whose_memory_is_gone_is_refused(kind):
    """Behind a plain type, or behind a subclass that keeps its elements in its own memory: to read them would crash."""
    p = normal(4).as_subclass(kind).requires_grad_()
    optimizer = gradstep.SGD([p], lr=0.1)
    p.grad = torch.ones(4)
    optimizer.step()
    p.data = normal(4).as_subclass(kind)
    p.data.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="parameter 0 of group 0 has no memory for its 4 elements"):
        optimizer.step()


@pytest.mark.parametrize("seed", range(20))
def test_overlapping_is_what_comparing_all_pairs_finds(seed):
    rng = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, 60, (12,), generator=rng).numpy()
    stops = starts + torch.randint(1, 12, (12,), generator=rng).numpy()
    expected = [
        i for i in range(12) if any(j != i and starts[i] < stops[j] and starts[j] < stops[i] for j in range(12))
    ]
    assert find_overlaps(starts, stops) == expected


def test_what_was_written_to_has_another_version():
    params = [normal(4, 2).requires_grad_(), normal(7).requires_grad_()]
    for p in params:
        p.grad = torch.ones_like(p)
    before = [p._version for p in params]
    gradstep.SGD(params, lr=0.1).step()
    assert all(p._version > v for p, v in zip(params, before, strict=True))


def test_gradients_live_as_long_as_the_batch_that_has_their_addresses():
    """Another thread may let go of them at any time: then nobody else gets their memory until the batch is gone."""
    p = torch.zeros(1000, requires_grad=True)
    p.grad = torch.ones(1000)
    optimizer = gradstep.SGD([p], lr=1.0)
    optimizer.step()
    groups, table = optimizer.param_groups, optimizer._table
    assert table is not None
    rules = [build_rule(gradstep.rules.SGD, group) for group in groups]
    batches = table.batches(rules, groups, optimizer.state, state_seen=True)
    gradient = weakref.ref(p.grad)
    p.grad = None
    assert gradient() is not None
    del batches
    assert gradient() is None


@pytest.mark.parametrize("on", [True, False])
def test_the_garbage_collector_is_left_as_it_was(on):
    """After a first step, which makes the state while it rests, and after one that is refused."""
    p = normal(3).requires_grad_()
    optimizer = gradstep.SGD([p], lr=0.1, momentum=0.9)
    was_on = gc.isenabled()
    try:
        gc.enable() if on else gc.disable()
        p.grad = torch.ones(3).to_sparse()
        with pytest.raises(RuntimeError, match="sparse"):
            optimizer.step()
        assert gc.isenabled() == on
        p.grad = torch.ones(3)
        optimizer.step()
        assert gc.isenabled() == on
    finally:
        gc.enable() if was_on else gc.disable()


@native
def test_axes_of_one_element_count():
    x = torch.zeros(())
    shapes = [x, x[None], x[None, None], x[None, None, None], torch.zeros(0), torch.zeros(0, 1), torch.zeros(1, 0)]
    assert len(set(part.read_layouts(shapes)[:, part.GEOMETRY].tolist())) == len(shapes)


def test_a_tensor_without_elements_is_no_expanded_one():
    p = torch.tensor(np.zeros((0, 3)), requires_grad=True)
    assert p.stride() == (0, 0)  # as torch makes it from an array
    p.grad = torch.tensor(np.zeros((0, 3)))
    gradstep.AdamW([p]).step()
