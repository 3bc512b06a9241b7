"""Start local processes that share tensors through gloo, and collect what each of them returns."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from filelock import FileLock

if TYPE_CHECKING:  # the processes have no use for it
    import pytest

ROOT = Path(__file__).parents[2]
CODE = "import sys; from tests.distributed.processes import main; main(*sys.argv[1:])"
STARTS = 3


def run(function: Callable[..., Any], ranks: int, *arguments: Any, timeout: float = 150) -> list[Any]:
    """Return the result of the function on each rank; a start in which gloo finds no connection is repeated."""
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONFAULTHANDLER": "1"}
    environment = {**os.environ, **quiet, "GLOO_SOCKET_IFNAME": "lo"}
    name = f"{function.__module__}:{function.__qualname__}"
    for last in [False] * (STARTS - 1) + [True]:
        with tempfile.TemporaryDirectory() as folder:
            torch.save(arguments, f"{folder}/arguments")
            command = [sys.executable, "-c", CODE, name, folder, str(ranks)]
            processes = []
            try:
                for rank in range(ranks):
                    with Path(folder, f"log{rank}").open("wb") as log:
                        of_rank = [*command, str(rank)]
                        processes.append(subprocess.Popen(of_rank, cwd=ROOT, env=environment, stdout=log, stderr=log))
                end = time.monotonic() + timeout
                while time.monotonic() < end and None in [process.poll() for process in processes]:
                    if any(process.poll() for process in processes):
                        end = min(end, time.monotonic() + 10)  # one has failed, and the others may wait for it
                    time.sleep(0.05)
            finally:
                for process in processes:
                    process.send_signal(signal.SIGABRT)  # a process that hangs writes its stack
                    process.wait()
            if any(process.returncode for process in processes):
                texts = [Path(folder, f"log{rank}").read_text(errors="replace")[-3000:] for rank in range(ranks)]
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


def main(name: str, folder: str, ranks: str, rank: str) -> None:
    """Run the function in this process, as one rank."""
    import importlib

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=int(rank), world_size=int(ranks))
    dist.barrier()
    Path(folder, f"started{rank}").touch()
    module, function = name.split(":")
    arguments = torch.load(f"{folder}/arguments", weights_only=False)
    torch.save(getattr(importlib.import_module(module), function)(*arguments), f"{folder}/result{rank}")
    dist.barrier()
    dist.destroy_process_group()
