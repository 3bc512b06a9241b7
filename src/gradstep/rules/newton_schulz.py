"""Newton–Schulz iterations: the orthogonal factor of a matrix from products alone, on NumPy arrays and torch tensors.

In bfloat16 each product is computed in float32 and rounded once, as torch does it. On a processor without bfloat16
instructions torch's own products take up to 40 times as long as float32's; there the factors are float32 numbers that
have been rounded to bfloat16, which differs from torch's products only where the order of a sum decides a rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, islice, repeat
from typing import Any

import numpy as np

from gradstep.rules.ops import is_tensor

Triple = tuple[float, float, float]
"""The coefficients (a, b, c) of one iteration, which makes a σ + b σ³ + c σ⁵ of each singular value σ."""

JORDAN: Triple = (3.4445, -4.7750, 2.0315)
"""Keller Jordan's quintic: the same in every iteration; after five, singular values lie between 0.7 and 1.2."""

_SAFETY = 1.01
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
POLAR_EXPRESS: tuple[Triple, ...] = (
    *((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS),
    (1.875, -1.25, 0.375),
)
"""The Polar Express: the best quintic for each iteration in turn (Amsel, Persson, Musco and Gower, arXiv:2505.16932,
Algorithm 1, with its safety factor); the last one is repeated."""

COEFFICIENTS: dict[str, Triple | tuple[Triple, ...]] = {"jordan": JORDAN, "polar_express": POLAR_EXPRESS}
"""The sets of coefficients by name."""


def newton_schulz(
    x: Any, coefficients: str | Triple | Sequence[Triple] = "jordan", steps: float = 5, eps: float = 1e-7
) -> Any:
    """Return matrices with the singular vectors of ``x`` and singular values near 1.

    float64 is computed in float64; everything else in bfloat16, as by torch.optim.Muon.

    Args:
        x: (…, rows, columns) matrices.
        coefficients: ``"jordan"``, ``"polar_express"``, one triple for all iterations, or one for each in turn.
        steps: the number of iterations, at least 1.
        eps: the least Frobenius norm that a matrix is divided by.

    Returns:
        An array of the shape of ``x``, in its type.

    Raises:
        ValueError: ``x`` has fewer than two dimensions; an unknown name of coefficients.

    >>> singular = np.linalg.svd(newton_schulz(np.diag([3.0, 1.0, 0.1]), "polar_express", 8), compute_uv=False)
    >>> singular.round(3).tolist()
    [1.0, 1.0, 1.0]
    """
    if isinstance(coefficients, str):
        if coefficients not in COEFFICIENTS:
            raise ValueError(f"Unknown coefficients: {coefficients!r} (choose {', '.join(COEFFICIENTS)})")
        coefficients = COEFFICIENTS[coefficients]
    if isinstance(x, np.ndarray):
        products = _numpy_products
    elif is_tensor(x):
        products = _torch_products
    else:
        return x.newton_schulz(coefficients, steps, eps)
    if x.ndim < 2:
        raise ValueError(f"newton_schulz is for matrices, and this array has the shape {tuple(x.shape)}")
    tall = x.shape[-2] > x.shape[-1]  # the smaller Gram matrix costs less
    result = products(x.mT if tall else x, islice(_each(coefficients), int(steps)), float(eps))
    return result.mT if tall else result


def _each(coefficients: Any) -> Iterator[Triple]:
    """Yield the coefficients of each iteration, without end."""
    triples = (coefficients,) if np.ndim(coefficients[0]) == 0 else coefficients
    return ((float(a), float(b), float(c)) for a, b, c in chain(triples, repeat(triples[-1])))


# -- NumPy -------------------------------------------------------------------------------------------------------------


def _numpy_products(x: Any, coefficients: Iterator[Triple], eps: float) -> Any:
    rounded = _to_bfloat16 if x.dtype != np.float64 else _unchanged
    x = rounded(x)
    norm = rounded(np.sqrt((x * x).sum((-2, -1), keepdims=True)))
    x = rounded(x / np.maximum(norm, rounded(np.asarray(eps, x.dtype))))
    for a, b, c in coefficients:
        gram = rounded(x @ x.mT)
        x = rounded(a * x + rounded(b * gram + c * (gram @ gram)) @ x)
    return x


def _unchanged(x: Any) -> Any:
    return x


def _to_bfloat16(x: Any) -> Any:
    """Return float32 numbers rounded to bfloat16, to nearest, ties to even; NaN and infinity stay."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    up = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(x), up.view(np.float32), x)


# -- torch -------------------------------------------------------------------------------------------------------------


def _torch_products(x: Any, coefficients: Iterator[Triple], eps: float) -> Any:
    import torch

    dtype = x.dtype
    narrow = dtype if dtype == torch.float64 else torch.bfloat16
    wide = torch.float32 if narrow == torch.bfloat16 and x.device.type == "cpu" and not _has_bfloat16() else narrow
    x = x.to(narrow).contiguous()
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps)
    x = (x / norm).to(wide)
    add = torch.addmm if x.ndim == 2 else torch.baddbmm
    shape, x = x.shape, x if x.ndim == 2 else x.reshape(-1, *x.shape[-2:])

    def rounded(y: Any) -> Any:
        return y if wide == narrow else y.to(narrow).to(wide)

    for a, b, c in coefficients:
        gram = rounded(_symmetric(x, x))
        x = rounded(add(x, rounded(_symmetric(gram, gram, gram, beta=b, alpha=c)), x, beta=a))
    return x.reshape(shape).to(dtype)


ROW_BLOCKS = 4
"""Row blocks of a symmetric product: of 4, 10 of 16 blocks are computed. More blocks save less than they lose."""

LEAST_BLOCK_ROWS = 128
"""Rows that a block must have at least: below that the processor multiplies small blocks more slowly."""


def _symmetric(x: Any, y: Any, plus: Any = None, *, beta: float = 0.0, alpha: float = 1.0) -> Any:
    """Return ``beta * plus + alpha * x @ y.mT``, which must be symmetric: what lies below the diagonal is mirrored."""
    import torch

    size = x.shape[-2]
    if x.ndim > 2 or size < ROW_BLOCKS * LEAST_BLOCK_ROWS or x.device.type != "cpu":
        if plus is None:
            return x @ y.mT
        return (torch.addmm if x.ndim == 2 else torch.baddbmm)(plus, x, y.mT, beta=beta, alpha=alpha)
    out = x.new_empty(size, size)
    for start in range(0, size, step := -(-size // ROW_BLOCKS)):
        rows, right = slice(start, start + step), slice(start, None)
        if plus is None:
            torch.mm(x[rows], y[right].mT, out=out[rows, right])
        else:
            torch.addmm(plus[rows, right], x[rows], y[right].mT, beta=beta, alpha=alpha, out=out[rows, right])
        out[start + step :, rows] = out[rows, start + step :].mT
    return out


@cache
def _has_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 matrices by instructions for them."""
    import torch

    capabilities = vars(torch.cpu).get("get_capabilities", dict)()  # not before torch 2.9
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
