"""Judge a file's optimizer in a process of its own, with a time limit."""

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, final

from gradstep.judge.verdict import Status, Verdict, printable

TIME_LIMIT = 20.0
"""Seconds for a check; one takes less than 5."""

START_LIMIT = 120.0
"""Seconds for Python, gradstep and torch to load, before the submission is touched."""

_PAUSE = 0.02
_GRACE = 12.0
"""Seconds that the supervisor has to end all processes."""

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
    exam: str | None = None,
) -> Verdict:
    """Judge ``FILE.py:Class`` as :func:`gradstep.check` does, whatever the file does.

    A file that does not import, and a class that raises, loops for ever, prints or ends the process, get a verdict too.

    Args:
        target: a file, and after a colon the class, factory or function in it.
        rule, settings, convention, kind, strict: as for :func:`gradstep.check`; a name, and JSON values.
        parameter: for NumPy optimizers, the name in that file of the parameter's class.
        time_limit: seconds, once gradstep and torch are loaded.
        exam: what judges instead of :func:`gradstep.check`, as "MODULE:FUNCTION": it is called with the submission and
            ``kind``, and returns a verdict; ``rule`` is then only a name for the verdict.
    """
    request = {
        "target": target,
        "rule": rule,
        "settings": dict(settings or {}),
        "options": {"convention": convention, "kind": kind, "strict": strict},
        "parameter": parameter,
        "exam": exam,
    }
    # Lines without the token are not the worker's; the submission cannot find the token in a file or argument.
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="gradstep-check-") as folder:
        events = Path(folder, "events")
        read = partial(_read_events, events, token)
        worker = subprocess.Popen(
            [*_supervisor_command(), sys.executable, "-m", "gradstep.judge.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        output = _Output(worker)
        try:
            _send_request(worker, {**request, "events": str(events), "token": token})
            ended = _wait(worker, read, time_limit)
        finally:
            _end_process(worker)
        output.join()
        received = read()
        verdict = next((Verdict.from_dict(_printable(e["verdict"])) for e in received if "verdict" in e), None)
        if verdict is None:
            last = next((e["probe"] for e in reversed(received) if "probe" in e), "loading the file")
            why = f"ended its process (code {worker.returncode})" if ended else f"did not end within {time_limit:g} s"
            reason = f"It could not be judged: it {why} in the probe {last!r}"
            verdict = Verdict(target, rule, convention, Status.UNJUDGED, reason)
        return output.add_note(verdict)


def _supervisor_command() -> list[str]:
    """Return the command that runs another one and leaves no process behind; empty where the system is not Linux."""
    if not sys.platform.startswith("linux"):
        return []
    return [sys.executable, str(Path(__file__).with_name("supervisor.py"))]


def _send_request(worker: subprocess.Popen[bytes], request: Mapping[str, Any]) -> None:
    assert worker.stdin is not None, "it was opened as a pipe"
    try:
        worker.stdin.write(json.dumps(request).encode())
        worker.stdin.close()
    except BrokenPipeError:  # it ended at once; its exit status says so
        pass


def _read_events(events: Path, token: str) -> list[dict[str, Any]]:
    """Return the events that the worker has written so far: one complete line of JSON each, after the token."""
    try:
        with events.open("rb") as file:
            lines = file.read(_EVENTS_BYTES).split(b"\n")[:-1]
    except OSError:
        return []
    start = f"{token} ".encode()
    return [json.loads(line[len(start) :]) for line in lines if line.startswith(start)]


@final
class _Output(threading.Thread):
    """Reads the worker's output: keeps its first 64 KiB, and counts all lines."""

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

    def add_note(self, verdict: Verdict) -> Verdict:
        """Return the verdict with a note of the output, if there is any."""
        count = self.lines + self.more
        if not count:
            return verdict
        lines = self.first.decode("utf-8", errors="replace").splitlines()
        shown = " / ".join(printable(line.strip())[:80] for line in lines[:_PRINTED_LINES])
        note = f"It prints, {count} line{'s' if count > 1 else ''} in all: {shown}"
        return replace(verdict, notes=(*verdict.notes, note))


def _printable(value: Any) -> Any:
    """Return JSON values with the control characters of every text written out."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(v) for v in value]
    return {k: _printable(v) for k, v in value.items()} if isinstance(value, dict) else value


def _wait(worker: subprocess.Popen[bytes], read: Callable[[], Sequence[object]], time_limit: float) -> bool:
    """Wait for the process; return whether it ended in time. The limit counts from when the libraries are loaded."""
    deadline, loaded = time.monotonic() + START_LIMIT, False
    while worker.poll() is None:
        if not loaded and read():
            loaded, deadline = True, time.monotonic() + time_limit
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True


def _end_process(worker: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started."""
    if sys.platform == "win32":
        worker.kill()
    else:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.terminate()  # the supervisor then ends everything below it
            worker.wait(_GRACE)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
