"""Split the checkpoint of an optimizer with several rules into checkpoints of one rule each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradstep.optimizers.checkpoint.load import check_form
from gradstep.optimizers.checkpoint.matching import find_header, read_saved_rules
from gradstep.optimizers.state.storage import FORMAT, HEADER


def split_by_rule(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Split the checkpoint of an optimizer with several rules: a state dictionary for each rule, by the rule's name.

    Each is that of an optimizer of this rule with these groups only. If its state is float32, torch's class loads it.

    Args:
        state_dict: the state dictionary of a gradstep optimizer; it is not changed, and its tensors are not copied.

    Raises:
        ValueError: a group does not say its rule, since torch has written it.

    Example:
        >>> import torch, gradstep
        >>> w, b = torch.zeros(2, 2, requires_grad=True), torch.zeros(2, requires_grad=True)
        >>> optimizer = gradstep.AdamW([{"params": [w], "rule": "SGD", "lr": 0.1, "momentum": 0.9}, {"params": [b]}])
        >>> w.grad, b.grad = torch.ones(2, 2), torch.ones(2)
        >>> optimizer.step()
        >>> parts = gradstep.split_by_rule(optimizer.state_dict())
        >>> list(parts)
        ['SGD', 'AdamW']
        >>> torch.optim.SGD([w]).load_state_dict(parts["SGD"])
    """
    check_form(state_dict)
    parts: dict[str, dict[str, Any]] = {}
    for group, name in zip(state_dict["param_groups"], read_saved_rules(state_dict), strict=True):
        if name is None:
            raise ValueError("the state dict has groups without a rule, as torch writes them: it has one rule only")
        header = {**(find_header(state_dict) or {}), "format": FORMAT, "rule": name}
        part = parts.setdefault(name, {"state": {}, "param_groups": [], HEADER: header})
        part["param_groups"].append({key: value for key, value in group.items() if key != "rule"})
        part["state"] |= {key: state_dict["state"][key] for key in group["params"] if key in state_dict["state"]}
    return parts
