"""A ravine: a quadratic fifty times steeper across than along."""

from typing import ClassVar, final

from torch import Tensor

from gradstep.lab.tasks.surface import Surface


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
    # Chosen from a grid of 18 rates (1, 2, 5 times powers of ten from 1e-4 to 10) at seed 1: the lowest mean
    # height over the last tenth of the steps, among rates at which the path never climbs above twice the
    # height of its start. AdamW has Adam's: its decay pulls to the origin, which is the minimum here, and the
    # grid rewards that alone.
    learning_rates: ClassVar = {
        "sgd": 0.02,
        "sgd+momentum": 0.01,
        "adagrad": 2.0,
        "adadelta": 10.0,
        "rmsprop": 0.1,
        "adam": 0.5,
        "adamw": 0.5,
        "adamax": 0.5,
        "nadam": 0.2,
        "radam": 0.02,
        "lion": 0.1,
        "adafactor": 0.5,
    }

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (x * x + 50 * y * y)
