"""A tensor with reverse-mode automatic differentiation.

Every operation records, for each tensor that it takes, a *pullback*: the function from a gradient of the result to a
gradient of that tensor (the transposed Jacobian times the gradient). :meth:`Tensor.backward` calls the pullbacks from
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
"""A function from the gradient of a result to the gradient of one of its sources; may still have broadcast axes."""

Edge: TypeAlias = "tuple[Tensor, Pullback]"
"""A source of a result, and the pullback to it."""

_recording: ContextVar[bool] = ContextVar("recording", default=True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Do not record operations: results require no gradient and hold no reference to their sources.

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
    """Backpropagate a gradient of ``last``, in its shape: add to the ``grad`` of every tensor without edges.

    A tensor is visited after all tensors that were made from it, when its gradient is complete.
    """
    pending: dict[int, Floats] = {id(last): gradient}
    for tensor in _latest_first(last):
        g = pending.pop(id(tensor))
        if not tensor.edges:
            # A copy: g may be a view of another tensor's gradient, which ``p.grad *= 0.5`` must not change.
            tensor.grad = np.array(g if tensor.grad is None else array_of(tensor.grad) + g, dtype=tensor.dtype)
        for source, pullback in tensor.edges:
            part = _sum_to_shape(np.asarray(pullback(g), dtype=source.dtype), source.shape)
            pending[id(source)] = part if id(source) not in pending else pending[id(source)] + part


def _latest_first(last: Tensor) -> list[Tensor]:
    """Return all tensors of the graph, each before its sources; not recursive: graphs may exceed Python's stack."""
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
    """Sum a gradient over the axes that broadcasting from ``shape`` added or stretched, which repeat one number."""
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    stretched = tuple(extra + i for i, n in enumerate(shape) if n == 1)
    return np.asarray(g.sum(axis=(*range(extra), *stretched))).reshape(shape)


Axis = int | tuple[int, ...] | None


@final
class Tensor(RecordedTensor):
    """An array with a gradient.

    ``+ - * / @ **`` and the methods below work on tensors, arrays and numbers, and broadcast as NumPy does. A graph has
    one type of elements: numbers and arrays are converted to the type of the tensor that they are combined with.

    Args:
        data: numbers, nested lists, an array or a tensor; always copied.
        requires_grad: whether :meth:`backward` adds a gradient to ``grad``.
        dtype: float32 or float64.

    Attributes:
        data: the array.
        grad: the gradient, an array of the same shape and type; None before the first :meth:`backward`, and again
            after ``optimizer.zero_grad()``. Further calls add to it.
        edges: the tensors that it was made from and that require a gradient, each with its pullback.

    Raises:
        TypeError: another dtype.

    Example:
        >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        array([2., 4., 6.], dtype=float32)
    """

    __slots__ = ("__weakref__", "data", "edges", "grad", "requires_grad")
    __array_ufunc__ = None  # so that array * tensor calls Tensor.__rmul__

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
        """Return the one number that the tensor holds."""
        return float(self.data.item())

    def detach(self) -> Tensor:
        """Return a tensor with the same array and without edges."""
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
        """Return the tensor to the power of a number."""
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
        if self.ndim == 1 or b.ndim == 1:  # as NumPy: a vector becomes a row or a column, and its axis is dropped again
            row = self.reshape(1, -1) if self.ndim == 1 else self
            column = b.reshape(-1, 1) if b.ndim == 1 else b
            product = row @ column
            axes = [n for n, is_vector in zip(product.shape[-2:], (self.ndim == 1, b.ndim == 1)) if not is_vector]
            return product.reshape(*product.shape[:-2], *axes)
        x, y = self.data, b.data
        return _record(x @ y, (self, lambda g: g @ y.swapaxes(-1, -2)), (b, lambda g: x.swapaxes(-1, -2) @ g))

    def __rmatmul__(self, other: ArrayLike) -> Tensor:
        return self._other(other) @ self

    # -- functions, element by element --------------------------------------------------------------------------

    def exp(self) -> Tensor:
        """Return the exponential of every element."""
        y = np.exp(self.data)
        return _record(y, (self, lambda g: g * y))

    def log(self) -> Tensor:
        """Return the natural logarithm of every element."""
        x = self.data
        return _record(np.log(x), (self, lambda g: g / x))

    def tanh(self) -> Tensor:
        """Return the hyperbolic tangent of every element."""
        y = np.tanh(self.data)
        return _record(y, (self, lambda g: g * (1 - y * y)))

    def sigmoid(self) -> Tensor:
        """Return 1 / (1 + e⁻ˣ) of every element, computed by tanh, which does not overflow."""
        y = 0.5 * (1 + np.tanh(0.5 * self.data))
        return _record(y, (self, lambda g: g * y * (1 - y)))

    def relu(self) -> Tensor:
        """Return max(x, 0) of every element; its derivative at 0 is 0."""
        positive = self.data > 0
        return _record(np.maximum(self.data, 0), (self, lambda g: g * positive))

    # -- sums and shapes ----------------------------------------------------------------------------------------

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return the sum along one ``axis``, several, or all; ``keepdims`` keeps them with length 1."""
        shape = self.shape

        def pullback(g: Floats) -> Floats:
            return np.broadcast_to(g if axis is None or keepdims else np.expand_dims(g, axis), shape)

        return _record(self.data.sum(axis, keepdims=keepdims), (self, pullback))

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Return the mean along one ``axis``, several, or all; ``keepdims`` keeps them with length 1."""
        total = self.sum(axis, keepdims)
        return total * (total.size / self.size)

    def log_softmax(self, axis: int = -1) -> Tensor:
        """Return the logarithm of the softmax, x − log Σ eˣ along an ``axis``; no exponential overflows."""
        with np.errstate(over="ignore"):  # logits may differ by more than the largest number: a probability of 0
            shifted = self.data - self.data.max(axis, keepdims=True)
        y = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
        return _record(y, (self, lambda g: g - np.exp(y) * g.sum(axis, keepdims=True)))

    def reshape(self, *shape: int) -> Tensor:
        """Return the same elements in another ``shape``."""
        before = self.shape
        return _record(self.data.reshape(shape), (self, lambda g: g.reshape(before)))

    def transpose(self, *axes: int) -> Tensor:
        """Return the tensor with its ``axes`` in another order; reversed if no order is given."""
        order = axes or tuple(reversed(range(self.ndim)))
        return _record(self.data.transpose(order), (self, lambda g: g.transpose(np.argsort(order))))

    @property
    def T(self) -> Tensor:
        """The tensor with its axes in reverse order."""
        return self.transpose()

    def __getitem__(self, index: Any) -> Tensor:
        shape = self.shape

        def pullback(g: Floats) -> Floats:
            whole = np.zeros(shape, dtype=g.dtype)
            np.add.at(whole, index, g)  # an element that the index selects twice gets both gradients
            return whole

        return _record(self.data[index], (self, pullback))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    # -- gradients ----------------------------------------------------------------------------------------------

    def backward(self, gradient: ArrayLike | None = None) -> None:
        """Backpropagate: add to ``grad`` of every tensor that this one was made from the gradient with respect to it.

        Only tensors made by hand with ``requires_grad`` get a gradient, not intermediate results.

        Args:
            gradient: the gradient of the function to differentiate with respect to this tensor, in its shape; default 1
                for a tensor of one number.

        Raises:
            RuntimeError: no tensor that this one was made from requires a gradient.
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
    """Return the result of an operation, with edges to those sources that require a gradient."""
    result = Tensor.__new__(Tensor)
    result.data = np.asarray(data)
    result.grad = None
    result.edges = tuple(edge for edge in edges if edge[0].requires_grad) if _recording.get() else ()
    result.requires_grad = bool(result.edges)
    return result
