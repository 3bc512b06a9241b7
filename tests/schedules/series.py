"""The values that torch's and transformers' schedulers give in training, update by update."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from gradstep.schedules import Schedule

UPDATES = 1000
PEAK = 3e-3

Make = Callable[[torch.optim.Optimizer], LRScheduler]


def optimizer(kind: Callable[..., torch.optim.Optimizer] = torch.optim.SGD, **settings: Any) -> torch.optim.Optimizer:
    return kind([torch.zeros(1, requires_grad=True)], **{"lr": PEAK, **settings})


def groups(make: Make, of: torch.optim.Optimizer | None = None) -> list[dict[str, Any]]:
    """The settings that each update uses."""
    driven = optimizer() if of is None else of
    scheduler = make(driven)
    driven.step()  # once is enough for torch, which warns if the first step of the two is the scheduler's
    used = [dict(driven.param_groups[0])]
    while len(used) < UPDATES:
        scheduler.step()
        used.append(dict(driven.param_groups[0]))
    return used


def rates(make: Make) -> list[float]:
    """The learning rate that each update uses."""
    return [group["lr"] for group in groups(make)]


def multiples(make: Make) -> list[float]:
    """What a ``LambdaLR``, which every scheduler of transformers is, uses: the base times its function, as it does."""
    scheduler = make(optimizer())
    assert isinstance(scheduler, LambdaLR)
    return [float(scheduler.base_lrs[0]) * scheduler.lr_lambdas[0](update) for update in range(UPDATES)]


def assert_same(schedule: Schedule, values: list[float], absolute: float = 0.0) -> None:
    assert len(values) == UPDATES
    for update, expected in enumerate(values):
        got = schedule(update)
        assert abs(got - expected) <= 1e-12 * abs(expected) + absolute, f"update {update}: {got!r}, but {expected!r}"
