"""The learning-rate finder: sweeps that leave the model bit for bit as it was, what they suggest, and their picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

import numpy as np

from gradstep.training.lr_suggest import RECOMMENDED, WAYS, LrSuggestion, refusal, suggestions
from gradstep.training.lr_sweep import LossFn, LrSweep, sweep
from gradstep.training.random_state import seed_random
from gradstep.training.replay import Data, Replay
from gradstep.training.snapshot import Snapshot
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
    source, lrs = Replay(data), np.geomspace(start, end, int(updates))
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


@final
@dataclass(frozen=True)
class LrFound:
    """The sweeps of :func:`gradstep.lr_find`, and what they suggest. ``print`` shows it, :meth:`plot` draws it.

    Attributes:
        sweeps: every sweep with its curve.
        snapshot_bytes: what it took to keep the weights, buffers and state of the optimizer, in bytes.
    """

    sweeps: tuple[LrSweep, ...]
    snapshot_bytes: int

    @property
    def suggestions(self) -> Mapping[str, LrSuggestion]:
        """By name: "steepest", "valley", "a tenth of the minimum", "a tenth of the explosion", where there is one."""
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
        """Every curve, the suggestions, and the range of the recommended one, as a picture; its ``save`` writes an SVG
        file or an HTML page.
        """
        return _plot(self)

    def __str__(self) -> str:
        reason, found = self.refusal, self.suggestions
        lines = [f"no learning rate is recommended: {reason}" if reason else f"learning rate {self.recommended}"]
        width = max(map(len, WAYS))
        for name in WAYS:
            mark = "  recommended" if not reason and name == RECOMMENDED else ""
            lines.append(f"  {name:{width}}  {found.get(name, '–')}{mark}")
        for one in self.sweeps:
            reach = f"{len(one.lrs)} updates" + (f" up to lr {one.lrs[-1]:.2g}" if len(one.lrs) else "")
            lines.append(f"  sweep {one.seed}: {reach}{': ' if one.stopped else ''}{one.stopped}")
        return "\n".join(lines)


_COLOURS = {
    "steepest": "vermilion",
    "valley": "green",
    "a tenth of the minimum": "wine",
    "a tenth of the explosion": "ink",
}


def _plot(found: LrFound) -> LineChart:
    """Draw every sweep, raw and smoothed, and below them each suggestion with its spread."""
    from gradstep.report import Line, LineChart
    from gradstep.report.scales import Scale

    drawn = [sweep for sweep in found.sweeps if len(sweep.lrs)]
    lines = [Line("loss", s.lrs.tolist(), s.losses.tolist(), "pale", thickness=1.0) for s in drawn]
    lines += [Line("smoothed", s.lrs.tolist(), s.smoothed.tolist(), "blue") for s in drawn]
    low = min((float(sweep.losses.min()) for sweep in drawn), default=0.0)
    high = max((float(sweep.losses[: sweep.lowest + 1].max()) for sweep in drawn), default=1.0)
    height = high - low or 1.0
    for place, (name, suggestion) in enumerate(found.suggestions.items(), start=1):
        level = low - 0.06 * place * height  # below all curves
        label, colour = f"{name}: {suggestion}", _COLOURS[name]
        thick = 4.0 if name == RECOMMENDED and not found.refusal else 2.0
        lines.append(Line(label, [suggestion.low, suggestion.high], [level, level], colour, thickness=thick))
        lines.append(Line(label, [suggestion.lr], [level], colour, points=True))
    return LineChart(
        found.refusal or f"Learning rate {found.recommended}",
        "learning rate",
        "loss after the update",
        lines,
        x_log=True,
        y=Scale(low - 0.3 * height, high + 0.25 * height),  # an explosion goes out of the picture
        marks=[] if found.refusal else [(found.recommended.lr, "")],
        tall=330.0,
        beside=False,
    )
