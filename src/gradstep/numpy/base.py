"""The base of all optimizers over NumPy arrays, and the parameters that they accept."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
"""An array of float32 or float64."""


@runtime_checkable
class HasGradient(Protocol):
    """A parameter: an object with an array ``data``, and ``grad``: None, an array, or an object with ``data``.

    Examples are :class:`gradstep.numpy.Tensor`, :class:`Parameter` and the tensors of teaching frameworks.

    >>> isinstance(Parameter(np.zeros(3)), HasGradient), isinstance(np.zeros(3), HasGradient)
    (True, False)
    """

    data: Any
    grad: Any


@final
@dataclass(eq=False)
class Parameter:
    """A plain array with its gradient; the array is shared, not copied.

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
    """Return the array itself, or an object's ``data`` as an array."""
    plain = isinstance(value, (np.ndarray, np.generic, int, float, list, tuple))
    return np.asarray(value if plain else value.data)


class RecordedTensor:
    """A tensor that records its operations: ``backward()`` gives a gradient only to those made with ``requires_grad``.

    Attributes:
        requires_grad: whether the tensor, or one that it was computed from, gets a gradient.
        edges: the tensors that it was computed from; empty for a tensor made by hand.
    """

    __slots__ = ()
    requires_grad: bool
    edges: Any


def choose_params(
    params: Iterable[HasGradient] | None, parameters: Iterable[HasGradient] | None
) -> Iterable[HasGradient]:
    """Return the parameters, which were given under one of two names.

    Raises:
        TypeError: both names were given, or neither.
    """
    if params is not None and parameters is not None:
        raise TypeError("params and parameters are the same argument: give one of them")
    chosen = parameters if params is None else params
    if chosen is None:
        raise TypeError("the parameters are missing: give a list of them as params")
    return chosen


class Optimizer:
    """The base of all optimizers: it holds the list of parameters, counts the steps and clears the gradients.

    As in the teaching framework, the class itself can be instantiated, and a learner's own optimizer is a subclass with
    its own :meth:`step`. Other objects' ``requires_grad`` is not checked, and existing gradients stay.

    Args:
        params: objects with ``data`` and ``grad``, in an order; the list is copied, and may be empty.
        parameters: another name for ``params``, of the framework's earlier edition.

    Raises:
        TypeError: a parameter is another object, such as a plain array; or both names were given, or neither.
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
    """The number of calls of :meth:`step`."""

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
            NotImplementedError: always in this base class. It is not abstract, since the teaching framework's is not:
                one can make it, clear gradients with it, and see that a step needs a rule.
        """
        raise NotImplementedError(f"{type(self).__name__} must write step(): the base has no rule to update by")


def _check_params(params: Iterable[HasGradient]) -> list[HasGradient]:
    """Return the parameters as a list, each with a ``grad``; refuse unfit ones and duplicates."""
    if isinstance(params, (np.ndarray, HasGradient)):
        raise TypeError(f"params must be a list of parameters, not one {type(params).__name__}: write [parameter]")
    members = list(params)
    places: dict[tuple[str, int], int] = {}
    for i, param in enumerate(members):
        if isinstance(param, (np.ndarray, np.generic)):
            raise TypeError(
                f"parameter {i} is a plain array without a place for its gradient: wrap it in gradstep.numpy.Parameter"
            )
        if isinstance(param, RecordedTensor):
            _check_gets_gradient(param, i)
        data = _read_data(param, i)
        # Two parameters that begin at the same address share memory, unless they have no elements.
        for key in [("object", id(param)), *([("memory", data.ctypes.data)] if data.size else [])]:
            if key in places:
                raise ValueError(
                    f"Optimizer parameters must not contain duplicates: parameters {places[key]} and {i} are the same"
                )
            places[key] = i
    for param in members:
        # A tensor of the teaching framework may lack the attribute until its first backward pass.
        if not isinstance(param, HasGradient):
            param.grad = None
    return members


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
