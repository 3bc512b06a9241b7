"""What a step did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from gradstep.optimizers.statistics import Statistics
from gradstep.rules import Rule


@final
@dataclass(frozen=True)
class StepReport:
    """What the last ``step()`` did.

    Attributes:
        stepped: False when the step was skipped and nothing was changed.
        grad_norm: the global 2-norm of the unscaled gradients, if clipping or unscaling asked for it.
        clip: the factor that clipping multiplied the gradients by; 1 when none was needed.
        reason: why the step was skipped, else empty.
        statistics: of all that was updated, if :attr:`Optimizer.watch` or an observer asked for them.
        rules: of every group, with the settings that the step used; empty if it was skipped.
    """

    stepped: bool
    grad_norm: float | None = None
    clip: float = 1.0
    reason: str = ""
    statistics: Statistics | None = None
    rules: Sequence[Rule] = ()
