"""Whose state in a checkpoint belongs to which parameter: by name where both sides have names, else in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, final

Group = Mapping[str, Any]

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


@final
@dataclass(frozen=True)
class Match:
    """What each group of the optimizer finds in the checkpoint.

    Attributes:
        keys: the checkpoint's key of each parameter, by group; :data:`ABSENT` where there is none.
        sources: the checkpoint's group whose settings a group takes; None if it keeps its own.
        unexpected: names in the checkpoint that the optimizer does not have.
    """

    keys: Sequence[Sequence[Any]]
    sources: Sequence[Group | None]
    unexpected: Sequence[str] = ()


ABSENT = object()
"""The key of a parameter that a checkpoint does not hold."""


def match(groups: Sequence[Group], saved: Sequence[Group], *, strict: bool = True) -> Match:
    """Match the groups of an optimizer with those of a checkpoint.

    If every group on both sides has ``param_names``, each parameter takes the state of the parameter of its name, in
    whatever order and group the checkpoint has it. A group takes the settings of the checkpoint's group that holds
    the same names; where there is none (they were grouped otherwise), it keeps its own. What DistributedDataParallel,
    ``torch.compile`` and the like put into names does not count.

    Without names, or where a name occurs twice, the order counts, as in torch.optim.

    Args:
        groups: the optimizer's.
        saved: the checkpoint's.
        strict: whether other names on one side than on the other are refused.

    Raises:
        ValueError: the groups, or the names, are others.
    """
    names, saved_names = _names(groups), _names(saved)
    if names is None or saved_names is None:
        return _in_order(groups, saved)
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
            remedies.append("if they are only called otherwise, delete 'param_names' in its groups to go by order")
        last = "; ".join(remedies) or "Make the optimizer of the model that was saved, or begin with fresh state"
        raise ValueError(f"the loaded state dict is of other parameters:\n{listed(lines)}\n{last}")
    by_content = {frozenset(n): group for n, group in zip(saved_names, saved, strict=True)}
    matched = [[keys.get(name, ABSENT) for name in n] for n in names]
    return Match(matched, [by_content.get(frozenset(n)) for n in names], unexpected)


_BY_NAME = (
    "; to go by name instead, make the optimizer with names (model.named_parameters()) and give each group of the "
    "state dict its 'param_names', then load it with strict=False"
)


def _in_order(groups: Sequence[Group], saved: Sequence[Group]) -> Match:
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
    """The names of every group's parameters; None if there are none, or no strings, or one occurs twice."""
    given = [g.get("param_names", ()) for g in groups]
    if not all(isinstance(names, Sequence) and all(isinstance(name, str) for name in names) for names in given):
        return None
    found = [[plain_name(name) for name in names] for names in given]
    flat = list(chain(*found))
    complete = [len(n) for n in found] == [len(g["params"]) for g in groups]
    return found if complete and len(set(flat)) == len(flat) else None


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers of a model add to it.

    >>> plain_name("_orig_mod.module.layers.0.weight")
    'layers.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def listed(lines: Iterable[str], most: int = 12) -> str:
    """Lines of a message, indented, and not too many of them.

    >>> print(listed(["one", "two", "three"], most=2))
      one
      two
      … and 1 more
    """
    return "\n".join(f"  {line}" for line in _few(list(lines), most))


def _few(lines: Sequence[str], most: int) -> Iterator[str]:
    yield from lines[:most]
    if len(lines) > most:
        yield f"… and {len(lines) - most} more"
