"""The learning-rate finder: sweeps that leave the model unchanged bit for bit, their suggestions, and their plot."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

import numpy as np

from gradstep.training.lr_sweep import (
    RECOMMENDED,
    SUGGESTION_METHODS,
    LossFn,
    LrSuggestion,
    LrSweep,
    refusal,
    suggestions,
    sweep,
)
from gradstep.training.random_state import seed_random
from gradstep.training.snapshot import Data, Replay, Snapshot
from gradstep.training.stepper import Stepper

if TYPE_CHECKING:
    from gradstep.report import LineChart


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

    Update i of a sweep uses the learning rate start · (end / start)^(i / (updates − 1)), and the loss after it is
    recorded. The updates are the stepper's: accumulated, clipped and in its precision, without its schedule. All
    parameter groups are multiplied by the same factor, so that layer-wise learning rates keep their ratios; the
    reported learning rate is that of the group with the highest. A sweep ends early when a loss or gradient is not
    finite, or, after 20 updates, when two of three losses lie above the lowest by 1.5 times the fall of the smoothed
    loss, and by 18 times its noise (not by a multiple of the best loss, which would stop healthy runs with a loss near
    zero).

    Afterwards, also after an exception or Ctrl-C, everything is bit for bit what it was: weights, buffers, gradients,
    ``requires_grad`` and ``training`` flags, the optimizer's groups and state, schedule, loss scale, the global random
    generators of torch, NumPy and Python, and the position in the data. Plain attributes of a module, outside
    parameters and buffers, are not restored. During the search a second copy of weights, buffers and optimizer state
    is in memory (``found.snapshot_bytes``): for AdamW in float32, 4 bytes a parameter before the first update and 12
    later; gradstep's optimizers briefly need a third copy of the state while it is restored.

    Args:
        stepper: the stepper of the model and the optimizer, not in the middle of a window. The model's mode is not
            changed; call ``model.train()`` before.
        loss_fn: ``loss_fn(model, batch)`` returns the loss, one number, the mean over the batch's items; or
            ``(loss, weight)`` with the number of items, as :meth:`Stepper.backward` takes them.
        data: micro-batches, ``accumulate`` of them per update; started again at their end. A ``DataLoader``; a list or
            another object that can be iterated again; a function that makes batches from a seed; or an object with
            ``state_dict()`` and ``load_state_dict()``. A plain iterator is refused, since its position cannot be
            restored.
        start: the lowest learning rate, > 0.
        end: the highest, > start.
        updates: number of learning rates, ≥ 10.
        sweeps: number of sweeps, ≥ 1. Each starts from the same weights and state, with random numbers of its own, and
            with its own order of the data, if that depends on them or on its seed. The spread of their suggestions is
            the reported range.
        seed: the seed of the first sweep; the later sweeps use the numbers after it.
        on_update: called after each update with the number of the sweep, the number of the update, its learning rate
            and the loss after it.

    Returns:
        The curves, the suggestions, and ``found.lr``, or the reason why there is none.

    Raises:
        ValueError: an argument out of its bounds; no learning rate above 0; no data.
        TypeError: not a stepper, or data that cannot be restored.
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
    source, lrs = Replay(data), np.geomspace(start, end, int(updates))
    curves: list[LrSweep] = []
    snapshot = Snapshot(stepper.model, *stepper.optimizers)
    with ExitStack() as cleanup:
        cleanup.callback(snapshot.close)  # runs last, since restoring the data may draw random numbers
        cleanup.callback(source.restore)
        for number in range(int(sweeps)):
            source.restore()
            snapshot.restore()
            seed_random(seed + number)
            report = partial(on_update, number) if on_update is not None else lambda *_: None
            with closing(source.batches(seed + number)) as batches:
                curves.append(sweep(stepper, loss_fn, batches, lrs, seed + number, report))
    return LrFound(tuple(curves), snapshot.nbytes)


_COLOURS = {
    "steepest": "vermilion",
    "valley": "green",
    "a tenth of the minimum": "wine",
    "a tenth of the explosion": "ink",
}


@final
@dataclass(frozen=True)
class LrFound:
    """The result of :func:`gradstep.lr_find`: the sweeps and their suggestions; ``print`` or :meth:`plot` it.

    Attributes:
        sweeps: every sweep with its curve.
        snapshot_bytes: bytes of the copies of weights, buffers and optimizer state.

    >>> import gradstep, numpy as np
    >>> lrs = np.geomspace(1e-5, 1.0, 100)
    >>> found = LrFound((gradstep.LrSweep(0, lrs, 1 - 0.5 / (1 + (1e-2 / lrs) ** 2)),), snapshot_bytes=0)
    >>> found.refusal, f"{found.lr:.4f}"
    ('', '0.0095')
    """

    sweeps: tuple[LrSweep, ...]
    snapshot_bytes: int

    @property
    def suggestions(self) -> Mapping[str, LrSuggestion]:
        """The suggestions by name, of "steepest", "valley", "a tenth of the minimum" and "a tenth of the explosion"."""
        return suggestions(self.sweeps)

    @property
    def refusal(self) -> str:
        """Why nothing is recommended; empty if something is."""
        return refusal(self.sweeps)

    @property
    def recommended(self) -> LrSuggestion:
        """The suggestion that trained best in gradstep's benchmark: the steepest.

        Raises:
            ValueError: nothing is recommended; the message says why.
        """
        reason = self.refusal
        if reason:
            raise ValueError(f"no learning rate is recommended: {reason}")
        return self.suggestions[RECOMMENDED]

    @property
    def lr(self) -> float:
        """The recommended learning rate, of the group with the highest.

        Raises:
            ValueError: nothing is recommended; the message says why.
        """
        return self.recommended.lr

    def plot(self) -> LineChart:
        """Draw every sweep, raw and smoothed, and below them each suggestion with its range.

        Its ``save`` writes an SVG file or an HTML page.
        """
        from gradstep.report import Line, LineChart
        from gradstep.report.scales import Scale

        sweeps = [sweep for sweep in self.sweeps if len(sweep.lrs)]
        lines = [Line("loss", s.lrs.tolist(), s.losses.tolist(), "pale", thickness=1.0) for s in sweeps]
        lines += [Line("smoothed", s.lrs.tolist(), s.smoothed.tolist(), "blue") for s in sweeps]
        low = min((float(sweep.losses.min()) for sweep in sweeps), default=0.0)
        high = max((float(sweep.losses[: sweep.lowest + 1].max()) for sweep in sweeps), default=1.0)
        height = high - low or 1.0
        for number, (name, suggestion) in enumerate(self.suggestions.items(), start=1):
            level = low - 0.06 * number * height  # below all curves
            label, colour = f"{name}: {suggestion}", _COLOURS[name]
            thickness = 4.0 if name == RECOMMENDED and not self.refusal else 2.0
            lines.append(Line(label, [suggestion.low, suggestion.high], [level, level], colour, thickness=thickness))
            lines.append(Line(label, [suggestion.lr], [level], colour, points=True))
        return LineChart(
            self.refusal or f"Learning rate {self.recommended}",
            "learning rate",
            "loss after the update",
            lines,
            x_log=True,
            y=Scale(low - 0.3 * height, high + 0.25 * height),  # cuts off an explosion
            marks=[] if self.refusal else [(self.recommended.lr, "")],
            tall=330.0,
            beside=False,
        )

    def __str__(self) -> str:
        reason, by_name = self.refusal, self.suggestions
        lines = [f"no learning rate is recommended: {reason}" if reason else f"learning rate {self.recommended}"]
        width = max(map(len, SUGGESTION_METHODS))
        for name in SUGGESTION_METHODS:
            mark = "  recommended" if not reason and name == RECOMMENDED else ""
            lines.append(f"  {name:{width}}  {by_name.get(name, '–')}{mark}")
        for one in self.sweeps:
            reach = f"{len(one.lrs)} updates" + (f" up to lr {one.lrs[-1]:.2g}" if len(one.lrs) else "")
            lines.append(f"  sweep {one.seed}: {reach}{': ' if one.stopped else ''}{one.stopped}")
        return "\n".join(lines)
