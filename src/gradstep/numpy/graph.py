"""Reverse-mode differentiation: gradients handed back along the edges of a graph, from its last tensor to its first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gradstep.numpy.base import Floats, array_of

if TYPE_CHECKING:
    from gradstep.numpy.tensor import Tensor

Pullback = Callable[[Floats], Any]
"""From the gradient of a result to the gradient of one thing it was made from; may still have broadcast axes."""

Edge: TypeAlias = "tuple[Tensor, Pullback]"
"""What a tensor was made from, and the way back to it."""

_recording: ContextVar[bool] = ContextVar("recording", default=True)


def recording() -> bool:
    """Whether tensors remember how they are made."""
    return _recording.get()


@contextmanager
def no_grad() -> Iterator[None]:
    """Compute without remembering: results need no gradient and keep nothing alive.

    >>> from gradstep.numpy import Tensor
    >>> w = Tensor([1.0], requires_grad=True)
    >>> with no_grad():
    ...     (2 * w).requires_grad
    False
    """
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def propagate(last: Tensor, gradient: Floats) -> None:
    """Add to the ``grad`` of every tensor without edges what this gradient of ``last`` comes to there.

    A tensor is looked at when all that was made from it has been: by then its gradient is complete.
    """
    pending: dict[int, Floats] = {id(last): gradient}
    for tensor in _latest_first(last):
        g = pending.pop(id(tensor))
        if not tensor.edges:
            # A copy: it may be a view of another's gradient, and ``p.grad *= 0.5`` must not reach that.
            tensor.grad = np.array(g if tensor.grad is None else array_of(tensor.grad) + g, dtype=tensor.dtype)
        for source, pullback in tensor.edges:
            part = _summed_to(np.asarray(pullback(g), dtype=source.dtype), source.shape)
            pending[id(source)] = part if id(source) not in pending else pending[id(source)] + part


def _latest_first(last: Tensor) -> list[Tensor]:
    """Every tensor before those that it was made from. Not recursive: a graph may be deeper than Python's stack."""
    order, seen, path = [], {id(last)}, [(last, iter(last.edges))]
    while path:
        tensor, edges = path[-1]
        for source, _ in edges:
            if id(source) not in seen:
                seen.add(id(source))
                path.append((source, iter(source.edges)))
                break
        else:
            order.append(tensor)
            path.pop()
    return order[::-1]


def _summed_to(g: Floats, shape: tuple[int, ...]) -> Floats:
    """A gradient over the axes that broadcasting added or stretched: their sum, since each was the same number."""
    if g.shape == shape:
        return g
    added = g.ndim - len(shape)
    stretched = tuple(added + i for i, n in enumerate(shape) if n == 1)
    return np.asarray(g.sum(axis=(*range(added), *stretched))).reshape(shape)
