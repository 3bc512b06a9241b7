"""Every `python` example of the documentation runs, page by page, in order, in one namespace (doctests run `pycon`).

An example begins where its page begins, with a model, an optimizer or a loader at hand; ``GIVEN`` makes them.
"""

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import gradstep
from tests.distributed import processes

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = re.compile(r"((?:^<!--.*-->\n)*)^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WALK = "docs/course-walk.md"
DISTRIBUTED = "docs/distributed.md"
OUTLINE = "CONTRIBUTING.md"
"""Its example is the outline of a docstring."""

PAGES = {
    str(page.relative_to(ROOT)): EXAMPLE.findall(text)
    for page in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
    if EXAMPLE.search(text := page.read_text(encoding="utf-8"))
}


def given_model() -> dict[str, Any]:
    """What a training script has before its loop."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1))
    optimizer = gradstep.AdamW(model.parameters(), lr=3e-4)
    batches = [SimpleNamespace(x=torch.ones(2, 64), tokens=2)] * 6
    loss = model(torch.ones(2, 64)).square().mean()
    loss.backward()
    return {
        "torch": torch,
        "gradstep": gradstep,
        "model": model,
        "optimizer": optimizer,
        "batches": batches,
        "loader": batches,
        "loss": loss,
        "loss_of": lambda model, batch: model(batch.x).square().mean(),
        "schedule": gradstep.schedules.constant(3e-4),
    }


def given_check() -> dict[str, Any]:
    return {"gradstep": gradstep, "MyAdamW": torch.optim.AdamW}


def given_checkpoints() -> dict[str, Any]:
    given = given_model()
    given["optimizer"].step()
    torch.save(given["optimizer"].state_dict(), "old.pt")
    scheduler = gradstep.Scheduler(given["optimizer"], lr=given["schedule"])
    return given | {"schedule": scheduler, "state_dict": given["optimizer"].state_dict()}


def given_clients() -> dict[str, Any]:
    example = importlib.import_module("huggingface_trainer")

    return {**vars(example), "model": example.gpt2(), "train_dataset": example.dataset()}


def given_distributed() -> dict[str, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    given = given_model()
    return given | {
        "DistributedDataParallel": DistributedDataParallel,
        "ZeroRedundancyOptimizer": ZeroRedundancyOptimizer,
        "fully_shard": lambda model: fully_shard(model, mesh=init_device_mesh("cpu", (2,))),
        "batch": given["batches"][0],
    }


def given_stepper() -> dict[str, Any]:
    given = given_model()
    given["optimizer"].zero_grad()
    first, last = given["model"]
    return given | {
        "epochs": 1,
        "matrices": [first.weight, last.weight],
        "rest": [first.bias, last.bias],
        "schedule_of_muon": gradstep.schedules.constant(0.02),
        "schedule_of_adamw": given["schedule"],
    }


def given_bitsandbytes() -> dict[str, Any]:
    given = given_model()
    optimizer = gradstep.AdamW(given["model"].parameters(), lr=3e-4, state="8bit")
    optimizer.step()
    theirs = gradstep.convert_state(optimizer.state_dict(), "bitsandbytes-8bit").state_dict
    torch.save(theirs, "bitsandbytes.pt")
    return given | {"optimizer": optimizer}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/check.md": given_check,
    "docs/checkpoints.md": given_checkpoints,
    "docs/clients.md": given_clients,
    DISTRIBUTED: given_distributed,
    "docs/from_bitsandbytes.md": given_bitsandbytes,
    "docs/stepper.md": given_stepper,
    OUTLINE: lambda: {"Rule": gradstep.Rule},
}
"""What the examples of a page begin with; those of every other page with :func:`given_model`."""


def run_examples(page: str) -> None:
    """Run the examples of a page; of docs/distributed.md each by itself, since one model is wrapped in one way."""
    given = GIVEN.get(page, given_model)
    namespace = given()
    for _, code in PAGES[page]:
        exec(compile(code, page, "exec"), namespace)
        namespace = given() if page == DISTRIBUTED else namespace


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {WALK, DISTRIBUTED}))
def test_examples_run(page, tmp_path, monkeypatch):
    if page == "docs/clients.md":
        pytest.importorskip("transformers", reason="transformers is not installed")
        monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    run_examples(page)


def run_examples_in(folder: str, page: str) -> None:
    """Run the examples of a page in a folder: they write records and checkpoints."""
    os.chdir(folder)
    run_examples(page)


@pytest.mark.slow
def test_distributed_examples_run_on_two_ranks(tmp_path):
    processes.run(run_examples_in, 2, str(tmp_path), DISTRIBUTED)


def test_every_answer_of_the_course_is_one_that_the_walk_runs():
    """``tools/walk.py`` writes an answer into the file that is named before it, and checks that."""
    assert all("<!-- write: " in comments for comments, _ in PAGES[WALK])


def test_doctests_are_marked_as_such():
    """What has prompts is run by doctest, which an editor and the reader should see."""
    assert not [page for page, examples in PAGES.items() for _, code in examples if page != OUTLINE and ">>> " in code]
