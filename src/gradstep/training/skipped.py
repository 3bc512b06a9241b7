"""Updates that are skipped one after the other: when to stop, and what to say."""

from __future__ import annotations

import math
from itertools import chain

import torch
from torch import nn

from gradstep.training.outcome import UpdateOutcome

MOST_SKIPPED = 30
"""Skipped updates in a row after which training stops.

fp16 begins with a loss scale of 65,536 and halves it at each skip: after 30 it is 2⁻¹⁴, the smallest normal number of
fp16, and gradients that overflow still do not overflow because of the scale. In the other precisions 30 bad batches in
a row are no chance either.
"""


FP16_MAX = 65_504


def why_all_are_skipped(model: nn.Module, last: UpdateOutcome, precision: str) -> str:
    """The message of the error that ends a run of skipped updates.

    Args:
        model: what is trained.
        last: the last of the skipped updates.
        precision: of the forward pass.
    """
    begun = f"the last {MOST_SKIPPED} updates were all skipped, because {last.reason}"
    if precision == "fp16":
        begun += f", down to a loss scale of {last.loss_scale:.2g}"
    broken = next((name for name, value in _values(model) if not bool(value.isfinite().all())), None)
    if broken is not None:
        return (
            f"{begun}. {broken} of the model is not finite itself, so no later batch can be: go back to a checkpoint "
            "from before that, and clip (max_grad_norm=) or lower the learning rate"
        )
    half = precision == "fp16"
    remedy = f"numbers beyond {FP16_MAX:,}, the largest of fp16: take precision='bf16' or 'float32'"
    if not math.isfinite(last.loss):
        look = "look for log(0), a division by 0, or inputs and targets that are not finite"
        overflow = (
            f"no loss scale helps against an overflow in the forward pass. Look for {remedy}, or compute what grows "
            "(logits, attention scores, squares) in float32"
        )
        return f"{begun}. The loss itself is {last.loss:g}: {overflow if half else look}"
    return (
        f"{begun}. The loss is finite ({last.loss:.3g}) and its gradient is not: look for an infinite slope (sqrt, "
        f"norm or a division at 0){', or, in the backward pass, ' + remedy if half else ''}"
    )


def _values(model: nn.Module) -> chain[tuple[str, torch.Tensor]]:
    """Weights and buffers that hold numbers with a fraction."""
    every = chain(model.named_parameters(), model.named_buffers())
    return chain((name, value) for name, value in every if value.is_floating_point() or value.is_complex())
