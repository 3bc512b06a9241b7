"""Write and load state dictionaries that torch.optim can read and write."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from gradstep.optimizers.arguments import (
    TORCH_EXECUTION,
    GroupRules,
    check_fixed,
    check_lists,
    default_settings,
    drop_defaults_beyond_torch,
    parameter_names,
)
from gradstep.optimizers.checkpoint.another_rule import refuse_another_of_torch
from gradstep.optimizers.checkpoint.matching import (
    ABSENT,
    LoadReport,
    check_saved_rules,
    continue_noise,
    match,
    nest_fields,
    parameter_keys,
    read_groups_storage,
    read_header,
    read_saved_rules,
    read_saved_storage,
    show_lines,
    unnest_fields,
    write_group_header,
    write_update_count,
)
from gradstep.optimizers.memory import is_distributed
from gradstep.optimizers.sharded import ShardedParameter
from gradstep.optimizers.state.arrays import complete_state
from gradstep.optimizers.state.check import (
    ROUNDING_FIELDS,
    Fault,
    choose_error,
    find_losses,
    find_misfits,
    find_reading_losses,
)
from gradstep.optimizers.state.storage import HEADER, Choices, Storage, find_codec, is_regular
from gradstep.rules import Rule, Slot, settings_of
from gradstep.rules.settings import shared_settings_of
from gradstep.storage.policy import STATES, ParameterStorage, keys_of, possible_keys

NOT_STRICT_HINT = "load_state_dict(state_dict, strict=False) leaves these out, and lists them"

OWN_GROUP_KEYS = frozenset({"params", "param_names", "rule", "state", "embeddings", HEADER})
"""The keys of a group that are not loaded: its parameters, their names and marks, rule, state's precision, header."""


def export_state_dict(state_dict: dict[str, Any], rules: GroupRules, storage: Storage) -> dict[str, Any]:
    """Return torch's state dictionary with copied dictionaries, the arrays of a slot in blocks in one, and a header.

    The tensors are still the optimizer's, as in torch, and entries of other owners are unchanged.

    Args:
        state_dict: as torch writes it.
        rules, storage: the optimizer's.
    """
    state, groups = nest_state(state_dict), state_dict["param_groups"]
    header = read_groups_storage([rules.of(group) for group in groups], storage, groups).header(rules.own, groups)
    groups = [write_update_count(group, state_dict["state"]) for group in groups]
    return {**state_dict, "state": state, "param_groups": groups, HEADER: header}


def nest_state(state_dict: Mapping[str, Any]) -> dict[Any, Any]:
    """Return the state of a state dictionary with its entries as checkpoints have them, each a new dictionary.

    Entries under keys that are no parameters, which other code owns, are unchanged.
    """
    return _change_entries(state_dict, nest_fields)


def unnest_state(state_dict: Mapping[str, Any]) -> dict[Any, Any]:
    """Return the state of a checkpoint with its entries as an optimizer has them."""
    return _change_entries(state_dict, unnest_fields)


def _change_entries(state_dict: Mapping[str, Any], change: Callable[[Mapping[Any, Any]], Any]) -> dict[Any, Any]:
    keys = parameter_keys(state_dict["param_groups"])
    entries = state_dict["state"].items()
    return {key: change(e) if key in keys and isinstance(e, Mapping) else e for key, e in entries}


@final
@dataclass(frozen=True)
class PreparedLoad:
    """A checkpoint, converted for an optimizer that has not changed yet.

    Attributes:
        groups: the new ``param_groups``.
        state: the new ``state``.
        storage: the optimizer's storage with the checkpoint's seed, so that rounding continues with the same noise.
        report: which parameters' state was loaded, and why the rest was not.
    """

    groups: list[dict[str, Any]]
    state: defaultdict[Any, Any]
    storage: Storage
    report: LoadReport


def prepare_load(
    optimizer: torch.optim.Optimizer,
    rules: GroupRules,
    storage: Storage,
    state_dict: Mapping[str, Any],
    *,
    on_host: bool,
    strict: bool,
) -> PreparedLoad:
    """Match a checkpoint to an optimizer, check it, and convert its groups and state; neither of both is changed.

    Args:
        optimizer: the optimizer. Its hooks before a load are called. Its defaults replace settings that the checkpoint
            does not have.
        rules, storage: the optimizer's.
        state_dict: the checkpoint.
        on_host: leave state on the CPU, wherever the parameters are.
        strict: whether everything must match and fit; if not, the rest is left out, and reported.

    Raises:
        KeyError: no ``"state"`` or ``"param_groups"``, or a group without ``"params"``.
        ValueError: another rule, other groups or parameters, or a number out of its bounds.
        TypeError: a part of the checkpoint is not the dictionary, list, tensor or number that it must be.
        RuntimeError: state does not fit its parameter, or would be rounded; the message lists all of it.
    """
    check_lists(optimizer.param_groups)
    loaded: Any = copy(state_dict)
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        loaded = hook(optimizer, loaded) or loaded
    state_dict, groups = loaded, optimizer.param_groups
    check_form(state_dict)
    header, kinds = read_header(state_dict), [rules.of(group) for group in groups]
    saved, names = state_dict["param_groups"], read_saved_rules(state_dict)
    check_saved_rules(names, kinds, saved)
    if header is None:
        refuse_another_of_torch(kinds, saved)
    state_dict = {**state_dict, "state": unnest_state(state_dict)}
    matched = match(groups, saved, strict=strict)
    group_of = {key: index for index, group in enumerate(saved) for key in group["params"]}
    rule_of = {id(group): name for group, name in zip(saved, names, strict=True)}
    for kind, keys in zip(kinds, matched.keys, strict=True):
        for index in sorted({group_of[key] for key in keys if key is not ABSENT}):
            _check_fixed(kind, saved[index], names[index], index)
    alike = [
        source if source is None or rule_of[id(source)] in (None, kind.__name__) else None
        for kind, source in zip(kinds, matched.sources, strict=True)
    ]
    new = [
        merge_group(kind, optimizer.defaults, group, source)
        for kind, group, source in zip(kinds, groups, alike, strict=True)
    ]

    errors: list[Fault] = []
    wrong, lossy, lost, other_rules = [], [], [], []
    fitting: dict[Any, _Fitting] = {}
    left_out = dict.fromkeys(matched.unexpected, "in the checkpoint only")
    for index, (group, kind, keys) in enumerate(zip(new, kinds, matched.keys, strict=True)):
        as_saved = None if HEADER in state_dict else read_saved_storage(alike[index], state_dict["state"])
        if as_saved is not None and (as_saved.state, as_saved.rounding) == (storage.state_of(group), storage.rounding):
            as_saved = None
        group_rule = build_saved_rule(kind, group)
        choices = Choices("auto", storage, group_rule, group)
        for key, p, name in zip(keys, group["params"], parameter_names(group, index), strict=True):
            stored = choices.of(p, name).stored
            if key is ABSENT:
                left_out[name] = "not in the checkpoint"
                continue
            its = names[group_of[key]]
            if its not in (None, kind.__name__):
                left_out[name] = f"its rule is {its} in the checkpoint, and {kind.__name__} here"
                other_rules.append(f"{name}: {left_out[name]}")
                continue
            entry = state_dict["state"].get(key)
            if entry is None or entry == {}:
                continue
            shard, like, entry = localize_entry(p, stored, entry, name)
            if as_saved is not None:
                lost += [f"{name}: {line}" for line in find_reading_losses(as_saved, stored, entry)]
            regular = type(entry) is dict and is_regular(like, stored, group_rule, entry)
            fits = _Fitting(p, like, shard, stored, name, entry, regular)
            if regular:  # usual, in a fifth of the time
                fitting[key] = fits
                continue
            unfit = find_misfits(like, stored, group_rule, entry, strict=header is None)
            if unfit and not strict and choose_error(unfit) is RuntimeError:  # other errors mean a damaged checkpoint
                left_out[name] = "; ".join(fault.line for fault in unfit)
                continue
            errors += unfit
            wrong += [f"{name}: {fault.line}" for fault in unfit]
            lossy += [] if unfit else [f"{name}: {line}" for line in find_losses(like, stored, entry)]
            fitting[key] = fits
    if other_rules and strict:
        raise ValueError(f"the loaded state dict has other rules:\n{show_lines(other_rules)}\n{NOT_STRICT_HINT}")
    if wrong:
        error = choose_error(errors)
        remedy = f"\n{NOT_STRICT_HINT}" if error is RuntimeError and strict else ""
        ours = " and ".join(dict.fromkeys(kind.__name__ for kind in kinds))
        raise error(f"the loaded state dict does not fit {ours}:\n{show_lines(wrong)}{remedy}")
    if lost:
        raise RuntimeError(
            f"the loaded state dict has lost precision while it was read:\n{show_lines(lost)}\n"
            "A distributed checkpoint reads only the arrays that this optimizer has, in its types: make the optimizer "
            "with the state= and rounding= of the one that was saved. gradstep.convert_state(state_dict, optimizer) "
            "takes what has been read"
        )
    if lossy:
        raise RuntimeError(
            f"the loaded state dict holds more than this optimizer stores:\n{show_lines(lossy)}\n"
            f"gradstep.convert_state(state_dict, {'optimizer' if strict else repr(storage.state)}) rounds it and says "
            "what that loses"
        )

    of_parameters = parameter_keys(saved)
    state: defaultdict[Any, Any] = defaultdict(dict)  # as in torch: wrappers index entries that do not exist yet
    for key, entry in state_dict["state"].items():
        if key in fitting:
            state[fitting[key].parameter] = fitting[key].copy(on_host=on_host)
        elif key not in of_parameters:
            state[key] = entry  # it belongs to no parameter, and stays the same object as in torch
    storage = continue_noise(storage, header)
    for group, kind in zip(new, kinds, strict=True):
        write_group_header(kind, storage, group)
    return PreparedLoad(new, state, storage, LoadReport(tuple(fits.name for fits in fitting.values()), left_out))


class _Fitting(NamedTuple):
    """An entry of a checkpoint that fits its parameter.

    Attributes:
        parameter: the parameter.
        like: the tensor that its state is like: the parameter, or its local tensor.
        shard: the parameter, if it is distributed.
        stored: the codecs of parameter and slots.
        name: its name.
        entry: its state, of this process.
        regular: whether the entry is exactly as the optimizer makes it.
    """

    parameter: Tensor
    like: Tensor
    shard: ShardedParameter | None
    stored: ParameterStorage
    name: str
    entry: Mapping[str, Any]
    regular: bool

    def copy(self, *, on_host: bool) -> dict[str, Any]:
        """Return a copy of the entry in the optimizer's storage; on the CPU, wherever the parameter is, if on_host."""
        if self.regular and not on_host:
            entry = {name: value.detach().clone() for name, value in self.entry.items()}
        else:
            like = self.like.detach().to("cpu") if on_host else self.like
            entry = _copy_entry(like, self.stored, self.entry, self.name)
        return entry if self.shard is None else self.shard.distribute(entry, self.stored.fields)


def _check_fixed(kind: type[Rule], group: Mapping[str, Any], saved_rule: str | None, index: int) -> None:
    """Refuse a group of a checkpoint, at this index, that is another optimizer's by one of its settings.

    Args:
        kind, group: the rule of its parameters here, and the group.
        saved_rule: the name of its rule; None if the checkpoint does not say.
        index: its place in the checkpoint.

    Raises:
        ValueError: naming the setting.
    """
    try:
        if saved_rule in (None, kind.__name__):
            check_fixed(kind, group)
    except ValueError as error:
        raise ValueError(
            f"the loaded state dict is of another optimizer: in its group {index}, {error}. To take its averages over "
            "all the same, load what this makes of it: "
            f"gradstep.convert_state(state_dict, optimizer, rule={kind.__name__!r}).state_dict"
        ) from error


def check_form(state_dict: Mapping[str, Any]) -> None:
    """Refuse a state dictionary without the form of a checkpoint.

    Raises:
        KeyError: a part is missing.
        TypeError: a part has the wrong type.
        RuntimeError: torch did not find an array in a flattened checkpoint.
    """
    for part in ("param_groups", "state"):
        if part not in state_dict:
            raise KeyError(f"{part!r} is missing: not the state_dict() of an optimizer (it has {list(state_dict)})")
    groups, state = state_dict["param_groups"], state_dict["state"]
    if not isinstance(state, Mapping):
        raise TypeError(f"'state' of the loaded state dict must be a dictionary, but is a {type(state).__name__}")
    if not (isinstance(groups, Sequence) and all(isinstance(group, Mapping) for group in groups)):
        raise TypeError("'param_groups' of the loaded state dict must be a list of dictionaries")
    for index, group in enumerate(groups):
        if "params" not in group:
            raise KeyError(f"'params' is missing in group {index} of the loaded state dict (it has {list(group)})")
        keys = group["params"]
        if not (isinstance(keys, Sequence) and all(isinstance(key, Hashable) for key in keys)):
            raise TypeError(f"'params' in group {index} of the loaded state dict must be a list of the state's keys")
        for key in keys:
            entry = state.get(key)
            if entry is None:
                continue
            if not isinstance(entry, Mapping):
                raise TypeError(f"'state' of the state dict: under {key!r} is {entry!r}, but must be a dictionary")
            empty = {name for name, value in entry.items() if isinstance(value, Mapping) and not value}
            # Scales are in the dictionary of their slot, and values need none.
            lost = empty.difference(*(possible_keys(Slot(name)) for name in entry.keys() - empty)) if empty else empty
            if lost:
                raise RuntimeError(
                    f"the loaded state dict has no {', '.join(sorted(lost))} of {key!r}, which torch looked for since "
                    "this optimizer has it (flatten_optimizer_state_dict=True): make the optimizer with the state= and "
                    "rounding= of the one that was saved"
                )


def merge_group(
    rule: type[Rule], defaults: Mapping[str, Any], own: Mapping[str, Any], source: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the optimizer's group ``own`` with the settings of the checkpoint's group ``source``."""
    if source is None:
        return dict(own)
    group = {
        key: value
        for key, value in source.items()
        if key not in {"params", "rule", "state", "embeddings", HEADER, *TORCH_EXECUTION}
    }
    group = deepcopy(group) | {key: own[key] for key in OWN_GROUP_KEYS & own.keys()}
    defaults = default_settings(rule) if "rule" in own else defaults
    for setting in shared_settings_of(rule):
        group.setdefault(setting.name, defaults[setting.name])  # a checkpoint older than the setting
    return drop_defaults_beyond_torch(rule, group)


def build_saved_rule(rule: type[Rule], group: Mapping[str, Any]) -> Rule:
    """Return the rule with the settings of a group; settings that the group does not have get their defaults.

    Raises:
        ValueError, TypeError: a setting is out of its bounds.
    """
    return rule(**{s.name: group[s.name] for s in settings_of(rule) if s.name in group})


def localize_entry(
    p: Tensor, stored: ParameterStorage, entry: Mapping[str, Any], name: str
) -> tuple[ShardedParameter | None, Tensor, Mapping[str, Any]]:
    """Return this process's part of the state that a checkpoint has for a parameter; whole arrays are divided.

    Returns:
        The parameter if it is distributed; the tensor that the state is like, which is the parameter or its local
        tensor; and the arrays. Scales of a whole parameter have shape (blocks,), also those saved from shards.
    """
    found = ((slot, find_codec(slot, entry) or STATES["float32"](slot.signed)) for slot in stored.slots)
    pairs = (zip(keys_of(slot, codec), codec.fields, strict=True) for slot, codec in found)
    fields = {**stored.fields, **dict(chain.from_iterable(pairs))}
    if is_distributed(p):
        shard = ShardedParameter(p, name, stored.collapsed)
        return shard, shard.local, shard.localize(entry, fields)
    scales = [key for key, field in fields.items() if field.per > 1 and isinstance(entry.get(key), Tensor)]
    if any(entry[key].dim() != 1 for key in scales):
        entry = {**entry, **{key: entry[key].reshape(-1) for key in scales}}
    return None, p, entry


def _copy_entry(p: Tensor, stored: ParameterStorage, entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a copy of an entry, converted to the optimizer's storage."""
    arrays = set(ROUNDING_FIELDS).union(*map(possible_keys, stored.slots))
    copy = {key: _copy_value(value, p.device if key in arrays else None) for key, value in entry.items()}
    return convert_entry(p, stored, copy, name)


def convert_entry(p: Tensor, stored: ParameterStorage, entry: dict[str, Any], name: str) -> dict[str, Any]:
    """Convert an entry to the optimizer's storage, and drop arrays that only another storage has."""
    stale = set(ROUNDING_FIELDS).union(*map(possible_keys, stored.slots)) - stored.fields.keys()
    return {key: value for key, value in complete_state(p, stored, entry, name).items() if key not in stale}


def _copy_value(value: Any, device: torch.device | None) -> Any:
    """Return a copy of a value: on ``device`` if that is given; else a scalar tensor as float32 on the CPU."""
    if not isinstance(value, Tensor):
        return deepcopy(value)
    if device is not None:
        return value.detach().to(device=device, copy=True)
    return value.detach().clone() if value.dim() else value.detach().to(device="cpu", dtype=torch.float32, copy=True)
