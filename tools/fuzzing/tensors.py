"""Kinds of parameters and gradients, from usual to hostile, made from random numbers of a seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

Make = Callable[..., Tensor]

EXTREME = {
    "nan": torch.nan,
    "inf": torch.inf,
    "negative inf": -torch.inf,
    "huge": 1e30,
    "denormal": 1e-42,
    "zero": -0.0,
}
"""Numbers that a gradient may hold."""

HALF = ("float16", "bfloat16")
FLOAT8 = ("float8_e4m3fn", "float8_e5m2")


class Tagged(Tensor):
    """A user's subclass that only passes calls on."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


def normal(g: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers from a normal distribution, rounded to ``dtype``."""
    wide = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
    if dtype.is_complex:
        return torch.complex(normal(g, *shape, dtype=wide), normal(g, *shape, dtype=wide)).to(dtype)
    return torch.randn(shape, generator=g, dtype=wide).to(dtype)


def two_tensor(g: torch.Generator, *shape: int) -> Tensor:
    """Return torch's example of a wrapper subclass: every operation acts on two tensors."""
    from torch.testing._internal.two_tensor import TwoTensor

    return TwoTensor(normal(g, *shape), normal(g, *shape))


def masked(g: torch.Generator, *shape: int) -> Tensor:
    """Return a masked tensor, in which some elements are ignored."""
    from torch.masked import masked_tensor

    return masked_tensor(normal(g, *shape), normal(g, *shape) > 0)


def _of_dtype(name: str, *shape: int) -> Make:
    return lambda g: normal(g, *shape, dtype=getattr(torch, name))


PARAMETERS: dict[str, Make] = {
    "plain": lambda g: normal(g, 5, 3),
    "vector": lambda g: normal(g, 7),
    "0-d": lambda g: normal(g),
    "empty": lambda g: normal(g, 0, 3),
    "one element": lambda g: normal(g, 1, 1),
    "matrix": lambda g: normal(g, 64, 80),
    "channels_last": lambda g: normal(g, 2, 3, 4, 5).to(memory_format=torch.channels_last),
    "transposed": lambda g: normal(g, 4, 6).t(),
    "transposed matrix": lambda g: normal(g, 80, 64).t(),
    "sliced": lambda g: normal(g, 6, 8)[::2, 1:5],
    "offset": lambda g: normal(g, 40)[3:27],
    "expanded": lambda g: normal(g, 4, 1).expand(4, 3),
    "flipped strides": lambda g: normal(g, 3, 4, 5).permute(2, 0, 1),
    "float64": _of_dtype("float64", 5, 3),
    "float16": _of_dtype("float16", 5, 3),
    "bfloat16": _of_dtype("bfloat16", 5, 3),
    "bfloat16 matrix": _of_dtype("bfloat16", 64, 80),
    "complex64": _of_dtype("complex64", 5, 3),
    "complex128": _of_dtype("complex128", 4),
    "complex32": _of_dtype("complex32", 4),
    "float8": _of_dtype("float8_e4m3fn", 5, 3),
    "integers": lambda g: torch.arange(6),
    "booleans": lambda g: torch.ones(6, dtype=torch.bool),
    "TwoTensor": lambda g: two_tensor(g, 5, 3),
    "subclass": lambda g: normal(g, 5, 3).as_subclass(Tagged),
    "masked": lambda g: masked(g, 5, 3),
    "meta": lambda g: torch.empty(5, 3, device="meta", dtype=torch.float32),
    "sparse": lambda g: normal(g, 5, 3).to_sparse(),
    "sparse_csr": lambda g: normal(g, 5, 3).to_sparse_csr(),
    "conjugated": lambda g: normal(g, 5, 3, dtype=torch.complex64).conj(),
    "negated": lambda g: torch._neg_view(normal(g, 5, 3)),
    "zero tensor": lambda g: torch._efficientzerotensor((5, 3), dtype=torch.float32),
    "lazy clone": lambda g: normal(g, 5, 3)._lazy_clone(),
}
"""A parameter's data by its kind; most cases use the first dozen."""

USUAL = ("plain", "vector", "0-d", "matrix", "empty", "one element", "channels_last", "transposed", "offset")


def leaked(transform: Callable[..., Any], g: Tensor) -> Tensor:
    """Return a tensor that a transformation of torch.func has wrapped, outside of the transformation."""
    escaped: list[Tensor] = []

    def take(x: Tensor) -> Tensor:
        escaped.append(x)
        return x.sum()

    transform(take)(g)
    return escaped[0]


def _fake(p: Tensor) -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.zeros(p.shape, dtype=p.dtype)


def _dtensor(g: Tensor) -> Tensor:
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    return distribute_tensor(g, init_device_mesh("cpu", (1,)), [Replicate()])


def _filled(p: Tensor, g: Tensor, *, number: float) -> Tensor:
    g = g.clone()
    if g.numel() and g.layout == torch.strided:
        g.view(-1)[g.numel() // 2] = number
    return g


def _two(p: Tensor, g: Tensor) -> Tensor:
    from torch.testing._internal.two_tensor import TwoTensor

    return TwoTensor(g, g.clone())


def _masked_gradient(p: Tensor, g: Tensor) -> Tensor:
    from torch.masked import masked_tensor

    return masked_tensor(g, torch.ones_like(g, dtype=torch.bool))


GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor | None]] = {
    "none": lambda p, g: None,
    "zeros": lambda p, g: torch.zeros_like(g),
    "another order of memory": lambda p, g: g.t().contiguous().t() if g.dim() == 2 else g,
    "every second": lambda p, g: (
        g.repeat(*[2] * max(g.dim(), 1))[tuple([slice(0, n) for n in g.shape])] if g.dim() else g
    ),
    "expanded": lambda p, g: g.reshape(-1)[:1].reshape([1] * g.dim()).expand(g.shape) if g.numel() else g,
    "zero tensor": lambda p, g: torch._efficientzerotensor(g.shape, dtype=g.dtype),
    "fake": lambda p, g: _fake(p),
    "of vmap": lambda p, g: leaked(torch.func.vmap, g.expand(2, *g.shape)),
    "of grad": lambda p, g: leaked(torch.func.grad, g),
    "TwoTensor": _two,
    "masked": _masked_gradient,
    "subclass": lambda p, g: g.as_subclass(Tagged),
    "DTensor": lambda p, g: _dtensor(g),
    "sparse": lambda p, g: g.to_sparse(),
    "sparse_csr": lambda p, g: g.to_sparse_csr(),
    "lazy clone": lambda p, g: g._lazy_clone(),
    "conjugated": lambda p, g: g.conj().resolve_conj().conj() if g.is_complex() else g,
    "negated": lambda p, g: torch._neg_view(g),
    "the parameter": lambda p, g: p.detach(),
    "a view of the parameter": lambda p, g: p.detach().flip(0) if p.dim() else p.detach().view(()),
    "of integers": lambda p, g: torch.ones(p.shape, dtype=torch.int32),
    "of another shape": lambda p, g: torch.ones(*p.shape, 2, dtype=p.dtype),
    "of another type": lambda p, g: g.double(),
    "on meta": lambda p, g: torch.empty_like(g, device="meta"),
    "that needs a gradient": lambda p, g: g.requires_grad_(),
    "made in inference": lambda p, g: in_inference(g),
    **{name: partial(_filled, number=number) for name, number in EXTREME.items()},
}
"""Replacements of a gradient; torch's setter of ``p.grad`` refuses some of them, as it should."""


def _short_of_memory(g: Tensor) -> Tensor:
    g = g.clone()
    g.untyped_storage().resize_(g.untyped_storage().nbytes() // 2)
    return g


BEHIND = {
    "longer": lambda g: torch.ones(g.numel() + 5, dtype=g.dtype),
    "shorter": lambda g: torch.ones(max(g.numel() - 1, 0), dtype=g.dtype),
    "of another type": lambda g: g.double() if g.dtype != torch.float64 else g.float(),
    "of integers": lambda g: torch.ones(g.shape, dtype=torch.int64),
    "short of memory": _short_of_memory,
    "transposed": lambda g: g.t().contiguous().t() if g.dim() == 2 else g,
}
"""Replacements of ``p.grad.data``, which bypass the setter."""


def in_inference(g: Tensor) -> Tensor:
    """Return a copy that must not be written to outside of inference mode."""
    with torch.inference_mode():
        return g.clone()
