"""Loading a part of a training run so that it can be undone."""

from __future__ import annotations

from contextlib import ExitStack
from copy import deepcopy
from typing import Any

import torch

from gradstep.optimizers import Optimizer
from gradstep.optimizers.checkpoint.matching import LoadReport
from gradstep.optimizers.wrapped import innermost


def load(part: Any, state: Any, undo: ExitStack, *, strict: bool) -> LoadReport:
    """Load the state of a part, and put what undoes it on a stack.

    Args:
        part: an optimizer, a schedule or a scaler.
        state: its own, from a checkpoint.
        undo: closed by an error, it puts back what was loaded before.
        strict: False loads of gradstep's optimizers what matches; the others load all or nothing.

    Returns:
        What was loaded of one of gradstep's optimizers, and left out, with ``strict=False``; else an empty report.
    """
    if isinstance(part, torch.optim.Optimizer):
        # Its tensors are not copied: those that it has are not written to by loading, which puts others in their place.
        part = innermost(part)
        before = part.state_dict()
    else:
        before = deepcopy(part.state_dict())
    undo.callback(part.load_state_dict, before)
    if isinstance(part, Optimizer) and not strict:
        return part.load_state_dict(state, strict=False) or LoadReport()
    part.load_state_dict(state)
    return LoadReport()
