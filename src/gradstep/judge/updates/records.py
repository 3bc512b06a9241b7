"""The record of one optimizer, and the optimizer steps that have begun and not ended."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, final

import torch
from torch import Tensor

from gradstep.judge.updates.history import History, UnreadableStepError


@final
@dataclass(eq=False)
class OptimizerRecord:
    """The record of one optimizer."""

    optimizer: torch.optim.Optimizer
    histories: dict[int, History] = field(default_factory=dict)  # the records of its parameters, by identity
    steps: int = 0  # how many of its steps have been recorded
    begin: int = 0  # number of its first step among all steps of all optimizers; 0 before it
    end: int = 0  # number of its last step, whether it has been recorded or not
    inner: bool = True  # whether all its steps were inside a step of another optimizer, which wraps it
    reasons: dict[int, str] = field(default_factory=dict)  # why steps of parameters could not be read, by identity

    def count_step(self, number: int) -> None:
        """Note the number of a step, counted over all optimizers."""
        self.begin, self.end = self.begin or number, number

    def stop_reading(self, p: Tensor, error: Exception) -> None:
        """Note why a parameter could not be read, and end its record."""
        readable = isinstance(error, UnreadableStepError)
        self.reasons[id(p)] = str(error) if readable else f"{type(error).__name__}: {error}"
        if id(p) in self.histories:
            self.histories[id(p)].close()

    def parameters(self) -> Iterator[tuple[int, int, Mapping[str, Any], Tensor]]:
        """Yield each parameter as (number of its group, its number in the group, group, parameter)."""
        for number, group in enumerate(self.optimizer.param_groups):
            for i, p in enumerate(group["params"]):
                yield number, i, group, p


@final
class RunningSteps:
    """The optimizer steps that have begun and not ended, of each thread."""

    def __init__(self) -> None:
        self._threads: dict[int, list[tuple[OptimizerRecord, int]]] = {}

    @property
    def _stack(self) -> list[tuple[OptimizerRecord, int]]:
        """The running steps of this thread, the outermost first, each with the identity of the frame that called it."""
        return self._threads.setdefault(threading.get_ident(), [])

    def begin(self, record: OptimizerRecord, caller: FrameType | None) -> list[OptimizerRecord]:
        """Add a step; return the records of steps that an error has ended.

        torch calls no hook after an error; such a step is known by its frame, which does not exist any more.
        """
        frames: set[int] = set()
        frame = caller.f_back if caller else None
        while frame is not None:
            frames.add(id(frame))
            frame = frame.f_back
        failed = []
        while caller is not None and self._stack and self._stack[-1][1] not in frames:
            failed.append(self._stack.pop()[0])
        self._stack.append((record, id(caller)))
        return failed

    def end(self, record: OptimizerRecord, caller: FrameType | None) -> list[OptimizerRecord] | None:
        """Remove a step; return the records of steps in it that an error ended; None if it began before the watch."""
        step = (record, id(caller))
        if step not in self._stack:
            return None
        failed = []
        while (last := self._stack.pop()) != step:
            failed.append(last[0])
        return failed

    def count(self, record: OptimizerRecord) -> int:
        """Return how many steps of one optimizer run; the step of a subclass may call that of its base class."""
        return sum(r is record for r, _ in self._stack)

    def __bool__(self) -> bool:
        return bool(self._stack)
