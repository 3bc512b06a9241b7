"""What every client is held against: the loop by hand, accumulating, dividing and clipping as torch's tutorials do."""

from collections.abc import Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import gradstep

Batch = dict[str, Tensor]


def plain(
    recipe: ModuleType,
    model: nn.Module,
    *,
    accumulate: int | None = None,
    batches: Iterable[Batch] | None = None,
    partial: str = "actual",
    by_groups: bool = False,
) -> list[float]:
    """Train a model in place; the loss of every update.

    Args:
        recipe: the examples' numbers and data.
        model: what to train.
        accumulate: micro-batches of an update; the recipe's, unless given.
        batches: the recipe's, unless given.
        partial: what a last window that is not full is divided by: its ``"actual"`` number of micro-batches, or the
            ``"planned"`` one.
        by_groups: take the norm over the parameters in the optimizer's order, not the model's: its last bits differ.
    """
    size = accumulate or recipe.ACCUMULATE
    data = list(recipe.loader() if batches is None else batches)
    optimizer: Any = gradstep.AdamW(gradstep.param_groups(model, weight_decay=recipe.WEIGHT_DECAY), lr=recipe.LR)
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    clipped = grouped if by_groups else list(model.parameters())
    losses = []
    for update, start in enumerate(range(0, len(data), size)):
        window = data[start : start + size]
        loss = torch.zeros(())
        for batch in window:
            part = model(**batch)["loss"] / (len(window) if partial == "actual" else size)
            part.backward()
            loss += part.detach()
        nn.utils.clip_grad_norm_(clipped, recipe.MAX_GRAD_NORM)
        for group in optimizer.param_groups:
            group["lr"] = recipe.SCHEDULE(update)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def padded(recipe: ModuleType) -> list[Batch]:
    """The recipe's blocks, each with another number of tokens that count."""
    blocks = recipe.dataset()
    return [
        {**block, "labels": torch.cat([block["labels"][:keep], torch.full_like(block["labels"][keep:], -100)])}
        for block, keep in zip(blocks, (4 + 7 * number % 29 for number in range(len(blocks))))
    ]


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models have the same weights, bit for bit."""
    first, second = list(a.parameters()), list(b.parameters())
    return len(first) == len(second) and all(torch.equal(p, q) for p, q in zip(first, second))
