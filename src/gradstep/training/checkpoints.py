"""A whole training run in one file: saved so that a crash leaves the old file, loaded all or nothing."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TypeAlias, overload

import torch
from torch import nn

import gradstep
from gradstep.optimizers.checkpoint.matching import LoadReport, listed, plain_name
from gradstep.storage.atomic import atomic_write
from gradstep.training.driver import Driver
from gradstep.training.loading import load
from gradstep.training.random_state import random_state, restore
from gradstep.training.stepper import Stepper

FORMAT = 1
"""Of the file."""

File: TypeAlias = str | os.PathLike[str] | IO[bytes]
"""A path, or an open binary file."""


def save_checkpoint(
    path: File,
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
    happens meanwhile, what stands at ``path`` is the old file or the new one, whole. What a process that was killed
    while saving has left beside it is removed. Every array is stored with its checksum, which
    :func:`load_checkpoint` compares. The random generators of torch, NumPy (the global one) and Python are saved too;
    those of one's own (a ``DataLoader``'s) go into ``extra``.

    Of several processes let one save.

    Args:
        path: where to, in a folder that exists; or a binary file object, such as ``io.BytesIO()``, which is written
            to at its place once all is known to be good; until then the checkpoint is in memory.
        model, optimizer, schedule, scaler: what has a ``state_dict()``.
        stepper: a :class:`gradstep.Stepper`, which stands for its model, optimizer, schedule and scaler.
        extra: anything of tensors, numbers, text, lists and dictionaries, by name: ``epoch=3``.

    Raises:
        ValueError: a stepper, and beside it what it stands for.
        TypeError: something that only a program could read back; the old file stays.
        OSError: with ENOSPC, no space is left on the disk; the old file stays.
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
    if isinstance(path, (str, os.PathLike)):
        with atomic_write(path, nbytes=_bytes_of(content)) as file:
            _write(content, file)
        return
    memory = io.BytesIO()
    _write(content, memory)
    path.write(memory.getbuffer())


@overload
def load_checkpoint(
    path: File,
    *,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Driver | None = None,
    scaler: torch.amp.GradScaler | None = None,
    stepper: Stepper | None = None,
    rng: bool = True,
    strict: Literal[True] = True,
) -> dict[str, Any]: ...
@overload
def load_checkpoint(
    path: File,
    *,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Driver | None = None,
    scaler: torch.amp.GradScaler | None = None,
    stepper: Stepper | None = None,
    rng: bool = True,
    strict: Literal[False],
) -> LoadReport: ...
def load_checkpoint(
    path: File,
    *,
    model: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Driver | None = None,
    scaler: torch.amp.GradScaler | None = None,
    stepper: Stepper | None = None,
    rng: bool = True,
    strict: bool = True,
) -> dict[str, Any] | LoadReport:
    """Go on where :func:`save_checkpoint` was called, bit for bit.

    All of it is checked before anything is changed, first the checksum of everything in the file; and if a part
    refuses its state all the same, the others are put back. What the file holds and was not asked for is left alone,
    so that a model can be loaded without its optimizer.

    Args:
        path: the file, or a binary file object that can be read and seeked, at the place where the checkpoint begins.
        model, optimizer, schedule, scaler, stepper: as for saving, made as they were then.
        rng: whether to set the random generators as well.
        strict: False loads of the model and of gradstep's optimizers what matches by name and shape, and leaves out
            the rest: for a model with other layers, or another head. The other parts are loaded as always.

    Returns:
        What was given as ``extra``; with ``strict=False`` a :class:`gradstep.LoadReport` of what was loaded, of what
        was left out and why, and with ``extra``.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: damaged, no checkpoint of this kind, or of a later format.
        KeyError: the file does not hold what was asked for.
        RuntimeError: the model's parameters, or the optimizer's state, are others; they are listed.
    """
    parts = _parts(model, optimizer, schedule, scaler, stepper)
    content = _content(path)
    if missing := [name for name in parts if name not in content]:
        held = [name for name in content if name not in ("gradstep", "random", "extra")]
        raise KeyError(f"{_name(path)} holds no {', '.join(missing)} (it holds {', '.join(held) or 'none'})")
    own = parts.pop("model", None)
    weights, left_out = ({}, {}) if own is None else _weights(own, content["model"], strict=strict)
    report = LoadReport(tuple(weights), left_out).of("model")
    small = {name: part.state_dict() for name, part in parts.items() if name in ("schedule", "scaler")}
    for name, state in small.items():
        _same_kind(name, state, content[name])
    if stepper is not None:
        for name in ("schedule", "scaler"):
            _same_kind(name, stepper.state_dict()[name], content["stepper"].get(name))
    with ExitStack() as undo:
        for name in sorted(parts, key=("optimizer", "stepper", "schedule", "scaler").index):
            if stepper is None:
                part = load(parts[name], content[name], undo, strict=strict)
            else:
                undo.callback(stepper.load_state_dict, stepper.state_dict())
                part = stepper.load_state_dict(content[name], strict) or LoadReport()
            report += part.of("optimizer")
        if rng:
            undo.callback(restore, random_state())
            restore(content["random"])
        if own is not None:
            own.load_state_dict(weights, strict=strict)
        undo.pop_all()
    extra = dict(content["extra"])
    return extra if strict else report + LoadReport(extra=extra)


def _write(content: Mapping[str, Any], file: BinaryIO) -> None:
    """Write a checkpoint to an empty file, and read it back.

    Raises:
        TypeError: something that only a program could read back.
    """
    with _checksums():
        torch.save(content, file)
    file.flush()
    file.seek(0)
    try:
        torch.load(file, weights_only=True, map_location="meta")  # of the numbers themselves nothing is kept
    except pickle.UnpicklingError as error:
        named = {name: value for name, value in content.items() if name != "extra"} | content["extra"]
        raise TypeError(
            "a checkpoint holds tensors, numbers, text, lists and dictionaries, so that reading it runs no "
            f"program; {', '.join(name for name in named if not _is_plain(named[name]))} holds something else"
        ) from error


@contextmanager
def _checksums() -> Iterator[None]:
    """Have torch store the CRC-32 of every array, whatever was set; it is torch's default."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _bytes_of(content: Any) -> int:
    """Bytes of all tensors, each memory once: a checkpoint takes at least these."""
    sizes: dict[int, int] = {}

    def look(value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.layout == torch.strided:
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, Mapping):
            for one in value.values():
                look(one)
        elif isinstance(value, (list, tuple)):
            for one in value:
                look(one)

    look(content)
    return sum(sizes.values())


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


def _name(path: File) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else "the file object"


def _content(path: File) -> dict[str, Any]:
    """The file's content.

    Raises:
        ValueError: not one that :func:`save_checkpoint` wrote, or not as it wrote it.
    """
    if isinstance(path, (str, os.PathLike)):
        with Path(path).open("rb") as file:
            content = _read(file, os.fspath(path))
    else:
        content = _read(path, _name(path))
    said = content.get("gradstep") if isinstance(content, dict) else None
    if not isinstance(said, dict) or said.get("kind") != "checkpoint":
        raise ValueError(f"{_name(path)} was not written by gradstep.save_checkpoint: torch.load reads it")
    if said["format"] > FORMAT:
        raise ValueError(
            f"{_name(path)} was written by gradstep {said['version']} in format {said['format']}, and gradstep "
            f"{gradstep.__version__} reads formats up to {FORMAT}: update gradstep"
        )
    return dict(content)


def _read(file: IO[bytes], name: str) -> Any:
    """Read a file that torch has saved, once the checksum of everything in it is known to be right.

    torch itself compares none: it loads other numbers than were saved without a word.

    Raises:
        ValueError: it is damaged, or something else.
    """
    start = file.tell()
    if not file.read(1):
        where = "empty" if start == 0 else "at its end: call its seek(0) before"
        raise ValueError(f"{name} is damaged, or no checkpoint: it is {where}")
    file.seek(start)
    if start:  # torch counts places from a file's beginning
        file = io.BytesIO(file.read())
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
        if broken is None:
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch read whatever they are given, and fail in as many ways
        raise ValueError(f"{name} is damaged, or no checkpoint: {str(error).partition('. ')[0]}") from error
    raise ValueError(
        f"{name} is damaged: {broken} in it has another checksum than when it was saved; nothing was loaded. Take an "
        "earlier checkpoint, or a copy of this one"
    )


def _weights(model: nn.Module, saved: Mapping[str, Any], *, strict: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """A model's saved state under the names that it has now, which wrappers may have changed; and what does not fit.

    Raises:
        RuntimeError: others than the model's, or of another shape.
    """
    own = model.state_dict()
    if own.keys() != saved.keys():
        plain = {plain_name(name): value for name, value in saved.items()}
        saved = {name: plain.pop(plain_name(name)) for name in own if plain_name(name) in plain} | plain
    missing = [name for name in own if name not in saved]
    unexpected = [name for name in saved if name not in own]
    reshaped = {
        name: f"has shape {tuple(saved[name].shape)} in the checkpoint, and {tuple(value.shape)} in the model"
        for name, value in own.items()
        if isinstance(value, torch.Tensor) and name in saved and saved[name].shape != value.shape
    }
    lines = [f"missing: {name}" for name in missing] + [f"unexpected: {name}" for name in unexpected]
    lines += [f"{name} {why}" for name, why in reshaped.items()]
    if lines and strict:
        raise RuntimeError(
            f"the checkpoint is of another model:\n{listed(lines)}\n"
            "load_checkpoint(..., strict=False) loads what matches, and lists the rest"
        )
    left_out = dict.fromkeys(missing, "not in the checkpoint") | dict.fromkeys(unexpected, "in the checkpoint only")
    fitting = {name: value for name, value in saved.items() if name in own and name not in reshaped}
    return fitting, left_out | reshaped


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
