"""Tensors of every form: the numbers do not depend on strides, sharing or how a gradient lies in memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradstep
from tests.registry import cases, subjects
from tests.roundings import assert_within, limits
from tests.training import assert_near, assert_same_bits, give, leaves, normal, trained, walk

FORMS = {
    "contiguous": lambda: normal(4, 6),
    "transposed": lambda: normal(6, 4).t(),
    "columns": lambda: normal(4, 12)[:, ::2],
    "rows": lambda: normal(8, 6)[::2],
    "channels_last": lambda: normal(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "channels_last_3d": lambda: normal(2, 3, 2, 2, 2).to(memory_format=torch.channels_last_3d),
    "permuted": lambda: normal(2, 3, 4).permute(2, 0, 1),
    "offset": lambda: normal(30)[5:29],
    "no dimension": lambda: normal(),
    "one element": lambda: normal(1, 1, 1),
    "empty": lambda: normal(0, 3),
}
GRADIENTS = {
    "same": lambda p: normal(*p.shape, seed=1),
    "preserving": lambda p: torch.empty_like(p, memory_format=torch.preserve_format).copy_(normal(*p.shape, seed=1)),
    "expanded": lambda p: normal(seed=1).expand(p.shape),
    "half expanded": lambda p: normal(*p.shape[:-1], 1, seed=1).expand(p.shape) if p.dim() else normal(seed=1),
    "backwards": lambda p: normal(*p.shape[::-1], seed=1).permute(tuple(range(p.dim()))[::-1]),
    "gaps": lambda p: normal(*p.shape, 2, seed=1)[..., 0],
}


def param(tensor):
    """A leaf that keeps the strides, gaps included."""
    return tensor.detach().requires_grad_()


@pytest.mark.parametrize("grad", GRADIENTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("subject", subjects()[4:6] + subjects()[-1:])
def test_any_form(subject, form, grad):
    if subject.name == "Adafactor" and form == "empty":
        return
    p, plain = param(FORMS[form]()), param(FORMS[form]().clone(memory_format=torch.contiguous_format))
    ours, theirs = subject.optimizer([p]), subject.optimizer([plain], engine="eager")
    strides = p.stride()
    for _ in range(2):
        p.grad = GRADIENTS[grad](p.detach())
        plain.grad = p.grad.clone(memory_format=torch.contiguous_format)
        kept = p.grad
        before = kept.clone()
        ours.step()
        theirs.step()
        assert p.grad is kept
        assert_same_bits(p.grad, before, "the gradient")
    assert p.stride() == strides
    assert_near(p, plain, ulps=2)
    for name, value in theirs.state[plain].items():
        assert_near(ours.state[p][name], value, ulps=2)


@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    order=st.randoms(use_true_random=False),
    gaps=st.booleans(),
    grad=st.sampled_from(sorted(GRADIENTS)),
)
@settings(max_examples=100)
def test_any_order_of_axes(shape, order, gaps, grad):
    axes = list(range(len(shape)))
    order.shuffle(axes)
    base = normal(*[shape[a] for a in axes], *([2] if gaps else []))
    tensor = (base[..., 0] if gaps else base).permute([axes.index(i) for i in range(len(shape))])
    assert list(tensor.shape) == shape
    p, plain = param(tensor), param(tensor.clone(memory_format=torch.contiguous_format))
    g = GRADIENTS[grad](p.detach())
    for q in (p, plain):
        optimizer = gradstep.AdamW([q], engine="auto" if q is p else "reference")
        q.grad = g
        optimizer.step()
    assert_near(p, plain, ulps=2)


def test_two_parameters_in_one_buffer():
    buffer = normal(100)
    first, second = param(buffer[:37]), param(buffer[37:])
    apart = leaves([first, second])
    steps = [[normal(37, seed=t), normal(63, seed=-t)] for t in (1, 2, 3)]
    for params in ([first, second], apart):
        walk(gradstep.AdamW(params, lr=0.1), params, steps)
    assert_same_bits(buffer, torch.cat(apart).detach())


def test_neighbours_in_the_buffer_are_not_touched():
    buffer = normal(100)
    before = buffer.clone()
    p = param(buffer[33:66])
    give([p], [normal(33)])
    gradstep.SGD([p], lr=0.1).step()
    assert_same_bits(buffer[:33], before[:33])
    assert_same_bits(buffer[66:], before[66:])
    assert not torch.equal(buffer[33:66], before[33:66])


def test_no_graph_is_kept_and_gradients_with_history_are_allowed():
    p = normal(5).requires_grad_()
    x = normal(5, seed=1).requires_grad_()
    optimizer = gradstep.AdamW([p])
    p.grad = x * 2  # as create_graph=True leaves it
    optimizer.step()
    assert p.is_leaf
    assert p.requires_grad
    assert all(not v.requires_grad and v.grad_fn is None for v in optimizer.state[p].values())


def test_a_gradient_negated_or_conjugated_lazily():
    """Torch marks such a tensor with a bit and leaves its memory as it was."""
    z = torch.complex(normal(1), normal(1, seed=1))
    lazy = z.conj().imag
    assert lazy.is_neg()
    assert lazy.is_contiguous()
    p = torch.zeros(1, requires_grad=True)
    p.grad = lazy
    gradstep.SGD([p], lr=1.0).step()
    assert_same_bits(p, z.imag.clone())

    q = torch.zeros(1, dtype=torch.complex64, requires_grad=True)
    q.grad = z.conj()
    gradstep.SGD([q], lr=1.0).step()
    assert_same_bits(q, (-z.conj()).resolve_conj())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize(("subject", "options"), [c for c in cases(in_torch=True) if c.values[0].name != "Adafactor"])
def test_complex_against_torch(subject, options, dtype):
    start = [normal(5, 3, dtype=dtype), normal(dtype=dtype)]
    start = [t + 1j * normal(*t.shape, seed=9, dtype=dtype) for t in start]
    steps = [[(1 - 2j) * normal(*t.shape, seed=s, dtype=dtype) for t in start] for s in range(1, 11)]
    _, params = trained(subject.optimizer, start, steps, **options)
    _, targets = trained(subject.torch, start, steps, **options, foreach=False)
    as_real = torch.view_as_real
    allowed, _ = limits(subject.rule(**options), list(map(as_real, start)), [list(map(as_real, g)) for g in steps])
    for i, (p, q) in enumerate(zip(params, targets, strict=True)):
        assert_within(as_real(p), as_real(q), allowed[i], f"parameter {i}")


@pytest.mark.parametrize("name", ["AdamW", "Adafactor"])
@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_every_type_in_one_optimizer(name, engine):
    """One engine serves several of them; each keeps its own type and goes its own way."""
    dtypes = [torch.float32, torch.complex64, torch.float64, torch.complex128, torch.bfloat16, torch.float16]
    if name == "Adafactor":
        dtypes = [d for d in dtypes if not d.is_complex]
    start = [normal(5, seed=i).to(d) for i, d in enumerate(dtypes)]
    steps = [[normal(5, seed=10 * t + i).to(d) for i, d in enumerate(dtypes)] for t in (1, 2)]
    _, together = trained(getattr(gradstep, name), start, steps, engine=engine)
    for i, p in enumerate(together):
        _, [alone] = trained(getattr(gradstep, name), [start[i]], [[g[i]] for g in steps], engine=engine)
        assert_same_bits(p, alone)
