"""The script of docs/from_torch.md: torch's optimizer, gradstep's, torch's again, as one run."""

import pytest


def test_moving_there_and_back_is_staying(example):
    """Weights differ by rounding only: by some 1e-7 of a step's length after each of 180 steps."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    assert example("migrate").main() < 1e-5
