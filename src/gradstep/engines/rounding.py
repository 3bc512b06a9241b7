"""Square roots and quotients of torch tensors, correctly rounded as the reference's are.

On a CPU, torch rounds all that a rule needs correctly, but for two operations: its square root is a library's, which on
some processors is off by a unit in the last place; and a number divided by a tensor is computed as the number times the
tensor's rounded reciprocal. On a GPU, a tensor divided by a number is multiplied by the number's rounded reciprocal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode


def root(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the square root of every element, NaN below zero.

    Args:
        x: a tensor of any shape, float32 or float64.
        out: a tensor of the same shape and type to write to; may be ``x``.
    """
    if x.device.type != "cpu" or type(x) not in (Tensor, Parameter) or x.dtype not in (torch.float32, torch.float64):
        return torch.sqrt(x, out=out)
    try:
        numbers = x.detach().numpy()  # the same memory; NumPy is as fast
    except RuntimeError:  # it has none, as what torch knows to be zeros
        return torch.sqrt(x, out=out)
    result = torch.empty_like(x) if out is None else out
    with np.errstate(invalid="ignore"):
        np.sqrt(numbers, out=result.detach().numpy())
    return result


def quotient(x: Tensor | float, y: Tensor | float, *, out: Tensor | None = None) -> Tensor:
    """Return x / y.

    Args:
        x, y: a tensor and a number, or two tensors.
        out: a tensor of the result's shape and type to write to; may be ``x`` or ``y``.
    """
    if not isinstance(x, Tensor):
        assert isinstance(y, Tensor)
        x = torch.full((), x, dtype=torch.result_type(y, x), device=y.device)  # not on the default device
    elif not isinstance(y, Tensor) and x.device.type != "cpu":
        y = torch.full((), y, dtype=x.dtype, device=x.device)
    return torch.div(x, y, out=out)


_REPLACED: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    Tensor.sqrt: root,
    torch.sqrt: root,
    Tensor.div: quotient,
    Tensor.__truediv__: quotient,
    Tensor.__rtruediv__: lambda y, x: quotient(x, y),
    Tensor.__rdiv__: lambda y, x: quotient(x, y),
}


@final
class CorrectRounding(TorchFunctionMode):
    """Within this context, a rule's lines on torch tensors take roots and quotients from this module.

    >>> with CorrectRounding():
    ...     third = 1.0 / torch.tensor([3.0, 49.0])
    >>> third.tolist() == [float(np.float32(1) / np.float32(x)) for x in (3, 49)]
    True
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if kwargs:
            return func(*args, **kwargs)
        replaced = _REPLACED.get(func)
        return func(*args) if replaced is None else replaced(*args)
