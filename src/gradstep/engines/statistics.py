"""What a step can tell of itself: sums over each parameter, collected in the pass that updates it."""

from __future__ import annotations

STATISTICS = ("grad_square", "param_square", "update_square", "unmoved", "second_min", "second_max")
"""The columns that an engine collects, for each parameter:

- the sum of squares of the gradient as the rule saw it (unscaled and clipped), of the parameter after the step, and
  of the difference that the step made to what is stored;
- how many elements with a gradient that is not 0 are stored as before;
- the smallest and the largest value of the first slot that is never negative; NaN if there is none.

Each sum is exact to 2e-6 of itself (a norm, its root, to 1e-6), whatever the size of the numbers: one that is not
finite is that of numbers that are not, and 0 is that of zeros; only the squares of float64 numbers can leave the range
of float64.
"""

SUMS = 4
"""How many of them are sums; the others are a minimum and a maximum."""
