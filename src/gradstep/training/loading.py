"""Load one part of a training run so that the loading can be undone."""

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
