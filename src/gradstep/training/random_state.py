"""The global random generators that training draws from: their state in a checkpoint and in memory, and their seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators (CPU, every CUDA device), NumPy's global one and Python's, for a file.

    It holds plain tensors and numbers only.

    >>> state = random_state()
    >>> first = random.random()
    >>> restore(state)
    >>> random.random() == first
    True
    """
    name, words, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 (the global one is meant)
    if name != "MT19937":
        raise ValueError(f"NumPy's global generator is {name}, and only MT19937, its own, can be kept")
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": {
            "words": torch.from_numpy(np.asarray(words).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "python": random.getstate(),
    }


def restore(state: Mapping[str, Any]) -> None:
    """Put the generators back to what :func:`random_state` returned.

    Generators of CUDA devices that are not there are left out.
    """
    numpy = state["numpy"]
    words = numpy["words"].numpy().astype(np.uint32)
    torch.set_rng_state(state["torch"])
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)
    np.random.set_state(("MT19937", words, numpy["position"], numpy["has_gauss"], numpy["gauss"]))  # noqa: NPY002
    random.setstate(state["python"])


def generator_states() -> tuple[Any, ...]:
    """Return the state of the same generators in their own types, for this process alone; of CUDA once it is in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda  # noqa: NPY002  (the global one)


def set_generator_states(state: tuple[Any, ...]) -> None:
    """Put the generators where :func:`generator_states` found them."""
    python, numpy, cpu, cuda = state
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


def seed_random(seed: int) -> None:
    """Start the same generators from a seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
