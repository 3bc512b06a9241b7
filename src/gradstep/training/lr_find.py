"""The learning-rate finder: sweeps on a model that is afterwards, bit for bit, what it was before."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

import numpy as np

from gradstep.training.lr_found import LrFound
from gradstep.training.lr_sweep import LossFn, LrSweep, sweep
from gradstep.training.restored import Snapshot, seed_random
from gradstep.training.rewound import Data, Rewound
from gradstep.training.stepper import Stepper


def lr_find(
    stepper: Stepper,
    loss_fn: LossFn,
    data: Data,
    *,
    start: float = 1e-7,
    end: float = 10.0,
    updates: int = 100,
    sweeps: int = 1,
    seed: int = 0,
    on_update: Callable[[int, int, float, float], object] | None = None,
) -> LrFound:
    """Try learning rates from low to high in a short run, and suggest one.

    Update i of a sweep is made with the learning rate start · (end / start)^(i / (updates − 1)), and the loss after
    it is noted. The updates are those of the stepper: accumulated, clipped and in its precision, without its schedule.
    All parameter groups are multiplied by the same factor, so that layer-wise learning rates keep their ratios; what
    is reported is the learning rate of the group with the highest. A sweep ends early when a loss or gradient is not
    finite, or, after 20 updates, when two of three losses lie above the lowest by 1.5 times what the smoothed loss had
    fallen, and by 18 times its noise (not by a multiple of the best loss, which depends on where zero is and stops
    healthy runs near it).

    Afterwards, also after an exception or Ctrl-C, everything is bit for bit what it was: weights, buffers, gradients,
    ``requires_grad`` and ``training`` flags, the optimizer's groups and state, schedule, loss scale, the global random
    numbers of torch, NumPy and Python, and the place of the data. What a module keeps as a plain attribute, outside
    parameters and buffers, is not seen. For this, weights, buffers and optimizer state are held twice meanwhile
    (``found.snapshot_bytes``): for AdamW in float32, 4 bytes a parameter before the first update and 12 later; with
    gradstep's optimizers, a third copy of the state for the moment of putting it back.

    Args:
        stepper: of the model and the optimizer. Not in the middle of a window. The model is used in the mode it is in;
            call ``model.train()`` before.
        loss_fn: ``loss_fn(model, batch)`` gives the loss, one number, the mean over the batch's items; or
            ``(loss, weight)`` with how many items that is, as :meth:`Stepper.backward` takes them.
        data: micro-batches, ``accumulate`` of them per update; begun anew when they end. A ``DataLoader``; a list or
            another thing that can be iterated again; a function that makes batches from a seed; or data with
            ``state_dict()`` and ``load_state_dict()``. A mere iterator cannot be put back, and is refused.
        start: the lowest learning rate, > 0.
        end: the highest, > start.
        updates: points in between, ≥ 10.
        sweeps: how many, ≥ 1. Each starts from the same weights and state, with random numbers of its own, and with
            its own order of the data, if that is drawn from them or from its seed. The spread of what they suggest is
            the range.
        seed: of the first sweep; the next have the numbers after it.
        on_update: called after each update with the number of the sweep, the number of the update, its learning rate
            and the loss after it.

    Returns:
        The curves, the suggestions, and ``found.lr``, or a reason why there is none.

    Raises:
        ValueError: an argument out of its bounds; no learning rate above 0; no data.
        TypeError: no stepper, or data that cannot be put back.
        RuntimeError: the stepper is in the middle of a window.

    Example:
        >>> import torch, gradstep
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(256, 8)
        >>> data = torch.utils.data.TensorDataset(x, x @ torch.randn(8, 1))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
        >>> model = torch.nn.Linear(8, 1)
        >>> stepper = gradstep.Stepper(model, gradstep.AdamW(model.parameters()))
        >>> def loss_fn(model, batch):
        ...     return torch.nn.functional.mse_loss(model(batch[0]), batch[1])
        >>> found = gradstep.lr_find(stepper, loss_fn, loader, sweeps=3)
        >>> 0.01 < found.recommended.low <= found.lr <= found.recommended.high < 1
        True

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3 (there with a
    linear growth); the geometric sweep and the steepest slope as Gugger describes them, and fastai's "valley".
    """
    if not isinstance(stepper, Stepper):
        raise TypeError(f"lr_find takes a gradstep.Stepper(model, optimizer, ...), not {type(stepper).__name__}")
    if not (0 < start < end and math.isfinite(end)):
        raise ValueError(f"Invalid start and end: {start} and {end} (must be finite, and 0 < start < end)")
    if updates < 10 or updates != int(updates):
        raise ValueError(f"Invalid updates: {updates} (must be a whole number of at least 10)")
    if sweeps < 1 or sweeps != int(sweeps):
        raise ValueError(f"Invalid sweeps: {sweeps} (must be a whole number of at least 1)")
    if stepper.open:
        raise RuntimeError(
            "the stepper is in the middle of a window: call stepper.finish() to update with it, or stepper.discard() "
            "to throw it away"
        )
    source, lrs = Rewound(data), np.geomspace(start, end, int(updates))
    found: list[LrSweep] = []
    snapshot = Snapshot(stepper.model, *stepper.optimizers)
    with ExitStack() as afterwards:
        afterwards.callback(snapshot.close)  # last, since putting back the data may draw random numbers
        afterwards.callback(source.restore)
        for number in range(int(sweeps)):
            source.restore()
            snapshot.restore()
            seed_random(seed + number)
            tell = partial(on_update, number) if on_update is not None else _say_nothing
            with closing(source.batches(seed + number)) as batches:
                found.append(sweep(stepper, loss_fn, batches, lrs, seed + number, tell))
    return LrFound(tuple(found), snapshot.nbytes)


def _say_nothing(update: int, lr: float, loss: float) -> None:
    """For those who do not ask."""
