"""Load one part of a training run so that the loading can be undone."""

from __future__ import annotations

from contextlib import ExitStack
from copy import deepcopy
from typing import Any

import torch

from gradstep.optimizers import Optimizer
from gradstep.optimizers.checkpoint.matching import LoadReport
from gradstep.optimizers.wrapped import innermost


def load_part(part: Any, state: Any, undo: ExitStack, *, strict: bool) -> LoadReport:
    """Load the state of an optimizer, schedule or scaler, and push a callback that restores the old state.

    Args:
        part: the optimizer, schedule or scaler.
        state: its state from a checkpoint.
        undo: the stack for the callback; closing it undoes the loading.
        strict: False loads only the matching entries of a gradstep optimizer; other parts load all or nothing.

    Returns:
        What a gradstep optimizer loaded and left out, with ``strict=False``; otherwise an empty report.
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
