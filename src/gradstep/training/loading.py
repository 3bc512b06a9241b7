"""Load the parts of a training run so that the loading can be undone."""

from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

import torch

from gradstep.optimizers import Optimizer
from gradstep.optimizers.checkpoint.matching import LoadReport
from gradstep.optimizers.wrapped import innermost


def load_part(part: Any, state: Any, undo: ExitStack, *, strict: bool) -> LoadReport:
    """Load the state of an optimizer, schedule or scaler; closing ``undo`` then restores the old state.

    With ``strict=False`` a gradstep optimizer loads the matching entries only, and the report lists them and the
    others; other parts load all or nothing, and the report is empty.
    """
    if isinstance(part, torch.optim.Optimizer):
        # Its tensors need no copy: loading replaces them and does not write to them.
        part = innermost(part)
        before = part.state_dict()
    else:
        before = deepcopy(part.state_dict())
    undo.callback(part.load_state_dict, before)
    if isinstance(part, Optimizer) and not strict:
        return part.load_state_dict(state, strict=False) or LoadReport()
    part.load_state_dict(state)
    return LoadReport()


def load_parts(
    state: dict[str, Any],
    optimizers: Sequence[torch.optim.Optimizer],
    drivers: Sequence[Any],
    scaler: Any,
    undo: ExitStack,
    *,
    strict: bool,
) -> LoadReport:
    """Load the optimizers, schedules and scaler of a stepper's state; see :meth:`gradstep.Stepper.load_state_dict`."""
    if missing := {"updates", "unit", "optimizer", "schedule", "scaler"} - state.keys():
        raise KeyError(f"not the state_dict() of a Stepper: {', '.join(sorted(missing))} missing")
    saved, schedules = (
        state[name] if isinstance(state[name], list) else [state[name]] for name in ("optimizer", "schedule")
    )
    if not len(saved) == len(schedules) == len(optimizers):
        counts = f"{len(optimizers)}, and the checkpoint {len(saved)}"
        raise ValueError(f"optimizers: this stepper has {counts}: make it as it was")
    parts: list[tuple[str, Any, Any]] = [("schedule", *pair) for pair in zip(drivers, schedules, strict=True)]
    parts.append(("scaler", scaler, state["scaler"]))
    for name, own, other in parts:
        if (own is None) != (other is None):
            has, its = ("no", "one") if own is None else ("a", "none")
            raise ValueError(f"this stepper has {has} {name}, and the checkpoint has {its}: make it as it was")
    report = LoadReport()
    for own, other in zip(optimizers, saved, strict=True):
        report += load_part(own, other, undo, strict=strict)
    for _, own, other in parts:
        if own is not None:
            load_part(own, other, undo, strict=True)
    return report


def unwrap_single(each: Sequence[Any]) -> Any:
    """Return the only element, or several as a list."""
    return list(each) if len(each) > 1 else each[0]
