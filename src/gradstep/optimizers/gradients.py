"""What a gradient must be, and how an unusual one is made usable without touching ``p.grad``."""

from __future__ import annotations

import torch
from torch import Tensor

from gradstep.optimizers.memory import PLAIN, is_addressable, is_freed, lacks_memory, same_places


def usable(p: Tensor, g: Tensor, label: str) -> Tensor:
    """Return the gradient in the parameter's own layout of memory: itself if it has it, else a copy.

    Raises:
        RuntimeError: the gradient is sparse, or its shape, device or kind of number is not the parameter's; or it is a
            tensor subclass whose numbers torch cannot copy into a plain tensor; or the parameter is an expanded tensor,
            which cannot be written to.
    """
    if (
        type(g) in PLAIN
        and g.dtype == p.dtype
        and g.shape == p.shape
        and g.stride() == p.stride()
        and g.device == p.device
        and 0 not in g.stride()
        and is_addressable(g)
    ):
        return g  # the usual case, for a quarter of the time
    if any(stride == 0 and size > 1 for stride, size in zip(p.stride(), p.shape, strict=True)):
        raise RuntimeError(f"several elements of {label} share memory (it was expanded): make it a tensor by clone()")
    if g.layout != torch.strided:
        raise RuntimeError(
            f"gradstep's optimizers do not support sparse gradients, and {label} has one ({g.layout}); "
            "use nn.Embedding(sparse=False), or torch.optim.SparseAdam for these parameters"
        )
    if g.shape != p.shape:
        raise RuntimeError(f"the gradient of {label} has shape {tuple(g.shape)}, the parameter {tuple(p.shape)}")
    if g.device != p.device:
        raise RuntimeError(f"the gradient of {label} is on {g.device}, the parameter on {p.device}")
    if g.is_complex() != p.is_complex() or not (g.is_floating_point() or g.is_complex()):
        raise RuntimeError(f"the gradient of {label} is {g.dtype}, the parameter {p.dtype}")
    if is_freed(g):
        raise RuntimeError(
            f"the gradient of {label} has no memory for its {g.numel():,} elements: so there is nothing to read"
        )
    if type(p) not in PLAIN or lacks_memory(p):
        return g  # torch computes with it, in whatever way it does with such a parameter
    if is_addressable(g) and same_places(p.shape, p.stride(), g.stride()):
        return g
    try:
        with torch.no_grad():
            copy = torch.empty_like(p, dtype=g.dtype, memory_format=torch.preserve_format)
            copy.copy_(g)  # what this returns may be a subclass, as the gradient is
    except Exception as error:  # a subclass may raise anything
        raise RuntimeError(
            f"the gradient of {label} is a {type(g).__name__}, whose numbers cannot be copied into a tensor: {error}"
        ) from error
    if type(copy) not in PLAIN or lacks_memory(copy):
        raise RuntimeError(
            f"the gradient of {label} is a {type(g).__name__} without memory of its own: "
            "give the parameter a plain tensor as its gradient"
        )
    return copy
