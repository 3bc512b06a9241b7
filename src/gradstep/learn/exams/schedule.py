"""Warmup and cosine: compare each update with :mod:`gradstep.schedules`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from gradstep.judge import Verdict
from gradstep.judge.properties import Property
from gradstep.learn.exams import Slip, make_verdict
from gradstep.learn.lesson import Framework
from gradstep.schedules import cosine, warmup

_READ = "Loshchilov and Hutter, arXiv:1608.03983, equation 5; Goyal et al., arXiv:1706.02677, section 2.2"
_NEAR = 1e-9


@final
@dataclass(frozen=True)
class SchedulePlan:
    """The settings of a schedule, and how many updates to compare; ``floor`` is a share of the peak."""

    peak: float
    warmup: int
    total: int
    floor: float
    updates: int

    def rates(self) -> list[float]:
        """Return the right learning rate of every update."""
        down = cosine(self.peak, updates=self.total - self.warmup, floor=self.floor * self.peak)
        schedule = warmup(updates=self.warmup, to=self.peak).then(down)
        return [schedule(update) for update in range(self.updates)]


_SMALL = SchedulePlan(0.1, 2, 6, 0.0, 9)
_LONG = SchedulePlan(3e-4, 50, 400, 0.0, 401)
_FLOOR = SchedulePlan(1e-3, 10, 60, 0.1, 61)
_BEYOND = SchedulePlan(1e-3, 10, 60, 0.1, 200)
_COLD = SchedulePlan(1e-3, 0, 40, 0.0, 41)
_PLANS = (_SMALL, _LONG, _FLOOR, _BEYOND, _COLD)

Follow: TypeAlias = Callable[[Any, SchedulePlan], list[float]]
"""Returns the learning rate that a submission gives to each update of a plan."""


def check_schedule(submission: Any, framework: Framework) -> Verdict:
    """Judge ``warmup_cosine``: in NumPy a function of the update, in torch a function that makes a scheduler."""
    follow = _call_function if framework == "numpy" else _step_scheduler
    further = (_PURE,) if framework == "numpy" else (_GROUPS, _RESUMED)
    return make_verdict(
        submission,
        "linear warmup and cosine decay",
        (
            _make_exam(follow, "by hand", "peak 0.1, W = 2, N = 6", _SMALL),
            _make_exam(follow, "warmup", "the rise, update by update", _LONG, until=50),
            _make_exam(follow, "cosine", "the way down, update by update", _LONG, since=50),
            _make_exam(follow, "floor", "a cosine that ends above zero", _FLOOR),
            _make_exam(follow, "after the end", "updates beyond the plan", _BEYOND, since=61),
            _make_exam(follow, "no warmup", "warmup = 0", _COLD),
            *further,
        ),
        lambda it: tuple(slip.match(_READ) for slip in SCHEDULE_SLIPS if _has_slip(slip, it, follow)),
    )


def _call_function(submission: Any, plan: SchedulePlan) -> list[float]:
    return [
        float(submission(t, peak=plan.peak, warmup=plan.warmup, total=plan.total, floor=plan.floor * plan.peak))
        for t in range(plan.updates)
    ]


def _step_scheduler(submission: Any, plan: SchedulePlan) -> list[float]:
    optimizer = _make_optimizer(plan.peak)
    scheduler = submission(optimizer, warmup=plan.warmup, total=plan.total, floor=plan.floor)
    return _collect_rates(optimizer, scheduler, plan.updates)


def _make_optimizer(*rates: float) -> Any:
    import torch

    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in rates])


def _collect_rates(optimizer: Any, scheduler: Any, updates: int) -> list[float]:
    rates = []
    for _ in range(updates):
        rates.append(float(optimizer.param_groups[-1]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def _make_exam(
    follow: Follow, name: str, shows: str, plan: SchedulePlan, since: int = 0, until: int | None = None
) -> Property:
    def find_fault(submission: Any) -> str:
        return _find_difference(follow(submission, plan), plan, since, until)

    return Property(name, shows, "the formula of that part, with numbers put in by hand", find_fault)


def _find_difference(got: list[float], plan: SchedulePlan, since: int = 0, until: int | None = None) -> str:
    """Return the first difference between learning rates, one for each update, and a plan's, in words; or ""."""
    pairs = list(enumerate(zip(got, plan.rates())))[since:until]
    for t, (own, true) in pairs:
        if not abs(own - true) <= _NEAR * plan.peak:
            return (
                f"update {t} of peak={plan.peak:g}, warmup={plan.warmup}, total={plan.total}, floor={plan.floor:g}"
                f"{' of the peak' if plan.floor else ''}: {true:.6g} expected, got {own:.6g}"
            )
    return ""


def _check_pure(submission: Any) -> str:
    once, again = _call_function(submission, _SMALL), _call_function(submission, _SMALL)
    return "" if once == again else "the same update has another rate when it is asked for again"


def _check_groups(submission: Any) -> str:
    optimizer = _make_optimizer(0.3, _SMALL.peak)
    scheduler = submission(optimizer, warmup=_SMALL.warmup, total=_SMALL.total)
    wrong = _find_difference(_collect_rates(optimizer, scheduler, _SMALL.updates), _SMALL)
    return f"the second of two groups, with a rate of its own: {wrong}" if wrong else ""


def _check_resume(submission: Any) -> str:
    optimizer = _make_optimizer(_FLOOR.peak)
    scheduler = submission(optimizer, warmup=_FLOOR.warmup, total=_FLOOR.total, floor=_FLOOR.floor)
    first = _collect_rates(optimizer, scheduler, 30)
    later = _make_optimizer(_FLOOR.peak)
    resumed = submission(later, warmup=_FLOOR.warmup, total=_FLOOR.total, floor=_FLOOR.floor)
    later.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    wrong = _find_difference(first + _collect_rates(later, resumed, 31), _FLOOR)
    return f"saved after update 30 and loaded: {wrong}" if wrong else ""


_PURE = Property("any order", "a function of the update alone", "a counter kept between calls", _check_pure)
_GROUPS = Property("groups", "two groups with rates of their own", "a factor of each group's own rate", _check_groups)
_RESUMED = Property("resumed", "saved and loaded in mid-run", "a counter kept outside the scheduler", _check_resume)


def _has_slip(slip: Slip, submission: Any, follow: Follow) -> bool:
    wrong = [(p, [p.peak * slip.compute(t, p) for t in range(p.updates)]) for p in _PLANS]
    return all(
        math.isclose(own, its, rel_tol=1e-9, abs_tol=_NEAR * plan.peak)
        for plan, values in wrong
        for own, its in zip(follow(submission, plan), values)
    )


def _hold_floor(t: int, plan: SchedulePlan) -> float | None:
    """Return the factor after the end; None before it."""
    return plan.floor if t >= plan.total else None


def _factor(
    t: int,
    plan: SchedulePlan,
    *,
    rise: Callable[[int, SchedulePlan], float] = lambda t, p: t / p.warmup,
    share: Callable[[int, SchedulePlan], float] = lambda t, p: (t - p.warmup) / (p.total - p.warmup),
    fall: Callable[[float, SchedulePlan], float] = lambda s, p: (
        p.floor + (1 - p.floor) * (1 + math.cos(math.pi * s)) / 2
    ),
    end: Callable[[int, SchedulePlan], float | None] = _hold_floor,
) -> float:
    """Return the factor of an update; a slip replaces one of its parts."""
    if t < plan.warmup:
        return rise(t, plan)
    last = end(t, plan)
    return fall(share(t, plan), plan) if last is None else last


SCHEDULE_SLIPS = (
    Slip(
        "a warmup that counts from 1",
        "`(update + 1) / warmup`: update 0 is the first, and the peak belongs to update W",
        lambda t, p: _factor(t, p, rise=lambda t, p: (t + 1) / p.warmup),
    ),
    Slip(
        "a cosine that counts from update 0 instead of the end of the warmup",
        "`update / total` inside the cosine; it is `(update - warmup) / (total - warmup)`",
        lambda t, p: _factor(t, p, share=lambda t, p: t / p.total),
    ),
    Slip(
        "a cosine that is stretched over all updates from the end of the warmup on",
        "`(update - warmup) / total`; the cosine has `total - warmup` updates",
        lambda t, p: _factor(t, p, share=lambda t, p: (t - p.warmup) / p.total),
    ),
    Slip(
        "a whole wave of the cosine, down and up again",
        "`cos(2 * pi * share)`; half a wave is `cos(pi * share)`",
        lambda t, p: _factor(t, p, fall=lambda s, p: p.floor + (1 - p.floor) * (1 + math.cos(2 * math.pi * s)) / 2),
    ),
    Slip(
        "a cosine that rises again after its end",
        "what happens for `update >= total`: the rate stays at the floor",
        lambda t, p: _factor(t, p, end=lambda t, p: None),
    ),
    *(
        Slip(
            "a cosine down to zero: the floor is not used",
            "`floor + (peak - floor) * (1 + cos) / 2`",
            lambda t, p, end=end: _factor(t, p, fall=lambda s, p: (1 + math.cos(math.pi * s)) / 2, end=end),
        )
        for end in (_hold_floor, lambda t, p: 0.0 if t >= p.total else None)
    ),
    Slip(
        "a cosine with the floor added on top, so that it starts above the peak",
        "`floor + peak * (1 + cos) / 2`; what is stretched is `peak - floor`",
        lambda t, p: _factor(t, p, fall=lambda s, p: p.floor + (1 + math.cos(math.pi * s)) / 2),
    ),
    Slip(
        "a straight line in the place of the cosine",
        "`(1 + cos(pi * share)) / 2` in the place of `1 - share`",
        lambda t, p: _factor(t, p, fall=lambda s, p: p.floor + (1 - p.floor) * (1 - s)),
    ),
)
