"""Handwritten digits: a small convolutional network on the 1,797 images of scikit-learn."""

from collections.abc import Iterator
from functools import cache
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradstep.lab.task import Evaluation, MiniBatch, Task, evaluation_mode, isolate_random

BATCH_SIZE = 64
TEST = 397


@cache
def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images and labels, test images and labels; always the same split.

    Images have the shape (N, 1, 8, 8), with values in [0, 1].
    """
    # Imported here: scikit-learn takes over a second to import, and not every race needs it.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32, device="cpu").view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels, dtype=torch.int64, device="cpu")
    # The file is ordered by writer; a shuffle that is the same for every seed mixes them.
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0), device="cpu")
    train, test = order[TEST:], order[:TEST]
    return x[train], y[train], x[test], y[test]


@final
class Digits(Task):
    """Ten classes, 38,282 parameters; see the description."""

    name = "digits"
    title = "Handwritten digits"
    description = (
        "A small convolutional network learns to read 8×8 images of handwritten digits (scikit-learn's "
        f"load_digits): {1797 - TEST:,} to learn from, {TEST} held out, batches of {BATCH_SIZE}."
    )
    loss_word = "loss"
    loss_name = "cross-entropy on held-out images"
    log_loss = True
    steps = 600
    quick_steps = 100
    stride = 10

    def model(self, seed: int) -> nn.Module:
        with isolate_random(seed):
            return nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Dropout(0.25),
                nn.Linear(32 * 4 * 4, 64),
                nn.ReLU(),
                nn.Linear(64, 10),
            )

    def batches(self, seed: int) -> Iterator[MiniBatch]:
        x, y, _, _ = images()
        generator = torch.Generator().manual_seed(seed)
        while True:
            for chosen in torch.randperm(len(y), generator=generator, device="cpu").split(BATCH_SIZE):
                if len(chosen) == BATCH_SIZE:
                    yield x[chosen], y[chosen]

    def loss(self, model: nn.Module, batch: MiniBatch) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y)

    def evaluate(self, model: nn.Module) -> Evaluation:
        _, _, x, y = images()
        with evaluation_mode(model):
            logits = model(x)
            right = (logits.argmax(-1) == y).float().mean()
            return Evaluation(F.cross_entropy(logits, y).item(), right.item())
