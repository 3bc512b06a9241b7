"""Real trainings, made sick by the cases of benchmarks/doctor.py: recorded ones that are kept here, and live ones."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import gradstep

FIXTURES = Path(__file__).parent / "runs"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SEED = 8
"""Neither one on which thresholds were chosen nor one that is reported."""


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_recorded_run(path):
    """Trainings of a transformer on text, every fifth update (`benchmarks/doctor.py --fixtures`)."""
    findings = gradstep.diagnose(path).findings
    assert [finding.cause.name for finding in findings[:1]] == ([] if path.stem == "healthy" else [path.stem])


def test_there_are_recorded_runs():
    assert len(list(FIXTURES.glob("*.jsonl"))) == 4
    assert sum(path.stat().st_size for path in FIXTURES.iterdir()) < 60_000


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/doctor.py and benchmarks/sick_runs.py, which are no package."""
    loaded = []
    for name in ("sick_runs", "doctor"):
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        loaded.append(module)
    return loaded


LIVE = (
    "frozen layer decays, digits",
    "broken batch, digits",
    "fp16 overflow, digits",
    "schedule lost on resume, digits",
    "resumed, digits",
    "AdamW, digits",
)


@pytest.fixture
def one_thread():
    """Networks this small gain nothing from a second thread, and lose a lot on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", LIVE)
def test_a_live_run(name, benchmark, tmp_path):
    cases, judge = benchmark
    (case,) = [case for case in (*cases.SICK, *cases.HEALTHY) if case.name == name]
    judge.record(case, SEED, tmp_path / "run.jsonl")
    findings = gradstep.diagnose(tmp_path / "run.jsonl").findings
    assert [finding.cause.name for finding in findings[:1]] == ([case.cause] if case.cause else [])
