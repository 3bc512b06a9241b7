"""Draws docs/images/schedules.png: every schedule over 1,000 updates. Run it from anywhere, without arguments."""

from fractions import Fraction
from pathlib import Path

from matplotlib.figure import Figure

from gradstep.schedules import (
    Schedule,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    inverse_sqrt,
    linear,
    multi_step,
    one_cycle,
    polynomial,
    step,
    triangular,
    warmup,
    warmup_stable_decay,
)
from gradstep.schedules.plot import draw

UPDATES = 1000

lr, momentum = one_cycle(1.0, updates=UPDATES)
rise = warmup(updates=100, to=1.0)

PICTURES: dict[str, Schedule] = {
    "constant": constant(1.0),
    "step": step(1.0, every_updates=250, factor=0.5),
    "multi_step": multi_step(1.0, at_updates=[500, 750], factor=0.3),
    "exponential": exponential(1.0, factor=0.5, per_updates=250),
    "linear": linear(1.0, 0.0, updates=UPDATES),
    "polynomial, power 2": polynomial(1.0, updates=UPDATES, power=2),
    "cosine": cosine(1.0, updates=UPDATES),
    "cosine_restarts": cosine_restarts(1.0, first_updates=Fraction(UPDATES, 7), mult=2, cycles=3, floor=0.05),
    "warmup, then cosine": rise.then(cosine(1.0, updates=900, floor=0.1)),
    "warmup, then linear": rise.then(linear(1.0, 0.0, updates=900)),
    "warmup, then inverse_sqrt": rise.then(inverse_sqrt(1.0, timescale_updates=100)),
    "warmup_stable_decay": warmup_stable_decay(1.0, warmup_updates=100, stable_updates=700, decay_updates=200),
    "triangular": triangular(0.1, 1.0, up_updates=125),
    "triangular2: cycle_factor=0.5": triangular(0.1, 1.0, up_updates=125, cycle_factor=0.5),
    "exp_range: update_factor=0.998": triangular(0.1, 1.0, up_updates=125, update_factor=0.998),
    "one_cycle": lr,
    "one_cycle, three_phase": one_cycle(1.0, updates=UPDATES, warmup_share=0.4, three_phase=True).lr,
    "one_cycle, its momentum": momentum,
}


def picture() -> Figure:
    """One small picture for each, three in a row."""
    figure = Figure(figsize=(9, 11), layout="constrained")
    grid = figure.subplots(6, 3, sharex=True)
    for axes, (name, schedule) in zip(grid.flat, PICTURES.items(), strict=True):
        draw(axes, schedule, UPDATES)
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_ylim((0.8, 1.0) if schedule is momentum else (0, 1.05))
        axes.tick_params(labelsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("update", fontsize=9)
    return figure


if __name__ == "__main__":
    picture().savefig(Path(__file__).parent / "images" / "schedules.png", dpi=110)
