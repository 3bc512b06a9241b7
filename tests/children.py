"""Start Python processes from one that has imported torch and gradstep already, which costs 4 s of a processor.

A fork could hide something (the processes share their addresses and the seed of their hashes), so the slow tests of
several ranks start theirs from nothing.
"""

import faulthandler
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["tests.preloaded"])
FRESH = multiprocessing.get_context("spawn")


def start(function: Callable[..., Any], *arguments: Any, stdout: Path, stderr: Path, context: Any = FORKED) -> Any:
    """Start a process that calls the function; what it prints goes to the files, and it exits with 1 if that raises."""
    process = context.Process(target=_call, args=(function, arguments, stdout, stderr, dict(os.environ)))
    process.start()
    return process


def run_module(module: str, *arguments: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
    """Return how ``python -m module arguments`` exits, and what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start(_run_module, module, *arguments, stdout=out, stderr=err)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([module, *arguments], timeout, out.read_bytes(), err.read_bytes())
        return subprocess.CompletedProcess([module, *arguments], process.exitcode, out.read_text(), err.read_text())


def _call(
    function: Callable[..., Any], arguments: Any, stdout: Path, stderr: Path, environment: Mapping[str, str]
) -> None:
    os.environ.update(environment)  # the server has those of its own start
    os.chdir(ROOT)
    for descriptor, file in ((1, stdout), (2, stderr)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    faulthandler.enable()  # a process that hangs writes its stack when it is ended
    function(*arguments)


def _run_module(module: str, *arguments: str) -> None:
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
