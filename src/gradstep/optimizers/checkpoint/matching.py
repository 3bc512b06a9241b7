"""Match the entries of a checkpoint to an optimizer's parameters, and check that they fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, final

from torch import Tensor

from gradstep.optimizers.arguments import plain_name
from gradstep.optimizers.state.check import ROUNDING_FIELDS, Fault, faults, missing_fault
from gradstep.optimizers.state.storage import ParameterStorage, possible_keys
from gradstep.rules import Rule


def misfits(p: Tensor, stored: ParameterStorage, rule: Rule, entry: Any, *, strict: bool) -> list[Fault]:
    """Return the faults of a checkpoint's entry: missing, unexpected or unfit values, in whatever precision.

    Beside the faults of :func:`gradstep.optimizers.state.check.faults`, an entry with only *some* of its slots does not
    fit. An entry with none of them fits if a setting switches them on: they are created when they are first needed (as
    when SGD is given a momentum).

    Args:
        p: the parameter.
        stored: the optimizer's codecs of parameter and slots.
        rule: the optimizer's rule, with the settings of the group.
        entry: the state of the parameter in the checkpoint.
        strict: whether keys that the rule does not have are refused; otherwise other code may own them.
    """
    errors = []
    if isinstance(entry, Mapping):
        present = {key for key, value in entry.items() if value is not None}
        expected = {"step", *rule.scalars, *ROUNDING_FIELDS}.union(*map(possible_keys, stored.slots))
        unexpected = [key for key in entry if key in present - expected] if strict else []
        if unexpected or any(slot.name in present for slot in stored.slots):
            errors += [missing_fault(slot.name) for slot in stored.slots if slot.name not in present]
        errors += [Fault(RuntimeError, f"{key} is unexpected") for key in unexpected]
    return list(dict.fromkeys([*errors, *faults(p, stored, rule, entry)]))


def parameter_keys(groups: Iterable[Any]) -> frozenset[Any]:
    """Return the keys of parameters in a checkpoint's state."""
    return frozenset(chain.from_iterable(group["params"] for group in groups))


Group = Mapping[str, Any]


@final
@dataclass(frozen=True)
class Match:
    """The correspondence between an optimizer's groups and a checkpoint.

    Attributes:
        keys: the checkpoint's key of each parameter, by group; :data:`ABSENT` if the checkpoint does not have it.
        sources: for each group, the checkpoint's group with its settings; None if the group keeps its own.
        unexpected: names in the checkpoint that the optimizer does not have.
    """

    keys: Sequence[Sequence[Any]]
    sources: Sequence[Group | None]
    unexpected: Sequence[str] = ()


ABSENT = object()
"""The key of a parameter that a checkpoint does not have."""


def match(groups: Sequence[Group], saved: Sequence[Group], *, strict: bool = True) -> Match:
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
        raise ValueError(f"the loaded state dict is of other parameters:\n{listed(lines)}\n{last}")
    by_names = {frozenset(n): group for n, group in zip(saved_names, saved, strict=True)}
    keys_by_group = [[keys.get(name, ABSENT) for name in n] for n in names]
    return Match(keys_by_group, [by_names.get(frozenset(n)) for n in names], unexpected)


_BY_NAME = (
    "; to go by name instead, make the optimizer with names (model.named_parameters()) and give each group of the "
    "state dict its 'param_names', then load it with strict=False"
)


def _match_by_order(groups: Sequence[Group], saved: Sequence[Group]) -> Match:
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
    return Match([g["params"] for g in saved], saved)


def _names(groups: Sequence[Group]) -> list[list[str]] | None:
    """Return the names of every group's parameters; None if some have no name or no string, or a name occurs twice."""
    names_by_group = [g.get("param_names", ()) for g in groups]
    if not all(isinstance(names, Sequence) and all(isinstance(n, str) for n in names) for names in names_by_group):
        return None
    names_by_group = [[plain_name(name) for name in names] for names in names_by_group]
    flat = list(chain(*names_by_group))
    complete = [len(n) for n in names_by_group] == [len(g["params"]) for g in groups]
    return names_by_group if complete and len(set(flat)) == len(flat) else None


def listed(lines: Iterable[str], most: int = 12) -> str:
    """Return the first lines of a list, indented for a message, with the number of the lines left out.

    >>> print(listed(["one", "two", "three"], most=2))
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
