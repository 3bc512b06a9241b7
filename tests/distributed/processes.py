"""Start local processes that share tensors through gloo, and collect what each of them returns."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
CODE = "import sys; from tests.distributed.processes import main; main(*sys.argv[1:])"
STARTS = 3


def run(function: Callable[..., Any], ranks: int, *arguments: Any, timeout: float = 150) -> list[Any]:
    """Return the result of the function on each rank; a start in which gloo finds no connection is repeated."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"}
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
                for process in processes:
                    process.wait(timeout=timeout)
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
            if any(process.returncode for process in processes):
                texts = [Path(folder, f"log{rank}").read_text(errors="replace")[-3000:] for rank in range(ranks)]
                if last or all(Path(folder, f"started{rank}").exists() for rank in range(ranks)):
                    raise AssertionError("\n".join(f"--- rank {rank}:\n{text}" for rank, text in enumerate(texts)))
                continue
            return [torch.load(f"{folder}/result{rank}", weights_only=False) for rank in range(ranks)]
    raise AssertionError


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
