"""Run a command with its output in a log, and show its progress."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.compatibility.rows import ROOT


class Failed(Exception):
    """A command failed; its log has the reason."""


def run(
    what: str,
    command: Sequence[str | Path],
    log: Path,
    *,
    variables: Mapping[str, str] | None = None,
    limit: float = 3600,
    check: bool = True,
    folder: Path = ROOT,
) -> int:
    """Run a command to its end and return its exit code.

    Args:
        what: its name, shown while it runs.
        command: the command with its arguments.
        log: the file for its output.
        variables: added to the environment.
        limit: seconds after which it is ended.
        check: raise :class:`Failed` if it does not succeed.
        folder: the folder it runs in.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = shown = time.monotonic()
    every = 1 if sys.stdout.isatty() else 15
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this program only, which then ends the whole group
        )
        try:
            while (code := process.poll()) is None:
                time.sleep(0.2)
                now = time.monotonic()
                if now - begin > limit:
                    raise Failed(f"{what}: ended after {limit:.0f} s, see {log}")
                if now - shown >= every:
                    shown = now
                    show(f"   {what} {now - begin:5.0f} s  {last_line(log)}", stay=False)
        finally:
            if process.poll() is None:
                end(process)
    show(f"   {what} {time.monotonic() - begin:5.0f} s, exit code {code}")
    if check and code:
        raise Failed(f"{what}: exit code {code}, see {log}:\n{tail(log)}")
    return code


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(timeout=5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def show(line: str, *, stay: bool = True) -> None:
    """Print a line; on a terminal, without ``stay``, the next line overwrites it."""
    if sys.stdout.isatty():
        print(f"\r\033[K{line[:110]}", end="\n" if stay else "", flush=True)
    else:
        print(line, flush=True)


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def last_line(log: Path) -> str:
    """Return the last line of a log, shortened."""
    return tail(log, 1).split("\r")[-1].strip()[-70:]
