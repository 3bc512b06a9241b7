"""Every kind of schedule by name, and their pictures, for ``gradstep schedules``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType

from gradstep.report import Grid, LineChart, Picture
from gradstep.report.scales import fit
from gradstep.schedules.base import Schedule, count, schedule_line
from gradstep.schedules.cycles import cosine_restarts, one_cycle, triangular, warmup_stable_decay
from gradstep.schedules.path import cosine, linear, polynomial, warmup
from gradstep.schedules.steps import constant, exponential, inverse_sqrt, multi_step, step
from gradstep.spelling import suggest

DECAYS: Mapping[str, Callable[[float, int], Schedule]] = MappingProxyType(
    {
        "constant": lambda lr, n: constant(lr),
        "step": lambda lr, n: step(lr, every_updates=max(1, n // 4), factor=0.5),
        "multi-step": lambda lr, n: multi_step(lr, at_updates=sorted({n // 2, 3 * n // 4} - {0}), factor=0.3),
        "exponential": lambda lr, n: exponential(lr, factor=0.5, per_updates=max(1, n // 4)),
        "linear": lambda lr, n: linear(lr, 0.0, updates=n),
        "polynomial": lambda lr, n: polynomial(lr, updates=n, power=2),
        "cosine": lambda lr, n: cosine(lr, updates=n),
        "cosine-restarts": lambda lr, n: cosine_restarts(
            lr, first_updates=max(Fraction(1), Fraction(n, 7)), mult=2, cycles=3
        ),
        "inverse-sqrt": lambda lr, n: inverse_sqrt(lr, timescale_updates=max(1, n // 10)),
    }
)
"""Schedules made from a first value and a number of updates."""

CYCLES: Mapping[str, Callable[[float, int, int], Schedule]] = MappingProxyType(
    {
        "wsd": lambda lr, n, w: warmup_stable_decay(
            lr, warmup_updates=w, stable_updates=n - w - (n - w) // 5, decay_updates=(n - w) // 5
        ),
        "triangular": lambda lr, n, w: triangular(0.1 * lr, lr, up_updates=max(1, n // 8)),
        "triangular2": lambda lr, n, w: triangular(0.1 * lr, lr, up_updates=max(1, n // 8), cycle_factor=0.5),
        "exp-range": lambda lr, n, w: triangular(0.1 * lr, lr, up_updates=max(1, n // 8), update_factor=0.1 ** (1 / n)),
        "one-cycle": lambda lr, n, w: one_cycle(lr, updates=n).lr,
        "one-cycle-three-phase": lambda lr, n, w: one_cycle(lr, updates=n, warmup_share=0.4, three_phase=True).lr,
        "one-cycle-momentum": lambda lr, n, w: one_cycle(lr, updates=n).momentum,
    }
)
"""Schedules that rise by themselves, made from a peak, a number of updates, and updates of warmup (only for wsd)."""

WARM = ("cosine", "linear", "inverse-sqrt")
"""Decays that are also shown after a warmup, as "warmup-cosine"."""

GALLERY_NAMES = (*DECAYS, *(f"warmup-{name}" for name in WARM), *CYCLES)
LEAST_TO_SHOW = 20
"""Smallest number of updates in which every kind has its shape."""


def gallery(
    names: Sequence[str] = (), *, steps: int = 1000, warm: int | None = None, lr: float = 1.0
) -> dict[str, Schedule]:
    """Return schedules by name.

    Args:
        names: of :data:`GALLERY_NAMES`; none: all.
        steps: length of each schedule in updates, ≥ 20.
        warm: updates of a linear warmup, ≥ 0 and below ``steps``, for decays and wsd (other cycles rise by themselves);
            None: a tenth of ``steps`` for wsd and for names with "warmup-", 0 for the others.
        lr: the highest value.

    Raises:
        ValueError: there is no such schedule, or a number is outside its bounds.
        TypeError: a number of updates is not whole.

    >>> {name: schedule(50) for name, schedule in gallery(["linear", "warmup-linear"], steps=100).items()}
    {'linear': 0.5, 'warmup-linear': 0.5555}
    """
    total = count("steps", steps, least=LEAST_TO_SHOW)
    rise = total // 10 if warm is None else count("warmup", warm)
    if rise >= total:
        raise ValueError(f"Invalid warmup: {warm} (must be below the {total} steps)")
    shown: dict[str, Schedule] = {}
    for name in names or GALLERY_NAMES:
        plain = name.removeprefix("warmup-")
        if name not in GALLERY_NAMES:
            raise ValueError(
                f"Unknown schedule: {name!r}.{suggest(name, GALLERY_NAMES)} There are {', '.join(GALLERY_NAMES)}."
            )
        if name in CYCLES:
            shown[name] = CYCLES[name](lr, total, rise)
        elif rise and (warm is not None or name != plain):
            decay = DECAYS[plain](lr, total - rise)
            shown[name] = warmup(updates=rise, to=lr).then(decay)
        else:
            shown[name] = DECAYS[plain](lr, total)
    return shown


SCHEDULE_COLOURS = ("blue", "vermilion", "green", "amber", "wine", "sky")
"""Colours of the schedules in one chart; more could not be told apart."""


def draw_together(schedules: Mapping[str, Schedule], updates: int, title: str) -> Picture:
    """Draw schedules in one chart if they are few, else each in its own chart."""
    if len(schedules) <= len(SCHEDULE_COLOURS):
        lines = [
            schedule_line(one, updates, name, colour)
            for (name, one), colour in zip(schedules.items(), SCHEDULE_COLOURS)
        ]
        scale = fit([y for line in lines for y in line.y], include=[0.0])
        return LineChart(title, "update", "value", lines, y=scale, tall=330.0)
    return Grid(title, [replace(one.plot(updates), title=name) for name, one in schedules.items()], columns=3)
