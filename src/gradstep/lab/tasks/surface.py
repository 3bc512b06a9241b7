"""Tasks on surfaces over the plane: the parameters are a point (x, y), the loss is its height."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradstep.lab.task import Evaluation, MiniBatch, Task, isolate_random

JITTER = 0.05


@final
class SurfacePoint(nn.Module):
    """A model of two numbers, held in one parameter of shape (2,)."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor([x, y], dtype=torch.float32, device="cpu"))

    def forward(self) -> Tensor:
        return self.place


class Surface(Task):
    """A task with two parameters, so that its path can be drawn. A seed other than 0 moves the start a little.

    Args:
        start: where every path begins; None: the surface's `home`.

    Raises:
        ValueError: the start is outside the part of the plane that is drawn.
    """

    home: ClassVar[tuple[float, float]]
    """Where paths begin by default."""
    minimum: ClassVar[tuple[float, float]]
    """The place of the least height, which is 0."""
    view: ClassVar[tuple[tuple[float, float], tuple[float, float]]]
    """The part of the plane that is drawn: (least x, greatest x), (least y, greatest y)."""

    @final
    def __init__(self, start: tuple[float, float] | None = None) -> None:
        self.start = self.home if start is None else start
        (left, right), (low, high) = self.view
        if not (left <= self.start[0] <= right and low <= self.start[1] <= high):
            raise ValueError(
                f"Invalid start on {self.name}: {start} (x must be in [{left:g}, {right:g}], y in [{low:g}, {high:g}])"
            )

    @abstractmethod
    def height(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the height over (x, y), element by element."""

    def model(self, seed: int) -> nn.Module:
        with isolate_random(seed):
            dx, dy = (JITTER * torch.randn(2)).tolist() if seed else (0.0, 0.0)
        return SurfacePoint(self.start[0] + dx, self.start[1] + dy)

    def batches(self, seed: int) -> Iterator[MiniBatch]:
        while True:
            yield ()

    def loss(self, model: nn.Module, batch: MiniBatch) -> Tensor:
        x, y = model()
        return self.height(x, y)

    def evaluate(self, model: nn.Module) -> Evaluation:
        with torch.no_grad():
            x, y = model()
            return Evaluation(self.height(x, y).item(), place=(x.item(), y.item()))


@final
@dataclass(frozen=True)
class Relief:
    """Heights of a surface over its view: `z[j, i]` is the height over (`x[i]`, `y[j]`)."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    z: NDArray[Any]


def relief(surface: Surface, points: int = 121) -> Relief:
    """Return the surface's heights on a grid of `points` × `points` over its view."""
    x, y = (torch.linspace(*ends, points, dtype=torch.float64, device="cpu") for ends in surface.view)
    z = surface.height(x[None, :], y[:, None])
    return Relief(x.numpy(), y.numpy(), z.numpy())


@final
class Ravine(Surface):
    """f(x, y) = ½ (x² + 50 y²), least at (0, 0); its condition number is 50."""

    name = "ravine"
    title = "A ravine"
    description = (
        "The ill-conditioned quadratic ½ (x² + 50 y²): gradients point across the ravine, the minimum (0, 0) "
        "lies along it. Plain gradient descent zigzags; momentum or a rate for each coordinate cure that."
    )
    loss_word = "height"
    loss_name = "height over the minimum"
    log_loss = True
    steps = 150
    quick_steps = 150
    stride = 1
    home = (-3.6, 1.1)
    minimum = (0.0, 0.0)
    view = ((-4.2, 2.8), (-1.5, 1.5))

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (x * x + 50 * y * y)


@final
class Rosenbrock(Surface):
    """f(x, y) = (1 − x)² + 100 (y − x²)² (Rosenbrock 1960), least at (1, 1)."""

    name = "rosenbrock"
    title = "Rosenbrock's valley"
    description = (
        "The surface (1 − x)² + 100 (y − x²)² of Rosenbrock (1960): a steep, curved valley whose floor falls "
        "gently towards the minimum at (1, 1)."
    )
    loss_word = "height"
    loss_name = "height over the minimum"
    log_loss = True
    steps = 400
    quick_steps = 300
    stride = 1
    home = (-1.5, 2.0)
    minimum = (1.0, 1.0)
    view = ((-2.0, 2.0), (-0.75, 3.0))

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        return (1 - x) ** 2 + 100 * (y - x * x) ** 2
