"""Measure the overhead of a Monitor: AdamW's fused step with and without it, with the record written to disk.

One optimizer runs without a monitor, with a monitor of global norms, and with a monitor of the norms of every
parameter, so that all use the same memory. They take turns update by update, each time in another order, so that a busy
minute of the machine slows all of them. An update is ``step()`` and ``monitor.log(loss=...)``. A monitor writes the
records of a second at once, so a repetition is sixty updates of each and then ``monitor.flush()``; its time is the sum
divided by sixty. The overhead is the median over the repetitions of the time with a monitor over the time without.
torch's fused AdamW is measured in the same way; there the monitor uses torch operations around the step.

    python benchmarks/monitor.py [--repeat 8] [--save]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from turns import WORKS, main, take_turns

import gradstep
from gradstep.lab.bench import settle
from gradstep.monitor import JsonLines

GOALS = {"global norms": 0.03, "norms of every parameter": 0.15}
PLAIN = "without"
UPDATES, COLD = 60, 3
"""Updates of each contender in a repetition, and before the first one: one of these compiles, one writes the header."""

RIVAL_REPEAT, RIVAL_UPDATES = 1, 2
"""Repetitions and updates for torch: its recorded updates take a second, and its overhead needs no decimals."""


class Registry(torch.optim.Optimizer):
    """An optimizer that remembers what was registered at its steps, so that contenders can take turns.

    Attributes:
        registered: the methods that register, each with the argument of its call.
    """

    registered: list[tuple[Callable[[Any], Any], Any]]

    def register_observer(self, observer: Any) -> Any:
        return self._register(super().register_observer, observer)  # type: ignore[misc]

    def register_step_pre_hook(self, hook: Any) -> Any:
        return self._register(super().register_step_pre_hook, hook)

    def register_step_post_hook(self, hook: Any) -> Any:
        return self._register(super().register_step_post_hook, hook)

    def _register(self, method: Callable[[Any], Any], argument: Any) -> Any:
        self.registered.append((method, argument))
        handle = method(argument)
        handle.remove()  # a contender registers it for each of its turns
        return handle


class Fused(Registry, gradstep.AdamW):
    """gradstep's AdamW with a registry."""


class TorchFused(Registry, torch.optim.AdamW):
    """torch's AdamW with a registry."""


KINDS: dict[str, Callable[[Sequence[Tensor]], Registry]] = {
    "gradstep": lambda params: Fused(params, lr=1e-5),
    "torch fused": lambda params: TorchFused(params, lr=1e-5, fused=True),
}


@final
class Contender:
    """Updates with or without a monitor, on an optimizer that all contenders share."""

    def __init__(self, optimizer: Registry, monitor: Callable[[], gradstep.Monitor] | None) -> None:
        self.optimizer = optimizer
        optimizer.registered = []
        self.monitor = None if monitor is None else monitor()
        self.registered = optimizer.registered

    def attach(self) -> list[Any]:
        """Register this contender's observer or hooks, and return the handles that remove them."""
        return [method(argument) for method, argument in self.registered]

    def update(self) -> float:
        """Make one update and return its seconds."""
        handles = self.attach()
        begin = time.perf_counter()
        self.optimizer.step()
        if self.monitor is not None:
            self.monitor.log(loss=1.0)
        seconds = time.perf_counter() - begin
        for handle in handles:
            handle.remove()
        return seconds

    def flush(self) -> float:
        """Write the remaining records and return the seconds."""
        begin = time.perf_counter()
        if self.monitor is not None:
            self.monitor.flush()
        return time.perf_counter() - begin


def measure(
    make: Callable[[Sequence[Tensor]], Registry], shapes: list[tuple[int, ...]], repeat: int, updates: int
) -> dict[str, list[float]]:
    """Return the seconds of an update for every contender and repetition."""
    torch.manual_seed(0)
    params = [torch.randn(shape).requires_grad_() for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = make(params)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def monitor(name: str) -> gradstep.Monitor:
            single = name == "norms of every parameter"
            sink = JsonLines(Path(folder) / name)
            return stack.enter_context(gradstep.Monitor(optimizer, per_parameter=single, sinks=[sink]))

        contenders = {PLAIN: Contender(optimizer, None)}
        contenders |= {name: Contender(optimizer, partial(monitor, name)) for name in GOALS}

        def repetition(updates: int) -> dict[str, float]:
            seconds = take_turns({name: contender.update for name, contender in contenders.items()}, updates)
            return {name: (sum(seconds[name]) + each.flush()) / updates for name, each in contenders.items()}

        for contender in contenders.values():
            settle(contender.update)
        repetition(COLD)
        repetitions = [repetition(updates) for _ in range(repeat)]
    return {name: [seconds[name] for seconds in repetitions] for name in contenders}


def overhead(seconds: dict[str, list[float]], name: str) -> float:
    """Return how much longer an update takes with a monitor, as a share of the time without."""
    return statistics.median(b / a for a, b in zip(seconds[PLAIN], seconds[name], strict=True)) - 1


def rows(repeat: int) -> list[dict[str, Any]]:
    """Measure everything and return a row for each optimizer and size."""
    result = []
    for kind, make in KINDS.items():
        for title, shapes in WORKS.items():
            amount = (repeat, UPDATES) if kind == "gradstep" else (RIVAL_REPEAT, RIVAL_UPDATES)
            seconds = measure(make, shapes, *amount)
            costs = {name: overhead(seconds, name) for name in GOALS}
            result.append({"kind": kind, "title": title, "overhead": costs, "seconds": seconds})
            text = ", ".join(f"{name} {cost:+.1%} (goal {GOALS[name]:.0%})" for name, cost in costs.items())
            print(f"{kind}, {title}: {statistics.median(seconds[PLAIN]) * 1e3:.3g} ms; {text}", flush=True)
    return result


if __name__ == "__main__":
    main(__doc__, 8, Path(__file__).parent / "results" / "monitor.json", rows)
