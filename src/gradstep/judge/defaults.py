"""torch's defaults as in a fresh process, for measurements and checks in a process that has set others."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fresh_defaults() -> Iterator[None]:
    """Make new tensors float32 and on the CPU inside, whatever ``torch.set_default_dtype`` and ``_device`` have set.

    >>> torch.set_default_dtype(torch.float64)
    >>> with fresh_defaults():
    ...     torch.zeros(1).dtype
    torch.float32
    >>> torch.zeros(1).dtype
    torch.float64
    >>> torch.set_default_dtype(torch.float32)
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        if torch.get_default_device().type == "cpu":
            yield
        else:
            with torch.device("cpu"):
                yield
    finally:
        torch.set_default_dtype(dtype)
