"""The header of a checkpoint: rule, storage and seed, in the state dictionary and in the groups.

torch's distributed engines (``ZeroRedundancyOptimizer``, FSDP, ``torch.distributed.checkpoint``) keep only ``state``
and ``param_groups`` of a state dictionary. So a group whose state is not stored as torch stores it has the header too,
as one string under ``"gradstep"``. It is one value, so that a later version can add to it and still load older files:
those engines read from a file exactly the keys that the groups have. Other groups have torch's keys only, so that files
of torch's optimizers and of ours can be exchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradstep
from gradstep.optimizers.state.storage import Storage
from gradstep.rules import RULES, Rule
from gradstep.storage.noise import NOISES

FORMAT = 2
"""The version of checkpoints. In format 1 the arrays of a slot in blocks had keys of their own."""

HEADER = "gradstep"
"""The key of the header, in a state dictionary and in a group."""


def make_header(rule: type[Rule], storage: Storage) -> dict[str, Any]:
    """Return the header of a state dictionary: plain numbers and strings.

    >>> from gradstep.rules import AdamW
    >>> sorted(make_header(AdamW, Storage()))
    ['format', 'noise', 'rounding', 'rule', 'seed', 'state', 'version']
    """
    return {
        "format": FORMAT,
        "version": gradstep.__version__,
        "rule": rule.__name__,
        "state": storage.state,
        "rounding": storage.rounding,
        "seed": storage.seed,
        "noise": storage.noise,
    }


def write_group_header(rule: type[Rule], storage: Storage, group: dict[str, Any]) -> None:
    """Write the header into a group if its parameters or state are not stored as torch stores them."""
    if storage.rounding == "nearest" and group.get("state", storage.state) == "float32":
        group.pop(HEADER, None)
    else:
        group[HEADER] = json.dumps(make_header(rule, storage))


def find_header(state_dict: Mapping[str, Any]) -> Any:
    """Return the header of a state dictionary, or of its first group that has one, unchecked; else None."""
    header = state_dict.get(HEADER)
    if header is None:
        header = next((group[HEADER] for group in state_dict["param_groups"] if HEADER in group), None)
    try:
        return json.loads(header) if isinstance(header, str) else header
    except ValueError:  # read_header refuses it as it is
        return header


def read_header(rule: type[Rule], state_dict: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the checked header of a state dictionary or of its groups; None if torch wrote it.

    Raises:
        ValueError: the header is of a later format, of another rule, or invalid.
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


def stored_in_groups(rule: type[Rule], storage: Storage, groups: Sequence[Mapping[str, Any]]) -> Storage:
    """Return the storage with the seed of the groups, which ``ZeroRedundancyOptimizer`` loads without telling us.

    Raises:
        ValueError: the groups are of another rule, of a later format, or invalid.
    """
    return continue_noise(storage, read_header(rule, {"param_groups": groups}))
