"""Small races that the lab's tests share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gradstep.lab.results import RaceResults, SessionOutcome, read_results
from gradstep.lab.session import plan, run
from tests.lab.silence import Silence

RaceNow = Callable[..., tuple[SessionOutcome, list[RaceResults]]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models on one thread: two that wait for each other on a busy machine are far slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def race_now(tmp_path: Path) -> RaceNow:
    """Run a small race and read its results back."""

    def race(tasks: list[str], optimizers: str, **options) -> tuple[SessionOutcome, list[RaceResults]]:
        outcome = run(plan(tasks, optimizers, out=tmp_path, **options), Silence())
        return outcome, read_results(outcome.folder)

    return race
