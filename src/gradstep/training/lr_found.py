"""What the learning-rate finder found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from gradstep.training.lr_suggest import RECOMMENDED, WAYS, LrSuggestion, refusal, suggestions
from gradstep.training.lr_sweep import LrSweep

if TYPE_CHECKING:
    from gradstep.report import LineChart


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
        from gradstep.training.lr_picture import plot

        return plot(self)

    def __str__(self) -> str:
        reason, found = self.refusal, self.suggestions
        lines = [f"no learning rate is recommended: {reason}" if reason else f"learning rate {self.recommended}"]
        width = max(map(len, WAYS))
        for name in WAYS:
            mark = "  recommended" if not reason and name == RECOMMENDED else ""
            lines.append(f"  {name:{width}}  {found.get(name, '–')}{mark}")
        for sweep in self.sweeps:
            reach = f"{len(sweep.lrs)} updates" + (f" up to lr {sweep.lrs[-1]:.2g}" if len(sweep.lrs) else "")
            lines.append(f"  sweep {sweep.seed}: {reach}{': ' if sweep.stopped else ''}{sweep.stopped}")
        return "\n".join(lines)
