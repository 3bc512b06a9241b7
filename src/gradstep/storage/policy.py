"""Which codec a slot or a parameter gets: what the user asked for, and what stays float32 all the same."""

from __future__ import annotations

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


def is_embedding(name: str) -> bool:
    """Whether a parameter's name says that it is an embedding.

    >>> is_embedding("model.embed_tokens.weight"), is_embedding("transformer.wte.weight"), is_embedding("head.weight")
    (True, True, False)
    """
    return any("emb" in part or part in ("wte", "wpe") for part in name.lower().split("."))


def stays_float32(elements: int, ndim: int, *, embedding: bool) -> str | None:
    """Why the state of a parameter is not stored in fewer bits than float32; None if it is.

    Args:
        elements, ndim: of the logical parameter, however it is sharded.
        embedding: whether it is one: most of its rows get no gradient in most steps, and large ones when they do.

    >>> stays_float32(10_000, 1, embedding=False)
    'a norm or a bias'
    """
    if embedding:
        return "an embedding"
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
