"""The global random generators that training uses, of one process and of several: save, restore and seed them."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from gradstep.warn import warn_user


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators (CPU, every CUDA device), NumPy's global one and Python's, for a file.

    It consists of plain tensors and numbers only.

    >>> state = random_state()
    >>> first = random.random()
    >>> restore_random_state(state)
    >>> random.random() == first
    True
    """
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 (the global generator)
    if numpy["bit_generator"] != "MT19937":
        raise ValueError(
            f"NumPy's global generator is {numpy['bit_generator']}, whose state cannot be saved: go back to NumPy's "
            "default by np.random.set_bit_generator(np.random.MT19937())"
        )
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": {
            "words": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
            "position": int(numpy["state"]["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "gauss": float(numpy["gauss"]),
        },
        "python": random.getstate(),
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set the generators to a state of :func:`random_state`, without those of CUDA devices that do not exist here."""
    numpy = state["numpy"]
    words = numpy["words"].numpy().astype(np.uint32)
    torch.set_rng_state(state["torch"])
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)
    np.random.set_state(("MT19937", words, numpy["position"], numpy["has_gauss"], numpy["gauss"]))  # noqa: NPY002
    random.setstate(state["python"])


def generator_states() -> tuple[Any, ...]:
    """Return the states of Python's, NumPy's and torch's generators for use in this process; CUDA's only if in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda  # noqa: NPY002


def set_generator_states(state: tuple[Any, ...]) -> None:
    """Set the generators to states of :func:`generator_states`."""
    python, numpy, cpu, cuda = state
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


def seed_random(seed: int) -> None:
    """Seed the global generators of Python, NumPy (with the seed modulo 2³²) and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def own_rank() -> int:
    """Return this process's rank among all; 0 without others."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def save_in_first(group: Any, content: dict[str, Any], save: Callable[[], None]) -> None:
    """Save in the first process of a group, after ``"ranks"``, the generators of each, were added to the content.

    Raises:
        RuntimeError: the first process could not save; it has the error itself.
    """
    states: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(states, (dist.get_rank(), random_state()), group=group)
    content["ranks"] = dict(states)
    first, errors = dist.get_rank(group) == 0, [""]
    failure: Exception | None = None
    if first:
        try:
            save()
        except Exception as error:
            failure, errors = error, [f"{type(error).__name__}: {error}"]
    dist.broadcast_object_list(errors, src=dist.get_global_rank(group, 0), group=group)
    if failure is not None:
        raise failure
    if errors[0]:
        raise RuntimeError(f"the first process of the group could not save the checkpoint: {errors[0]}")


def restore_of_rank(content: Mapping[str, Any]) -> None:
    """Set the random generators to those that a checkpoint has of this process; warn if it has none."""
    rank = own_rank()
    states = content.get("ranks") or {content.get("rank", rank): content["random"]}
    if rank in states:
        restore_random_state(states[rank])
        return
    warn_user(
        f"the checkpoint has the random generators of rank {', '.join(map(str, states))}, and this is rank {rank}: "
        "they stay as they are. Save in all processes with process_group=torch.distributed.group.WORLD to keep each's"
    )
