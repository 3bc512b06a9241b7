"""One of every schedule, for what must hold for all."""

from fractions import Fraction

from gradstep.schedules import (
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

EVERY = {
    "constant": constant(0.3),
    "constant, ended": constant(0.3, updates=7),
    "step": step(1.0, every_updates=13, factor=0.5),
    "multi_step": multi_step(1.0, at_updates=[10, 20, 20, 70]),
    "exponential": exponential(1.0, factor=0.5, per_updates=9),
    "inverse_sqrt": inverse_sqrt(1.0, timescale_updates=20),
    "linear": linear(0.1, 0.7, updates=31),
    "polynomial": polynomial(1.0, updates=40, power=2.5, floor=0.1),
    "cosine": cosine(0.3, updates=50, floor=0.1),
    "cosine, waves": cosine(0.3, updates=50, waves=1.7),
    "cosine_restarts": cosine_restarts(1.0, first_updates=5, mult=2, floor=0.01),
    "cosine_restarts, ended": cosine_restarts(1.0, first_updates=Fraction(100, 7), cycles=7),
    "triangular": triangular(0.1, 1.0, up_updates=6, down_updates=9, cycle_factor=0.5),
    "triangular, ended": triangular(0.1, 1.0, up_updates=6, update_factor=0.99, cycles=3),
    "one_cycle lr": one_cycle(1.0, updates=77, warmup_share=0.31, three_phase=True).lr,
    "one_cycle momentum": one_cycle(1.0, updates=77).momentum,
    "warmup": warmup(updates=20, to=0.9, start=0.1, shape="1-sqrt"),
    "warmup_stable_decay": warmup_stable_decay(1.0, warmup_updates=9, stable_updates=30, decay_updates=17),
    "scaled": 0.5 * cosine(1.0, updates=30),
    "composed": warmup(updates=5, to=1.0)
    .then(step(1.0, every_updates=3), at=9)
    .then(linear(0.5, 0.1, updates=4), at=20),
}
