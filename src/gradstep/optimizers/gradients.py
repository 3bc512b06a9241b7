"""What a gradient must be, and how an unusual one is made usable without touching ``p.grad``."""

from __future__ import annotations

import torch
from torch import Tensor

from gradstep.optimizers import survey


@torch.no_grad()
def usable(p: Tensor, g: Tensor, label: str) -> Tensor:
    """The gradient in the parameter's own layout of memory: itself if it has it, else a copy.

    Raises:
        RuntimeError: the gradient is sparse, or its shape, device or kind of number is not the parameter's; or the
            parameter is an expanded tensor, which cannot be written to.
    """
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
    known = survey.facts([[p, g]])
    if g.is_conj() or g.is_neg() or known[0, survey.GEOMETRY] != known[1, survey.GEOMETRY]:
        return torch.empty_like(p, dtype=g.dtype, memory_format=torch.preserve_format).copy_(g)
    return g
