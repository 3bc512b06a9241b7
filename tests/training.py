"""Parameters, gradients and steps that the tests of engines and optimizers share."""

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

SHAPES = [(), (1,), (7,), (3, 5), (2, 3, 4), (33,)]
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers from the normal distribution, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def starts(shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """A start for each shape."""
    return [normal(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]


def gradients(
    count: int, shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32
) -> list[list[Tensor]]:
    """``count`` gradients for each shape, of different sizes."""
    return [
        [normal(*shape, seed=1000 * t + i, dtype=dtype) * (1 + t % 3) for i, shape in enumerate(shapes, 1)]
        for t in range(1, count + 1)
    ]


def leaves(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Parameters of the same values and strides, in memory of their own."""
    return [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]


def give(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    """Set ``p.grad`` of every parameter, in memory of its own."""
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else g.clone()


def walk(optimizer: Any, params: Sequence[Tensor], steps: Iterable[Sequence[Tensor | None]]) -> None:
    """One step per list of gradients."""
    for grads in steps:
        give(params, grads)
        optimizer.step()


def trained(kind: Any, start: Sequence[Tensor], steps: Iterable[Sequence[Tensor | None]], **options: Any) -> Any:
    """An optimizer of class ``kind`` and its parameters after these steps."""
    params = leaves(start)
    optimizer = kind(params, **options)
    walk(optimizer, params, steps)
    return optimizer, params


def tensors_of(optimizer: Any) -> list[tuple[str, Tensor]]:
    """Every parameter and every value of its state, with its name, in a fixed order."""
    flat = [p for group in optimizer.param_groups for p in group["params"]]
    found = [(f"parameter {i}", p.detach()) for i, p in enumerate(flat)]
    for i, p in enumerate(flat):
        state = sorted(optimizer.state.get(p, {}).items())
        found += [(f"{name} of parameter {i}", value) for name, value in state if isinstance(value, Tensor)]
    return found


def snapshot(optimizer: Any) -> list[tuple[str, Tensor]]:
    """A copy of :func:`tensors_of`."""
    return [(name, t.clone()) for name, t in tensors_of(optimizer)]


def bits(tensor: Tensor) -> np.ndarray:
    """The bits of every element; one pattern for every NaN."""
    tensor = torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()
    if tensor.is_floating_point():
        tensor = tensor.masked_fill(tensor.isnan(), float("nan"))
    tensor = tensor.contiguous()
    return tensor.view(_BITS[tensor.element_size()]).numpy()


def assert_same_bits(ours: Tensor, theirs: Tensor, what: str = "") -> None:
    """Equal in dtype, shape and every bit."""
    assert ours.dtype == theirs.dtype, what
    assert ours.shape == theirs.shape, what
    if not np.array_equal(bits(ours), bits(theirs)):
        at = np.flatnonzero((bits(ours) != bits(theirs)).reshape(-1))[0]
        raise AssertionError(
            f"{what} differs first at element {at}: {ours.reshape(-1)[at]!r} and {theirs.reshape(-1)[at]!r}"
        )


def assert_same(one: Any, two: Any) -> None:
    """Two optimizers (or snapshots of them) hold the same bits in all parameters and state."""
    one, two = (x if isinstance(x, list) else tensors_of(x) for x in (one, two))
    assert [name for name, _ in one] == [name for name, _ in two]
    for (name, a), (_, b) in zip(one, two, strict=True):
        assert_same_bits(a, b, name)


@contextmanager
def unchanged(optimizer: Any) -> Any:
    """Parameters, state, step counts and gradients are, after the block, what they were before it.

    State of zeros may appear: a step that fails may have made room already.
    """
    before = dict(snapshot(optimizer))
    params = [p for group in optimizer.param_groups for p in group["params"]]
    grads = [None if p.grad is None else p.grad.clone() for p in params]
    yield
    after = dict(tensors_of(optimizer))
    assert before.keys() <= after.keys()
    for name, t in after.items():
        if name in before:
            assert_same_bits(t, before[name], name)
        elif name.startswith(("step", "exp_avg", "momentum_buffer")):
            assert not t.any(), f"{name} was made, and is not 0"
    for p, g in zip(params, grads, strict=True):
        if g is None:
            assert p.grad is None
        elif not g.is_sparse:
            assert_same_bits(p.grad, g, "a gradient")


def assert_near(ours: Tensor, theirs: Tensor, *, ulps: float, rate: float = 0.0, worst: float | None = None) -> None:
    """Within ``ulps`` units in the last place at the size of the tensor's largest element.

    Args:
        rate: the share of elements that may be further away, up to ``worst``.
    """
    assert ours.shape == theirs.shape
    if ours.numel() == 0:
        return
    unit = torch.finfo(theirs.dtype).eps
    wide = torch.complex128 if theirs.is_complex() else torch.float64
    ours, theirs = ours.detach().to(wide), theirs.detach().to(wide)
    far = (ours - theirs).abs() / (unit * max(float(theirs.abs().max()), 1e-30))
    said = f"{float(far.max()):.3g} ulps away, and {float((far > ulps).double().mean()):.1%} more than {ulps}"
    assert float((far > ulps).double().mean()) <= rate, said
    assert float(far.max()) <= (ulps if worst is None else worst), said


def leaked(x):
    """What torch.func hands to a function in place of a tensor."""
    found = []

    def keep(wrapped):
        found.append(wrapped)
        return wrapped.sum()

    torch.func.grad(keep)(x)
    return found[0]
