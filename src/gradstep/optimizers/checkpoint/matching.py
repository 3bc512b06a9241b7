"""Match a checkpoint to an optimizer: its header, which has rule, storage and seed, then its entries, to parameters.

torch's distributed engines (``ZeroRedundancyOptimizer``, FSDP, ``torch.distributed.checkpoint``) keep only ``state``
and ``param_groups`` of a state dictionary. So a group of a rule that torch does not have, or whose state is not stored
as torch stores it, has the header too, as one string under ``"gradstep"``. It is one value, so that a later version can
add to it and still load older files: those engines read from a file exactly the keys that the groups have, and refuse a
file that lacks one. Other groups have torch's keys only, so that files of torch's optimizers and of ours can be
exchanged; among these keys is the kind of decay, by which Adam and AdamW know their checkpoints apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, final

import torch

import gradstep
from gradstep.optimizers.checkpoint.another_rule import find_remedy
from gradstep.optimizers.memory import plain_name
from gradstep.optimizers.state.check import count_updates
from gradstep.optimizers.state.storage import HEADER, OLD_CODES, SEVERAL_RULES, Storage, element_of, find_codec
from gradstep.rules import Rule, Slot
from gradstep.storage.elements import NOISES
from gradstep.storage.policy import keys_of, parameter_codec

UPDATES = "updates"
"""The key of the number of updates in the header of a group."""


def write_group_header(rule: type[Rule], storage: Storage, group: dict[str, Any]) -> None:
    """Write the keys of a group by which readers of its checkpoints know its rule and storage.

    The header, unless torch has the rule and stores parameters and state alike. And ``Rule.fixed``, as in torch, unless
    a part of the parameters is in the state: an optimizer that would lose that part then misses the key in a
    distributed checkpoint, which is an error.
    """
    state = storage.state_of(group)
    if rule.__name__ in vars(torch.optim) and storage.rounding == "nearest" and state == "float32":
        group.pop(HEADER, None)
    else:
        group[HEADER] = json.dumps(replace(storage, state=state).header(rule))
    if keeps_parts(storage, group):
        for name in rule.fixed:
            group.pop(name, None)
    else:
        group |= rule.fixed


def keeps_parts(storage: Storage, group: Mapping[str, Any]) -> bool:
    """Return whether the state of a group has a part of its parameters' numbers: 24 bits, Kahan or master."""
    elements = map(element_of, {p.dtype for p in group["params"]})
    return any(len(parameter_codec(storage.rounding, element).fields) > 1 for element in elements)


def write_update_count(group: Mapping[str, Any], state: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a group of a state dictionary with its ``state``, with the number of updates in its header if it has one.

    So :func:`read_saved_storage` finds a header that the optimizer had before, and that was not read from a file.
    """
    header = read_header({"param_groups": [group]})
    return {**group, **({HEADER: json.dumps({**header, UPDATES: count_updates(group, state)})} if header else {})}


def find_header(state_dict: Mapping[str, Any]) -> Any:
    """Return the header of a state dictionary, or of its first group that has one, unchecked; else None."""
    header = state_dict.get(HEADER)
    if header is None:
        header = next((group[HEADER] for group in state_dict["param_groups"] if HEADER in group), None)
    try:
        return json.loads(header) if isinstance(header, str) else header
    except ValueError:  # read_header refuses it as it is
        return header


def read_header(state_dict: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the header of a state dictionary, or of its first group that has one, checked; None if torch wrote it.

    Raises:
        ValueError: the header is of a later format, or invalid.
    """
    header = find_header(state_dict)
    if header is None:
        return None
    if not (
        isinstance(header, Mapping)
        and isinstance(header.get("format"), int)
        and isinstance(header.get("rule"), str)
        and "version" in header
    ):
        raise ValueError(f"'gradstep' in the loaded state dict is not what gradstep writes there, but {header!r}")
    if header["format"] > SEVERAL_RULES:
        raise ValueError(
            f"the loaded state dict was written by gradstep {header['version']} in format {header['format']}, "
            f"and gradstep {gradstep.__version__} reads formats up to {SEVERAL_RULES}: update gradstep"
        )
    return {**header}


def read_saved_rules(state_dict: Mapping[str, Any]) -> list[str | None]:
    """Return the name of the rule of each group of a state dictionary; None where torch wrote it.

    Raises:
        ValueError: a header is invalid.
    """
    header = read_header(state_dict) if HEADER in state_dict else None
    groups = state_dict["param_groups"]
    headers = [read_header({"param_groups": [group]}) or header or {} for group in groups]
    return [group.get("rule", own.get("rule")) for group, own in zip(groups, headers, strict=True)]


def check_saved_rules(
    saved: Iterable[str | None], own: Iterable[type[Rule]], groups: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse a checkpoint none of whose rules an optimizer has.

    Args:
        saved: the name of the rule of each group of the checkpoint; None if it does not say.
        own: the rule of each group of the optimizer.
        groups: the groups of the checkpoint.

    Raises:
        ValueError: naming the rules.
    """
    rules, names = dict.fromkeys(own), dict.fromkeys(saved)
    if None in names or not names or not rules or not names.keys().isdisjoint(rule.__name__ for rule in rules):
        return
    name, rule = next(iter(names)), next(iter(rules))
    remedy = find_remedy(rule, str(name), groups)
    ours = " and ".join(rule.__name__ for rule in rules)
    raise ValueError(
        f"the loaded state dict is of {' and '.join(map(str, names))}, and this optimizer is {ours}. {remedy}"
    )


def continue_noise(storage: Storage, header: Mapping[str, Any] | None) -> Storage:
    """Return the storage with the seed and the numbering of a checkpoint, so that rounding continues with its noise.

    Checkpoints from before there was a numbering by name do not have it in their header: they numbered by position.
    """
    if header is None:
        return storage
    noise = header.get("noise", "positions")
    if noise not in NOISES:
        raise ValueError(f"Unknown noise in the loaded state dict: {noise!r} (choose {', '.join(NOISES)})")
    return replace(storage, seed=header.get("seed", storage.seed), noise=noise)


def read_groups_storage(rules: Sequence[type[Rule]], storage: Storage, groups: Sequence[Mapping[str, Any]]) -> Storage:
    """Return the storage with the seed of the groups, which ``ZeroRedundancyOptimizer`` loads without telling us.

    Args:
        rules: the rule of each group.
        storage, groups: the optimizer's.

    Raises:
        ValueError: a group is of another rule, of a later format, or invalid.
    """
    header = read_header({"param_groups": groups})
    for group, rule in zip(groups, rules, strict=True):
        check_saved_rules(read_saved_rules({"param_groups": [group]}), [rule], [group])
    return continue_noise(storage, header)


def read_saved_storage(group: Mapping[str, Any] | None, state: Mapping[Any, Any]) -> Storage | None:
    """Return how a group, with its ``state``, was stored when a distributed engine saved it; None if it does not say.

    With ``broadcast_from_rank0`` a group without a header in the file keeps that of this optimizer, with other updates
    than the state: it was stored as torch does.
    """
    header = None if group is None else read_header({"param_groups": [group]})
    if group is None or header is None or not {"state", "rounding"} <= header.keys():
        return None
    if header.get(UPDATES, count := count_updates(group, state)) != count:
        return Storage()
    return Storage(group.get("state", header["state"]), header["rounding"])


# -- entries ----------------------------------------------------------------------------------------------------------


CODES = "codes"
"""The key of the codes of a slot in blocks, in the dictionary that a checkpoint has for the slot."""


def nest_fields(entry: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the state of a parameter as checkpoints have it: the arrays of a slot in blocks are one dictionary.

    So a checkpoint has the keys of ``optimizer.state``, by which torch reads flattened distributed checkpoints, and
    torch.optim cannot take codes for the values of a slot.

    >>> import torch
    >>> entry = {"step": 1, "exp_avg": torch.zeros(2, dtype=torch.uint8)}
    >>> nested = nest_fields(entry | {"exp_avg_scale": torch.zeros(1, dtype=torch.uint8)})
    >>> list(nested), list(nested["exp_avg"])
    (['step', 'exp_avg'], ['codes', 'scale'])
    """
    nested = dict(entry)
    for key in entry:
        codec = find_codec(Slot(key), entry)
        if codec is not None:
            names = [field.suffix or CODES for field in codec.fields]
            arrays = [nested[key], *map(nested.pop, keys_of(Slot(key), codec)[1:])]
            nested[key] = dict(zip(names, arrays, strict=True))
    return nested


def unnest_fields(entry: Mapping[Any, Any]) -> dict[Any, Any]:
    """Undo :func:`nest_fields`; also read the keys of format 1, and leave out what torch did not find.

    For every key of ``optimizer.state`` that a flattened checkpoint does not have, torch puts an empty dictionary.

    Raises:
        RuntimeError: a slot is there twice.
    """
    arrays: dict[Any, Any] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping) and _are_codes(key, value.get(CODES)):
            fields = {key if name == CODES else f"{key}_{name}": array for name, array in value.items()}
        elif isinstance(key, str) and key.endswith(OLD_CODES) and _are_codes(key, value):
            fields = {key.removesuffix(OLD_CODES): value}
        else:
            fields = {} if isinstance(value, Mapping) and not value else {key: value}
        twice = arrays.keys() & fields.keys()
        if twice:
            raise RuntimeError(
                f"the loaded state dict has {', '.join(twice)} twice: torch has merged a checkpoint of another "
                "precision, or of an older gradstep, with the state of this optimizer; load it without "
                "full_state_dict=True, or with optimizer.load_state_dict()"
            )
        arrays |= fields
    return arrays


def _are_codes(key: Any, value: Any) -> bool:
    """Return whether a value of state has the type of codes."""
    return find_codec(Slot(key), {key: value}, whole=False) is not None


def parameter_keys(groups: Iterable[Any]) -> frozenset[Any]:
    """Return the keys of parameters in a checkpoint's state."""
    return frozenset(chain.from_iterable(group["params"] for group in groups))


GroupMapping = Mapping[str, Any]


@final
@dataclass(frozen=True)
class GroupMatch:
    """The correspondence between an optimizer's groups and a checkpoint.

    Attributes:
        keys: the checkpoint's key of each parameter, by group; :data:`ABSENT` if the checkpoint does not have it.
        sources: for each group, the checkpoint's group with its settings; None if the group keeps its own.
        unexpected: names in the checkpoint that the optimizer does not have.
    """

    keys: Sequence[Sequence[Any]]
    sources: Sequence[GroupMapping | None]
    unexpected: Sequence[str] = ()


ABSENT = object()
"""The key of a parameter that a checkpoint does not have."""


def match(groups: Sequence[GroupMapping], saved: Sequence[GroupMapping], *, strict: bool = True) -> GroupMatch:
    """Match the groups of an optimizer with those of a checkpoint.

    If every group on both sides has ``param_names``, parameters are matched by name, whatever their order and group in
    the checkpoint. A group takes the settings of the checkpoint's group with the same names; without such a group it
    keeps its own settings. Prefixes that DistributedDataParallel, ``torch.compile`` and other wrappers add to names are
    ignored.

    Without names, or if a name occurs twice, parameters are matched by order, as in torch.optim.

    Args:
        groups: the optimizer's groups.
        saved: the checkpoint's groups.
        strict: whether names that only one side has are refused.

    Raises:
        ValueError: the groups or the names differ.
    """
    names, saved_names = _names(groups), _names(saved)
    if names is None or saved_names is None:
        return _match_by_order(groups, saved)
    keys = dict(zip(chain(*saved_names), chain(*(g["params"] for g in saved)), strict=True))
    own = set(chain(*names))
    unexpected = [name for name in keys if name not in own]
    lines = [f"missing: {name}" for name in chain(*names) if name not in keys]
    lines += [f"unexpected: {name}" for name in unexpected]
    if lines and strict:
        remedies = []
        if own & keys.keys():
            remedies.append("load_state_dict(state_dict, strict=False) loads those that match, and lists the rest")
        if [len(group["params"]) for group in groups] == [len(group["params"]) for group in saved]:
            remedies.append("if only the names differ, delete 'param_names' in its groups to match by order")
        last = "; ".join(remedies) or "Make the optimizer of the model that was saved, or begin with fresh state"
        raise ValueError(f"the loaded state dict is of other parameters:\n{show_lines(lines)}\n{last}")
    by_names = {frozenset(n): group for n, group in zip(saved_names, saved, strict=True)}
    keys_by_group = [[keys.get(name, ABSENT) for name in n] for n in names]
    return GroupMatch(keys_by_group, [by_names.get(frozenset(n)) for n in names], unexpected)


_BY_NAME = (
    "; to go by name instead, make the optimizer with names (model.named_parameters()) and give each group of the "
    "state dict its 'param_names', then load it with strict=False"
)


def _match_by_order(groups: Sequence[GroupMapping], saved: Sequence[GroupMapping]) -> GroupMatch:
    if len(groups) != len(saved):
        raise ValueError(
            "loaded state dict has a different number of parameter groups "
            f"({len(saved)}; this optimizer has {len(groups)}){_BY_NAME}"
        )
    for index, (group, other) in enumerate(zip(groups, saved, strict=True)):
        if len(group["params"]) != len(other["params"]):
            raise ValueError(
                f"loaded state dict contains a parameter group that doesn't match the size of optimizer's group (group "
                f"{index}: {len(other['params'])} parameters; this optimizer's has {len(group['params'])}){_BY_NAME}"
            )
    return GroupMatch([g["params"] for g in saved], saved)


def _names(groups: Sequence[GroupMapping]) -> list[list[str]] | None:
    """Return the names of every group's parameters; None if some have no name or no string, or a name occurs twice."""
    names_by_group = [g.get("param_names", ()) for g in groups]
    if not all(isinstance(names, Sequence) and all(isinstance(n, str) for n in names) for names in names_by_group):
        return None
    names_by_group = [[plain_name(name) for name in names] for names in names_by_group]
    flat = list(chain(*names_by_group))
    complete = [len(n) for n in names_by_group] == [len(g["params"]) for g in groups]
    return names_by_group if complete and len(set(flat)) == len(flat) else None


def show_lines(lines: Iterable[str], most: int = 12) -> str:
    """Return the first lines of a list, indented for a message, with the number of the lines left out.

    >>> print(show_lines(["one", "two", "three"], most=2))
      one
      two
      … and 1 more
    """
    return "\n".join(f"  {line}" for line in _first_lines(list(lines), most))


def _first_lines(lines: Sequence[str], most: int) -> Iterator[str]:
    yield from lines[:most]
    if len(lines) > most:
        yield f"… and {len(lines) - most} more"


_SHOWN = 8


@final
@dataclass(frozen=True)
class LoadReport:
    """The report of ``load_state_dict(..., strict=False)`` and ``load_checkpoint(..., strict=False)``.

    Attributes:
        loaded: the names of everything that was loaded.
        left_out: why the rest was left out, by name: the checkpoint lacks it, only the checkpoint has it, or it does
            not fit. What the checkpoint lacks is unchanged; the state of such a parameter begins at its next step.
        extra: the extra values of ``save_checkpoint``; of ``load_checkpoint`` only.

    >>> print(LoadReport(("0.weight",), {"1.weight": "not in the checkpoint"}))
    loaded 1: 0.weight
    left out 1:
      1.weight: not in the checkpoint
    """

    loaded: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def of(self, part: str) -> LoadReport:
        """Return the report with the name of a ``part`` of the run before every name."""
        names = tuple(f"{part} {name}" for name in self.loaded)
        return LoadReport(names, {f"{part} {name}": why for name, why in self.left_out.items()}, self.extra)

    def __add__(self, other: LoadReport) -> LoadReport:
        return LoadReport(
            self.loaded + other.loaded, {**self.left_out, **other.left_out}, {**self.extra, **other.extra}
        )

    def __str__(self) -> str:
        more = f", … and {len(self.loaded) - _SHOWN} more" if len(self.loaded) > _SHOWN else ""
        lines = [f"loaded {len(self.loaded)}: {', '.join(self.loaded[:_SHOWN]) or 'nothing'}{more}"]
        lines.append(f"left out {len(self.left_out)}{':' if self.left_out else ''}")
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.left_out.items())])
