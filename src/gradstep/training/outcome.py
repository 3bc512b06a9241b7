"""The outcome of one update, and the error message after many skipped updates in a row."""

import math
from dataclasses import dataclass
from itertools import chain
from typing import final

import torch
from torch import nn

from gradstep.optimizers.memory import local_tensor


@final
@dataclass(frozen=True)
class UpdateOutcome:
    """The outcome of one update by :class:`gradstep.Stepper`: the window of micro-batches, and the optimizers' step.

    ``stepped``, ``grad_norm``, ``clip`` and ``reason`` are those of a :class:`gradstep.StepReport`, here of all the
    stepper's optimizers together; the other attributes are the window's. A gradstep optimizer's own report, with its
    statistics and settings, is in ``optimizer.last_step``.

    Attributes:
        stepped: False when the update was skipped: weights, optimizer state and schedule are unchanged.
        update: the number of this update, 0 for the first; after a skipped update the same number is tried again.
        micro_batches: number of micro-batches in the window.
        weight: their total weight; under DDP, the mean over the processes.
        loss: the weighted mean of their losses; under DDP, of all processes.
        lr: the learning rate of the first group in this update.
        grad_norm: the global 2-norm of the gradient of ``loss``, before clipping, without any scale.
        clip: the factor that clipping multiplied the gradients by; 1 without clipping.
        loss_scale: the loss scale of float16 in this window; 1 in other precisions.
        reason: why the update was skipped, else empty; with released gradients, also why a parameter kept its weights.
        parameter: the first parameter, in the model's order, whose gradient was not finite; None if all were.

    >>> print(UpdateOutcome(True, update=7, micro_batches=4, weight=4.0, loss=0.5, lr=1e-3, grad_norm=2.0, clip=0.5))
    update 7: loss 0.5, gradient norm 2, clipped to 1, lr 0.001
    """

    stepped: bool
    update: int
    micro_batches: int
    weight: float
    loss: float
    lr: float
    grad_norm: float
    clip: float = 1.0
    loss_scale: float = 1.0
    reason: str = ""
    parameter: str | None = None

    def __str__(self) -> str:
        if not self.stepped:
            return f"update {self.update} skipped: {self.reason}"
        kept = f"; {self.reason}, so it kept its weights" if self.reason else ""
        clipped = f", clipped to {self.grad_norm * self.clip:.4g}" if self.clip < 1 else ""
        return (
            f"update {self.update}: loss {self.loss:.4g}, gradient norm {self.grad_norm:.4g}{clipped}, lr {self.lr:.4g}"
            f"{kept}"
        )


MOST_SKIPPED = 30
"""Number of skipped updates in a row after which training stops.

float16 begins with a loss scale of 65,536 and halves it at each skip: after 30 it is 2⁻¹⁴, float16's smallest normal
number, and the scale can no longer be the cause of an overflow. In other precisions 30 bad batches in a row are no
accident either.
"""


FLOAT16_MAX = 65_504


def explain_skipped_updates(model: nn.Module, last: UpdateOutcome, precision: str) -> str:
    """Return the error message after ``MOST_SKIPPED`` skipped updates in a row, with the outcome of the last one."""
    symptom = f"the last {MOST_SKIPPED} updates were all skipped, because {last.reason}"
    if precision == "float16":
        symptom += f", down to a loss scale of {last.loss_scale:.2g}"
    nonfinite = next(
        (name for name, value in _float_tensors(model) if not bool(local_tensor(value).isfinite().all())), None
    )
    if nonfinite is not None:
        return (
            f"{symptom}. {nonfinite} of the model is not finite itself, so no later batch can be: go back to a "
            "checkpoint from before that, and clip (max_grad_norm=) or lower the learning rate"
        )
    half = precision == "float16"
    remedy = f"numbers beyond {FLOAT16_MAX:,}, the largest of float16: take precision='bfloat16' or 'float32'"
    if not math.isfinite(last.loss):
        look = "look for log(0), a division by 0, or inputs and targets that are not finite"
        overflow = (
            f"no loss scale helps against an overflow in the forward pass. Look for {remedy}, or compute what grows "
            "(logits, attention scores, squares) in float32"
        )
        return f"{symptom}. The loss itself is {last.loss:g}: {overflow if half else look}"
    return (
        f"{symptom}. The loss is finite ({last.loss:.3g}) and its gradient is not: look for an infinite slope (sqrt, "
        f"norm or a division at 0){', or, in the backward pass, ' + remedy if half else ''}"
    )


def _float_tensors(model: nn.Module) -> chain[tuple[str, torch.Tensor]]:
    """Return the floating-point and complex parameters and buffers, with their names."""
    every = chain(model.named_parameters(), model.named_buffers())
    return chain((name, value) for name, value in every if value.is_floating_point() or value.is_complex())
