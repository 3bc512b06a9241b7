"""An experiment: a computation, its figures in words, and a picture of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from gradstep.report import Picture

COLOURS = {
    "SGD": "black",
    "SGD with momentum": "magenta",
    "RMSprop": "green",
    "Adam": "blue",
    "AdamW": "vermilion",
    "Lion": "amber",
    "Adafactor": "pink",
}
"""The colour of each optimizer, the same in every picture."""


@final
@dataclass(frozen=True)
class Finding:
    """The result of an experiment.

    Attributes:
        lines: the figures in words.
        picture: the figures as a picture.
    """

    lines: tuple[str, ...]
    picture: Picture

    def _repr_svg_(self) -> str:
        """Return the picture for a notebook."""
        return self.picture.file()

    def save(self, file: Path) -> Path:
        """Write the picture to a file, .svg or .html; make its folder if it is missing."""
        return self.picture.save(file)


@final
@dataclass(frozen=True)
class Experiment:
    """An experiment that a learner can run.

    Attributes:
        name: its name on the command line.
        title: a few words.
        question: what to think about before looking at the result.
        run: computes everything and returns the finding.
    """

    name: str
    title: str
    question: str
    run: Callable[[], Finding]
