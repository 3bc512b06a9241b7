"""Updates that are lost to rounding: how many, and a warning that names them.

A bfloat16 weight has 8 places: an update under 0.2% to 0.4% of it, rounded to nearest, leaves it where it is, this step
and every step after.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from gradstep.optimizers.batch import TorchBatch
from gradstep.storage.codecs import Nearest
from gradstep.storage.elements import Half

LOOKED_AT = frozenset({10, 100, 1_000, 10_000})
"""The steps after which is looked how many updates were lost: when the moments have settled, and seldom."""

MANY = 0.5
"""The share of elements that lost their update from which on it is said."""


def loses(batch: TorchBatch, step: int) -> bool:
    """Whether to count what this step loses of these parameters."""
    codec = batch.spec.parameter
    return step in LOOKED_AT and isinstance(codec, Nearest) and isinstance(codec.element, Half)


def warn_of_lost_updates(batches: Sequence[TorchBatch]) -> None:
    """Warn if most elements of one of these batches, which were watched, have lost their update."""
    for batch in batches:
        elements = int(batch.lengths.sum())
        unmoved = batch.tally.table[:, 3]
        lost = float(unmoved.sum()) / max(elements, 1)
        if lost > MANY:
            worst = int(np.argmax(unmoved / np.maximum(batch.lengths, 1)))
            warnings.warn(
                f"{lost:.0%} of the {batch.spec.parameter.name} weights were left where they were by this step: "
                f"their update is less than rounding to nearest can show (most of all in {batch.names[worst]}): "
                "give the optimizer rounding='stochastic', 'kahan' or 'master', or a larger learning rate",
                stacklevel=6,
            )
