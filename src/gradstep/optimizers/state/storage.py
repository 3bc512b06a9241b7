"""The storage of each parameter and its state, and the engine that updates it, by the user's choices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor

from gradstep.engines.base import Engine, Traits, UpdateSpec, choose_engine
from gradstep.engines.compiled import Compiled
from gradstep.engines.eager import Eager
from gradstep.engines.fused import Fused
from gradstep.engines.reference import Reference
from gradstep.optimizers.memory import is_addressable, is_dense, is_distributed, local_tensor
from gradstep.optimizers.sharded import any_sharded, block_shape, explain_refusal
from gradstep.rules import Rule, Slot
from gradstep.storage.codecs import Codec, Elementwise, Field, Nearest
from gradstep.storage.elements import ELEMENTS, Element, Native
from gradstep.storage.policy import (
    ROUNDINGS,
    STATES,
    check_choice,
    check_precision,
    is_embedding,
    is_embedding_class,
    parameter_codec,
    slot_codec,
    stays_float32,
)

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def element_of(dtype: torch.dtype) -> Element:
    """Return the stored element for numbers of a torch type; a complex number is a pair of real numbers."""
    name = str(dtype.to_real()).removeprefix("torch.")
    return ELEMENTS.get(name) or Native(name)


def dtype_of(field: Field) -> torch.dtype:
    """Return the torch type of a field's array."""
    dtype: torch.dtype = getattr(torch, field.element.name)
    return dtype


def keys_of(slot: Slot, codec: Codec) -> list[str]:
    """Return the keys in the state of a slot's fields."""
    return [f"{slot.name}_{field.suffix}" if field.suffix else slot.name for field in codec.fields]


def find_codec(slot: Slot, entry: Mapping[str, Any], *, whole: bool = True) -> Codec | None:
    """Return the codec in blocks with which a slot of an entry is stored; None if it has numbers, or is missing.

    Args:
        slot: the slot.
        entry: the state of a parameter.
        whole: whether the scales must be there, by whose key the codec is recognised; if not, and there are none, the
            first codec with codes of this type is returned.
    """
    value = entry.get(slot.name)
    if not isinstance(value, Tensor) or value.dtype.itemsize > 1:  # codes are bytes
        return None
    in_blocks = (codec for codec in (make(slot.signed) for make in STATES.values()) if codec.block > 1)
    codecs = [codec for codec in in_blocks if dtype_of(codec.fields[0]) == value.dtype]
    found = (codec for codec in codecs if all(entry.get(key) is not None for key in keys_of(slot, codec)))
    return next(found, None if whole or not codecs else codecs[0])


def possible_keys(slot: Slot) -> set[str]:
    """Return the keys that a slot's fields have with any codec.

    >>> sorted(possible_keys(Slot("exp_avg")))
    ['exp_avg', 'exp_avg_scale']
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
    """

    parameter: Elementwise
    slots: tuple[Slot, ...]
    codecs: tuple[Codec, ...]
    reason: str

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
        """The keys of the slots that have length 1 along an axis of the parameter, and this axis."""
        return {slot.name: slot.collapsed for slot in self.slots if slot.collapsed is not None}

    @cached_property
    def zeros(self) -> dict[str, Field] | None:
        """The fields, if before the first step all are zeros, in the parameter's shape or in blocks; else None."""
        plain = all(slot.fill == 0 and slot.collapsed is None for slot in self.slots)
        return self.fields if plain and len(self.parameter.fields) == 1 else None

    @property
    def noisy(self) -> bool:
        """Whether the parameter or a slot is rounded at random."""
        return self.parameter.noisy or any(codec.noisy for codec in self.codecs)

    def spec(self, rule: Rule, gradient: torch.dtype) -> UpdateSpec:
        """Return the spec of the update for a gradient of this type."""
        return UpdateSpec.of(rule, self.slots, Nearest(element_of(gradient)), self.parameter, self.codecs)


@final
class Embeddings:
    """The embeddings among a group's parameters: as marked in the group if it has marks, else guessed from names.

    Args:
        group: a parameter group. :func:`gradstep.param_groups` and an optimizer's ``model=`` write ``"embeddings"``
            into it: for each of its ``"params"``, in order, whether it is an embedding.

    Attributes:
        are_marked: whether the group has these marks.
    """

    def __init__(self, group: Mapping[str, Any]) -> None:
        params, flags = group.get("params", ()), group.get("embeddings")
        self.are_marked = isinstance(flags, (list, tuple)) and len(flags) == len(params)
        tensors = (p[1] if isinstance(p, tuple) else p for p in params)
        self._ids = (
            {id(p) for p, flag in zip(tensors, flags, strict=True) if flag} if self.are_marked and flags else set()
        )

    def holds(self, p: Tensor, name: str) -> bool:
        """Return whether a parameter of the group is an embedding."""
        return id(p) in self._ids if self.are_marked else is_embedding(name)


def mark_embeddings(params: Iterable[Any], model: Any) -> list[dict[str, Any]]:
    """Return parameter groups that mark which parameters belong to an embedding of the model.

    Args:
        params: tensors, pairs of name and tensor, or groups, as an optimizer takes them.
        model: a ``torch.nn.Module``.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: the model has none of the parameters.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be the torch.nn.Module whose parameters are optimized, not {model!r}")
    embeddings = {id(p) for m in model.modules() if is_embedding_class(type(m)) for p in m.parameters(recurse=False)}
    own = {id(p) for p in model.parameters()}
    items = list(params)
    groups = items if items and isinstance(items[0], dict) else [{"params": items}]
    marked_groups, has_any = [], False
    for group in groups:
        members = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        ids = [id(p[1]) if isinstance(p, tuple) else id(p) for p in members]
        has_any = has_any or not own.isdisjoint(ids)
        marked_groups.append({**group, "params": members, "embeddings": [one in embeddings for one in ids]})
    if not has_any:
        raise ValueError("model has none of the parameters that are optimized: give the module that has them")
    return marked_groups


@final
@dataclass(frozen=True)
class Storage:
    """The user's choice of storage.

    Attributes:
        state: ``"float32"``, ``"bfloat16"`` or ``"8bit"``; a group's own ``"state"`` replaces it, and applies to
            embeddings too.
        rounding: ``"nearest"``, ``"stochastic"``, ``"kahan"`` or ``"master"``, for bfloat16 and float16 parameters.
        seed: the seed of the rounding noise.
        noise: how the noise knows a parameter, one of :data:`~gradstep.storage.noise.NOISES`.
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
        if state != "float32" and not any(slot.collapsed is None for slot in rule.slots(2)):
            kept = "only a row and a column of each matrix" if rule.slots(2) else "no state with these settings"
            raise ValueError(
                f"state={state!r} cannot be honoured: {type(rule).__name__} keeps {kept}; leave state='float32'"
            )

    def check_rounding(self, params: Iterable[Tensor]) -> None:
        """Refuse a rounding that no parameter can use.

        Raises:
            ValueError: no parameter is of bfloat16 or float16.
        """
        if self.rounding != "nearest" and not any(p.dtype in (torch.bfloat16, torch.float16) for p in params):
            raise ValueError(
                f"rounding={self.rounding!r} is for bfloat16 and float16 parameters, and there are none: "
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
        known = embeddings is not None and embeddings.are_marked
        embedding = is_embedding(name) if embeddings is None else embeddings.holds(p, name)
        slots = rule.slots(p.dim())
        element = element_of(p.dtype)
        if p.is_complex() and p.is_conj():
            raise ValueError(f"{name} is conjugated lazily and cannot be written to as it is: give its resolve_conj()")
        if p.is_complex() and not rule.elementwise:
            raise ValueError(
                f"{type(rule).__name__} is for real parameters, whose rows and columns have a mean, and {name} is "
                f"{p.dtype}: optimize torch.view_as_real of it, or take an elementwise rule such as AdamW"
            )
        state = self.state_of(group)
        reason = f"state={state!r}"
        if state != "float32":
            if p.is_complex() or element.name not in ("float32", "bfloat16", "float16"):
                raise ValueError(
                    f"state={state!r} is for float32, bfloat16 and float16 parameters, and {name} is {p.dtype}; "
                    'give its group "state": "float32"'
                )
            explicit = "state" in group  # a group's own choice applies to embeddings too
            exception = stays_float32(p.numel(), p.dim(), embedding=embedding and not explicit, from_module=known)
            if exception is not None:
                state, reason = "float32", exception
        codecs = tuple(
            slot_codec("float32" if slot.collapsed is not None else state, element, signed=slot.signed)
            for slot in slots
        )
        return ParameterStorage(parameter_codec(self.rounding, element), slots, codecs, reason)


ENGINES: Mapping[str, Engine] = {e.name: e for e in (Fused(), Eager(), Compiled(), Reference())}
"""Every engine by its name."""


def traits(p: Tensor, *, noisy: bool) -> Traits:
    """Return the traits of a parameter by which an engine accepts or refuses it.

    Args:
        p: the parameter.
        noisy: whether the parameter or a slot is rounded at random.
    """
    plain = is_addressable(p)
    return Traits(
        dtype=str(p.dtype).removeprefix("torch."),
        device=p.device.type,
        dense=plain and is_dense(p),
        plain=plain,
        noisy=noisy,
    )


def _check_distributed(p: DTensor, rule: type[Rule], stored: ParameterStorage, name: str, engine: str) -> None:
    """Refuse a DTensor whose local tensor cannot be updated as one process would update the whole.

    Raises:
        ValueError: with the reason and what to do.
    """
    refusal = explain_refusal(p, name)
    if refusal is None and engine == Reference.name and not rule.elementwise and any_sharded(p):
        refusal = (
            f"{rule.__name__} looks at whole tensors (means, norms), and {name} has placements {p.placements}, so that "
            f"this process has a part of it: the sums over all processes are for engine='eager', not {engine!r}"
        )
    for field in stored.fields.values():
        if refusal is None and field.per > 1 and block_shape(p, field.per) is None:
            refusal = (
                f"{stored.reason} stores blocks of {field.per} elements, and the placements {p.placements} of {name}, "
                f"of shape {tuple(p.shape)} on a mesh of {tuple(p.device_mesh.shape)}, may cut through a block: give "
                f'its group "state": "bfloat16" or "float32", or make its rows a multiple of {field.per} long'
            )
    if refusal is not None:
        raise ValueError(refusal)


class Choice(NamedTuple):
    """The engine of one parameter, the reason for it, and the parameter's codecs."""

    engine: Engine
    reason: str
    stored: ParameterStorage


@final
class Choices:
    """The engines and codecs of a group's parameters; parameters that are alike share one decision.

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
            ValueError: naming the parameter.
        """
        for index, p in enumerate(params):
            name, tensor = p if isinstance(p, tuple) else (f"parameter {index}", p)
            if isinstance(tensor, Tensor):
                self.of(tensor, str(name))

    def of(self, p: Tensor, name: str, *, addressable: bool | None = None) -> Choice:
        """Return the engine and storage of one parameter.

        Args:
            p: the parameter.
            name: its name in an error.
            addressable: the result of :func:`is_addressable`, if the caller has it.

        Raises:
            ValueError: the user's engine or storage cannot serve it.
        """
        placed: Any = None
        if is_distributed(p):
            placed, addressable = (p.device_mesh, p.placements, local_tensor(p).stride()), None
        elif not (is_addressable(p) if addressable is None else addressable):
            return self._decide(p, name)
        alike = (p.shape, p.stride(), p.dtype, p.device, placed, self._embeddings.holds(p, name))
        choice = self._decided.get(alike)
        if choice is None:
            choice = self._decided[alike] = self._decide(p, name)
        return choice

    def _decide(self, p: Tensor, name: str) -> Choice:
        stored = self._storage.of(self._rule, self._group, p, name, embeddings=self._embeddings)
        label = f"{name} of shape {tuple(p.shape)}"
        if is_distributed(p):
            _check_distributed(p, type(self._rule), stored, name, self._engine)
        own = traits(local_tensor(p), noisy=stored.noisy)
        engine, reason = choose_engine(self._engine, ENGINES, type(self._rule), own, label, "tensor on the CPU")
        return Choice(engine, reason, stored)
