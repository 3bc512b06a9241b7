"""Clipping by the global norm: one factor, no overflow, no division by zero."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from gradstep.judge import Verdict
from gradstep.judge.properties import Property
from gradstep.learn.exams import Slip, make_verdict
from gradstep.learn.lesson import Framework

GradientArrays: TypeAlias = Sequence["NDArray[Any] | None"]
Clipped: TypeAlias = tuple[float, list[Any]]
"""The returned norm, and the gradients after the call."""

_READ = "Pascanu, Mikolov and Bengio, arXiv:1211.5063, Algorithm 1; torch.nn.utils.clip_grad_norm_"
_NEAR = 1e-5
"""Relative tolerance; it allows torch's formula, which divides by the norm plus 1e-6."""


@final
class _Holder:
    """A parameter that has only a gradient."""

    def __init__(self, grad: Any) -> None:
        self.data = None if grad is None else grad * 0
        self.grad = grad


def check_clipping(submission: Any, framework: Framework) -> Verdict:
    """Judge ``clip_grad_norm(params, max_norm)`` over arrays or tensors."""
    run = _Runner(framework)
    rng = np.random.default_rng(7)
    mixed = [rng.normal(size=(3, 4)), rng.normal(size=5) * 30, np.asarray(rng.normal()), rng.normal(size=(2, 2)) / 50]
    huge = [np.array([1e38, -1e38], np.float32), np.array([1e38], np.float32)]

    def compare(grads: GradientArrays, limit: float) -> Callable[[Any], str]:
        return lambda it: _find_difference(run(it, grads, limit), _clip(grads, limit))

    exams = (
        Property(
            "by hand", "gradients [3] and [4], limit 1", "the norm √(3² + 4²) = 5, and g / 5", compare(_HAND, 1.0)
        ),
        Property(
            "one factor", "tensors of different sizes", "a norm over all of them, one factor", compare(mixed, 2.0)
        ),
        Property("below the limit", "nothing to clip", "`if norm > max_norm`", compare(mixed, 1e4)),
        Property("zeros", "all gradients zero", "a division by a norm of zero", compare([np.zeros(3)], 1.0)),
        Property(
            "missing", "parameters without gradient", "`if p.grad is not None`", compare([None, *_HAND, None], 1.0)
        ),
        Property("none at all", "no gradient anywhere", "a sum that starts from nothing", compare([None, None], 1.0)),
        Property("huge", "gradients of 1e38 in float32", "squares in float32, which overflow", compare(huge, 1.0)),
        Property(
            "generator", "model.parameters() as it is", "`params = list(params)`", lambda it: _check_generator(run, it)
        ),
        Property(
            "dtype", "float32 stays float32", "a factor that is a float64 array", lambda it: _check_dtype(run, it)
        ),
        Property("not finite", "a gradient of NaN", "a norm that hides it", lambda it: _check_nan(run, it)),
    )
    return make_verdict(
        submission,
        "clipping by the global norm",
        exams,
        lambda it: tuple(
            slip.match(_READ)
            for slip in CLIPPING_SLIPS
            if not _find_difference(run(it, mixed, 2.0), slip.compute(mixed, 2.0))
        ),
    )


@final
class _Runner:
    """Calls a submission with gradients of its framework."""

    def __init__(self, framework: Framework) -> None:
        self.framework = framework

    def __call__(self, submission: Any, grads: GradientArrays, limit: float, *, generator: bool = False) -> Clipped:
        holders = [_Holder(None if g is None else self._convert(g)) for g in grads]
        norm = float(submission(iter(holders) if generator else holders, limit))
        return norm, [None if h.grad is None else np.asarray(h.grad) for h in holders]

    def _convert(self, grad: NDArray[Any]) -> Any:
        """Copy an array of any shape into the framework's type."""
        if self.framework == "numpy":
            return grad.copy()
        import torch

        return torch.from_numpy(grad.copy())


_HAND = [np.array([3.0]), np.array([4.0])]


def _check_generator(run: _Runner, submission: Any) -> str:
    return _find_difference(run(submission, _HAND, 1.0, generator=True), _clip(_HAND, 1.0))


def _check_dtype(run: _Runner, submission: Any) -> str:
    _, (grad,) = run(submission, [np.array([3.0, 4.0], np.float32)], 1.0)
    return "" if grad.dtype == np.float32 else f"a float32 gradient becomes {grad.dtype}"


def _check_nan(run: _Runner, submission: Any) -> str:
    norm, _ = run(submission, [np.array([1.0, np.nan])], 1.0)
    return f"the norm of [1, nan] is returned as {norm:g}: nobody can see it" if math.isfinite(norm) else ""


def _find_difference(got: Clipped, expected: Clipped) -> str:
    """Return the first difference in words, or ""; gradients have the same shapes in both."""
    if not math.isclose(got[0], expected[0], rel_tol=_NEAR):
        return f"the norm returned is {got[0]:.6g}, {expected[0]:.6g} expected"
    for i, (own, true) in enumerate(zip(got[1], expected[1])):
        if true is not None and not np.allclose(own, true, rtol=_NEAR, atol=0):
            place = int(np.argmax(np.abs(np.asarray(own - true)).ravel()))
            return f"gradient {i}: {true.ravel()[place]:.6g} expected, got {own.ravel()[place]:.6g}"
    return ""


def _norm(grads: GradientArrays) -> float:
    return math.hypot(*(float(x) for g in grads if g is not None for x in g.ravel()))


def _scale(grads: GradientArrays, factor: float) -> list[Any]:
    return [None if g is None else g.astype(np.float64) * factor for g in grads]


def _clip(grads: GradientArrays, limit: float) -> Clipped:
    """Clip gradients by their global norm; compute in float64."""
    norm = _norm(grads)
    return norm, _scale(grads, limit / norm if norm > limit else 1.0)


CLIPPING_SLIPS = (
    Slip(
        "a norm for each tensor by itself",
        "the factor is computed inside the loop over the parameters: add up all squares first",
        lambda grads, limit: (_norm(grads), [g if g is None else _clip([g], limit)[1][0] for g in grads]),
    ),
    Slip(
        "clipping of each element by its value",
        "`clip(g, -max_norm, max_norm)`: it turns the direction; multiply everything by `max_norm / norm`",
        lambda grads, limit: (_norm(grads), [g if g is None else np.clip(g, -limit, limit) for g in grads]),
    ),
    Slip(
        "clipping that returns the norm after it",
        "the norm is computed, or computed again, after the gradients were scaled",
        lambda grads, limit: (min(_norm(grads), limit), _clip(grads, limit)[1]),
    ),
    Slip(
        "a norm without its root",
        "the sum of squares is used as it is: take its root",
        lambda grads, limit: (_norm(grads) ** 2, _scale(grads, min(1.0, limit / _norm(grads) ** 2))),
    ),
    Slip(
        "a sum of the tensors' norms",
        "norms are added; what adds up is their squares",
        lambda grads, limit: (_sum_norms(grads), _scale(grads, min(1.0, limit / _sum_norms(grads)))),
    ),
    Slip(
        "the norm, and gradients that are not clipped",
        "`g = g * factor` makes a new array that nobody looks at: `g *= factor`, or `p.grad = ...`",
        lambda grads, limit: (_norm(grads), _scale(grads, 1.0)),
    ),
)


def _sum_norms(grads: GradientArrays) -> float:
    return sum(_norm([g]) for g in grads)
