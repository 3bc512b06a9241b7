"""State dictionaries, interchangeable with torch.optim's in both directions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from gradstep.optimizers.choice import TORCH_EXECUTION
from gradstep.rules import Rule, settings_of


def detached(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The scalars of each parameter as tensors of their own, instead of views into one array."""

    def own(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) and value.dim() == 0 and value._base is not None else value

    state = {key: {name: own(v) for name, v in entry.items()} for key, entry in state_dict["state"].items()}
    return {**state_dict, "state": state}


def adopted(
    rule: type[Rule], defaults: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[Any, Any]]:
    """The groups and the state of a checkpoint, as an optimizer's own; the checkpoint is not changed.

    Args:
        rule: the optimizer's rule.
        defaults: its settings where the checkpoint says nothing.
        groups: its ``param_groups``.
        state_dict: the checkpoint.

    Raises:
        ValueError: other groups than the optimizer has.
        KeyError: no ``"state"`` or ``"param_groups"``.
        RuntimeError: a slot of another shape than its parameter.
    """
    for part in ("param_groups", "state"):
        if part not in state_dict:
            raise KeyError(f"{part!r} is missing: not the state_dict() of an optimizer (it has {list(state_dict)})")
    saved = deepcopy(state_dict["param_groups"])
    if len(groups) != len(saved):
        raise ValueError(
            "loaded state dict has a different number of parameter groups "
            f"({len(saved)}; this optimizer has {len(groups)})"
        )
    for index, (group, other) in enumerate(zip(groups, saved, strict=True)):
        if len(group["params"]) != len(other["params"]):
            raise ValueError(
                f"loaded state dict contains a parameter group that doesn't match the size of optimizer's group "
                f"(group {index}: {len(other['params'])} parameters; this optimizer's has {len(group['params'])})"
            )
    known = {s.name for s in settings_of(rule)}
    for group, other in zip(groups, saved, strict=True):
        for name in TORCH_EXECUTION:
            other.pop(name, None)
        other["params"] = group["params"]
        if "param_names" in group:
            other.setdefault("param_names", group["param_names"])
        for name in known:
            other.setdefault(name, defaults[name])  # written before the setting existed

    keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    places = ((group, p) for group in saved for p in group["params"])
    owners = dict(zip(keys, places, strict=True))
    state: defaultdict[Any, Any] = defaultdict(dict)  # torch's own kind: wrappers index what is not there yet
    for key, entry in state_dict["state"].items():
        if key not in owners:
            state[key] = deepcopy(entry)
            continue
        group, p = owners[key]
        shapes = {
            slot.name: slot.shape(tuple(p.shape))
            for slot in rule(**{name: group[name] for name in known}).slots(p.dim())
        }
        state[p] = {name: _moved(name, value, p, shapes) for name, value in entry.items()}
    return saved, state


def _moved(name: str, value: Any, p: Tensor, shapes: dict[str, tuple[int, ...]]) -> Any:
    if not isinstance(value, Tensor):
        return deepcopy(value)
    if name in shapes:
        if tuple(value.shape) != shapes[name]:
            raise RuntimeError(
                f"{name} in the state dict has shape {tuple(value.shape)}, but a parameter of shape "
                f"{tuple(p.shape)} needs {shapes[name]}"
            )
        return value.detach().to(device=p.device, copy=True)
    return value.detach().clone() if value.dim() else value.detach().to(device="cpu", dtype=torch.float32, copy=True)
