"""Precisions of the forward pass, and loss scaling for float16 by torch's GradScaler."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, final

import torch
from torch import Tensor

Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "fp32", "bf16", "fp16"]
"""The precisions of the forward pass, with their short names."""

AUTOCAST_TYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The autocast type of the forward pass for each precision; None without autocast."""


@final
class LossScale:
    """A ``torch.amp.GradScaler`` that does not read the gradients again.

    ``GradScaler.unscale_`` reads and writes every gradient only to find out whether one is not finite. The step
    already knows this from the norm. Therefore the scaler gets a sentinel instead: an optimizer with a single
    parameter, whose gradient is infinite when the update was skipped. The scaler itself decides on growth and backoff.
    """

    def __init__(self, scaler: torch.amp.GradScaler, device: torch.device) -> None:
        self.scaler = scaler
        self._watched = torch.zeros((), dtype=torch.float32, device=device, requires_grad=True)
        self._sentinel = torch.optim.SGD([self._watched], lr=0.0)

    @property
    def value(self) -> float:
        """The factor that multiplies the loss."""
        return float(self.scaler.get_scale())

    def update(self, *, overflow: bool) -> None:
        """Let the scaler grow or back off after an update."""
        self._watched.grad = torch.full_like(self._watched, math.inf if overflow else 0.0)
        self.scaler.unscale_(self._sentinel)
        self.scaler.update()


def make_loss_scale(params: Sequence[Tensor], scaler: torch.amp.GradScaler | None) -> LossScale:
    """Make the loss scale of float16 for parameters of any shapes; without a scaler, with torch's defaults.

    Raises:
        ValueError: weights in float16, whose gradients cannot be unscaled.
    """
    check_float16_weights(params)
    device = params[0].device
    return LossScale(torch.amp.GradScaler(device.type) if scaler is None else scaler, device)


def check_float16_weights(params: Sequence[Tensor]) -> None:
    """Raise ValueError if a weight is float16: its gradients cannot be unscaled."""
    if any(p.dtype == torch.float16 for p in params):
        raise ValueError(
            "precision='float16' needs weights in float32, and the optimizer has some in float16: leave the model in "
            "float32 (autocast makes the float16 copies), or take precision='float32' or 'bfloat16'"
        )
