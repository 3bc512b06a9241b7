"""A file's optimizer judged in a process of its own, with a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from gradstep.judge.verdict import Status, Verdict, printable

TIME_LIMIT = 20.0
"""Seconds for a check; one takes less than 5."""

START_LIMIT = 120.0
"""Seconds for Python, gradstep and torch to load, before the submission is touched."""

_PAUSE = 0.02
_GRACE = 12.0
"""Seconds that the supervisor has to end what was started."""

_PRINTED_LINES = 3
_PRINTED_BYTES = 1 << 16
_EVENTS_BYTES = 1 << 24


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
    # Lines without the token are not the worker's: it never stands where the submission would find it by looking.
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="gradstep-check-") as folder:
        events = _Events(Path(folder, "events"), token)
        worker = subprocess.Popen(
            [*_supervised(), sys.executable, "-m", "gradstep.judge.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        output = _Output(worker)
        try:
            _hand_over(worker, {**request, "events": str(events.path), "token": token})
            ended = _wait(worker, events, time_limit)
        finally:
            _end(worker)
        output.join()
        told = events.read()
        verdict = next((Verdict.from_dict(_printable(e["verdict"])) for e in told if "verdict" in e), None)
        if verdict is None:
            blank = Verdict(target, rule, convention, Status.UNJUDGED, "")
            last = next((e["probe"] for e in reversed(told) if "probe" in e), "loading the file")
            why = f"ended its process (code {worker.returncode})" if ended else f"did not end within {time_limit:g} s"
            verdict = blank.because(f"It could not be judged: it {why} in the probe {last!r}")
        return output.noted(verdict)


def _supervised() -> list[str]:
    """What runs a command so that nothing of it is left behind; there is such a thing on Linux only."""
    if not sys.platform.startswith("linux"):
        return []
    return [sys.executable, str(Path(__file__).with_name("supervisor.py"))]


def _hand_over(worker: subprocess.Popen[bytes], request: Mapping[str, Any]) -> None:
    assert worker.stdin is not None, "it was opened as a pipe"
    try:
        worker.stdin.write(json.dumps(request).encode())
        worker.stdin.close()
    except BrokenPipeError:  # it ended at once, which is told by its exit status
        pass


@final
class _Events:
    """What the worker tells, in a file of a line of JSON each."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token

    def read(self) -> list[dict[str, Any]]:
        """What it has told so far, complete lines only."""
        try:
            with self.path.open("rb") as file:
                lines = file.read(_EVENTS_BYTES).split(b"\n")[:-1]
        except OSError:
            return []
        start = f"{self.token} ".encode()
        return [json.loads(line[len(start) :]) for line in lines if line.startswith(start)]


@final
class _Output(threading.Thread):
    """What is printed: its first lines kept, the others counted and thrown away."""

    def __init__(self, worker: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        assert worker.stdout is not None, "it was opened as a pipe"
        self.pipe = worker.stdout
        self.first, self.lines, self.more = b"", 0, False
        self.start()

    def run(self) -> None:
        while block := self.pipe.read1(1 << 16):  # type: ignore[attr-defined]
            self.first += block[: _PRINTED_BYTES - len(self.first)]
            self.lines += block.count(b"\n")
            self.more = block[-1:] != b"\n"
        self.pipe.close()

    def noted(self, verdict: Verdict) -> Verdict:
        """The verdict with a note of it."""
        count = self.lines + self.more
        if not count:
            return verdict
        lines = self.first.decode("utf-8", errors="replace").splitlines()
        shown = " / ".join(printable(line.strip())[:80] for line in lines[:_PRINTED_LINES])
        return verdict.noting(f"It prints, {count} line{'s' if count > 1 else ''} in all: {shown}")


def _printable(value: Any) -> Any:
    """Every text in it without what a terminal would obey."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(v) for v in value]
    return {k: _printable(v) for k, v in value.items()} if isinstance(value, dict) else value


def _wait(worker: subprocess.Popen[bytes], events: _Events, time_limit: float) -> bool:
    """Whether the process ended in time; the limit counts from when the libraries are loaded."""
    deadline, loaded = time.monotonic() + START_LIMIT, False
    while worker.poll() is None:
        if not loaded and events.read():
            loaded, deadline = True, time.monotonic() + time_limit
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True


def _end(worker: subprocess.Popen[bytes]) -> None:
    """The process and all it started, ended."""
    if sys.platform == "win32":
        worker.kill()
    else:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.terminate()  # the supervisor's sign to end everything below it
            worker.wait(_GRACE)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
