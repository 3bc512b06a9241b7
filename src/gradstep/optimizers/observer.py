"""Who is told of every step of an optimizer."""

from __future__ import annotations

from abc import ABC, abstractmethod

from gradstep.optimizers.report import StepReport
from gradstep.optimizers.who import Detail


class Observer(ABC):
    """Is told before and after every step, inside torch's hooks, which are for changing a step and cost more."""

    @abstractmethod
    def before(self, *, closure: bool) -> Detail | None:
        """A step begins: the gradients are there, unless a closure is to compute them.

        Returns:
            Whose statistics it wants of this step, as in :attr:`Optimizer.watch`.
        """

    @abstractmethod
    def after(self, report: StepReport) -> None:
        """It has ended; not called if it raised."""
