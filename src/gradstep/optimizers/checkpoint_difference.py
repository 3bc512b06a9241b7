"""What in a checkpoint does not fit a parameter, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from gradstep.optimizers.state_check import OF_ROUNDING, Fault, faults, scale_of
from gradstep.optimizers.storage import Stored
from gradstep.rules import Rule


def misfits(p: Tensor, stored: Stored, rule: Rule, entry: Any, *, strict: bool) -> Iterator[Fault]:
    """What is missing, unexpected, or does not fit the parameter, whatever way it is stored.

    An entry without any slot fits: slots that are not there yet begin when they are first needed (as when SGD is
    given a momentum in mid-run). An entry with *some* of them does not.

    Args:
        p: the parameter.
        stored: how the optimizer stores it.
        rule: the optimizer's, with the settings of the group.
        entry: its state in the checkpoint.
        strict: whether keys that the rule does not know are refused, and not somebody's own.
    """
    if isinstance(entry, Mapping):
        held = {key for key, value in entry.items() if value is not None}
        known = {"step", *rule.scalars, *OF_ROUNDING, *(key for s in stored.slots for key in (s.name, scale_of(s)))}
        unexpected = [key for key in entry if key in held - known] if strict else []
        if unexpected or any(slot.name in held for slot in stored.slots):
            for slot in stored.slots:
                if slot.name not in held:
                    yield Fault(RuntimeError, f"{slot.name} is missing")
        for key in unexpected:
            yield Fault(RuntimeError, f"{key} is unexpected")
    yield from faults(p, stored, rule, entry)
