"""The centered variance, which rounding can make negative."""

import numpy as np

from gradstep.rules import RMSprop
from tests.rules.by_hand import trace


def test_centered_is_never_nan():
    # A constant gradient has variance 0; in float32 the difference v − ḡ² comes out on both sides of 0.
    g = np.linspace(0.1, 1.0, 512, dtype=np.float32)
    below = 0
    for p, state in trace(RMSprop(alpha=0.5, centered=True), np.ones(512, np.float32), [g] * 200):
        below += int((state.square_avg - state.grad_avg**2 < 0).sum())
        assert np.isfinite(p).all()
    assert below > 100, "the case that torch writes NaN in was never met"
