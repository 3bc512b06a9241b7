"""The interface of a task: a model, data, a loss, an evaluation, and a learning rate for each optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from gradstep.judge.subjects.subject import fresh_defaults
from gradstep.report.words import read_tables

NO_RATE = "–"
"""The cell of an optimizer that a task has no matrices for, in the table of learning rates."""

MiniBatch: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True)
class Evaluation:
    """The quality of a model on data that it is not trained on.

    Args:
        loss: mean loss (for a surface: the height).
        accuracy: share of right answers in [0, 1], where the task has answers.
        place: for a surface, the point (x, y) that the parameters hold.
    """

    loss: float
    accuracy: float | None = None
    place: tuple[float, float] | None = None


class Task(ABC):
    """A training task that depends on nothing but the seed.

    Two calls with one seed give the same weights and the same batches in the same order, so that contenders
    with the same seed differ only in their optimizer.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    loss_word: ClassVar[str]
    """One word for the loss, for titles: "loss"."""
    loss_name: ClassVar[str]
    """Name of the loss with its unit, for the axis of a chart."""
    log_loss: ClassVar[bool]
    """Whether charts show the loss on a logarithmic axis (losses that fall through orders of magnitude)."""
    steps: ClassVar[int]
    quick_steps: ClassVar[int]
    """Steps of a quick race; 0 if few steps show nothing: the task then takes part only if it is named."""
    stride: ClassVar[int]
    """Steps between two evaluations."""

    @abstractmethod
    def model(self, seed: int) -> nn.Module:
        """Make a model with the initial weights of this seed."""

    @abstractmethod
    def batches(self, seed: int) -> Iterator[MiniBatch]:
        """Yield training batches without end, in the order of this seed."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: MiniBatch) -> Tensor:
        """Return the training loss of one batch, a scalar with a graph."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> Evaluation:
        """Evaluate the model on held-out data; draw no random numbers and leave the model as it was."""

    def learning_rate(self, name: str, momentum: float = 0.0) -> float | None:
        """Return the task's learning rate for an optimizer, from the task's column of `tasks/rates.md`.

        Args:
            name: the optimizer's name in lower case ("adamw").
            momentum: its momentum; where it is not 0, the row "NAME+momentum" counts if there is one.

        Returns:
            The rate, or None if the table has no row for the optimizer.

        Raises:
            KeyError: if the table has no column for the task.
        """
        rates = _learning_rates()[self.name]
        return rates.get(f"{name}+momentum", rates.get(name)) if momentum else rates.get(name)


@cache
def _learning_rates() -> Mapping[str, Mapping[str, float]]:
    """Read the table: for each task the learning rates by optimizer."""
    (_, *tasks), *rows = read_tables(Path(__file__).parent / "tasks" / "rates.md")
    return {
        task: {row[0]: float(row[place]) for row in rows if row[place] != NO_RATE}
        for place, task in enumerate(tasks, 1)
    }


@contextmanager
def isolate_random(seed: int) -> Iterator[None]:
    """Seed torch's random numbers inside the context, and restore their state afterwards.

    New tensors are float32 on the CPU inside, whatever torch's defaults are.
    """
    with fresh_defaults(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode without a graph; put it back in training mode afterwards."""
    model.eval()
    with torch.no_grad():
        yield
    model.train()
