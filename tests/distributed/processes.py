"""Start local processes that share tensors through gloo, and collect what each of them returns."""

import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from filelock import FileLock

from tests import children

if TYPE_CHECKING:  # the processes have no use for it
    import pytest

STARTS = 3
CONTEXT = children.FORKED
"""How the processes are started; from nothing in slow tests (conftest.py)."""


def run(function: Callable[..., Any], ranks: int, *arguments: Any, timeout: float = 150) -> list[Any]:
    """Return the result of the function on each rank; a start in which gloo finds no connection is repeated."""
    for last in [False] * (STARTS - 1) + [True]:
        with tempfile.TemporaryDirectory() as folder:
            torch.save(arguments, f"{folder}/arguments")
            logs = [Path(folder, f"log{rank}") for rank in range(ranks)]
            processes: list[Any] = []
            try:
                for rank, log in enumerate(logs):
                    of_rank = (main, function, folder, ranks, rank)
                    processes.append(children.start(*of_rank, stdout=log, stderr=log, context=CONTEXT))
                end = time.monotonic() + timeout
                while time.monotonic() < end and None in [process.exitcode for process in processes]:
                    if any(process.exitcode for process in processes):
                        end = min(end, time.monotonic() + 10)  # one has failed, and the others may wait for it
                    time.sleep(0.05)
            finally:
                for process in processes:
                    if process.exitcode is None:
                        os.kill(process.pid, signal.SIGABRT)  # a process that hangs writes its stack
                    process.join()
            if any(process.exitcode for process in processes):
                texts = [log.read_text(errors="replace")[-3000:] for log in logs]
                if last or all(Path(folder, f"started{rank}").exists() for rank in range(ranks)):
                    raise AssertionError("\n".join(f"--- rank {rank}:\n{text}" for rank, text in enumerate(texts)))
                continue
            return [torch.load(f"{folder}/result{rank}", weights_only=False) for rank in range(ranks)]
    raise AssertionError


def run_once(
    factory: "pytest.TempPathFactory", function: Callable[..., Any], ranks: int, *arguments: Any, timeout: float = 150
) -> list[Any]:
    """Return the result of :func:`run`, for fixtures: the workers of pytest-xdist share one run."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return run(function, ranks, *arguments, timeout=timeout)
    file = factory.getbasetemp().parent / f"{function.__module__}.{function.__qualname__}-{ranks}"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            torch.save(run(function, ranks, *arguments, timeout=timeout), file)
    return list(torch.load(file, weights_only=False))


def main(function: Callable[..., Any], folder: str, ranks: int, rank: int) -> None:
    """Call the function in this process, as one rank."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    dist.barrier()
    Path(folder, f"started{rank}").touch()
    arguments = torch.load(f"{folder}/arguments", weights_only=False)
    torch.save(function(*arguments), f"{folder}/result{rank}")
    dist.barrier()
    dist.destroy_process_group()
