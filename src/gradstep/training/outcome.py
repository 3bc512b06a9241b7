"""What became of one update window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class UpdateOutcome:
    """What :class:`gradstep.Stepper` did at the end of a window.

    Attributes:
        stepped: False when the update was skipped: weights, optimizer state and schedule are as they were.
        update: the number of this update, 0 for the first; a skipped update's number is tried again.
        micro_batches: how many the window held.
        weight: their total weight; under DDP, the mean over the processes.
        loss: the weighted mean of their losses; under DDP, of all processes.
        lr: the learning rate of the first group, as this update used it.
        grad_norm: the global 2-norm of the gradient of ``loss``, before clipping, without any scale.
        clip: the factor that clipping multiplied the gradients by; 1 when none was needed.
        loss_scale: what fp16 multiplied the loss by in this window; 1 in other precisions.
        reason: why the update was skipped, else empty.
        parameter: the first parameter, in the model's order, whose gradient was not finite; None if it stepped.

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
        clipped = f", clipped to {self.grad_norm * self.clip:.4g}" if self.clip < 1 else ""
        return (
            f"update {self.update}: loss {self.loss:.4g}, gradient norm {self.grad_norm:.4g}{clipped}, lr {self.lr:.4g}"
        )
