"""State dictionaries, interchangeable with torch.optim's in both directions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

import gradstep
from gradstep.optimizers.arguments import TORCH_EXECUTION, check_fixed, drop_defaults_beyond_torch, parameter_names
from gradstep.optimizers.checkpoint.matching import (
    ABSENT,
    LoadReport,
    listed,
    match,
    misfits,
    parameter_keys,
    rename_codes,
    restore_code_names,
)
from gradstep.optimizers.state.arrays import complete_state
from gradstep.optimizers.state.check import ROUNDING_FIELDS, Fault, choose_error, is_regular, losses, scale_of
from gradstep.optimizers.state.storage import Choices, ParameterStorage, Storage
from gradstep.rules import RULES, Rule, settings_of
from gradstep.rules.settings import shared_settings_of

FORMAT = 1
"""Of the entry that :func:`make_header` makes."""

NOT_STRICT_HINT = "load_state_dict(state_dict, strict=False) leaves these out, and lists them"

OWN_GROUP_KEYS = frozenset({"params", "param_names", "state", "embeddings"})
"""What of a group stays the optimizer's own: its parameters, what is known of them, and how their state is stored."""


def make_header(rule: type[Rule], storage: Storage) -> dict[str, Any]:
    """What a state dictionary says of itself under ``"gradstep"``: plain numbers and words.

    >>> from gradstep.rules import AdamW
    >>> sorted(make_header(AdamW, Storage()))
    ['format', 'rounding', 'rule', 'seed', 'state', 'version']
    """
    return {
        "format": FORMAT,
        "version": gradstep.__version__,
        "rule": rule.__name__,
        "state": storage.state,
        "rounding": storage.rounding,
        "seed": storage.seed,
    }


def export_state_dict(state_dict: dict[str, Any], rule: type[Rule] = Rule) -> dict[str, Any]:
    """The state dictionary with entries of its own, and codes named apart.

    The tensors in it stay the optimizer's, as in torch, and so does what somebody else has put into the state. Groups
    say what makes the rule what it is (AdamW's ``decoupled_weight_decay``): else torch.optim.Adam would take it for
    Adam's. They leave out what torch does not know, where it has its default.

    Args:
        state_dict: as torch writes it.
        rule: the optimizer's.
    """
    state = rename_codes(state_dict["state"], parameter_keys(state_dict["param_groups"]))
    groups = [{**group, **rule.fixed} for group in state_dict["param_groups"]]
    return {**state_dict, "state": state, "param_groups": groups}


@final
@dataclass(frozen=True)
class PreparedLoad:
    """A checkpoint as an optimizer's own.

    Attributes:
        groups: its ``param_groups``.
        state: its ``state``.
        storage: as before, with the checkpoint's seed: rounding at random then goes on with the same noise.
        report: which parameters' state was loaded, and why the rest was not.
    """

    groups: list[dict[str, Any]]
    state: defaultdict[Any, Any]
    storage: Storage
    report: LoadReport


def prepare_load(
    rule: type[Rule],
    defaults: Mapping[str, Any],
    storage: Storage,
    groups: Sequence[Mapping[str, Any]],
    state_dict: Mapping[str, Any],
    *,
    on_host: bool = False,
    strict: bool = True,
) -> PreparedLoad:
    """The groups and the state of a checkpoint, as an optimizer's own; neither is changed.

    Args:
        rule: the optimizer's rule.
        defaults: its settings where the checkpoint says nothing.
        storage: how it stores state.
        groups: its ``param_groups``.
        state_dict: the checkpoint.
        on_host: leave state on the CPU, wherever the parameters are.
        strict: whether everything must match and fit; else what does not is left out, and reported.

    Raises:
        KeyError: no ``"state"`` or ``"param_groups"``, or a group without ``"params"``.
        ValueError: of another rule, other groups or parameters, or a number out of its bounds.
        TypeError: what should be a dictionary, a list, a tensor or a number is something else.
        RuntimeError: state that does not fit its parameter, or would be rounded; all of it is listed.
    """
    check_form(state_dict)
    header = _read_header(rule, state_dict)
    saved = state_dict["param_groups"]
    for index, group in enumerate(saved):
        try:
            check_fixed(rule, group)
        except ValueError as error:
            name = rule.__name__
            raise ValueError(
                f"the loaded state dict is of another optimizer: in its group {index}, {error}. To take its averages "
                "over all the same, load what this makes of it: "
                f"gradstep.convert_state(state_dict, optimizer, rule={name!r}).state_dict"
            ) from error
    state_dict = {**state_dict, "state": restore_code_names(state_dict["state"], parameter_keys(saved))}
    found = match(groups, saved, strict=strict)
    new = [merge_group(rule, defaults, *pair) for pair in zip(groups, found.sources, strict=True)]

    kinds: list[Fault] = []
    wrong, lossy, fitting = [], [], {}
    regular = set()
    left_out = dict.fromkeys(found.unexpected, "in the checkpoint only")
    for index, (group, keys) in enumerate(zip(new, found.keys, strict=True)):
        checked = build_saved_rule(rule, group)
        choices = Choices("auto", storage, checked, group)
        for key, p, name in zip(keys, group["params"], parameter_names(group, index), strict=True):
            stored = choices.of(p, name).stored
            if key is ABSENT:
                left_out[name] = "not in the checkpoint"
                continue
            entry = state_dict["state"].get(key)
            if entry is None or entry == {}:
                continue
            if type(entry) is dict and is_regular(p, stored, checked, entry):  # the usual case, for a fifth of the time
                fitting[key] = p, stored, name
                regular.add(key)
                continue
            unfit = misfits(p, stored, checked, entry, strict=header is None)
            if (
                unfit and not strict and choose_error(unfit) is RuntimeError
            ):  # a number out of its bounds is a damaged one
                left_out[name] = "; ".join(fault.line for fault in unfit)
                continue
            kinds += unfit
            wrong += [f"{name}: {fault.line}" for fault in unfit]
            lossy += [] if unfit else [f"{name}: {line}" for line in losses(p, stored, entry)]
            fitting[key] = p, stored, name
    if wrong:
        kind = choose_error(kinds)
        remedy = f"\n{NOT_STRICT_HINT}" if kind is RuntimeError and strict else ""
        raise kind(f"the loaded state dict does not fit {rule.__name__}:\n{listed(wrong)}{remedy}")
    if lossy:
        raise RuntimeError(
            f"the loaded state dict holds more than this optimizer stores:\n{listed(lossy)}\n"
            f"gradstep.convert_state(state_dict, {'optimizer' if strict else repr(storage.state)}) rounds it and says "
            "what that loses"
        )

    owned = parameter_keys(saved)
    state: defaultdict[Any, Any] = defaultdict(dict)  # torch's own kind: wrappers index what is not there yet
    for key, entry in state_dict["state"].items():
        if key in fitting:
            p, stored, name = fitting[key]
            if key in regular and not on_host:
                state[p] = {name: value.detach().clone() for name, value in entry.items()}
                continue
            state[p] = _copy_entry(p.detach().to("cpu") if on_host else p, stored, entry, name)
        elif key not in owned:
            state[key] = entry  # no parameter's: torch carries it, the object itself
    seeded = storage if header is None else replace(storage, seed=header.get("seed", storage.seed))
    return PreparedLoad(new, state, seeded, LoadReport(tuple(name for _, _, name in fitting.values()), left_out))


def check_form(state_dict: Mapping[str, Any]) -> None:
    """Refuse what is not even built as a checkpoint is.

    Raises:
        KeyError: a part is missing.
        TypeError: a part is something else than it must be.
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
            if not (entry is None or isinstance(entry, Mapping)):
                raise TypeError(f"'state' of the state dict: under {key!r} is {entry!r}, but must be a dictionary")


def _read_header(rule: type[Rule], state_dict: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the checkpoint says of itself; None if it is torch's.

    Raises:
        ValueError: of a later format, or of another rule, or not what gradstep writes.
    """
    header: Any = state_dict.get("gradstep")
    if header is None:
        return None
    if not (
        isinstance(header, Mapping) and isinstance(header.get("format"), int) and {"version", "rule"} <= header.keys()
    ):
        raise ValueError(f"'gradstep' in the loaded state dict is not what gradstep writes there, but {header!r}")
    if header["format"] > FORMAT:
        raise ValueError(
            f"the loaded state dict was written by gradstep {header['version']} in format {header['format']}, "
            f"and gradstep {gradstep.__version__} reads formats up to {FORMAT}: update gradstep"
        )
    if header["rule"] != rule.__name__:
        other = RULES.get(header["rule"])
        alike = other is None or {slot.name for slot in other().slots(2)} == {slot.name for slot in rule().slots(2)}
        remedy = (
            f"To take its averages over all the same, load gradstep.convert_state(state_dict, optimizer, "
            f"rule={rule.__name__!r}).state_dict"
            if alike
            else f"They keep other averages: make a {header['rule']}, or begin with fresh state"
        )
        raise ValueError(
            f"the loaded state dict is of {header['rule']}, and this optimizer is {rule.__name__}. {remedy}"
        )
    return {**header}


def merge_group(
    rule: type[Rule], defaults: Mapping[str, Any], own: Mapping[str, Any], source: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A group with the settings of the checkpoint's."""
    if source is None:
        return dict(own)
    group = {
        key: value for key, value in source.items() if key not in {"params", "state", "embeddings", *TORCH_EXECUTION}
    }
    group = deepcopy(group) | {key: own[key] for key in OWN_GROUP_KEYS & own.keys()}
    for setting in shared_settings_of(rule):
        group.setdefault(setting.name, defaults[setting.name])  # written before the setting existed
    return drop_defaults_beyond_torch(rule, group)


def build_saved_rule(rule: type[Rule], group: Mapping[str, Any]) -> Rule:
    """The rule with the settings of a group; a setting that it does not say has its default.

    Raises:
        ValueError, TypeError: a setting out of its bounds.
    """
    return rule(**{s.name: group[s.name] for s in settings_of(rule) if s.name in group})


def _copy_entry(p: Tensor, stored: ParameterStorage, entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A copy of an entry that fits, stored as the optimizer stores it."""
    arrays = {*ROUNDING_FIELDS, *(key for slot in stored.slots for key in (slot.name, scale_of(slot)))}
    copied = {key: _copy_value(value, p.device if key in arrays else None) for key, value in entry.items()}
    return convert_entry(p, stored, copied, name)


def convert_entry(p: Tensor, stored: ParameterStorage, entry: dict[str, Any], name: str) -> dict[str, Any]:
    """An entry stored as the optimizer stores it, without the arrays of another way to store it."""
    stale = {*ROUNDING_FIELDS, *map(scale_of, stored.slots)} - stored.fields.keys()
    return {key: value for key, value in complete_state(p, stored, entry, name).items() if key not in stale}


def _copy_value(value: Any, device: torch.device | None) -> Any:
    """A copy: of what belongs to the parameter's elements on their device, of a number as float32 on the CPU."""
    if not isinstance(value, Tensor):
        return deepcopy(value)
    if device is not None:
        return value.detach().to(device=device, copy=True)
    return value.detach().clone() if value.dim() else value.detach().to(device="cpu", dtype=torch.float32, copy=True)
