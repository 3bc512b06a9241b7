"""The colour of each optimizer: the same in every chart of every report.

Colours are from the palettes of Okabe and Ito (2008) and Paul Tol, made to stay apart for colour-blind
readers. The line-up that is raced by default has the ones that are furthest apart.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from gradstep.lab.contenders import base_name
from gradstep.lab.results import Entry

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "sgd": "#4A4A4A",
        "rmsprop": "#009E73",
        "adam": "#0072B2",
        "adamw": "#D55E00",
        "nadam": "#56B4E9",
        "radam": "#882255",
        "lion": "#E69F00",
        "adafactor": "#CC79A7",
        "adagrad": "#8A8A2A",
        "adamax": "#332288",
        "adadelta": "#117733",
    }
)
SPARE = ("#AA4499", "#44AA99", "#661100", "#6699CC", "#7A7A00", "#AA4466", "#004D61", "#B08D57")
"""For an optimizer that races more than once with other settings, and for optimizers without a colour of
their own."""

INK = "#1F2933"
QUIET = "#6B7785"
GRID = "#E4E8EC"
DEPTH = 3e-4
"""Share of a surface's greatest height in view at which its shading is darkest."""
REST = "#C9D1D9"
"""Forward and backward pass: what is not the optimizer."""


def colours(entries: Iterable[Entry]) -> dict[str, str]:
    """A colour for each contender by label. torch's own class shares the colour of ours with the same
    settings.
    """
    chosen: dict[str, str] = {}
    by_meaning: dict[tuple[str, str], str] = {}
    spare = 0
    for entry in entries:
        settings = {key: value for key, value in entry.settings.items() if key != "engine"}
        name = base_name(entry.name)
        meaning = (name, repr(sorted(settings.items())))
        if meaning not in by_meaning:
            own = COLOURS.get(name)
            if own is None or own in by_meaning.values():
                own = SPARE[spare % len(SPARE)]
                spare += 1
            by_meaning[meaning] = own
        chosen[entry.label] = by_meaning[meaning]
    return chosen
