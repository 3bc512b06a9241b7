"""The micro-batches of one update, and the permitted order of calls on them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import NoReturn, final

import torch
from torch import Tensor


class _Forward(Enum):
    NONE = 0
    RUNNING = 1
    DONE = 2


@final
class Window:
    """The losses and weights accumulated so far; checks the order of calls before anything changes.

    Args:
        size: micro-batches in a full window.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.clear()

    def clear(self) -> None:
        """Start a new window."""
        self._losses: list[Tensor] = []
        self._weights: list[float] = []
        self._forward = _Forward.NONE
        self._broken = False
        self.ending = False  # whether the present micro-batch is the window's last
        self.norms: Tensor | None = None  # gradient norms after the last micro-batch, shape (number of parameters,)

    def __len__(self) -> int:
        return len(self._losses)

    @property
    def open(self) -> bool:
        """Whether the window has gradients that no update has used."""
        return bool(self._losses) or self._broken

    @property
    def weight(self) -> float:
        """The total weight."""
        return math.fsum(self._weights)

    @property
    def weighted_loss(self) -> float:
        """The sum of weight times loss."""
        return math.fsum(w * float(loss) for w, loss in zip(self._weights, self._losses, strict=True))

    def add(self, loss: Tensor, weight: float) -> None:
        """Add a micro-batch after its backward pass; the loss is a tensor of one element."""
        self._losses.append(loss.detach())
        self._weights.append(weight)
        self._forward = _Forward.NONE

    @contextmanager
    def forward(self, *, last: bool) -> Iterator[None]:
        """Return the context to compute a micro-batch's loss in; under ``no_grad`` it has no effect on the window."""
        self._check_whole()
        if self._forward is _Forward.RUNNING:
            raise RuntimeError("stepper.autocast() inside stepper.autocast(): one block per micro-batch")
        self._forward, self.ending = _Forward.RUNNING, last or len(self) + 1 == self.size
        finished = False
        try:
            yield
            finished = True
        finally:
            self._forward = _Forward.DONE if finished and torch.is_grad_enabled() else _Forward.NONE

    @contextmanager
    def changing_gradients(self) -> Iterator[None]:
        """Return a context that marks the gradients as incomplete if its block fails."""
        self._broken = True
        yield
        self._broken = False

    # -- checks of the order -------------------------------------------------------------------------------------

    def check_backward(self, loss: Tensor, weight: float | Tensor) -> float:
        """Return the weight as a number; raise if a backward pass may not come now, or loss or weight are invalid."""
        self._check_whole()
        if self._forward is _Forward.RUNNING:
            raise RuntimeError("stepper.backward() inside stepper.autocast(): leave the block first, then call it")
        if self._forward is _Forward.NONE:
            raise RuntimeError(
                "stepper.backward() without a forward pass: compute each loss inside `with stepper.autocast():`, once "
                "per micro-batch"
            )
        if loss.numel() != 1:
            raise ValueError(f"the loss must be one number, the mean over the items; its shape is {tuple(loss.shape)}")
        if not loss.requires_grad:
            raise ValueError("the loss requires no gradient: it does not depend on parameters, or was detached")
        number = float(weight)
        if not (number > 0 and math.isfinite(number)):
            raise ValueError(
                f"Invalid weight: {number} (must be finite and greater than 0; leave out a micro-batch without items)"
            )
        return number

    def refuse_cleared(self, names: Sequence[str]) -> NoReturn:
        """Raise the error for gradients that were cleared since the last micro-batch."""
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise RuntimeError(
            f"the gradients of {names[0]}{more} were cleared inside the window, after micro-batch {len(self)} of "
            f"{self.size}: the stepper clears gradients at the window's end, so leave out optimizer.zero_grad() and "
            "model.zero_grad(); to go on, call stepper.discard() and begin the window anew"
        )

    def check_finish(self) -> None:
        """Raise RuntimeError if a loss was computed and not used, or the gradients are incomplete."""
        self._check_whole()
        if self._forward is not _Forward.NONE:
            raise RuntimeError(
                "a loss was computed and not used: call stepper.backward(loss) before stepper.finish(), or compute "
                "what is not for training inside `with torch.no_grad(), stepper.autocast():`"
            )

    def check_closed(self, verb: str) -> None:
        """Raise RuntimeError if the window has gradients that no update has used."""
        if self.open:
            raise RuntimeError(
                f"cannot {verb} in the middle of a window ({len(self)} of {self.size} micro-batches): call "
                "stepper.finish() to update with it, or stepper.discard() to throw it away"
            )

    def _check_whole(self) -> None:
        if self._broken:
            raise RuntimeError(
                "an error interrupted the window and its gradients are incomplete: call stepper.discard() to clear "
                "them, then begin the window again"
            )
