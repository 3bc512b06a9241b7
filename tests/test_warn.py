"""Warnings point at the line of whoever reads them."""

import importlib
import warnings
from typing import Any

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


# -- old spellings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [("none", "ddp"), ("state", "zero1"), ("weights", "fsdp2")])
def test_the_old_spelling_of_sharding(old, new):
    options: dict[str, Any] = {"ranks": 2, "sharded": old}
    with pytest.warns(DeprecationWarning, match=f"sharded='{old}' is now sharding='{new}'") as caught:
        plan = gradstep.plan("124M", **options)
    assert caught[0].filename == __file__
    assert plan == gradstep.plan("124M", ranks=2, sharding=new)
    with pytest.warns(DeprecationWarning, match="sharding"):
        compared = gradstep.plans("124M", ranks=2, sharded=old, budget="24GB")
    assert compared.as_dict() == gradstep.plans("124M", ranks=2, sharding=new, budget="24GB").as_dict()


def test_both_spellings_at_once():
    both: dict[str, Any] = {"sharded": "state", "sharding": "zero1"}
    with pytest.raises(TypeError, match=r"plan\(\) takes sharding= or its old spelling sharded=, not both"):
        gradstep.plan("124M", **both)


OLD_NAMES = [
    ("gradstep.lab", "Outcome", "SessionOutcome"),
    ("gradstep.lab", "Plan", "SessionPlan"),
    ("gradstep.monitor", "Parameter", "ParameterInfo"),
    ("gradstep.monitor.doctor", "RULES", "CAUSE_FINDERS"),
]


@pytest.mark.parametrize(("module", "old", "new"), OLD_NAMES)
def test_old_names(module, old, new):
    room = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is now {module}.{new}") as caught:
        assert getattr(room, old) is getattr(room, new)
    assert caught[0].filename == __file__
    assert old not in room.__all__
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Nothing'"):
        room.Nothing  # noqa: B018
