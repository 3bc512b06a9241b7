"""What an experiment is: something computed on the spot, its figures in words, and a picture of them."""

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
"""One for each optimizer, the same in every picture."""


@final
@dataclass(frozen=True)
class Finding:
    """What came of an experiment.

    Attributes:
        lines: the figures in words.
        picture: of them.
    """

    lines: tuple[str, ...]
    picture: Picture

    def _repr_svg_(self) -> str:
        """The picture, as notebooks ask for it."""
        return self.picture.file()

    def save(self, file: Path) -> Path:
        """The picture in a file, .svg or .html; the folder is made if need be."""
        return self.picture.save(file)


@final
@dataclass(frozen=True)
class Experiment:
    """Something to run and to look at.

    Attributes:
        name: on the command line.
        title: in a few words.
        question: what to think about before looking.
        run: computes it; nothing in it is prepared.
    """

    name: str
    title: str
    question: str
    run: Callable[[], Finding]
