"""A tensor that remembers how it was made, and hands gradients back to what it was made from.

Every operation notes, for each tensor that it was given, how a gradient of its result becomes a gradient of that
tensor (a *pullback*: the transposed Jacobian applied to the gradient). :meth:`Tensor.backward` walks these notes from
the last tensor to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gradstep.numpy.base import Floats, RecordedTensor, array_of

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
            part = _sum_to_shape(np.asarray(pullback(g), dtype=source.dtype), source.shape)
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


def _sum_to_shape(g: Floats, shape: tuple[int, ...]) -> Floats:
    """A gradient over the axes that broadcasting added or stretched: their sum, since each was the same number."""
    if g.shape == shape:
        return g
    added = g.ndim - len(shape)
    stretched = tuple(added + i for i, n in enumerate(shape) if n == 1)
    return np.asarray(g.sum(axis=(*range(added), *stretched))).reshape(shape)


Axis = int | tuple[int, ...] | None


@final
class Tensor(RecordedTensor):
    """An array with a gradient.

    ``+ - * / @ **`` and the methods below work on tensors, arrays and numbers, and broadcast as NumPy does. A graph is
    in one type of elements: a number or an array takes that of the tensor it meets.

    Args:
        data: numbers, nested lists, an array or a tensor; always copied.
        requires_grad: whether :meth:`backward` shall leave a gradient in ``grad``.
        dtype: float32 or float64.

    Attributes:
        data: the array.
        grad: the gradient, an array of the same shape and type; None before the first :meth:`backward`, and again
            after ``optimizer.zero_grad()``. Further calls add to it.
        edges: the tensors it was made from that require a gradient, each with its pullback.

    Raises:
        TypeError: another dtype.

    Example:
        >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        array([2., 4., 6.], dtype=float32)
    """

    __slots__ = ("__weakref__", "data", "edges", "grad", "requires_grad")
    __array_ufunc__ = None  # so that array * tensor comes to Tensor.__rmul__

    data: Floats
    grad: Any
    requires_grad: bool
    edges: tuple[Edge, ...]

    def __init__(self, data: ArrayLike | Tensor, requires_grad: bool = False, dtype: DTypeLike = np.float32) -> None:
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise TypeError(f"a tensor is of float32 or float64, not of {np.dtype(dtype)}")
        self.data = np.array(data.data if isinstance(data, Tensor) else data, dtype=dtype)
        self.grad = None
        self.requires_grad = requires_grad
        self.edges = ()

    # -- the array ----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of every axis."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.data.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of elements."""
        return self.data.dtype

    def item(self) -> float:
        """The one number that it holds."""
        return float(self.data.item())

    def detach(self) -> Tensor:
        """The same array without its history."""
        return _record(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.data, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"Tensor({np.array2string(self.data, separator=', ')}, requires_grad={self.requires_grad})"

    # -- arithmetic ---------------------------------------------------------------------------------------------

    def _other(self, other: ArrayLike | Tensor) -> Tensor:
        return other if isinstance(other, Tensor) else Tensor(other, dtype=self.dtype)

    def __add__(self, other: ArrayLike | Tensor) -> Tensor:
        b = self._other(other)
        return _record(self.data + b.data, (self, lambda g: g), (b, lambda g: g))

    def __sub__(self, other: ArrayLike | Tensor) -> Tensor:
        b = self._other(other)
        return _record(self.data - b.data, (self, lambda g: g), (b, lambda g: -g))

    def __mul__(self, other: ArrayLike | Tensor) -> Tensor:
        b = self._other(other)
        x, y = self.data, b.data
        return _record(x * y, (self, lambda g: g * y), (b, lambda g: g * x))

    def __truediv__(self, other: ArrayLike | Tensor) -> Tensor:
        b = self._other(other)
        y, quotient = b.data, self.data / b.data
        return _record(quotient, (self, lambda g: g / y), (b, lambda g: -g * quotient / y))

    def __neg__(self) -> Tensor:
        return _record(-self.data, (self, lambda g: -g))

    def __pow__(self, exponent: float) -> Tensor:
        """To the power of a number."""
        x = self.data
        # The derivative of x⁰ is 0 at x = 0 too, where 0 · x⁻¹ is not.
        slope = exponent * x ** (exponent - 1) if exponent else np.zeros_like(x)
        return _record(x**exponent, (self, lambda g: g * slope))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: ArrayLike) -> Tensor:
        return self._other(other) - self

    def __rtruediv__(self, other: ArrayLike) -> Tensor:
        return self._other(other) / self

    def __matmul__(self, other: ArrayLike | Tensor) -> Tensor:
        b = self._other(other)
        if self.ndim == 1 or b.ndim == 1:  # as NumPy: a row, a column, and their axis left out again
            row = self.reshape(1, -1) if self.ndim == 1 else self
            column = b.reshape(-1, 1) if b.ndim == 1 else b
            product = row @ column
            kept = [n for n, one in zip(product.shape[-2:], (self.ndim == 1, b.ndim == 1)) if not one]
            return product.reshape(*product.shape[:-2], *kept)
        x, y = self.data, b.data
        return _record(x @ y, (self, lambda g: g @ y.swapaxes(-1, -2)), (b, lambda g: x.swapaxes(-1, -2) @ g))

    def __rmatmul__(self, other: ArrayLike) -> Tensor:
        return self._other(other) @ self

    # -- functions, element by element --------------------------------------------------------------------------

    def exp(self) -> Tensor:
        """The exponential, e to the power of every element."""
        y = np.exp(self.data)
        return _record(y, (self, lambda g: g * y))

    def log(self) -> Tensor:
        """The natural logarithm."""
        x = self.data
        return _record(np.log(x), (self, lambda g: g / x))

    def tanh(self) -> Tensor:
        """The hyperbolic tangent."""
        y = np.tanh(self.data)
        return _record(y, (self, lambda g: g * (1 - y * y)))

    def sigmoid(self) -> Tensor:
        """1 / (1 + e⁻ˣ), by the tangent, which does not overflow."""
        y = 0.5 * (1 + np.tanh(0.5 * self.data))
        return _record(y, (self, lambda g: g * y * (1 - y)))

    def relu(self) -> Tensor:
        """The larger of x and 0; its slope at 0 is 0."""
        positive = self.data > 0
        return _record(np.maximum(self.data, 0), (self, lambda g: g * positive))

    # -- sums and shapes ----------------------------------------------------------------------------------------

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The sum along one axis, several, or all of them."""
        shape = self.shape

        def pullback(g: Floats) -> Floats:
            return np.broadcast_to(g if axis is None or keepdims else np.expand_dims(g, axis), shape)

        return _record(self.data.sum(axis, keepdims=keepdims), (self, pullback))

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The mean along one axis, several, or all of them."""
        total = self.sum(axis, keepdims)
        return total * (total.size / self.size)

    def log_softmax(self, axis: int = -1) -> Tensor:
        """The logarithm of the softmax, x − log Σ eˣ along an axis; no exponential overflows."""
        with np.errstate(over="ignore"):  # a probability of 0 where two logits are further apart than numbers go
            shifted = self.data - self.data.max(axis, keepdims=True)
        y = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
        return _record(y, (self, lambda g: g - np.exp(y) * g.sum(axis, keepdims=True)))

    def reshape(self, *shape: int) -> Tensor:
        """The same elements in another shape."""
        before = self.shape
        return _record(self.data.reshape(shape), (self, lambda g: g.reshape(before)))

    def transpose(self, *axes: int) -> Tensor:
        """The axes in another order; reversed if none is given."""
        order = axes or tuple(reversed(range(self.ndim)))
        return _record(self.data.transpose(order), (self, lambda g: g.transpose(np.argsort(order))))

    @property
    def T(self) -> Tensor:
        """The axes in reverse order."""
        return self.transpose()

    def __getitem__(self, index: Any) -> Tensor:
        shape = self.shape

        def pullback(g: Floats) -> Floats:
            whole = np.zeros(shape, dtype=g.dtype)
            np.add.at(whole, index, g)  # an element that was taken twice gets both
            return whole

        return _record(self.data[index], (self, pullback))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    # -- gradients ----------------------------------------------------------------------------------------------

    def backward(self, gradient: ArrayLike | None = None) -> None:
        """Add the gradient of this tensor with respect to every tensor it was made from to their ``grad``.

        Only those made by hand with ``requires_grad`` keep a gradient, not the results in between.

        Args:
            gradient: of whatever is to be differentiated, with respect to this tensor, in its shape; 1 for one number.

        Raises:
            RuntimeError: nothing that it was made from requires a gradient.
            ValueError: no gradient was given for more than one number, or one of another shape.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() of a tensor that was made from nothing that requires a gradient")
        if gradient is None and self.size != 1:
            raise ValueError(f"backward() without a gradient starts from one number, not from shape {self.shape}")
        first = np.ones_like(self.data) if gradient is None else np.asarray(gradient, dtype=self.dtype)
        if first.shape != self.shape:
            raise ValueError(f"the gradient has shape {first.shape}, the tensor {self.shape}")
        propagate(self, first)


def _record(data: Any, *edges: Edge) -> Tensor:
    """What an operation gives; it remembers those of its sources that require a gradient."""
    result = Tensor.__new__(Tensor)
    result.data = np.asarray(data)
    result.grad = None
    result.edges = tuple(edge for edge in edges if edge[0].requires_grad) if recording() else ()
    result.requires_grad = bool(result.edges)
    return result
