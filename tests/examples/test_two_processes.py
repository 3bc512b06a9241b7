"""The examples on two real processes: equal copies, the bits of one process, going on from the client's checkpoint."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.examples.two_processes import CLIENTS, STATES

SCRIPT = Path(__file__).with_name("two_processes.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(client: str, folder: Path, launcher: list[str]) -> None:
    quiet = {"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **quiet, "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *launcher, str(SCRIPT), client, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_two_processes(client, tmp_path):
    package = client.partition("'")[0]
    pytest.importorskip(package, reason=f"{package} is not installed")
    start(client, tmp_path, TORCHRUN)
    start(client, tmp_path, [])
    first, second, alone = (torch.load(tmp_path / f"{name}.pt") for name in ("2 0", "2 1", "1 0"))

    def equal(a: Any, b: Any) -> bool:
        return all(map(torch.equal, a, b))

    for state in STATES:
        whole, resumed, shared = first[state]
        assert equal(shared, second[state][2]), "the copies of a model trained on other data each differ"
        assert not equal(shared, alone[state][2]), "each process has only seen its own data"
        assert equal(whole, second[state][0])
        assert equal(whole, alone[state][0]), "two processes with the same data are not one"
        assert equal(whole, resumed), "going on is not going through"
    assert not equal(first["float32"][0], first["8bit"][0])


@pytest.mark.slow
def test_sharded_training_goes_on_with_another_number_of_processes(tmp_path):
    """Losses have 4 decimals; the sums of gradients of 2 and of 4 processes differ in rounding, so does the state."""
    first = run_sharded(2, tmp_path / "in two parts", "--updates", "12")
    second = run_sharded(4, tmp_path / "in two parts")
    assert first + second == pytest.approx(run_sharded(2, tmp_path / "whole"), abs=2e-3)
    assert len(first) == len(second) == 12
    assert run_sharded(1, tmp_path / "whole") == []


def run_sharded(processes: int, folder: Path, *arguments: str) -> list[float]:
    """Return the losses that examples/fsdp2.py prints."""
    script = Path(__file__).parents[2] / "examples" / "fsdp2.py"
    command = [sys.executable, *TORCHRUN[:-1], str(processes), str(script), str(folder), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("update")]
