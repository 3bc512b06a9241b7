"""The few functions a rule may use beside ``+ - * /`` and ``abs``.

Each works on the values of every engine: Python and NumPy numbers, NumPy arrays, torch tensors and the traced values of
the fused kernel. NumPy values are handled by the function; torch's tensors and
:class:`gradstep.engines.fused.trace.Value` have methods of the same names. The functions that nearly every rule uses
are written beside :class:`Rule`.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.rules.base import NUMPY_VALUES, Array, maximum, sign, sqrt, where

__all__ = [
    "SUM_BLOCK",
    "SUM_LANES",
    "Array",
    "as_matrices",
    "columns",
    "elements",
    "epsilon",
    "is_tensor",
    "lerp",
    "maximum",
    "mean",
    "norm",
    "reshape_as",
    "rms",
    "rows",
    "sign",
    "sqrt",
    "total",
    "transpose",
    "where",
]


def mean(x: Array, axis: int | None = None) -> Array:
    """Mean over the whole tensor, a scalar added up in float64; or along one axis, which is kept with length 1.

    Not for a rule that sees ``"elements"``; one that sees ``"means"`` may only take the mean over the whole tensor.
    The numbers themselves are in the rule's arithmetic: float32's square of 10²⁰ is infinite, that of 10⁻²³ is 0.

    >>> x = np.array([[1.0, 3.0], [2.0, 6.0]])
    >>> float(mean(x)), mean(x, -1).tolist()
    (3.0, [[2.0], [4.0]])
    """
    if axis is not None:
        return x.mean(axis, keepdims=True) if isinstance(x, np.ndarray) else x.mean(axis, keepdim=True)
    if type(x) is float:
        return x
    if isinstance(x, NUMPY_VALUES):
        return _mean_of_blocks(np.asarray(x))
    if is_tensor(x):
        # Apple's devices have no float64.
        return x.mean() if x.device.type == "mps" else x.mean(dtype=sys.modules["torch"].float64).to(x.dtype)
    return x.whole_mean()


SUM_BLOCK = 16_384
"""Elements of a tensor that are added up together: the kernel's threads share blocks, so that every number of threads
gets the same sum."""

SUM_LANES = 16
"""Sums in a block, each of every so many elements: a vector of the kernel."""


def _mean_of_blocks(x: NDArray[np.floating[Any]]) -> Array:
    """Return the mean of all elements, added in the order of the fused kernel: of memory, in blocks and lanes."""
    flat = x.ravel(order="K").astype(np.float64)
    sums = [_sum_block(flat[start : start + SUM_BLOCK]) for start in range(0, flat.size, SUM_BLOCK)]
    return x.dtype.type(np.cumsum(sums)[-1] / flat.size if sums else math.nan)


def _sum_block(block: NDArray[np.float64]) -> np.float64:
    rest = len(block) % SUM_LANES
    rows, tail = block[: len(block) - rest].reshape(-1, SUM_LANES), block[len(block) - rest :]
    # cumsum() adds from the first to the last; sum() adds in pairs. A sum of zeros is 0.0, never -0.0.
    lanes = rows.cumsum(axis=0)[-1] + 0.0 if len(rows) else np.zeros(SUM_LANES)
    return lanes.cumsum()[-1] + (tail.cumsum()[-1] + 0.0 if rest else 0.0)  # type: ignore[no-any-return]


def elements(x: Array) -> Array:
    """The number of elements of the whole tensor, a scalar. Not for a rule that sees ``"elements"``.

    >>> float(elements(np.zeros((4, 2))))
    8.0
    """
    if type(x) is float:
        return 1.0
    if isinstance(x, NUMPY_VALUES):
        return np.asarray(x).dtype.type(np.size(x))  # in the arithmetic of the array
    return float(x.numel()) if is_tensor(x) else x.elements()


def rms(x: Array) -> Array:
    """Root of the mean square over the whole tensor, a scalar. Not for a rule that sees ``"elements"``.

    >>> float(rms(np.array([3.0, -3.0])))
    3.0
    """
    return abs(x) if type(x) is float else sqrt((x * x).mean())


def lerp(x: Array, y: Array, weight: Array) -> Array:
    """The point between ``x`` and ``y``, x + weight · (y − x), rounded as by torch's function of this name.

    >>> lerp(1.0, 3.0, 0.25)
    1.5
    """
    if isinstance(x, NUMPY_VALUES):
        return x + weight * (y - x) if weight < 0.5 else y - (y - x) * (1 - weight)
    return x.lerp(y, weight)


# -- matrices: only for a rule that sees them --------------------------------------------------------------------------
# Beside these, `@` multiplies, and newton_schulz() is in gradstep.rules.newton_schulz.


def as_matrices(x: Array, blocks: float) -> Array:
    """``x`` as (…, rows, columns): one matrix or several.

    Args:
        x: an array of at least two dimensions.
        blocks: 1 for one matrix, of the first axis by all others (a convolution's kernels); n for n matrices of equal
            numbers of its rows (heads); 0 for the last two axes, at each index of those before (experts).

    >>> [as_matrices(np.zeros((8, 3, 2)), blocks).shape for blocks in (1, 4, 0)]
    [(8, 6), (4, 2, 6), (8, 3, 2)]
    """
    if not isinstance(x, np.ndarray) and not is_tensor(x):
        return x.as_matrices(blocks)
    if blocks == 0 or (blocks == 1 and x.ndim == 2):
        return x
    return x.reshape(x.shape[0], -1) if blocks == 1 else x.reshape(int(blocks), x.shape[0] // int(blocks), -1)


def reshape_as(x: Array, y: Array) -> Array:
    """``x`` in the shape of ``y``, which has as many elements; the inverse of :func:`as_matrices`.

    >>> reshape_as(np.zeros((4, 2, 6)), np.zeros((8, 3, 2))).shape
    (8, 3, 2)
    """
    return x.reshape(y.shape) if isinstance(x, np.ndarray) else x.reshape_as(y)


def rows(x: Array) -> Array:
    """The number of rows of each matrix, as a Python float.

    >>> rows(np.zeros((4, 2, 6))), columns(np.zeros((4, 2, 6)))
    (2.0, 6.0)
    """
    return float(x.shape[-2]) if isinstance(x, np.ndarray) or is_tensor(x) else x.rows()


def columns(x: Array) -> Array:
    """The number of columns of each matrix, as a Python float."""
    return float(x.shape[-1]) if isinstance(x, np.ndarray) or is_tensor(x) else x.columns()


def transpose(x: Array) -> Array:
    """Every matrix with rows and columns exchanged; shares memory.

    >>> transpose(np.array([[1.0, 2.0]])).shape
    (2, 1)
    """
    return x.mT


def norm(x: Array, axis: int | tuple[int, ...] = (-2, -1)) -> Array:
    """The 2-norm over the given axes, which are kept with length 1; by default of each matrix (Frobenius).

    >>> norm(np.array([[3.0, 0.0], [0.0, 4.0]])).tolist()
    [[5.0]]
    """
    return sqrt(total(x * x, axis))


def total(x: Array, axis: int | tuple[int, ...] = (-2, -1)) -> Array:
    """The sum over the given axes, which are kept with length 1.

    >>> total(np.array([[1.0, 2.0], [3.0, 4.0]]), -1).tolist()
    [[3.0], [7.0]]
    """
    return x.sum(axis, keepdims=True) if isinstance(x, np.ndarray) else x.sum(axis, keepdim=True)


def is_tensor(x: Array) -> bool:
    """Return whether ``x`` is a torch tensor; torch is not imported for it."""
    return "torch" in sys.modules and isinstance(x, sys.modules["torch"].Tensor)


def epsilon(x: Array) -> float:
    """The machine epsilon of the arithmetic that ``x`` is in (2⁻²³ in float32).

    >>> epsilon(np.float32(1)) == 2.0**-23
    True
    """
    if type(x) is float:
        return sys.float_info.epsilon
    name = str(x.dtype).removeprefix("torch.")
    return float(np.finfo(name).eps)
