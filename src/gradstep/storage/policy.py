"""Which codec a slot or a parameter gets: what the user asked for, and what stays float32 all the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, get_args

from gradstep.storage.codecs import Blocks, Codec, Elementwise, Kahan, Master, Nearest, Stochastic
from gradstep.storage.elements import ELEMENTS, Element, Half

StateName = Literal["float32", "bfloat16", "8bit"]
"""How slots of state can be stored."""

RoundingName = Literal["nearest", "stochastic", "kahan", "master"]
"""What can be done about the bits that a bfloat16 or float16 parameter has no room for."""

STATES: tuple[str, ...] = get_args(StateName)
ROUNDINGS: tuple[str, ...] = get_args(RoundingName)

SMALL = 4_096
"""Fewer elements than this stay float32: there is little to save."""


_EMBEDDING = re.compile(r"Embedding(Bag)?$")
_WORDS = frozenset({"emb", "embed", "embeds", "embedding", "embeddings", "wte", "wpe"})


def is_embedding_class(kind: type) -> bool:
    """Return whether a module class is an embedding: it, or a class it inherits from, is named ``…Embedding(Bag)``.

    torch's ``Embedding`` and ``EmbeddingBag`` are, and so are what models bring along (``VocabParallelEmbedding``).
    """
    return any(_EMBEDDING.search(base.__name__) for base in kind.__mro__)


def is_embedding(name: str) -> bool:
    """Guess from a parameter's name alone whether it is an embedding: the weight of a module that is named as one.

    A name that only contains such a word does not count, and neither does a module further out. ``shared`` is what T5
    and BART call theirs.

    >>> [is_embedding(name) for name in ("model.embed_tokens.weight", "transformer.wte.weight", "shared.weight")]
    [True, True, True]
    >>> [is_embedding(name) for name in ("members.0.weight", "time_embedding.linear_1.weight", "embed.bias")]
    [False, False, False]
    """
    *_, holder, last = ("", *name.lower().split("."))
    return last == "weight" and (holder == "shared" or not _WORDS.isdisjoint(holder.split("_")))


def stays_float32(elements: int, ndim: int, *, embedding: bool, known: bool = False) -> str | None:
    """Why the state of a parameter is not stored in fewer bits than float32; None if it is.

    Args:
        elements, ndim: of the logical parameter, however it is sharded.
        embedding: whether it is one: most of its rows get no gradient in most steps, and large ones when they do.
        known: whether that is known of its module, or else guessed from its name.

    >>> stays_float32(10_000, 1, embedding=False)
    'a norm or a bias'
    """
    if embedding and ndim == 2:
        return "an embedding" if known else "an embedding by its name"
    if ndim < 2:
        return "a norm or a bias"
    if elements < SMALL:
        return f"under {SMALL:,} elements"
    return None


def slot_codec(state: str, parameter: Element, *, signed: bool) -> Codec:
    """How a slot is stored.

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
    """How a parameter is rounded; float32 and float64 are what they are.

    Args:
        rounding: one of :data:`ROUNDINGS`.
        element: the parameter's type.
    """
    if not isinstance(element, Half) or rounding == "nearest":
        return Nearest(element)
    kinds: dict[str, Callable[[Half], Elementwise]] = {"stochastic": Stochastic, "kahan": Kahan, "master": Master}
    return kinds[rounding](element)
