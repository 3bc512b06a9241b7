"""Rosenbrock's banana: easy to reach the valley, slow to follow it round the bend."""

from typing import ClassVar, final

from torch import Tensor

from gradstep.lab.tasks.surface import Surface


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
    # Chosen from a grid of 18 rates (1, 2, 5 times powers of ten from 1e-4 to 10) at seed 1: the lowest mean
    # height over the last tenth of the steps, among rates at which the path never climbs above twice the
    # height of its start.
    learning_rates: ClassVar = {
        "sgd": 0.001,
        "sgd+momentum": 0.001,
        "adagrad": 0.1,
        "adadelta": 20.0,
        "rmsprop": 0.01,
        "adam": 0.1,
        "adamw": 0.1,
        "adamax": 0.1,
        "nadam": 0.1,
        "radam": 0.0005,
        "lion": 0.01,
        "adafactor": 0.05,
    }

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        return (1 - x) ** 2 + 100 * (y - x * x) ** 2
