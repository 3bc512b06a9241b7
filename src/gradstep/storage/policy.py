"""Choose the codec of each slot and parameter: as the user requested, or float32 where fewer bits are not advisable."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, get_args

from gradstep.storage.codecs import Blocks, Codec, Elementwise, Kahan, Master, Nearest, Stochastic
from gradstep.storage.elements import ELEMENTS, Element, Half

StateName = Literal["float32", "bfloat16", "8bit"]
"""The ways to store slots of state."""

RoundingName = Literal["nearest", "stochastic", "kahan", "master"]
"""The ways to round the updates of a bfloat16 or float16 parameter."""

STATES: tuple[str, ...] = get_args(StateName)
ROUNDINGS: tuple[str, ...] = get_args(RoundingName)

SMALL = 4_096
"""Parameters with fewer elements than this keep float32 state: there is little to save."""


_EMBEDDING = re.compile(r"Embedding(Bag)?$")
_WORDS = frozenset({"emb", "embed", "embeds", "embedding", "embeddings", "wte", "wpe"})


def is_embedding_class(kind: type) -> bool:
    """Return whether a module class is an embedding: it, or a base class, is named ``…Embedding(Bag)``.

    This covers torch's ``Embedding`` and ``EmbeddingBag``, and those of model libraries (``VocabParallelEmbedding``).
    """
    return any(_EMBEDDING.search(base.__name__) for base in kind.__mro__)


def is_embedding(name: str) -> bool:
    """Guess from a parameter's name whether it is an embedding: the ``weight`` of a module with an embedding's name.

    The module's name has to have such a word as a whole part between underscores; enclosing modules do not count.
    ``shared`` is the name in T5 and BART.

    >>> [is_embedding(name) for name in ("model.embed_tokens.weight", "transformer.wte.weight", "shared.weight")]
    [True, True, True]
    >>> [is_embedding(name) for name in ("members.0.weight", "time_embedding.linear_1.weight", "embed.bias")]
    [False, False, False]
    """
    *_, holder, last = ("", *name.lower().split("."))
    return last == "weight" and (holder == "shared" or not _WORDS.isdisjoint(holder.split("_")))


def stays_float32(elements: int, ndim: int, *, embedding: bool, from_module: bool = False) -> str | None:
    """Return why the state of a parameter is not stored in fewer bits than float32; None if it is.

    Args:
        elements, ndim: size and dimensions of the logical parameter, not of its shards.
        embedding: whether it is one: most of its rows get no gradient in most steps, and large ones when they do.
        from_module: whether ``embedding`` was decided from the module, and not guessed from the name.

    >>> stays_float32(10_000, 1, embedding=False)
    'a norm or a bias'
    """
    if embedding and ndim == 2:
        return "an embedding" if from_module else "an embedding by its name"
    if ndim < 2:
        return "a norm or a bias"
    if elements < SMALL:
        return f"under {SMALL:,} elements"
    return None


def slot_codec(state: str, parameter: Element, *, signed: bool) -> Codec:
    """Return the codec of a slot.

    Args:
        state: one of :data:`STATES`.
        parameter: the element type of the parameter; a float64 parameter keeps float64 state.
        signed: whether the slot's values may be negative.
    """
    if parameter.arithmetic is not ELEMENTS["float32"].arithmetic:
        return Nearest(parameter)
    if state == "8bit":
        return Blocks(signed)
    if state == "bfloat16":
        element = ELEMENTS["bfloat16"]
        assert isinstance(element, Half)
        return Stochastic(element)
    return Nearest(ELEMENTS["float32"])


def parameter_codec(rounding: str, element: Element) -> Elementwise:
    """Return the codec of a parameter; float32 and float64 are stored unchanged under every rounding.

    Args:
        rounding: one of :data:`ROUNDINGS`.
        element: the parameter's element type.
    """
    if not isinstance(element, Half) or rounding == "nearest":
        return Nearest(element)
    kinds: dict[str, Callable[[Half], Elementwise]] = {"stochastic": Stochastic, "kahan": Kahan, "master": Master}
    return kinds[rounding](element)
