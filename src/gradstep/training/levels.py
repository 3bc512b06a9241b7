"""How deep a parameter lies: the levels of layer-wise learning-rate decay."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gradstep.training.parameters import Named

EMBEDDINGS = "embeddings"
HEAD = "head"
_LAYER = re.compile(r"^(?:.*?\.)??\d+(?=\.)")  # up to the first segment of the path that is a number


def levels_of(params: Sequence[Named]) -> list[str]:
    """The level of every parameter: ``"embeddings"``, a layer (``"h.0"``, ``"h.1"``, ...) or ``"head"``.

    A layer is what shares the path up to its first number: ``encoder.layer.3.attention.weight`` lies in
    ``encoder.layer.3``. Layers are in the model's order, also over several stacks. Of what lies in no layer,
    embeddings and whatever the model registers before its first layer lie at the bottom, the rest (a final norm, the
    head) at the top. A tied parameter lies where its first name says.

    Raises:
        ValueError: no parameter lies in a numbered layer.
    """
    found = [_LAYER.match(p.name) for p in params]
    if not any(found):
        raise ValueError(
            "layer_decay needs numbered layers, and no parameter's name has a number in its path "
            f"(the first is {params[0].name!r}): give learning rates by overrides={{pattern: {{'lr': ...}}}} instead"
        )
    first = next(i for i, match in enumerate(found) if match)
    return [
        match[0] if match else EMBEDDINGS if i < first or p.in_embedding else HEAD
        for i, (p, match) in enumerate(zip(params, found, strict=True))
    ]


def depths(levels: Sequence[str]) -> dict[str, int]:
    """How many levels lie above each: 0 for the topmost one there is.

    >>> depths(["embeddings", "h.0", "h.1", "head", "h.1"])
    {'embeddings': 3, 'h.0': 2, 'h.1': 1, 'head': 0}
    """
    inner = [level for level in dict.fromkeys(levels) if level not in (EMBEDDINGS, HEAD)]
    order = [level for level in (EMBEDDINGS, *inner, HEAD) if level in levels]
    return {level: len(order) - 1 - i for i, level in enumerate(order)}
