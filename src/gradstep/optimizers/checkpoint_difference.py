"""What in a checkpoint does not fit a parameter, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gradstep.optimizers.state_check import OF_ROUNDING, Fault, faults, missing, scale_of
from gradstep.optimizers.storage import Stored
from gradstep.rules import Rule


def misfits(p: Tensor, stored: Stored, rule: Rule, entry: Any, *, strict: bool) -> list[Fault]:
    """What is missing, unexpected, or does not fit the parameter, whatever way it is stored.

    Beside what :func:`gradstep.optimizers.state_check.faults` finds, an entry with *some* of its slots does not fit.
    Without any it does, if a setting has them: they begin when they are first needed (as when SGD is given a momentum).

    Args:
        p: the parameter.
        stored: how the optimizer stores it.
        rule: the optimizer's, with the settings of the group.
        entry: its state in the checkpoint.
        strict: whether keys that the rule does not know are refused, and not somebody's own.
    """
    found = []
    if isinstance(entry, Mapping):
        held = {key for key, value in entry.items() if value is not None}
        known = {"step", *rule.scalars, *OF_ROUNDING, *(key for s in stored.slots for key in (s.name, scale_of(s)))}
        unexpected = [key for key in entry if key in held - known] if strict else []
        if unexpected or any(slot.name in held for slot in stored.slots):
            found += [missing(slot.name) for slot in stored.slots if slot.name not in held]
        found += [Fault(RuntimeError, f"{key} is unexpected") for key in unexpected]
    return list(dict.fromkeys([*found, *faults(p, stored, rule, entry)]))
