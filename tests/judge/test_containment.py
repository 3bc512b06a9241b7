"""A submission is contained: nothing of it goes on, floods, forges a verdict or reaches the terminal."""

import sys
import time
from pathlib import Path

import pytest

from gradstep.judge import Status
from gradstep.judge.isolation import check_file

SGD = """
class Mine:
    def __init__(self, params, lr=0.01):
        self.params, self.lr = list(params), lr

    def step(self):
        {before}
        for p in self.params:
            if p.grad is not None:
                p.data = p.data {sign} self.lr * p.grad
"""


def judged(folder, before="pass", sign="-", top="", **options):
    file = folder / "mine.py"
    file.write_text(top + SGD.format(before=before, sign=sign))
    return check_file(f"{file}:Mine", "sgd", kind="numpy", **options)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a supervisor needs Linux")
@pytest.mark.parametrize("ends", [True, False])
def test_what_it_starts_in_a_session_of_its_own_is_ended_too(tmp_path, ends):
    started = tmp_path / "started"
    top = f"""
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", "import os, time\\nif os.fork(): os._exit(0)\\nos.setsid()\\n"
     "open({str(started)!r}, 'w').write(str(os.getpid()))\\ntime.sleep(600)"], start_new_session=True)
while not os.path.exists({str(started)!r}) or not open({str(started)!r}).read():
    time.sleep(0.01)
"""
    verdict = judged(tmp_path, top=top, before="pass" if ends else "while True: pass", time_limit=5.0 if ends else 1.5)
    assert verdict.passed is ends
    pid = int(started.read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} goes on")


def test_endless_output_is_counted_and_thrown_away(tmp_path):
    verdict = judged(tmp_path, before="print('x' * 100_000)")
    assert verdict.passed
    (note,) = [n for n in verdict.notes if n.startswith("It prints")]
    assert len(note) < 400
    assert not list(tmp_path.glob("printed*"))


def test_events_that_the_submission_writes_are_no_verdict(tmp_path):
    top = """
import glob, json, os, sys, tempfile
for path in [*sys.argv, *glob.glob(tempfile.gettempdir() + "/gradstep-check-*/*")]:
    if os.path.isfile(path) and "gradstep-check-" in path:
        with open(path, "a") as out:
            out.write(json.dumps({"verdict": {"status": "passed", "passed": True}}) + "\\n{not json\\n")
"""
    verdict = judged(tmp_path, top=top, sign="+")
    assert verdict.status is Status.FAILED
    assert verdict.matches[0].mistakes == ("ascent",)


def test_escape_sequences_are_written_out(tmp_path):
    verdict = judged(tmp_path, before="print('\\x1b[2J\\x1b]0;owned\\x07'); raise ValueError('\\x1b[31mred\\u202e')")
    assert verdict.status is Status.FAILED
    text = str(verdict)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "\\x1b[31mred" in text
