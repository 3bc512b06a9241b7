"""Print the loss of weights in 24 bits against float32: the lab's `text` task, 300 steps of AdamW at lr 1e-4.

The weights are bfloat16 parameters with ``rounding="24bit"``; the forward and backward pass compute in float32 with
them, so that only the rounding of the weights (and of the gradients, to bfloat16) differs. Start, batches and dropout
of a seed are the same. `precision.py` has the comparisons in which the whole model is bfloat16.

    python benchmarks/rounding_loss.py [SEED ...]
"""

from __future__ import annotations

import statistics
import sys

import torch
from precision import held_out_loss
from torch import nn

import gradstep
from gradstep.lab.tasks.text import Text

SEEDS, STEPS, LR = (1, 2, 3, 4, 5, 6), 300, 1e-4


def train(seed: int, *, rounded: bool) -> float:
    """Return the held-out loss after the steps, with weights in 24 bits if they are rounded, else in float32."""
    task = Text()
    model = task.model(seed)
    computed = dict(model.named_parameters())
    stored = {name: nn.Parameter(p.detach().bfloat16()) for name, p in computed.items()} if rounded else computed
    optimizer = gradstep.AdamW(stored.items(), lr=LR, rounding="24bit" if rounded else "nearest", seed=seed)
    torch.manual_seed(seed)  # dropout
    for step, batch in enumerate(task.batches(seed), 1):
        _copy(stored, computed)
        task.loss(model, batch).backward()
        if rounded:
            for name, p in stored.items():
                p.grad = computed[name].grad.bfloat16()  # type: ignore[union-attr]  # every parameter has a gradient
        optimizer.step()
        model.zero_grad()
        if step == STEPS:
            break
    _copy(stored, computed)
    return held_out_loss(model)


@torch.no_grad()
def _copy(source: dict[str, nn.Parameter], target: dict[str, nn.Parameter]) -> None:
    for name, p in source.items():
        target[name].copy_(p)


if __name__ == "__main__":
    torch.set_num_threads(1)
    shares = []
    for seed in [int(word) for word in sys.argv[1:]] or SEEDS:
        plain, rounded = train(seed, rounded=False), train(seed, rounded=True)
        shares.append(rounded / plain - 1)
        print(f"seed {seed}: float32 {plain:.4f}, 24 bits {rounded:.4f}, {shares[-1]:+.3%}", flush=True)
    print(f"mean {statistics.mean(shares):+.3%}, worst {max(shares):+.3%}")
