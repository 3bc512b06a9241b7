"""The settings of storage, and the codec of each slot and parameter: float32 where fewer bits are not advisable."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, final

from gradstep.storage.codecs import Blocks, Codec, Elementwise, Kahan, Master, Nearest, Stochastic
from gradstep.storage.elements import BFLOAT16, ELEMENTS, Element, Half
from gradstep.storage.sizes import parse_bytes

StateName = Literal["float32", "bfloat16", "8bit", "fp32", "bf16"]
"""The names of :data:`STATES`, and their short names."""

RoundingName = Literal["nearest", "stochastic", "kahan", "master"]
"""The names of :data:`ROUNDINGS`."""

SHORT_NAMES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Short names of precisions, which every argument takes as well as torch's names, which are the documented ones."""

STATES: Mapping[str, Callable[[bool], Codec]] = {
    "float32": lambda signed: Nearest(ELEMENTS["float32"]),
    "bfloat16": lambda signed: Stochastic(BFLOAT16),
    "8bit": Blocks,
}
"""The ways to store slots of state: the codec by whether the slot's values may be negative."""

ROUNDINGS: Mapping[str, Callable[[Half], Elementwise]] = {
    "nearest": Nearest,
    "stochastic": Stochastic,
    "kahan": Kahan,
    "master": Master,
}
"""The ways to round the updates of a bfloat16 or float16 parameter: the parameter's codec by its element type."""

SMALL = 4_096
"""Parameters with fewer elements than this keep float32 state: there is little to save."""


def check_choice(argument: str, given: Any, allowed: Collection[str]) -> None:
    """Raise ValueError if a value is not allowed; the message has the allowed ones, and the nearest."""
    if given not in tuple(allowed):  # it may not be hashable
        near = get_close_matches(str(given), allowed, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Invalid {argument}: {given!r} (choose {', '.join(map(repr, allowed))}).{meant}")


def check_precision(argument: str, given: Any, allowed: Collection[str]) -> str:
    """Return the documented name of a precision.

    Args:
        argument: the argument's name in an error.
        given: the user's value, a documented or a short name.
        allowed: the documented names that this argument takes.

    Raises:
        ValueError: none of these.

    >>> check_precision("state", "bf16", STATES)
    'bfloat16'
    """
    name: str = SHORT_NAMES.get(given, given) if isinstance(given, str) else given
    if name not in tuple(allowed):
        check_choice(argument, given, allowed)
    return name


PAGE_BUDGET = "512MB"
"""The default memory for the pages of paged state."""


@final
@dataclass(frozen=True)
class Pages:
    """The folder and the memory budget of paged state.

    Attributes:
        folder: the folder of the files; None for a temporary one that is removed with the optimizer.
        budget: bytes of state that may be in memory.
        resume: continue with the files of an earlier run in the folder; otherwise they are never overwritten, and an
            error is raised.

    Raises:
        ValueError: a budget that is not above 0.
        TypeError: a folder that is no path, or is empty text; another type of ``budget`` or ``resume``.
        NotADirectoryError: the folder is a file.

    >>> Pages(budget="2GB")
    Pages(folder=None, budget=2000000000, resume=False)
    """

    folder: Path | None = None
    budget: int = parse_bytes(PAGE_BUDGET)
    resume: bool = False

    def __post_init__(self) -> None:
        folder: Any = self.folder  # text is taken, too
        if not (folder is None or (isinstance(folder, (str, Path)) and folder != "")):
            raise TypeError(
                f"state is paged to a folder, and {folder!r} names none: name one ('.' is the current one), or give "
                "None for a temporary one"
            )
        if not isinstance(self.resume, bool):
            raise TypeError(f"resume must be True or False, but is {self.resume!r}")
        object.__setattr__(self, "folder", None if folder is None else Path(folder))
        object.__setattr__(self, "budget", parse_bytes(self.budget))
        if not self.budget > 0:
            raise ValueError(f"Invalid page budget: {self.budget} (must be more than 0 bytes)")
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"state is paged to a folder, and {self.folder} is a file: name another place")

    @classmethod
    def of(cls, paged: bool | str | Path | Pages, budget: str | int | None) -> Pages | None:
        """Return the settings that an argument ``paged`` and a page ``budget`` give; None for state in memory.

        Raises:
            TypeError: ``paged`` is something else.
            ValueError: a budget without pages, or two budgets.
        """
        if isinstance(paged, Pages):
            if budget is not None:
                raise ValueError("page_budget= is given by Pages(budget=...) already")
            return paged
        if paged is False:
            if budget is not None:
                raise ValueError("page_budget= is for paged state: give paged=True or a folder")
            return None
        if not (paged is True or isinstance(paged, (str, Path))):
            raise TypeError(f"paged must be True, False, a folder or gradstep.Pages, but is {paged!r}")
        folder: Any = None if paged is True else paged
        return cls(folder, parse_bytes(PAGE_BUDGET if budget is None else budget))


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


def describe_state(state: str) -> str:
    """Return a name of :data:`STATES` as a word of a sentence.

    >>> describe_state("8bit"), describe_state("float32")
    ('8-bit', 'float32')
    """
    return re.sub(r"(?<=\d)bit", "-bit", state)


def slot_codec(state: str, parameter: Element, *, signed: bool) -> Codec:
    """Return the codec of a slot.

    Args:
        state: one of :data:`STATES`.
        parameter: the element type of the parameter; a float64 parameter keeps float64 state.
        signed: whether the slot's values may be negative.
    """
    if parameter.arithmetic is not ELEMENTS["float32"].arithmetic:
        return Nearest(parameter)
    return STATES[state](signed)


def parameter_codec(rounding: str, element: Element) -> Elementwise:
    """Return the codec of a parameter; float32 and float64 are stored unchanged under every rounding.

    Args:
        rounding: one of :data:`ROUNDINGS`.
        element: the parameter's element type.
    """
    return ROUNDINGS[rounding](element) if isinstance(element, Half) else Nearest(element)
