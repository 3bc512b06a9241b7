"""What the tests of the examples share."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"

CLIENTS = {
    "huggingface_trainer": "transformers",
    "huggingface_accelerate": "accelerate",
    "lightning_module": "lightning",
}
"""The package that an example needs besides torch."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The last bits of a product depend on the threads; and for models as small as these, one is the fastest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """An example as a module, by its name; skips if its client is not installed."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def load(name: str) -> ModuleType:
        if name in CLIENTS:
            pytest.importorskip(CLIENTS[name], reason=f"{CLIENTS[name]} is not installed")
        return importlib.import_module(name)

    return load


@pytest.fixture
def recipe(example: Callable[[str], ModuleType]) -> ModuleType:
    """What all examples train."""
    return example("recipe")
