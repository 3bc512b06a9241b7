"""The settings of storage, and the codecs of a parameter and its slots: float32 where fewer bits are not advisable."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, final

import numpy as np

from gradstep.rules import Rule, Slot
from gradstep.spelling import suggest
from gradstep.storage.codecs import Blocks, Codec, Elementwise, Field, Nearest
from gradstep.storage.elements import BFLOAT16, ELEMENTS, PARAMETER, Element, Half
from gradstep.storage.four_bits import FourBits
from gradstep.storage.halves import Kahan, LowByte, Master, Stochastic
from gradstep.storage.sizes import parse_bytes

T = TypeVar("T")

StateName = Literal["float32", "bfloat16", "8bit", "4bit", "fp32", "bf16"]
"""The names of :data:`STATES`, and their short names."""

RoundingName = Literal["nearest", "stochastic", "24bit", "kahan", "master"]
"""The names of :data:`ROUNDINGS`."""

SHORT_NAMES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Short names of precisions, which every argument takes as well as torch's names, which are the documented ones."""

STATES: Mapping[str, Callable[[bool], Codec]] = {
    "float32": lambda signed: Nearest(ELEMENTS["float32"]),
    "bfloat16": lambda signed: Stochastic(BFLOAT16),
    "8bit": Blocks,
    "4bit": FourBits,
}
"""The ways to store slots of state: the codec by whether the slot's values may be negative."""

ROUNDINGS: Mapping[str, Callable[[Any], Elementwise]] = {
    "nearest": Nearest,
    "stochastic": Stochastic,
    "24bit": LowByte,
    "kahan": Kahan,
    "master": Master,
}
"""The ways to round the updates of a bfloat16 or float16 parameter: the parameter's codec by its element type."""

ONLY_BFLOAT16 = frozenset({"24bit"})
"""The roundings that float16 parameters cannot have: a float16 under 2⁻¹⁴ has fewer places, so that eight bits after
its last are others of the value than those of a larger one."""

SMALL = 4_096
"""Parameters with fewer elements than this keep float32 state: there is little to save."""


def check_choice(argument: str, given: Any, allowed: Collection[str]) -> None:
    """Raise ValueError if a value is not allowed; the message has the allowed ones, and the nearest."""
    if given not in tuple(allowed):  # it may not be hashable
        choices, near = ", ".join(map(repr, allowed)), suggest(str(given), allowed, most=1)
        raise ValueError(f"Invalid {argument}: {given!r} (choose {choices}).{near}")


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
            ValueError: a budget without pages, two budgets, or a word such as ``"no"`` for a folder.
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
        if isinstance(paged, str) and paged.strip().lower() in _TRUTHS:
            raise ValueError(f"paged={paged!r} would name a folder: give True or False, or './{paged}' for the folder")
        folder: Any = None if paged is True else paged
        return cls(folder, parse_bytes(PAGE_BUDGET if budget is None else budget))


_TRUTHS = frozenset({"yes", "no", "true", "false", "on", "off", "none"})
"""Words that mean True or False and not a folder, as a configuration file may have them."""

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
        rounding: one of :data:`ROUNDINGS`, which :func:`refuse_rounding` does not refuse.
        element: the parameter's element type.
    """
    return ROUNDINGS[rounding](element) if isinstance(element, Half) else Nearest(element)


def refuse_rounding(rounding: str, dtype: str) -> str | None:
    """Return why parameters of a type cannot be rounded so, and what to do; None if they can.

    Args:
        rounding: one of :data:`ROUNDINGS`.
        dtype: torch's name of the type.

    >>> refuse_rounding("24bit", "float16")
    "rounding='24bit' is for bfloat16 parameters: give 'kahan' or 'master' for float16"
    """
    if dtype == "float16" and rounding in ONLY_BFLOAT16:
        return f"rounding={rounding!r} is for bfloat16 parameters: give 'kahan' or 'master' for float16"
    return None


def check_order(codecs: Sequence[Codec], order: str) -> None:
    """Raise ValueError if codecs need a parameter in row-major order, which it is not in, as ``order`` says."""
    if any(codec.packed for codec in codecs):
        raise ValueError(
            f'state="4bit" packs the codes of neighbours in row-major order into a byte, and {order}: make it '
            'contiguous (torch.contiguous_format), or give its group "state": "8bit"'
        )


# -- the storage of a parameter and its state --------------------------------------------------------------------------


def keys_of(slot: Slot, codec: Codec) -> list[str]:
    """Return the keys in the state of a slot's fields."""
    return [f"{slot.name}_{field.suffix}" if field.suffix else slot.name for field in codec.fields]


def possible_keys(slot: Slot) -> set[str]:
    """Return the keys that a slot's fields have with any codec.

    >>> sorted(possible_keys(Slot("exp_avg")))
    ['exp_avg', 'exp_avg_scale', 'exp_avg_scale4']
    """
    return {key for make in STATES.values() for key in keys_of(slot, make(slot.signed))}


@final
@dataclass(frozen=True)
class ParameterStorage:
    """The codecs of one parameter and its slots.

    Attributes:
        parameter: the parameter's own codec.
        slots: its slots.
        codecs: the codec of each slot.
        reason: why the slots have these codecs.
        scalars: the names of its rule's numbers per parameter, beside the step count.
    """

    parameter: Elementwise
    slots: tuple[Slot, ...]
    codecs: tuple[Codec, ...]
    reason: str
    scalars: tuple[str, ...] = ()

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Every array of the state by its key: those that rounding keeps, then the slots'."""
        own = {field.suffix: field for field in self.parameter.fields[1:]}
        return own | {
            key: field
            for slot, codec in zip(self.slots, self.codecs, strict=True)
            for key, field in zip(keys_of(slot, codec), codec.fields, strict=True)
        }

    @cached_property
    def collapsed(self) -> dict[str, int]:
        """The keys of the slots of length 1 along one axis, and this axis; several are of matrices, never sharded."""
        return {slot.name: slot.collapsed for slot in self.slots if isinstance(slot.collapsed, int)}

    @cached_property
    def starts_as_zeros(self) -> bool:
        """Whether all fields are zeros before the first step, in the parameter's shape or in blocks."""
        plain = all(slot.fill == 0 and slot.collapsed is None for slot in self.slots)
        return plain and len(self.parameter.fields) == 1

    @property
    def noisy(self) -> bool:
        """Whether the parameter or a slot is rounded at random."""
        return self.parameter.noisy or any(codec.noisy for codec in self.codecs)

    def spec(self, rule: Rule, gradient: Element) -> UpdateSpec:
        """Return the spec of the update by a rule, for a gradient of this type."""
        return UpdateSpec.of(rule, self.slots, Nearest(gradient), self.parameter, self.codecs)


@final
@dataclass(frozen=True, eq=False)
class UpdateSpec:
    """The rule and the storage of an update: everything that determines its code.

    :meth:`of` makes one, and returns the same object for the same contents, so that engines can cache kernels by it.

    Attributes:
        rule: the rule class.
        slots: the names of its slots.
        coefficients: the names of its coefficients, in the order of their row. The last is always ``"gradient"``, the
            factor that unscales, clips and (for maximize) negates the gradient.
        gradient, parameter: their codecs.
        state: the codec of each slot.
        second: the name of the first slot that is never negative, or empty.
    """

    rule: type[Rule]
    slots: tuple[str, ...]
    coefficients: tuple[str, ...]
    gradient: Nearest
    parameter: Elementwise
    state: tuple[Codec, ...]
    second: str = ""

    @staticmethod
    def of(
        rule: Rule, slots: Sequence[Slot], gradient: Nearest, parameter: Elementwise, state: Sequence[Codec]
    ) -> UpdateSpec:
        """Return the spec of a rule and the codecs of gradient, parameter and slots.

        Raises:
            TypeError: a field has codes of several elements in a number, which its element type does not unpack.
        """
        for codec in state:
            for field in codec.fields[:-1] if codec.block > 1 else codec.fields:
                if field.per != field.element.packs:
                    raise TypeError(
                        f"{codec.name} has the codes of {field.per} elements in a number of {field.element!r}, which "
                        f"has {field.element.packs}: Field(NIBBLES, per=2) has two in a byte"
                    )
        names = tuple(slot.name for slot in slots)
        coefficients = (*rule.coefficients(1, **type(rule).scalars), "gradient")
        second = next((slot.name for slot in slots if not slot.signed), "")
        return _spec(type(rule), names, coefficients, gradient, parameter, tuple(state), second)

    @cached_property
    def arithmetic(self) -> type[np.floating[Any]]:
        """The type that the rule computes in: float64 for float64 parameters, float32 for all others."""
        return self.parameter.arithmetic

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """The codecs of gradient, parameter and slots, in this order."""
        return (self.gradient, self.parameter, *self.state)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The columns of memory: the fields of every codec in order. The gradient is column 0."""
        return tuple(field for codec in self.codecs for field in codec.fields)

    def split_by_codec(self, columns: Sequence[T]) -> list[Sequence[T]]:
        """Split a sequence with one item per field into one sequence per codec."""
        items = iter(columns)
        return [[next(items) for _ in codec.fields] for codec in self.codecs]

    @cached_property
    def noise(self) -> dict[int, int]:
        """The stream of random numbers of each noisy codec, by its position in :attr:`codecs`."""
        return {i: codec.stream if i > 1 else PARAMETER for i, codec in enumerate(self.codecs) if codec.noisy}


_spec = cache(UpdateSpec)
