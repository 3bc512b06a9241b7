"""What an experiment is: something computed on the spot, its figures in words, and a picture of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "SGD": "#4A4A4A",
    "SGD with momentum": "#AA4499",
    "RMSprop": "#009E73",
    "Adam": "#0072B2",
    "AdamW": "#D55E00",
    "Lion": "#E69F00",
    "Adafactor": "#CC79A7",
}
"""One for each optimizer, the same in every picture; from the palettes of Okabe and Ito, and Paul Tol."""

DPI = 144

INK, QUIET, GRID, PALE = "#1F2933", "#6B7785", "#E4E8EC", "#C9D1D9"


@final
@dataclass(frozen=True)
class Finding:
    """What came of an experiment.

    Attributes:
        lines: the figures in words.
        size: of the picture, in inches.
        draw: draws the picture.
    """

    lines: tuple[str, ...]
    size: tuple[float, float]
    draw: Callable[[Figure], None]

    def figure(self) -> Figure:
        """The picture.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'pictures are drawn with matplotlib, which is not installed: pip install "gradstep[lab]"',
                name=error.name,
            ) from error
        figure = Figure(figsize=self.size, layout="constrained", facecolor="white")
        self.draw(figure)
        return figure

    def _repr_png_(self) -> bytes:
        """The picture, as notebooks ask for it."""
        out = BytesIO()
        self.figure().savefig(out, format="png", dpi=DPI)
        return out.getvalue()

    def save(self, file: Path) -> Path:
        """The picture in a file (PNG, SVG or PDF, by its name); the folder is made if need be."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.figure().savefig(file, dpi=DPI)
        return file


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


def tidy(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Titles, a quiet grid, no frame."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(xlabel, color=QUIET, fontsize=9.5)
    axes.set_ylabel(ylabel, color=QUIET, fontsize=9.5)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
