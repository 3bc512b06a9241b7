"""Under which keys a checkpoint holds the codes of 8-bit state.

In an optimizer they stand where the values of float32 state stand (``exp_avg``, beside ``exp_avg_scale``). torch's own
classes would take them for values there: ``load_state_dict`` casts them to float32 without a word. So a checkpoint
calls them ``exp_avg_codes``, and who does not know codes finds no ``exp_avg`` and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

CODES, SCALE = "_codes", "_scale"


def named_apart(state: Mapping[Any, Any], keys: Collection[Any]) -> dict[Any, Any]:
    """The state of all parameters, with codes under names of their own.

    Args:
        state: the entries.
        keys: which of them are parameters'; the others, which somebody else has put there, stay as they are.

    >>> codes = torch.zeros(2, dtype=torch.uint8)
    >>> sorted(named_apart({0: {"step": 1, "exp_avg": codes, "exp_avg_scale": codes[:1]}}, {0})[0])
    ['exp_avg_codes', 'exp_avg_scale', 'step']
    """
    return _renamed(state, keys, _apart)


def named_together(state: Mapping[Any, Any], keys: Collection[Any]) -> dict[Any, Any]:
    """The inverse of :func:`named_apart`; what has no codes stays as it is."""
    return _renamed(state, keys, _together)


def keys_of_parameters(groups: Iterable[Any]) -> frozenset[Any]:
    """The keys under which a checkpoint holds the state of parameters."""
    return frozenset(chain.from_iterable(group["params"] for group in groups))


def _renamed(
    state: Mapping[Any, Any], keys: Collection[Any], rename: Callable[[str, Mapping[str, Any]], str]
) -> dict[Any, Any]:
    return {
        key: {rename(name, entry): value for name, value in entry.items()}
        if key in keys and isinstance(entry, Mapping)
        else entry
        for key, entry in state.items()
    }


def _apart(name: str, entry: Mapping[str, Any]) -> str:
    value = entry[name]
    coded = isinstance(value, Tensor) and value.dtype == torch.uint8 and f"{name}{SCALE}" in entry
    return name + CODES if coded else name


def _together(name: str, entry: Mapping[str, Any]) -> str:
    if not isinstance(name, str):
        return name
    slot, value = name.removesuffix(CODES), entry[name]
    coded = isinstance(value, Tensor) and value.dtype == torch.uint8
    return slot if coded and slot not in entry else name
