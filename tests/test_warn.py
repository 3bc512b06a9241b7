"""Warnings point at the line of whoever reads them."""

import warnings

import numpy as np
import pytest
import torch

import gradstep
import gradstep.numpy as gn
from gradstep.optimizers import arguments


def lose_updates(hooked):
    p = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
    optimizer = gradstep.SGD([p], lr=1e-6)
    if hooked:
        optimizer.register_step_post_hook(lambda *_: None)
    for _ in range(10):
        p.grad = torch.ones_like(p)
        optimizer.step()


def make_capturable(grouped):
    arguments._warned.clear()
    p = torch.nn.Parameter(torch.ones(3))
    if grouped:
        gradstep.AdamW([{"params": [p], "capturable": True}])
    else:
        gradstep.AdamW([p], capturable=True)


def keep_momentum(assigned):
    optimizer = gn.SGD([gn.Parameter(np.ones(2))], momentum=0.9 if assigned else 1.0)
    if assigned:
        optimizer.momentum = 1.0


@pytest.mark.parametrize("cause", [lose_updates, make_capturable, keep_momentum])
@pytest.mark.parametrize("other_way", [False, True])
def test_a_warning_points_at_the_line_outside_of_the_library(cause, other_way):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cause(other_way)
    code = cause.__code__
    assert [w.filename for w in caught] == [__file__]
    assert code.co_firstlineno < caught[0].lineno <= max(line for *_, line in code.co_lines() if line)
