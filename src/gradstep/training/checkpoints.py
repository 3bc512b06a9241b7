"""A whole training run in one file: saved so that a crash leaves the old file, loaded all or nothing."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gradstep
from gradstep.optimizers.checkpoint_matching import listed, plain_name
from gradstep.storage.atomic import atomic_write
from gradstep.training.driver import Driver
from gradstep.training.random_state import random_state, restore
from gradstep.training.stepper import Stepper

FORMAT = 1
"""Of the file."""


def save_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Driver | None = None,
    scaler: torch.amp.GradScaler | None = None,
    stepper: Stepper | None = None,
    **extra: Any,
) -> None:
    """Write the state of a training run to one file, which ``torch.load(weights_only=True)`` can read.

    The file is written under another name, forced to the disk, read back, and only then takes its name: whatever
    happens meanwhile, what stands at ``path`` is the old file or the new one, whole. The random generators of torch,
    NumPy (the global one) and Python are saved too; those of one's own (a ``DataLoader``'s) go into ``extra``.

    Of several processes let one save.

    Args:
        path: where to; its folder must exist.
        model, optimizer, schedule, scaler: what has a ``state_dict()``.
        stepper: a :class:`gradstep.Stepper`, which stands for its model, optimizer, schedule and scaler.
        extra: anything of tensors, numbers, text, lists and dictionaries, by name: ``epoch=3``.

    Raises:
        ValueError: a stepper, and beside it what it stands for.
        TypeError: something that only a program could read back; the old file stays.
        RuntimeError: a stepper in the middle of a window.

    Example:
        >>> import tempfile, torch, gradstep
        >>> path = tempfile.mkdtemp() + "/run.pt"
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = gradstep.AdamW(model.parameters(), state="bfloat16")
        >>> gradstep.save_checkpoint(path, model=model, optimizer=optimizer, epoch=3)
        >>> gradstep.load_checkpoint(path, model=model, optimizer=optimizer)
        {'epoch': 3}
    """
    parts = _parts(model, optimizer, schedule, scaler, stepper)
    content = {
        "gradstep": {"format": FORMAT, "version": gradstep.__version__, "kind": "checkpoint"},
        **{name: part.state_dict() for name, part in parts.items()},
        "random": random_state(),
        "extra": extra,
    }
    with atomic_write(path) as file:
        torch.save(content, file)
        file.flush()
        try:
            torch.load(file.name, weights_only=True, mmap=True)  # of the numbers themselves nothing is read
        except pickle.UnpicklingError as error:
            named = {name: value for name, value in content.items() if name != "extra"} | extra
            raise TypeError(
                "a checkpoint holds tensors, numbers, text, lists and dictionaries, so that reading it runs no "
                f"program; {', '.join(name for name in named if not _is_plain(named[name]))} holds something else"
            ) from error


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Driver | None = None,
    scaler: torch.amp.GradScaler | None = None,
    stepper: Stepper | None = None,
    rng: bool = True,
) -> dict[str, Any]:
    """Go on where :func:`save_checkpoint` was called, bit for bit.

    All of it is checked before anything is changed: if the optimizer refuses its state, the model is untouched. What
    the file holds and was not asked for is left alone, so that a model can be loaded without its optimizer.

    Args:
        path: the file.
        model, optimizer, schedule, scaler, stepper: as for saving, made as they were then.
        rng: whether to set the random generators as well.

    Returns:
        What was given as ``extra``.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: no checkpoint of this kind, or of a later format.
        KeyError: the file does not hold what was asked for.
        RuntimeError: the model's parameters, or the optimizer's state, are others; they are listed.
    """
    parts = _parts(model, optimizer, schedule, scaler, stepper)
    content = _content(path)
    if missing := [name for name in parts if name not in content]:
        held = [name for name in content if name not in ("gradstep", "random", "extra")]
        raise KeyError(f"{os.fspath(path)} holds no {', '.join(missing)} (it holds {', '.join(held) or 'none'})")
    own = parts.pop("model", None)
    weights = None if own is None else _weights(own, content["model"])
    small = {name: part.state_dict() for name, part in parts.items() if name in ("schedule", "scaler")}
    for name, state in small.items():
        _same_kind(name, state, content[name])
    if stepper is not None:
        for name in ("schedule", "scaler"):
            _same_kind(name, stepper.state_dict()[name], content["stepper"].get(name))
    # What can still refuse comes first, and changes nothing when it does.
    for name in sorted(parts, key=("optimizer", "stepper", "schedule", "scaler").index):
        parts[name].load_state_dict(content[name])
    if own is not None:
        own.load_state_dict(weights)
    if rng:
        restore(content["random"])
    return dict(content["extra"])


def _parts(
    model: nn.Module | None,
    optimizer: torch.optim.Optimizer | None,
    schedule: Driver | None,
    scaler: torch.amp.GradScaler | None,
    stepper: Stepper | None,
) -> dict[str, Any]:
    """What has a state, by name.

    Raises:
        ValueError: a stepper, and beside it what it stands for.
    """
    own = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    given = {name: part for name, part in own.items() if part is not None}
    if stepper is None:
        return given
    if doubled := given.keys() - {"model"}:
        raise ValueError(f"the stepper stands for its {', '.join(sorted(doubled))} too: give one of them")
    return {"model": stepper.model if model is None else model, "stepper": stepper}


def _content(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The file's content.

    Raises:
        ValueError: not one that :func:`save_checkpoint` wrote.
    """
    with Path(path).open("rb") as file:
        try:
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch reads whatever it is given, and fails in as many ways
            raise ValueError(
                f"{os.fspath(path)} is damaged, or no checkpoint: {str(error).partition('. ')[0]}"
            ) from error
    said = content.get("gradstep") if isinstance(content, dict) else None
    if not isinstance(said, dict) or said.get("kind") != "checkpoint":
        raise ValueError(f"{os.fspath(path)} was not written by gradstep.save_checkpoint: torch.load reads it")
    if said["format"] > FORMAT:
        raise ValueError(
            f"{os.fspath(path)} was written by gradstep {said['version']} in format {said['format']}, and gradstep "
            f"{gradstep.__version__} reads formats up to {FORMAT}: update gradstep"
        )
    return dict(content)


def _weights(model: nn.Module, saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model's saved state under the names that it has now, which wrappers may have changed.

    Raises:
        RuntimeError: others than the model's, or of another shape.
    """
    own = model.state_dict()
    if own.keys() != saved.keys():
        plain = {plain_name(name): value for name, value in saved.items()}
        saved = {name: plain.pop(plain_name(name)) for name in own if plain_name(name) in plain} | plain
    lines = [f"missing: {name}" for name in own if name not in saved]
    lines += [f"unexpected: {name}" for name in saved if name not in own]
    lines += [
        f"{name} has shape {tuple(saved[name].shape)} in the checkpoint, and {tuple(value.shape)} in the model"
        for name, value in own.items()
        if isinstance(value, torch.Tensor) and name in saved and saved[name].shape != value.shape
    ]
    if lines:
        raise RuntimeError(f"the checkpoint is of another model:\n{listed(lines)}")
    return saved


def _same_kind(name: str, own: Mapping[str, Any] | None, saved: Any) -> None:
    """Refuse the state of another kind of schedule or scaler, which would fail, or not, in the middle of loading.

    Raises:
        KeyError: it does not hold what this one needs.
    """
    if own is not None and isinstance(saved, Mapping) and (missing := own.keys() - saved.keys()):
        raise KeyError(f"the {name} in the checkpoint is of another kind: it has no {', '.join(sorted(missing))}")


def _is_plain(value: Any) -> bool:
    """Whether a value can be read back without running a program."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    try:
        torch.load(file, weights_only=True)
    except pickle.UnpicklingError:
        return False
    return True
