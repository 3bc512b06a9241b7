"""What the lab asks of a task: a model, data, a loss, a way to judge, and a sensible learning rate per
optimizer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from gradstep.judge.defaults import fresh_defaults

Batch: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True)
class Evaluation:
    """How good a model is now, on data it is not trained on.

    Args:
        loss: mean loss (for a surface: the height).
        accuracy: share of right answers in [0, 1], where the task has answers.
        place: the point (x, y) the optimizer stands on, for a surface.
    """

    loss: float
    accuracy: float | None = None
    place: tuple[float, float] | None = None


class Task(ABC):
    """Something to train. Everything a seed decides is decided by the seed alone.

    Two calls with one seed give the same weights and the same batches in the same order, so that contenders
    that are given the same seed differ in their optimizer and in nothing else.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    loss_word: ClassVar[str]
    """What the loss is, in one word, for titles: "loss"."""
    loss_name: ClassVar[str]
    """What the loss is, with its unit, for the axis of a chart."""
    log_loss: ClassVar[bool]
    """Whether charts show the loss on a logarithmic axis (losses that fall through orders of magnitude)."""
    steps: ClassVar[int]
    quick_steps: ClassVar[int]
    """Steps of a quick race; 0 where so few say nothing: the task then takes part only if it is named."""
    stride: ClassVar[int]
    """Steps between two evaluations."""
    learning_rates: ClassVar[Mapping[str, float]]
    """By optimizer name; "name+momentum" holds when a momentum is asked for."""

    @abstractmethod
    def model(self, seed: int) -> nn.Module:
        """A new model with the starting weights of this seed."""

    @abstractmethod
    def batches(self, seed: int) -> Iterator[Batch]:
        """Training batches without end, in the order of this seed."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The training loss of one batch, a scalar with a graph."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> Evaluation:
        """The model judged on held-out data; draws no random numbers and leaves the model as it was."""

    def learning_rate(self, name: str, momentum: float = 0.0) -> float | None:
        """The task's learning rate for the optimizer `name` ("adamw"), or None where it has none to
        suggest.
        """
        plain = self.learning_rates.get(name)
        return self.learning_rates.get(f"{name}+momentum", plain) if momentum else plain


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers start at `seed` inside, and go on afterwards as if nothing had been drawn.

    New tensors are float32 on the CPU inside, whatever the process has as torch's defaults.
    """
    with fresh_defaults(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode without gradients inside; back in training mode afterwards."""
    model.eval()
    with torch.no_grad():
        yield
    model.train()
