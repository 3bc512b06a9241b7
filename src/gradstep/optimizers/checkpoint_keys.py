"""Under which keys a checkpoint holds the codes of 8-bit state.

In an optimizer they stand where the values of float32 state stand (``exp_avg``, beside ``exp_avg_scale``). torch's own
classes would take them for values there: ``load_state_dict`` casts them to float32 without a word. So a checkpoint
calls them ``exp_avg_codes``, and who does not know codes finds no ``exp_avg`` and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

State = Mapping[Any, Mapping[str, Any]]

CODES, SCALE = "_codes", "_scale"


def named_apart(state: State) -> dict[Any, dict[str, Any]]:
    """The state of all parameters, with codes under names of their own.

    >>> codes = torch.zeros(2, dtype=torch.uint8)
    >>> sorted(named_apart({0: {"step": 1, "exp_avg": codes, "exp_avg_scale": codes[:1]}})[0])
    ['exp_avg_codes', 'exp_avg_scale', 'step']
    """
    return {key: {_apart(name, entry): value for name, value in entry.items()} for key, entry in state.items()}


def named_together(state: State) -> dict[Any, dict[str, Any]]:
    """The inverse of :func:`named_apart`; what has no codes stays as it is."""
    return {key: {_together(name, entry): value for name, value in entry.items()} for key, entry in state.items()}


def _apart(name: str, entry: Mapping[str, Any]) -> str:
    value = entry[name]
    coded = isinstance(value, Tensor) and value.dtype == torch.uint8 and name + SCALE in entry
    return name + CODES if coded else name


def _together(name: str, entry: Mapping[str, Any]) -> str:
    slot, value = name.removesuffix(CODES), entry[name]
    coded = isinstance(value, Tensor) and value.dtype == torch.uint8
    return slot if coded and slot not in entry else name
