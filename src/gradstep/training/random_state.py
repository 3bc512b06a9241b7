"""The state of the random generators that training draws from, as plain tensors and numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Of torch (CPU, and every CUDA device), NumPy's global generator and Python's.

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
    """Go on drawing what would have been drawn next.

    Generators of CUDA devices that are not there are left out.
    """
    numpy = state["numpy"]
    words = numpy["words"].numpy().astype(np.uint32)
    torch.set_rng_state(state["torch"])
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)
    np.random.set_state(("MT19937", words, numpy["position"], numpy["has_gauss"], numpy["gauss"]))  # noqa: NPY002
    random.setstate(state["python"])
