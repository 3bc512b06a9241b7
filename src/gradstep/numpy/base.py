"""What every optimizer over NumPy arrays shares, and what it takes for a parameter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
"""An array of float32 or float64."""


@runtime_checkable
class HasGradient(Protocol):
    """A parameter: anything with ``data``, an array, and ``grad``, which is None, an array, or something with ``data``.

    :class:`gradstep.numpy.Tensor` is one, so are :class:`Parameter` and the tensors of teaching frameworks.
    """

    data: Any
    grad: Any


@final
@dataclass(eq=False)
class Parameter:
    """A plain array with a place for its gradient; the array is shared, not copied.

    Args:
        data: float32 or float64, any shape; steps change it in place.
        grad: the gradient of the same shape, or None.

    >>> w = np.array([0.5], dtype=np.float32)
    >>> p = Parameter(w)
    >>> p.grad = np.array([0.02])
    >>> from gradstep.numpy import AdamW
    >>> AdamW([p], lr=1e-4, weight_decay=1e-3).step()
    >>> f"{w[0]:.8f}"
    '0.49989995'
    """

    data: Floats
    grad: Any = None


def array_of(value: Any) -> NDArray[Any]:
    """The array itself, or the one that an object holds as ``data``."""
    plain = isinstance(value, (np.ndarray, np.generic, int, float, list, tuple))
    return np.asarray(value if plain else value.data)


class RecordedTensor:
    """A tensor whose operations are recorded: ``backward()`` gives a gradient only to one made with ``requires_grad``.

    Attributes:
        requires_grad: whether it, or something that it was computed from, gets a gradient.
        edges: what it was computed from; empty for one that was made by hand.
    """

    __slots__ = ()
    requires_grad: bool
    edges: Any


def choose_params(
    params: Iterable[HasGradient] | None, parameters: Iterable[HasGradient] | None
) -> Iterable[HasGradient]:
    """The parameters, under whichever of the two names they were given.

    Raises:
        TypeError: under both, or under none.
    """
    if params is not None and parameters is not None:
        raise TypeError("params and parameters are the same argument: give one of them")
    found = parameters if params is None else params
    if found is None:
        raise TypeError("the parameters are missing: give a list of them as params")
    return found


class Optimizer:
    """The base of all: it owns the list of parameters, counts the steps and clears the gradients.

    As in the teaching framework it may be made itself, and a learner's own optimizer is a subclass that writes
    :meth:`step`. Nothing is asked of ``requires_grad``, and a gradient that is there already stays.

    Args:
        params: objects with ``data`` and ``grad``, in an order; the list is copied. None at all is allowed.
        parameters: the same under the name that the framework's earlier edition has for it.

    Raises:
        TypeError: something else, such as a plain array; or both names, or neither.
        ValueError: the same parameter twice, or a :class:`gradstep.numpy.Tensor` that never gets a gradient.

    Example:
        >>> class Descent(Optimizer):
        ...     def step(self):
        ...         for p in self.params:
        ...             p.data -= 0.1 * p.grad
        ...         self.step_count += 1
        >>> w = Parameter(np.array([1.0]), grad=np.array([5.0]))
        >>> optimizer = Descent([w])
        >>> optimizer.step()
        >>> w.data, optimizer.step_count
        (array([0.5]), 1)
    """

    params: list[Any]
    """The parameters, in the order given."""

    step_count: int
    """How often :meth:`step` was called."""

    def __init__(
        self, params: Iterable[HasGradient] | None = None, *, parameters: Iterable[HasGradient] | None = None
    ) -> None:
        self.params = _check_params(choose_params(params, parameters))
        self.step_count = 0

    def zero_grad(self) -> None:
        """Set every gradient to None."""
        for param in self.params:
            param.grad = None

    def step(self) -> None:
        """Update the parameters that have a gradient.

        Raises:
            NotImplementedError: here, since each optimizer has a rule of its own.
        """
        raise NotImplementedError(f"{type(self).__name__} must write step(): the base has no rule to update by")


def _check_params(params: Iterable[HasGradient]) -> list[HasGradient]:
    if isinstance(params, (np.ndarray, HasGradient)):
        raise TypeError(f"params must be a list of parameters, not one {type(params).__name__}: write [parameter]")
    found = list(params)
    places: dict[tuple[str, int], int] = {}
    for i, param in enumerate(found):
        if isinstance(param, (np.ndarray, np.generic)):
            raise TypeError(
                f"parameter {i} is a plain array without a place for its gradient: wrap it in gradstep.numpy.Parameter"
            )
        if isinstance(param, RecordedTensor):
            _check_gets_gradient(param, i)
        data = _read_data(param, i)
        # Two parameters that begin at the same place share memory; an array of no elements has none to share.
        for key in [("object", id(param)), *([("memory", data.ctypes.data)] if data.size else [])]:
            if key in places:
                raise ValueError(
                    f"Optimizer parameters must not contain duplicates: parameters {places[key]} and {i} are the same"
                )
            places[key] = i
    for param in found:
        # A tensor of the teaching framework may be without the attribute until its first backward pass.
        if not isinstance(param, HasGradient):
            param.grad = None
    return found


def _check_gets_gradient(param: RecordedTensor, i: int) -> None:
    if not param.requires_grad:
        raise ValueError(
            f"parameter {i} has requires_grad=False, so it never gets a gradient: make it with requires_grad=True, or "
            "leave it out"
        )
    if param.edges:
        raise ValueError(
            f"parameter {i} is the result of an operation, so it never gets a gradient: pass the tensors that it was "
            "computed from"
        )


def _read_data(param: Any, i: int) -> NDArray[Any]:
    try:
        data = param.data
    except AttributeError:
        raise TypeError(f"parameter {i} must have data and grad, but is {param!r}") from None
    if not isinstance(data, np.ndarray):
        raise TypeError(f"the data of parameter {i} must be a NumPy array, but is {type(data).__name__}")
    return data
