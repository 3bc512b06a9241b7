"""A file's optimizer judged in a process of its own, with a time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradstep.judge.verdict import Status, Verdict

TIME_LIMIT = 20.0
"""Seconds for a check; one takes less than 5."""

START_LIMIT = 120.0
"""Seconds for Python, gradstep and torch to load, before the submission is touched."""

_PAUSE = 0.02
_PRINTED_LINES = 3


def check_file(
    target: str,
    rule: str,
    settings: Mapping[str, Any] | None = None,
    *,
    convention: str = "torch",
    kind: str | None = None,
    parameter: str | None = None,
    strict: bool = False,
    time_limit: float = TIME_LIMIT,
) -> Verdict:
    """Judge ``FILE.py:Class`` as :func:`gradstep.check` does, come what may of the file.

    A file that does not import, a class that raises, loops for ever, prints or ends the process: each ends in a
    verdict.

    Args:
        target: a file, and after a colon the class, factory or function in it.
        rule: the rule's name.
        settings: fixed settings; JSON values.
        convention: whose reading of the rule counts as right.
        kind: "torch", "numpy" or "function".
        parameter: for NumPy optimizers, the name in that file of the parameter's class.
        strict: advice counts as failure.
        time_limit: seconds, once gradstep and torch are loaded.
    """
    request = {
        "target": target,
        "rule": rule,
        "settings": dict(settings or {}),
        "options": {"convention": convention, "kind": kind, "strict": strict},
        "parameter": parameter,
    }
    with tempfile.TemporaryDirectory(prefix="gradstep-check-") as folder:
        events, printed = Path(folder, "events"), Path(folder, "printed")
        with printed.open("wb") as out:
            worker = subprocess.Popen(
                [sys.executable, "-m", "gradstep.judge.worker", json.dumps(request), str(events)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                ended = _wait(worker, events, time_limit)
            finally:
                _end(worker)
        told = _told(events)
        verdict = next((Verdict.from_dict(e["verdict"]) for e in told if "verdict" in e), None)
        if verdict is None:
            blank = Verdict(target, rule, convention, Status.UNJUDGED, "")
            last = next((e["probe"] for e in reversed(told) if "probe" in e), "loading the file")
            why = f"ended its process (code {worker.returncode})" if ended else f"did not end within {time_limit:g} s"
            verdict = blank.because(f"It could not be judged: it {why} in the probe {last!r}")
        return _with_output(verdict, printed.read_text("utf-8", errors="replace"))


def _wait(worker: subprocess.Popen[bytes], events: Path, time_limit: float) -> bool:
    """Whether the process ended in time; the limit counts from when the libraries are loaded."""
    deadline, loaded = time.monotonic() + START_LIMIT, False
    while worker.poll() is None:
        if not loaded and _told(events):
            loaded, deadline = True, time.monotonic() + time_limit
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True


def _end(worker: subprocess.Popen[bytes]) -> None:
    """The process and all it started, ended."""
    try:
        if sys.platform == "win32":
            worker.kill()
        else:
            os.killpg(worker.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    worker.wait()


def _told(events: Path) -> list[dict[str, Any]]:
    """What the worker has said so far, complete lines only."""
    if not events.exists():
        return []
    lines = events.read_text("utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def _with_output(verdict: Verdict, printed: str) -> Verdict:
    lines = printed.splitlines()
    if not lines:
        return verdict
    shown = " / ".join(line.strip()[:80] for line in lines[:_PRINTED_LINES])
    return verdict.noting(f"It prints, {len(lines)} line{'s' if len(lines) > 1 else ''} in all: {shown}")
