"""Precisions of the forward pass, and loss scaling for fp16, decided by torch's GradScaler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, final

import torch
from torch import Tensor

Precision: TypeAlias = Literal["float32", "bf16", "fp16"]

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What the forward pass computes in, by name."""


@final
class LossScale:
    """A ``torch.amp.GradScaler`` that is told of overflow instead of looking for it.

    ``GradScaler.unscale_`` reads and writes every gradient once more, only to learn whether one is not finite. The
    step knows that from the norm. So the scaler is shown a sentinel in their place: an optimizer of a single number,
    whose gradient is infinite when the update was skipped. Growth and backoff remain the scaler's own.

    Args:
        scaler: torch's.
        device: where the loss is.
    """

    def __init__(self, scaler: torch.amp.GradScaler, device: torch.device) -> None:
        self.scaler = scaler
        self._watched = torch.zeros((), dtype=torch.float32, device=device, requires_grad=True)
        self._sentinel = torch.optim.SGD([self._watched], lr=0.0)

    @property
    def value(self) -> float:
        """What the loss is multiplied by."""
        return float(self.scaler.get_scale())

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call ``backward()`` on."""
        return self.scaler.scale(loss)

    def settle(self, *, overflow: bool) -> None:
        """Let the scaler grow or back off after an update."""
        self._watched.grad = torch.full_like(self._watched, math.inf if overflow else 0.0)
        self.scaler.unscale_(self._sentinel)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scaler's."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the scaler's."""
        self.scaler.load_state_dict(state)


def fp16_scale(params: Sequence[Tensor], scaler: torch.amp.GradScaler | None) -> LossScale:
    """The loss scale of fp16 for these parameters, by a scaler of one's own or torch's with its defaults.

    Raises:
        ValueError: weights in float16, whose gradients cannot be unscaled.
    """
    check_fp16_weights(params)
    device = params[0].device
    return LossScale(torch.amp.GradScaler(device.type) if scaler is None else scaler, device)


def check_fp16_weights(params: Sequence[Tensor]) -> None:
    """Refuse weights in float16, whose gradients cannot be unscaled.

    Raises:
        ValueError: there are some.
    """
    if any(p.dtype == torch.float16 for p in params):
        raise ValueError(
            "precision='fp16' needs weights in float32, and the optimizer has some in float16: leave the model in "
            "float32 (autocast makes the fp16 copies), or take precision='float32' or 'bf16'"
        )
