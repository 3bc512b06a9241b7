"""Layers of a small network (linear, ReLU, sequential) and losses (mean squared error, cross-entropy)."""

from abc import ABC, abstractmethod
from typing import final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gradstep.numpy.base import array_of
from gradstep.numpy.tensor import Tensor


class Layer(ABC):
    """The base of all layers: a function from tensor to tensor, with parameters; subclasses write :meth:`forward`.

    >>> class Twice(Layer):
    ...     def forward(self, x):
    ...         return x * 2
    >>> Twice()([1.0, 3.0]).data.tolist()
    [2.0, 6.0]
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the output for ``x``, a batch of inputs."""

    def parameters(self) -> list[Tensor]:
        """Return the parameters in an order; empty unless a layer overrides it."""
        return []

    def __call__(self, x: ArrayLike | Tensor) -> Tensor:
        return self.forward(x if isinstance(x, Tensor) else Tensor(x))


@final
class Linear(Layer):
    """A linear layer, ``y = x W + b``.

    Args:
        in_features: length of the last axis of the input.
        out_features: length of the last axis of the output.
        bias: whether the layer has b.
        rng: the generator of the initial weights; give one for reproducible weights.
        dtype: float32 or float64; the input should have the same.

    Attributes:
        weight: W, (in_features, out_features); normal with variance 1 / in_features, so that outputs vary as much as
            inputs do (LeCun et al., "Efficient BackProp", 1998, equation 16).
        bias: b, (out_features,), 0 at first; or None.

    Raises:
        ValueError: the number of features is below 1.

    >>> layer = Linear(3, 2, rng=np.random.default_rng(0))
    >>> layer(np.ones((5, 3))).shape, [p.shape for p in layer.parameters()]
    ((5, 2), [(3, 2), (2,)])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        if in_features < 1 or out_features < 1:
            raise ValueError(f"a linear layer needs at least 1 feature, not {in_features} and {out_features}")
        rng = np.random.default_rng() if rng is None else rng
        weight = rng.standard_normal((in_features, out_features)) / np.sqrt(in_features)
        self.weight = Tensor(weight, requires_grad=True, dtype=dtype)
        self.bias = Tensor(np.zeros(out_features), requires_grad=True, dtype=dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias

    def parameters(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


@final
class ReLU(Layer):
    """The rectified linear unit, max(x, 0), element by element.

    >>> ReLU()([-1.0, 2.0]).data
    array([0., 2.], dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


@final
class Sequential(Layer):
    """Layers applied one after the other.

    Args:
        layers: the layers, or one list of them.

    >>> model = Sequential(Linear(4, 8), ReLU(), Linear(8, 3))
    >>> model(np.ones((2, 4))).shape, len(model.parameters())
    ((2, 3), 4)
    """

    def __init__(self, *layers: Layer | list[Layer]) -> None:
        self.layers: list[Layer] = []
        for layer in layers:
            self.layers += layer if isinstance(layer, list) else [layer]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def parameters(self) -> list[Tensor]:
        return [p for layer in self.layers for p in layer.parameters()]


class Loss(ABC):
    """The base of all losses: one number from predictions and targets; subclasses write :meth:`forward`.

    >>> class Sum(Loss):
    ...     def forward(self, predictions, targets):
    ...         return (predictions - targets).sum()
    >>> Sum()(Tensor([1.0, 2.0]), [0.0, 0.5]).item()
    2.5
    """

    @abstractmethod
    def forward(self, predictions: Tensor, targets: ArrayLike | Tensor) -> Tensor:
        """Return the loss of ``predictions`` against ``targets``, a tensor of one number."""

    def __call__(self, predictions: Tensor, targets: ArrayLike | Tensor) -> Tensor:
        return self.forward(predictions, targets)


@final
class MSELoss(Loss):
    """The mean of the squared differences over all elements.

    Raises:
        ValueError: predictions and targets have different shapes. Broadcasting (n, 1) against (n,) would compare
            every prediction with every target.

    >>> MSELoss()(Tensor([1.0, 2.0]), [1.0, 4.0]).item()
    2.0
    """

    def forward(self, predictions: Tensor, targets: ArrayLike | Tensor) -> Tensor:
        shape = np.shape(array_of(targets))
        if shape != predictions.shape:
            raise ValueError(f"predictions have shape {predictions.shape} and targets {shape}; they must have the same")
        difference = predictions - targets
        return (difference * difference).mean()


@final
class CrossEntropyLoss(Loss):
    """The mean of −log(probability of the right class), from logits; no exponential overflows.

    Predictions are logits of shape (n, classes); targets are class numbers of shape (n,).

    Raises:
        ValueError: other shapes, or a target is not a whole number from 0 to classes − 1.

    >>> loss = CrossEntropyLoss()
    >>> loss(Tensor([[0.0, 0.0]]), [1]).item()  # log 2
    0.693
    >>> loss(Tensor([[1000.0, 0.0]]), [1]).item()
    1000.0
    """

    def forward(self, predictions: Tensor, targets: ArrayLike | Tensor) -> Tensor:
        if predictions.ndim != 2:
            raise ValueError(f"predictions must be logits of shape (n, classes), but have {predictions.shape}")
        chosen = _check_classes(array_of(targets), *predictions.shape)
        return -predictions.log_softmax()[np.arange(len(chosen)), chosen].mean()


def _check_classes(targets: NDArray[np.generic], n: int, classes: int) -> NDArray[np.int64]:
    """Return the class numbers (n,) as int64, if they are whole numbers from 0 to ``classes`` − 1."""
    if targets.shape != (n,):
        raise ValueError(f"targets must be class numbers of shape ({n},), but have {targets.shape}")
    chosen = targets.astype(np.int64)
    wrong = np.flatnonzero((chosen != targets) | (chosen < 0) | (chosen >= classes))
    if wrong.size:
        raise ValueError(
            f"targets must be whole numbers from 0 to {classes - 1}, but number {wrong[0]} is {targets[wrong[0]]}"
        )
    return chosen
