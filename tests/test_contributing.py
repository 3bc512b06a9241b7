"""The walks in CONTRIBUTING.md: the files that they list are those that run, in the order of their first call."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gradstep
from gradstep.optimizers.step.part import is_native

ROOT = Path(__file__).parents[1]
PACKAGE = Path(gradstep.__file__).parent

WALK = """
import json, os, sys
import torch
import gradstep

root = os.path.dirname(gradstep.__file__) + os.sep
walks = {}

def walk(title, run):
    files = walks.setdefault(title, [])
    def note_call(frame, event, _):
        code = frame.f_code
        # Bit 1 is set for functions; the bodies of modules and classes run when they are imported.
        if event == "call" and code.co_flags & 1 and code.co_filename.startswith(root):
            file = code.co_filename[len(root):].replace(os.sep, "/")
            if file not in files:
                files.append(file)
    sys.setprofile(note_call)
    try:
        return run()
    finally:
        sys.setprofile(None)

class SGD:
    def __init__(self, params, lr=1e-3):
        self.params, self.lr = params, lr

    def step(self):
        for p in self.params:
            if p.grad is not None:
                p.data += self.lr * p.grad

model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.LayerNorm(300), torch.nn.Linear(300, 8))
for p in model.parameters():
    p.grad = torch.randn_like(p)

def make(**options):
    return gradstep.AdamW(model.named_parameters(), lr=1e-3, **options)

optimizer, other, small = make(), make(), make(state="8bit")
walk("The first step", optimizer.step)
optimizer.step()
walk("One step", optimizer.step)
saved = walk("A checkpoint", optimizer.state_dict)
walk("A checkpoint", lambda: other.load_state_dict(saved))
walk("State in 8 bits", small.step)
saved = small.state_dict()
walk("Made and loaded", lambda: make(state="8bit").load_state_dict(saved))
walk("A clipped step", lambda: optimizer.step(max_grad_norm=1.0))
check = gradstep.check  # imports
walk("A first check", lambda: check(SGD, "sgd", kind="numpy"))
walk("A rule judged", lambda: check(SGD, "sgd", kind="numpy"))
print(json.dumps(walks))
"""


@pytest.fixture(scope="module")
def walks() -> dict[str, list[str]]:
    child = subprocess.run([sys.executable, "-c", WALK], check=True, capture_output=True, text=True, cwd=ROOT)
    files: dict[str, list[str]] = json.loads(child.stdout.splitlines()[-1])
    return files


def listed(title: str) -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition(f"### {title}\n")[2].partition("\n#")[0]
    first_cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return re.findall(r"`([\w/]+\.py)`", " ".join(first_cells))


@pytest.mark.skipif(not is_native(), reason="layouts are read by memory.py instead of the compiled loop here")
@pytest.mark.parametrize("title", ["One step", "The first step", "A checkpoint"])
def test_a_walk_lists_the_files_that_run_in_order(walks, title):
    assert listed(title) == walks[title]


@pytest.mark.parametrize("title", ["State in 8 bits", "A rule judged"])
def test_the_files_of_a_shortened_walk_run_in_this_order(walks, title):
    files = listed(title)
    assert len(files) > 4
    assert [file for file in walks[title] if file in files] == files
    assert all((PACKAGE / file).is_file() for file in files)


MOST = {
    "One step": 8,
    "A clipped step": 12,
    "The first step": 18,
    "State in 8 bits": 18,
    "Made and loaded": 10,
    "A first check": 17,
    "A rule judged": 15,
}
"""How many files a reader of a walk opens at most."""


@pytest.mark.parametrize("title", MOST)
def test_a_walk_is_short(walks, title):
    assert 5 < len(walks[title]) <= MOST[title], walks[title]
