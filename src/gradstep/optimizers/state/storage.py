"""The storage of each parameter and its state, by the user's choices: codecs, the engine for them, arrays."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any, TypeGuard, cast, final

import torch
from torch import Tensor

import gradstep
from gradstep.engines.base import Engine, Traits
from gradstep.engines.step import choose_engine, pause_garbage_collection
from gradstep.optimizers.arguments import Embeddings
from gradstep.optimizers.memory import PLAIN, is_addressable, is_dense, is_distributed, lacks_memory, local_tensor
from gradstep.optimizers.sharded import any_sharded, check_distributed
from gradstep.optimizers.state.engines import ENGINES, ENGINES_ON
from gradstep.rules import Rule, Slot
from gradstep.storage.codecs import Codec, Field
from gradstep.storage.elements import ELEMENTS, Element, Native
from gradstep.storage.policy import (
    ONLY_BFLOAT16,
    ROUNDINGS,
    STATES,
    ParameterStorage,
    check_choice,
    check_order,
    check_precision,
    is_embedding,
    keys_of,
    parameter_codec,
    refuse_rounding,
    slot_codec,
    stays_float32,
)

FORMAT, SEVERAL_RULES = 2, 3
"""The versions of checkpoints of one rule and of several. In format 1 the arrays of a slot in blocks had own keys."""

HEADER = "gradstep"
"""The key of the header, in a state dictionary and in a group."""

OLD_CODES = "_codes"
"""The end of the key of codes in checkpoints of format 1, which had the arrays of a slot side by side."""

MOST_STEPS = 2**24
"""The largest step count. It is kept as a float32, which has no odd number above this one."""


def element_of(dtype: torch.dtype) -> Element:
    """Return the stored element for numbers of a torch type; a complex number is a pair of real numbers."""
    name = str(dtype.to_real()).removeprefix("torch.")
    return ELEMENTS.get(name) or Native(name)


def dtype_of(field: Field) -> torch.dtype:
    """Return the torch type of a field's array."""
    return cast("torch.dtype", getattr(torch, field.element.name))


def find_codec(slot: Slot, entry: Mapping[str, Any], *, whole: bool = True) -> Codec | None:
    """Return the codec in blocks with which a slot of an entry is stored; None if it has numbers, or is missing.

    Args:
        slot: the slot.
        entry: the state of a parameter.
        whole: False returns a codec with codes of this type if there are no scales, whose key identifies the codec.
    """
    value = entry.get(slot.name)
    if not isinstance(value, Tensor) or value.dtype.itemsize > 1:  # codes are bytes
        return None
    codecs = _list_codecs(tuple(STATES.values()), slot.signed, value.dtype)
    found = (codec for codec in codecs if all(entry.get(key) is not None for key in keys_of(slot, codec)))
    return next(found, None if whole or not codecs else codecs[0])


@cache
def _list_codecs(makers: tuple[Callable[[bool], Codec], ...], signed: bool, dtype: torch.dtype) -> list[Codec]:
    """Return the codecs in blocks that have codes of this type; cached, since a load needs it for every slot."""
    return [c for c in (make(signed) for make in makers) if c.block > 1 and dtype_of(c.fields[0]) == dtype]


@final
@dataclass(frozen=True)
class Storage:
    """The user's choice of storage.

    Attributes:
        state: one of :data:`~gradstep.storage.policy.STATES`; a group's own replaces it, and applies to embeddings too.
        rounding: one of :data:`~gradstep.storage.policy.ROUNDINGS`, for bfloat16 and float16 parameters.
        seed: the seed of the rounding noise.
        noise: by what the noise identifies a parameter, one of :data:`~gradstep.storage.elements.NOISES`.
    """

    state: str = "float32"
    rounding: str = "nearest"
    seed: int = 0
    noise: str = "names"

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", check_precision("state", self.state, STATES))
        check_choice("rounding", self.rounding, ROUNDINGS)
        if type(self.seed) is not int:
            raise TypeError(f"seed must be a whole number, but is {self.seed!r}")

    def header(self, rule: type[Rule], groups: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Return the header of a checkpoint with these groups: plain numbers and strings.

        >>> from gradstep.rules import AdamW
        >>> list(Storage().header(AdamW))
        ['format', 'version', 'rule', 'state', 'rounding', 'seed', 'noise']
        """
        version = SEVERAL_RULES if any("rule" in group for group in groups) else FORMAT
        return {"format": version, "version": gradstep.__version__, "rule": rule.__name__, **asdict(self)}

    def state_of(self, group: Mapping[str, Any]) -> str:
        """Return the precision of a group's state: its own ``"state"``, else this one.

        Raises:
            ValueError: an unknown precision.
        """
        return check_precision("state", group["state"], STATES) if "state" in group else self.state

    def check(self, rule: Rule, group: Mapping[str, Any]) -> None:
        """Refuse a precision of state that a group's rule cannot use.

        Raises:
            ValueError: an unknown precision, or the rule keeps no state of its parameters' size.
        """
        state = self.state_of(group)
        slots = rule.slots(2)
        if state != "float32" and all(slot.exact or slot.collapsed is not None for slot in slots):
            few = "only copies of weights" if any(s.exact for s in slots) else "only a row and a column of each matrix"
            kept = few if slots else "no state with these settings"
            raise ValueError(
                f"state={state!r} cannot be honoured: {type(rule).__name__} keeps {kept}; leave state='float32'"
            )

    def check_rounding(self, params: Iterable[Tensor]) -> None:
        """Refuse a rounding that no parameter can use.

        Raises:
            ValueError: no parameter is of bfloat16 or float16.
        """
        if self.rounding != "nearest" and not any(p.dtype in (torch.bfloat16, torch.float16) for p in params):
            halves = "bfloat16" if self.rounding in ONLY_BFLOAT16 else "bfloat16 and float16"
            raise ValueError(
                f"rounding={self.rounding!r} is for {halves} parameters, and there are none: "
                "convert the model before the optimizer is made, or leave rounding='nearest'"
            )

    def of(
        self, rule: Rule, group: Mapping[str, Any], p: Tensor, name: str, *, embeddings: Embeddings | None = None
    ) -> ParameterStorage:
        """Return the codecs of one parameter of a group.

        Args:
            rule: the rule with the settings of the group.
            group: the group.
            p: the parameter, or one like it.
            name: its name.
            embeddings: the embeddings of the group; None guesses from the name.

        Raises:
            ValueError: its state cannot be stored in the chosen precision.
        """
        are_marked = embeddings is not None and embeddings.are_marked
        embedding = is_embedding(name) if embeddings is None else embeddings.holds(p, name)
        slots = rule.slots(p.dim())
        element = element_of(p.dtype)
        if p.is_complex() and p.is_conj():
            raise ValueError(f"{name} is conjugated lazily and cannot be written to as it is: give its resolve_conj()")
        if p.is_complex() and rule.sees != "elements":
            raise ValueError(
                f"{type(rule).__name__} looks at whole tensors and is for real ones, and {name} is {p.dtype}: optimize "
                "torch.view_as_real of it, or take an elementwise rule such as AdamW"
            )
        refusal = rule.explain_refusal(tuple(p.shape)) if rule.sees == "matrix" else None
        if refusal is not None:
            raise ValueError(f"{type(rule).__name__} cannot update {name} of shape {tuple(p.shape)}: {refusal}")
        state = self.state_of(group)
        reason = f"state={state!r}"
        if state != "float32":
            if p.is_complex() or element.name not in ("float32", "bfloat16", "float16"):
                raise ValueError(
                    f"state={state!r} is for float32, bfloat16 and float16 parameters, and {name} is {p.dtype}; "
                    'give its group "state": "float32"'
                )
            explicit = "state" in group  # a group's own choice applies to embeddings too
            exception = stays_float32(p.numel(), p.dim(), embedding=embedding and not explicit, from_module=are_marked)
            if exception is not None:
                state, reason = "float32", exception
        codecs = tuple(
            slot_codec("float32" if slot.exact or slot.collapsed is not None else state, element, signed=slot.signed)
            for slot in slots
        )
        if not p.is_contiguous():
            check_order(codecs, f"{name} of shape {tuple(p.shape)} has strides {p.stride()}")
        if refusal := refuse_rounding(self.rounding, element.name):
            raise ValueError(f"{refusal}, the type of {name}")
        return ParameterStorage(parameter_codec(self.rounding, element), slots, codecs, reason, tuple(rule.scalars))


@final
@dataclass(frozen=True, eq=False)
class Choice:
    """How parameters that are alike are stored, and which engine updates them.

    Attributes:
        stored: their codecs.
        p, name: the first of them, and its name in an error.
        rule: their rule.
        wanted: the user's choice of an engine, ``"auto"`` or a name.
    """

    stored: ParameterStorage
    p: Tensor
    name: str
    rule: Rule
    wanted: str

    @cached_property
    def engine_and_reason(self) -> tuple[Engine, str]:
        """The engine that updates these parameters, and the reason for it, with gradients of their type."""
        return self.choose_engine_and_reason(self.p.dtype)

    def choose_engine_and_reason(self, gradient: torch.dtype) -> tuple[Engine, str]:
        """Return the engine that updates these parameters with gradients of a type, and the reason for it.

        Raises:
            ValueError: the engine that the user wants cannot; ``"auto"`` always finds one.
        """
        local, sharded = local_tensor(self.p), is_distributed(self.p) and any_sharded(self.p)
        traits = Traits(
            dtype=str(local.dtype).removeprefix("torch."),
            device=local.device.type,
            dense=is_addressable(local) and is_dense(local),
            plain=is_addressable(local),
            noisy=self.stored.noisy,
            sharded=sharded,
            number=local.device.index or 0,
            spec=self.stored.spec(self.rule, element_of(gradient)),
        )
        label, engines = f"{self.name} of shape {tuple(self.p.shape)}", ENGINES_ON.get(traits.device, ENGINES)
        kind = f"tensor on {'the CPU' if traits.device == 'cpu' else local.device}"
        return choose_engine(self.wanted, engines, type(self.rule), traits, label, kind)


@final
class Choices:
    """The codecs and engines of a group's parameters; parameters that are alike share one choice.

    Args:
        engine: the user's choice, ``"auto"`` or a name.
        storage: the user's choice.
        rule: the rule with the settings of the group.
        group: the group.
    """

    def __init__(self, engine: str, storage: Storage, rule: Rule, group: Mapping[str, Any]) -> None:
        self._engine, self._storage, self._rule, self._group = engine, storage, rule, group
        self._embeddings = Embeddings(group)
        self._decided: dict[Any, Choice] = {}

    def check(self, params: Iterable[Any]) -> None:
        """Refuse parameters (tensors, or pairs of name and tensor) that the user's engine or storage cannot serve.

        Raises:
            ValueError: naming the parameter, or the precision of state.
        """
        self._storage.check(self._rule, self._group)
        for index, p in enumerate(params):
            name, tensor = p if isinstance(p, tuple) else (f"parameter {index}", p)
            if isinstance(tensor, Tensor):
                choice = self.of(tensor, str(name))
                if self._engine != "auto":
                    choice.engine_and_reason  # noqa: B018  # raises an error

    def of(self, p: Tensor, name: str, *, addressable: bool | None = None) -> Choice:
        """Return the storage of one parameter, with which its engine is found.

        Args:
            p: the parameter.
            name: its name in an error.
            addressable: the result of :func:`is_addressable`, if the caller has it.

        Raises:
            ValueError: the user's storage cannot serve it.
        """
        distribution: Any = None
        if is_distributed(p):
            distribution, addressable = (p.device_mesh, p.placements, local_tensor(p).stride()), None
        elif not (is_addressable(p) if addressable is None else addressable):
            return self._decide(p, name)
        alike = (p.shape, p.stride(), p.dtype, p.device, distribution, self._embeddings.holds(p, name))
        choice = self._decided.get(alike)
        if choice is None:
            choice = self._decided[alike] = self._decide(p, name)
        return choice

    def _decide(self, p: Tensor, name: str) -> Choice:
        stored = self._storage.of(self._rule, self._group, p, name, embeddings=self._embeddings)
        if is_distributed(p):
            check_distributed(p, type(self._rule), stored, name, self._engine)
        return Choice(stored, p, name, self._rule, self._engine)


# -- state -----------------------------------------------------------------------------------------------------------


def make_zeros(p: Tensor, fields: dict[str, Field]) -> dict[str, Tensor]:
    """Return arrays of zeros: bytes of 0 decode to 0 with every codec, so nothing needs to be encoded."""
    return {
        key: torch.zeros_like(p, dtype=dtype_of(field))
        if field.per == 1
        else torch.zeros(field.shape(p.shape), dtype=dtype_of(field), device=p.device)
        for key, field in fields.items()
    }


def is_regular(p: Tensor, stored: ParameterStorage, rule: Rule, entry: dict[str, Any]) -> bool:
    """Return whether an entry is exactly as the optimizer makes it: no array missing, and no other keys."""
    if len(entry) != len(stored.fields) + 1 + len(rule.scalars):
        return False
    if not p.is_contiguous() or p.is_complex() or p.is_meta or type(p) not in PLAIN:
        return False
    shape, device = p.shape, p.device
    for key, field in stored.fields.items():
        value = entry.get(key)
        if (
            not isinstance(value, Tensor)
            or type(value) not in PLAIN
            or value.is_nested
            or value.dtype is not dtype_of(field)
            or value.shape != field.shape(shape)
            or value.device != device
            or value.layout is not torch.strided
            or not value.is_contiguous()
            or value.is_neg()
            or lacks_memory(value)
        ):
            return False
    for key in ("step", *rule.scalars):
        value = entry.get(key)
        if type(value) is not Tensor or value.dtype is not torch.float32 or value.dim() or not value.is_cpu:
            return False
        if lacks_memory(value):
            return False
        number = value.item()
        if not (0 <= number <= MOST_STEPS and number == int(number) if key == "step" else math.isfinite(number)):
            return False
    return True


@pause_garbage_collection()
def install_entries(
    state: defaultdict[Tensor, dict[str, Any]],
    params: Sequence[Tensor],
    entries: Sequence[dict[str, Any]],
    numbers: Sequence[Sequence[str]],
    cells: Sequence[Tensor],
) -> None:
    """Put the entries of parameters into an optimizer's state, and their numbers into cells of a table.

    Args:
        state: the optimizer's, changed in place.
        params, entries: parameters, and the state of each.
        numbers: for each parameter, the names of the step count and its rule's scalars.
        cells: 0-d views of the table, one for each parameter and name. They become the data of the tensors that the
            state already has, since a state dict may hold these.
    """
    cell_of, moved = iter(cells), set[int]()
    for p, new_entry, names in zip(params, entries, numbers, strict=True):
        entry = state.setdefault(p, {})
        entry.update(new_entry)
        for key in [key for key in entry if key not in new_entry and str(key).endswith(OLD_CODES)]:
            del entry[key]  # its codes are under the name of their slot now
        for name in names:
            cell, old = next(cell_of), entry.get(name)
            if _is_number(old) and id(old) not in moved:  # a state dict, say, may hold the same tensor
                moved.add(id(old))
                old.data = cell
            else:
                entry[name] = cell


def _is_number(value: Any) -> TypeGuard[Tensor]:
    """Return whether it is a float32 scalar tensor whose ``data`` can be set to a cell of the table."""
    return (
        type(value) is Tensor
        and value.dtype is torch.float32
        and value.is_cpu
        and value.layout is torch.strided
        and not (value.dim() or value.requires_grad or value.is_inference())
    )
