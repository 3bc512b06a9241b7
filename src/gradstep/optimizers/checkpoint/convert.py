"""Convert a state dictionary from one storage to another, and report what that loses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from gradstep.optimizers.arguments import Embeddings, GroupRules, drop_defaults_beyond_torch, parameter_names
from gradstep.optimizers.checkpoint import bitsandbytes
from gradstep.optimizers.checkpoint.another_rule import find_remedy, refuse_another_of_torch, resolve_saved_name
from gradstep.optimizers.checkpoint.load import (
    build_saved_rule,
    check_form,
    convert_entry,
    localize_entry,
    merge_group,
    nest_state,
    unnest_state,
)
from gradstep.optimizers.checkpoint.matching import find_header, match, show_lines
from gradstep.optimizers.front import Optimizer
from gradstep.optimizers.memory import is_distributed
from gradstep.optimizers.state.arrays import decode_slot, make_stand_in
from gradstep.optimizers.state.check import ROUNDING_FIELDS, Fault, choose_error, find_misfits, storage_name
from gradstep.optimizers.state.storage import HEADER, Storage
from gradstep.rules import RULES, Rule
from gradstep.spelling import suggest
from gradstep.storage.policy import STATES, ParameterStorage, check_precision

FAR = 0.1
"""Relative errors above this are counted in :attr:`Change.far`."""


@final
@dataclass(frozen=True)
class Change:
    """The change of one slot, over all parameters with the same storage of it before and after.

    Attributes:
        slot: the name of the slot.
        before, after: its storage; ``after`` is ``"nothing"`` if the slot was dropped.
        parameters: the number of these parameters.
        error: the largest relative error of one number, |new − old| / |old|.
        far: the share of the numbers other than 0 that are off by more than 10%: those that are small beside the
            largest of their block.
    """

    slot: str
    before: str
    after: str
    parameters: int
    error: float
    far: float

    @property
    def lossless(self) -> bool:
        """Whether every number is unchanged."""
        return self.error == 0

    def __str__(self) -> str:
        what = f"{self.slot}: {self.before} → {self.after} in {self.parameters} parameter{'s' * (self.parameters > 1)}"
        if self.lossless:
            return f"{what}, lossless"
        if self.after == "nothing":
            return f"{what}, dropped"
        return f"{what}, off by at most {self.error:.2%}; {self.far:.2%} of the numbers by more than {FAR:.0%}"


@final
@dataclass(frozen=True)
class Conversion:
    """A converted state dictionary, and the changes of its slots.

    Attributes:
        state_dict: the converted state dictionary, ready to be loaded.
        changes: the changes, slot by slot.
    """

    state_dict: dict[str, Any]
    changes: tuple[Change, ...]

    @property
    def lossless(self) -> bool:
        """Whether every number is unchanged."""
        return all(change.lossless for change in self.changes)

    @property
    def losses(self) -> tuple[Change, ...]:
        """The changes that are not lossless."""
        return tuple(change for change in self.changes if not change.lossless)

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) or "no state"


@final
@dataclass(frozen=True)
class SlotComparison:
    """The change of one slot of one parameter.

    Attributes:
        slot, before, after: as in :class:`Change`.
        error: the largest relative error.
        far: the number of relative errors above :data:`FAR`.
        count: the number of old values other than 0.
    """

    slot: str
    before: str
    after: str
    error: float
    far: int
    count: int


def compare_slot(slot: str, before: str, after: str, old: Tensor, new: Tensor | None) -> SlotComparison:
    """Compare a slot's values before and after, of the same shape; ``new`` is None if the slot was dropped."""
    old = old.bfloat16() if old.dtype.itemsize == 1 else old  # torch has no arithmetic for float8
    count = int(torch.count_nonzero(old))
    if new is None:
        return SlotComparison(slot, before, after, float(count > 0), count, count)
    wide = torch.promote_types(old.dtype, new.dtype)
    old, new = old.to(wide), new.to(old.device, wide)
    same = (old == new) | (old.isnan() & new.isnan())
    error = ((new - old).abs() / old.abs()).masked_fill(same, 0.0)
    largest = float(error.nan_to_num(nan=torch.inf, posinf=torch.inf).max()) if error.numel() else 0.0
    return SlotComparison(slot, before, after, largest, int((error > FAR).sum()), count)


def summarize_changes(comparisons: Iterable[SlotComparison]) -> tuple[Change, ...]:
    """Merge comparisons with the same slot and storage into one change each, in the order of their first."""
    by_kind: dict[tuple[str, str, str], list[SlotComparison]] = {}
    for one in comparisons:
        by_kind.setdefault((one.slot, one.before, one.after), []).append(one)
    return tuple(_changes(by_kind))


def _changes(by_kind: dict[tuple[str, str, str], list[SlotComparison]]) -> Iterator[Change]:
    for (slot, before, after), members in by_kind.items():
        far, count = sum(m.far for m in members), sum(m.count for m in members)
        yield Change(slot, before, after, len(members), max(m.error for m in members), far / max(count, 1))


BITSANDBYTES_BITS = {"bitsandbytes": 32, "bitsandbytes-8bit": 8}
"""bitsandbytes' layouts, and the bits of their large tensors."""


def find_rules(
    state_dict: Mapping[str, Any], to: str | torch.optim.Optimizer, declared: str | type[Rule] | None
) -> GroupRules:
    """Return the rules of a state dictionary; its own is the declared one, else that of its header, else of ``to``.

    Raises:
        ValueError: the rule is in none of these, is unknown, or the optimizer ``to`` has none of the rules.
    """
    if isinstance(declared, type):
        kind, name = declared, declared.__name__
    else:
        header: Any = find_header(state_dict) or {}
        name = declared or header.get("rule")
        if name is None and isinstance(to, torch.optim.Optimizer):
            name = to.rule().__name__ if isinstance(to, Optimizer) else bitsandbytes.strip_class_name(to)
        if name is None:
            raise ValueError("the state dict does not say what optimizer it is of: give rule='AdamW', or whichever")
        own = to._rules.by_name if isinstance(to, Optimizer) else {}
        found = own.get(name) or resolve_saved_name(name)
        if found is None:
            raise ValueError(f"no rule is called {name!r}.{suggest(name, RULES)} If it is yours, give rule=, its class")
        kind = found
        if not (declared or header):
            refuse_another_of_torch([kind, *own.values()], state_dict["param_groups"])
    rules = GroupRules(kind)
    if isinstance(to, Optimizer):
        rules.by_name |= {key: rule for key, rule in to._rules.by_name.items() if key != kind.__name__}
        if set(rules.in_use(state_dict["param_groups"])).isdisjoint(to._rules.in_use(to.param_groups)):
            remedy = find_remedy(to.rule(), str(name), state_dict["param_groups"])
            raise ValueError(f"the state dict is of {name}, and the optimizer is {to.rule().__name__}. {remedy}")
    return rules


def find_layout(to: str | torch.optim.Optimizer) -> str:
    """Return the name of the layout to write, from a name or from the optimizer that shall load it.

    Raises:
        ValueError: there is no such layout.
    """
    if isinstance(to, Optimizer):
        return "gradstep"
    if isinstance(to, torch.optim.Optimizer):
        if type(to).__module__.partition(".")[0] == "bitsandbytes":
            bits: Any = to
            return "bitsandbytes-8bit" if bits.args.optim_bits == 8 else "bitsandbytes"
        return "torch"
    return check_precision("layout", to, (*STATES, "torch", *BITSANDBYTES_BITS))


def convert_state(
    state_dict: Mapping[str, Any], to: str | torch.optim.Optimizer, *, rule: str | type[Rule] | None = None
) -> Conversion:
    """Convert the state in a checkpoint to another storage, and report what that loses.

    Reads the state dictionaries of gradstep, of torch.optim and of bitsandbytes, and changes none. Values are rounded
    to nearest. Lossless conversions are not needed: :meth:`load_state_dict` makes them by itself. With the optimizer of
    distributed parameters (DTensor), each process converts and reports its own part.

    Args:
        state_dict: the state dictionary of an optimizer.
        to: the optimizer, of gradstep, torch or bitsandbytes, that shall load it; or ``"float32"``, ``"bfloat16"``,
            ``"8bit"`` or ``"4bit"`` (gradstep's: embeddings by name, norms, biases and small tensors stay float32),
            ``"torch"``, ``"bitsandbytes"`` or ``"bitsandbytes-8bit"``. An optimizer is better than a name: it has the
            types and memory order of its parameters, their names, and groups with their own precision.
        rule: the checkpoint's rule (``"AdamW"``, or a user's class), if neither the checkpoint nor ``to`` has it. It
            replaces the checkpoint's own, so that Adam's moments can be declared to be AdamW's.

    Raises:
        ValueError: a rule is unknown, is not the optimizer's, or does not exist in the target; several rules for
            torch's or bitsandbytes' layout; distributed state without the optimizer that shall load it.
        RuntimeError: the state does not belong to the rule or the parameters.

    Example:
        >>> import torch, gradstep
        >>> model = torch.nn.Linear(100, 100)
        >>> model(torch.ones(1, 100)).sum().backward()
        >>> old = torch.optim.AdamW(model.parameters())
        >>> old.step()
        >>> new = gradstep.AdamW(model.parameters(), state="8bit")
        >>> converted = gradstep.convert_state(old.state_dict(), new)
        >>> print(converted)
        exp_avg: float32 → 8bit in 1 parameter, off by at most 1.56%; 0.00% of the numbers by more than 10%
        exp_avg_sq: float32 → 8bit in 1 parameter, off by at most 2.34%; 0.00% of the numbers by more than 10%
        exp_avg: float32 → float32 in 1 parameter, lossless
        exp_avg_sq: float32 → float32 in 1 parameter, lossless
        >>> new.load_state_dict(converted.state_dict)
    """
    check_form(state_dict)
    rules = find_rules(state_dict, to, rule)
    state_dict = {**state_dict, "state": unnest_state(state_dict)}
    layout = find_layout(to)
    storage = to._storage if isinstance(to, Optimizer) else Storage(layout if layout in STATES else "float32")
    groups = [_read_group(rules.of(group), group, state_dict["state"]) for group in state_dict["param_groups"]]
    if layout != "gradstep" and layout not in STATES and len({rules.of(group) for group in groups}) > 1:
        raise ValueError(
            f"{layout} has one rule in an optimizer: convert each part of gradstep.split_by_rule(state_dict)"
        )
    if layout == "torch":
        _check_torch_settings(rules, groups)
    owners = dict(_find_owners(rules, groups, to))
    header = find_header(state_dict) or {}
    state: dict[Any, Any] = {}
    changes: list[SlotComparison] = []
    wrong: list[str] = []
    errors: list[Fault] = []
    for key, entry in state_dict["state"].items():
        if key not in owners or entry is None or entry == {}:
            state[key] = deepcopy(entry)
            continue
        owner = owners[key]
        kind = rules.of(owner.group)
        old, before = _read_entry(kind, entry)
        if owner.p is None and any(isinstance(value, Tensor) and is_distributed(value) for value in old.values()):
            raise ValueError(
                f"the state of {owner.name} is distributed (DTensor): give the sharded optimizer of gradstep that "
                "shall load it, or convert a whole state dict, as StateDictOptions(full_state_dict=True) makes it"
            )
        p = make_stand_in(kind, old) if owner.p is None else owner.p
        group_rule = build_saved_rule(kind, owner.group)
        stored = storage.of(group_rule, owner.group, p, owner.name, embeddings=owner.embeddings)
        declared = kind is rules.own and header.get("rule") != kind.__name__
        shard, p, own = localize_entry(p, stored, old, owner.name)
        unfit = find_misfits(p, stored, group_rule, own, strict=declared)
        errors += unfit
        wrong += (f"{owner.name}: {fault.line}" for fault in unfit)
        if not wrong:
            new = convert_entry(p, stored, deepcopy(dict(own)), owner.name)
            state[key] = (
                bitsandbytes.write_entry(kind, new, bits=BITSANDBYTES_BITS[layout])
                if layout in BITSANDBYTES_BITS
                else new
            )
            changes += _compare_slots(p, stored, own, before, *_read_entry(kind, state[key]))
            if shard is not None:
                state[key] = shard.distribute(new, stored.fields)
    if wrong:
        names = " and ".join(dict.fromkeys(rules.of(group).__name__ for group in groups))
        raise choose_error(errors)(f"the state dict does not fit {names}:\n{show_lines(wrong)}")
    result = {"state": state, "param_groups": groups}
    if layout in BITSANDBYTES_BITS:
        result["param_groups"] = [
            bitsandbytes.write_group(build_saved_rule(rules.of(group), group), group) for group in groups
        ]
    elif layout != "torch":
        noise = {key: header[key] for key in ("seed", "noise") if key in header} or {"noise": storage.noise}
        result["state"] = nest_state(result)
        result["gradstep"] = {
            k: v for k, v in storage.header(rules.own, groups).items() if k not in ("seed", "noise")
        } | noise
    return Conversion(result, summarize_changes(changes))


def _check_torch_settings(rules: GroupRules, groups: Sequence[Mapping[str, Any]]) -> None:
    for group in groups:
        kind = rules.of(group)
        for name, value in drop_defaults_beyond_torch(kind, group).items():
            if name in kind.beyond_torch:
                raise ValueError(
                    f"torch.optim has no {name}={value!r} for {kind.__name__}, and would train with its default: "
                    f"keep the state in gradstep, or set {name} to its default first"
                )


@final
@dataclass(frozen=True)
class _Owner:
    """The parameter that an entry of state belongs to.

    Attributes:
        group: the parameter's group in the result.
        name: the parameter's name.
        p: the parameter; None without an optimizer.
        embeddings: the embeddings of its group; None without an optimizer.
    """

    group: Mapping[str, Any]
    name: str
    p: Tensor | None
    embeddings: Embeddings | None


def _find_owners(
    rules: GroupRules, groups: list[dict[str, Any]], to: str | torch.optim.Optimizer
) -> Iterator[tuple[Any, _Owner]]:
    """Yield (key of the checkpoint's state, its owner).

    Raises:
        ValueError: the optimizer has another rule for a parameter.
    """
    if isinstance(to, Optimizer):
        matched = match(to.param_groups, groups)
        kind_of = {key: rules.of(group) for group in groups for key in group["params"]}
        for index, (own, keys, source) in enumerate(zip(to.param_groups, matched.keys, matched.sources, strict=True)):
            kind = to._rules.of(own)
            group = {**merge_group(kind, to.defaults, own, source), "rule": kind.__name__}
            embeddings = Embeddings(group)
            for key, name, p in zip(keys, parameter_names(group, index), group["params"], strict=True):
                if kind_of[key] is not kind:
                    raise ValueError(
                        f"{name} is of {kind_of[key].__name__} in the state dict, and of {kind.__name__} here"
                    )
                yield key, _Owner(group, name, p, embeddings)
        return
    for index, group in enumerate(groups):
        for key, name in zip(group["params"], parameter_names(group, index), strict=True):
            yield key, _Owner(group, name, None, None)


def _read_group(kind: type[Rule], group: Mapping[str, Any], state: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a group's settings under torch's names, without ``"state"``, the precision that is converted."""
    foreign = any(bitsandbytes.is_layout(state.get(key, {})) for key in group["params"])
    settings = bitsandbytes.read_group(kind, group) if foreign else group
    fixed = {key: value for key, value in kind.fixed.items() if key in settings}  # the state counts as ``kind``'s
    return {key: deepcopy(value) for key, value in settings.items() if key not in ("state", HEADER)} | fixed


def _read_entry(kind: type[Rule], entry: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the state of a parameter under torch's names, and the name of each tensor's storage, by key."""
    if bitsandbytes.is_layout(entry):
        return bitsandbytes.read_entry(kind, entry)
    return dict(entry), {key: storage_name(key, entry) for key, value in entry.items() if isinstance(value, Tensor)}


def _compare_slots(
    p: Tensor,
    stored: ParameterStorage,
    old: Mapping[str, Any],
    before: Mapping[str, str],
    new: Mapping[str, Any],
    after: Mapping[str, str],
) -> Iterator[SlotComparison]:
    """Yield the comparison of every slot of ``p``; ``before`` and ``after`` name the storage by key."""
    for slot in stored.slots:
        if slot.name in before:
            values = (decode_slot(slot, e, p) for e in (old, new))
            yield compare_slot(slot.name, before[slot.name], after[slot.name], *values)
    for key in ROUNDING_FIELDS & before.keys():
        yield compare_slot(key, before[key], after.get(key, "nothing"), old[key], new.get(key))
