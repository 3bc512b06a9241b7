"""Warmup and cosine, compared point by point with :mod:`gradstep.schedules`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from gradstep.judge import Verdict
from gradstep.learn.exams.exam import Exam, Slip, verdict
from gradstep.learn.lesson import Framework
from gradstep.schedules import cosine, warmup

_READ = "Loshchilov and Hutter, arXiv:1608.03983, equation 5; Goyal et al., arXiv:1706.02677, section 2.2"
_NEAR = 1e-9


@final
@dataclass(frozen=True)
class Plan:
    """A schedule to be followed for so many updates; ``floor`` is a share of the peak."""

    peak: float
    warmup: int
    total: int
    floor: float
    updates: int

    def truth(self) -> list[float]:
        """The rate of every update."""
        down = cosine(self.peak, updates=self.total - self.warmup, floor=self.floor * self.peak)
        schedule = warmup(updates=self.warmup, to=self.peak).then(down)
        return [schedule(update) for update in range(self.updates)]


_SMALL = Plan(0.1, 2, 6, 0.0, 9)
_LONG = Plan(3e-4, 50, 400, 0.0, 401)
_FLOOR = Plan(1e-3, 10, 60, 0.1, 61)
_BEYOND = Plan(1e-3, 10, 60, 0.1, 200)
_COLD = Plan(1e-3, 0, 40, 0.0, 41)
_PLANS = (_SMALL, _LONG, _FLOOR, _BEYOND, _COLD)

Follow: TypeAlias = Callable[[Any, Plan], list[float]]
"""The rate that a submission gives each update of a plan."""


def check(submission: Any, framework: Framework) -> Verdict:
    """Judge ``warmup_cosine``, a function of the update or one that makes a torch scheduler."""
    follow = _call if framework == "numpy" else _drive
    own = (_PURE,) if framework == "numpy" else (_GROUPS, _RESUMED)
    return verdict(
        submission,
        "linear warmup and cosine decay",
        (
            _compare(follow, "by hand", "peak 0.1, W = 2, N = 6", _SMALL),
            _compare(follow, "warmup", "the rise, update by update", _LONG, until=50),
            _compare(follow, "cosine", "the way down, update by update", _LONG, since=50),
            _compare(follow, "floor", "a cosine that ends above zero", _FLOOR),
            _compare(follow, "after the end", "updates beyond the plan", _BEYOND, since=61),
            _compare(follow, "no warmup", "warmup = 0", _COLD),
            *own,
        ),
        lambda it: tuple(slip.match(_READ) for slip in SLIPS if _does(slip, it, follow)),
    )


def _call(submission: Any, plan: Plan) -> list[float]:
    return [
        float(submission(t, peak=plan.peak, warmup=plan.warmup, total=plan.total, floor=plan.floor * plan.peak))
        for t in range(plan.updates)
    ]


def _drive(submission: Any, plan: Plan) -> list[float]:
    optimizer = _optimizer(plan.peak)
    scheduler = submission(optimizer, warmup=plan.warmup, total=plan.total, floor=plan.floor)
    return _rates(optimizer, scheduler, plan.updates)


def _optimizer(*rates: float) -> Any:
    import torch

    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in rates])


def _rates(optimizer: Any, scheduler: Any, updates: int) -> list[float]:
    rates = []
    for _ in range(updates):
        rates.append(float(optimizer.param_groups[-1]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def _compare(follow: Follow, name: str, shows: str, plan: Plan, since: int = 0, until: int | None = None) -> Exam:
    def ask(submission: Any) -> str:
        return _apart(follow(submission, plan), plan, since, until)

    return Exam(name, shows, "the formula of that part, with numbers put in by hand", ask)


def _apart(got: list[float], plan: Plan, since: int = 0, until: int | None = None) -> str:
    pairs = list(enumerate(zip(got, plan.truth())))[since:until]
    for t, (own, true) in pairs:
        if not abs(own - true) <= _NEAR * plan.peak:
            return (
                f"update {t} of peak={plan.peak:g}, warmup={plan.warmup}, total={plan.total}, floor={plan.floor:g}"
                f"{' of the peak' if plan.floor else ''}: {true:.6g} expected, got {own:.6g}"
            )
    return ""


def _pure(submission: Any) -> str:
    once, again = _call(submission, _SMALL), _call(submission, _SMALL)
    return "" if once == again else "the same update has another rate when it is asked for again"


def _groups(submission: Any) -> str:
    optimizer = _optimizer(0.3, _SMALL.peak)
    scheduler = submission(optimizer, warmup=_SMALL.warmup, total=_SMALL.total)
    wrong = _apart(_rates(optimizer, scheduler, _SMALL.updates), _SMALL)
    return f"the second of two groups, with a rate of its own: {wrong}" if wrong else ""


def _compare_resumed(submission: Any) -> str:
    optimizer = _optimizer(_FLOOR.peak)
    scheduler = submission(optimizer, warmup=_FLOOR.warmup, total=_FLOOR.total, floor=_FLOOR.floor)
    first = _rates(optimizer, scheduler, 30)
    later = _optimizer(_FLOOR.peak)
    resumed = submission(later, warmup=_FLOOR.warmup, total=_FLOOR.total, floor=_FLOOR.floor)
    later.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    wrong = _apart(first + _rates(later, resumed, 31), _FLOOR)
    return f"saved after update 30 and loaded: {wrong}" if wrong else ""


_PURE = Exam("any order", "a function of the update alone", "a counter kept between calls", _pure)
_GROUPS = Exam("groups", "two groups with rates of their own", "a factor of each group's own rate", _groups)
_RESUMED = Exam("resumed", "saved and loaded in mid-run", "a counter kept outside the scheduler", _compare_resumed)


def _does(slip: Slip, submission: Any, follow: Follow) -> bool:
    wrong = [(p, [p.peak * slip.does(t, p) for t in range(p.updates)]) for p in _PLANS]
    return all(
        math.isclose(own, its, rel_tol=1e-9, abs_tol=_NEAR * plan.peak)
        for plan, values in wrong
        for own, its in zip(follow(submission, plan), values)
    )


def _stays(t: int, plan: Plan) -> float | None:
    """The rate after the end; None before it."""
    return plan.floor if t >= plan.total else None


def _parts(
    t: int,
    plan: Plan,
    *,
    rise: Callable[[int, Plan], float] = lambda t, p: t / p.warmup,
    share: Callable[[int, Plan], float] = lambda t, p: (t - p.warmup) / (p.total - p.warmup),
    fall: Callable[[float, Plan], float] = lambda s, p: p.floor + (1 - p.floor) * (1 + math.cos(math.pi * s)) / 2,
    end: Callable[[int, Plan], float | None] = _stays,
) -> float:
    """The factor of an update, any of its parts exchanged."""
    if t < plan.warmup:
        return rise(t, plan)
    last = end(t, plan)
    return fall(share(t, plan), plan) if last is None else last


SLIPS = (
    Slip(
        "a warmup that counts from 1",
        "`(update + 1) / warmup`: update 0 is the first, and the peak belongs to update W",
        lambda t, p: _parts(t, p, rise=lambda t, p: (t + 1) / p.warmup),
    ),
    Slip(
        "a cosine that counts from update 0 instead of the end of the warmup",
        "`update / total` inside the cosine; it is `(update - warmup) / (total - warmup)`",
        lambda t, p: _parts(t, p, share=lambda t, p: t / p.total),
    ),
    Slip(
        "a cosine that is stretched over all updates from the end of the warmup on",
        "`(update - warmup) / total`; the cosine has `total - warmup` updates",
        lambda t, p: _parts(t, p, share=lambda t, p: (t - p.warmup) / p.total),
    ),
    Slip(
        "a whole wave of the cosine, down and up again",
        "`cos(2 * pi * share)`; half a wave is `cos(pi * share)`",
        lambda t, p: _parts(t, p, fall=lambda s, p: p.floor + (1 - p.floor) * (1 + math.cos(2 * math.pi * s)) / 2),
    ),
    Slip(
        "a cosine that rises again after its end",
        "what happens for `update >= total`: the rate stays at the floor",
        lambda t, p: _parts(t, p, end=lambda t, p: None),
    ),
    *(
        Slip(
            "a cosine down to zero: the floor is not used",
            "`floor + (peak - floor) * (1 + cos) / 2`",
            lambda t, p, end=end: _parts(t, p, fall=lambda s, p: (1 + math.cos(math.pi * s)) / 2, end=end),
        )
        for end in (_stays, lambda t, p: 0.0 if t >= p.total else None)
    ),
    Slip(
        "a cosine with the floor added on top, so that it starts above the peak",
        "`floor + peak * (1 + cos) / 2`; what is stretched is `peak - floor`",
        lambda t, p: _parts(t, p, fall=lambda s, p: p.floor + (1 + math.cos(math.pi * s)) / 2),
    ),
    Slip(
        "a straight line in the place of the cosine",
        "`(1 + cos(pi * share)) / 2` in the place of `1 - share`",
        lambda t, p: _parts(t, p, fall=lambda s, p: p.floor + (1 - p.floor) * (1 - s)),
    ),
)
