"""Save a whole training run to one file, safely against crashes, and load it all or nothing."""

import io
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TypeAlias, overload

import torch
from torch import nn

import gradstep
from gradstep.optimizers.checkpoint.matching import LoadReport, show_lines
from gradstep.optimizers.memory import is_distributed, plain_name
from gradstep.schedules import Schedule
from gradstep.storage.atomic import atomic_write
from gradstep.training.driver import Driver
from gradstep.training.loading import load_part
from gradstep.training.random_state import own_rank, random_state, restore_of_rank, restore_random_state, save_in_first
from gradstep.training.stepper import Stepper

FILE_FORMAT = 1
"""Version of the file format."""

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
    process_group: Any = None,
    **extra: Any,
) -> None:
    """Write the state of a training run to one file, which ``torch.load(weights_only=True)`` can read.

    The file is written under a temporary name, forced to the disk and read back, and only then renamed: after a crash
    at any moment, ``path`` is the whole old file or the whole new one. A temporary file that a killed process left
    there is removed. Every array is stored with its checksum, which :func:`load_checkpoint` compares. The global
    random generators of torch, NumPy and Python are saved too; save other generators (a ``DataLoader``'s) in ``extra``.

    With several processes, either call it in one of them only, whose random generators are then saved; or call it in
    all of them with ``process_group=``: the first of them saves, with the generators of each.

    Args:
        path: the file to write, in a folder that exists; or a binary file object, such as ``io.BytesIO()``, which is
            written to at its position after all checks; until then the checkpoint is in memory.
        model, optimizer, schedule, scaler: objects with a ``state_dict()``.
        stepper: a :class:`gradstep.Stepper`; it includes its model, optimizer, schedule and scaler.
        process_group: the group of torch.distributed whose processes all make this call, with the same weights and
            state; ``torch.distributed.group.WORLD`` are all of them.
        extra: further tensors, numbers, text, lists and dictionaries, by name: ``epoch=3``.

    Raises:
        ValueError: a stepper together with a part that it includes; or a sharded model or optimizer, of which this
            process has only a part: torch.distributed.checkpoint saves these.
        TypeError: an object that cannot be read back without running code, or a pure schedule, which has no state; the
            old file stays.
        FileNotFoundError: there is no such folder.
        FileExistsError: the path is a folder, a device or a pipe, which stays.
        OSError: with ENOSPC, no space is left on the disk; the old file stays.
        RuntimeError: a stepper in the middle of a window; the first process of the group could not save.

    Example:
        >>> import tempfile, torch, gradstep
        >>> path = tempfile.mkdtemp() + "/run.pt"
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = gradstep.AdamW(model.parameters(), state="bfloat16")
        >>> gradstep.save_checkpoint(path, model=model, optimizer=optimizer, epoch=3)
        >>> gradstep.load_checkpoint(path, model=model, optimizer=optimizer)
        {'epoch': 3}
    """
    parts = _collect_parts(model, optimizer, schedule, scaler, stepper)
    refuse_shards(parts, "saved")
    content: dict[str, Any] = {
        "gradstep": {"format": FILE_FORMAT, "version": gradstep.__version__, "kind": "checkpoint"},
        **{name: part.state_dict() for name, part in parts.items()},
        "random": random_state(),
        "rank": own_rank(),
        "extra": extra,
    }
    if process_group is not None:
        save_in_first(process_group, content, lambda: _save(path, content))
        return
    _save(path, content)


def _save(path: File, content: Mapping[str, Any]) -> None:
    """Write a checkpoint: to a path, which is replaced only when all is written, or to an open file."""
    if isinstance(path, (str, os.PathLike)):
        with atomic_write(path, nbytes=_count_bytes(content)) as file:
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
    """Load what :func:`save_checkpoint` saved; training then continues bit for bit.

    Everything is checked before anything is changed, beginning with the checksums of the file. If a part still refuses
    its state, the parts loaded before it are put back. Only the parts that you pass are loaded, so that a model can be
    loaded without its optimizer.

    Args:
        path: the file, or a readable and seekable binary file object, positioned where the checkpoint begins.
        model, optimizer, schedule, scaler, stepper: as for saving, constructed as they were then.
        rng: whether to set the random generators as well, of several processes each to its own; a process whose
            generators were not saved keeps its present ones, with a warning.
        strict: False loads the entries of the model and of gradstep's optimizers that match by name and shape, and
            leaves out the rest: for a model with other layers, or another head. Other parts are loaded as always.

    Returns:
        The ``extra`` that was saved; with ``strict=False`` a :class:`gradstep.LoadReport` that lists what was loaded,
        what was left out and why, and has ``extra``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged file, no checkpoint of gradstep, or a later format; or a sharded model or optimizer, as
            in :func:`save_checkpoint`.
        KeyError: the file lacks a part that was passed.
        RuntimeError: the model's parameters or the optimizer's state do not match; the message lists them.

    Example:
        >>> import io, torch, gradstep
        >>> file, model = io.BytesIO(), torch.nn.Linear(2, 1)
        >>> gradstep.save_checkpoint(file, model=model, epoch=3)
        >>> _ = file.seek(0)
        >>> other = torch.nn.Linear(2, 1)
        >>> gradstep.load_checkpoint(file, model=other), torch.equal(model.weight, other.weight)
        ({'epoch': 3}, True)
    """
    parts = _collect_parts(model, optimizer, schedule, scaler, stepper)
    refuse_shards(parts, "loaded")
    content = _read_checkpoint(path)
    if missing := [name for name in parts if name not in content]:
        present = [name for name in content if name not in ("gradstep", "random", "rank", "ranks", "extra")]
        raise KeyError(f"{_name(path)} holds no {', '.join(missing)} (it holds {', '.join(present) or 'none'})")
    target = parts.pop("model", None)
    weights, left_out = ({}, {}) if target is None else _match_weights(target, content["model"], strict=strict)
    report = LoadReport(tuple(weights), left_out).of("model")
    for name in ("schedule", "scaler"):
        if name in parts:
            _check_same_kind(name, parts[name].state_dict(), content[name])
        elif stepper is not None:
            _check_same_kind(name, stepper.state_dict()[name], content["stepper"].get(name))
    with ExitStack() as undo:
        for name in sorted(parts, key=("optimizer", "stepper", "schedule", "scaler").index):
            if stepper is None:
                part = load_part(parts[name], content[name], undo, strict=strict)
            else:
                undo.callback(stepper.load_state_dict, stepper.state_dict())
                part = stepper.load_state_dict(content[name], strict) or LoadReport()
            report += part.of("optimizer")
        if rng:
            undo.callback(restore_random_state, random_state())
            restore_of_rank(content)
        if target is not None:
            target.load_state_dict(weights, strict=strict)
        undo.pop_all()
    extra = dict(content["extra"])
    return extra if strict else report + LoadReport(extra=extra)


def _write(content: Mapping[str, Any], file: BinaryIO) -> None:
    """Write a checkpoint to an empty file; raise TypeError if it cannot be read back without running code."""
    with _enable_checksums():
        torch.save(content, file)
    file.flush()
    file.seek(0)
    try:
        torch.load(file, weights_only=True, map_location="meta")  # "meta" keeps no numbers in memory
    except pickle.UnpicklingError as error:
        entries = {name: value for name, value in content.items() if name != "extra"} | content["extra"]
        raise TypeError(
            "a checkpoint holds tensors, numbers, text, lists and dictionaries, so that reading it runs no "
            f"program; {', '.join(name for name in entries if not _is_plain(entries[name]))} holds something else"
        ) from error


@contextmanager
def _enable_checksums() -> Iterator[None]:
    """Make torch store the CRC-32 of every array (its default), even if the user has turned it off."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _count_bytes(content: Any) -> int:
    """Return the bytes of all tensors, shared storage counted once: the least size of the checkpoint."""
    sizes: dict[int, int] = {}

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.layout == torch.strided:
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, (Mapping, list, tuple)):
            for one in value.values() if isinstance(value, Mapping) else value:
                add(one)

    add(content)
    return sum(sizes.values())


def _collect_parts(
    model: nn.Module | None,
    optimizer: torch.optim.Optimizer | None,
    schedule: Driver | None,
    scaler: torch.amp.GradScaler | None,
    stepper: Stepper | None,
) -> dict[str, Any]:
    """Return the given objects by name.

    Raises:
        ValueError: for a stepper together with a part that it includes.
        TypeError: for a pure schedule.
    """
    if isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule= is {schedule!r}, which has no state: leave it out, or give what counts its updates, "
            "a gradstep.Scheduler or a scheduler of torch"
        )
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    parts = {name: part for name, part in parts.items() if part is not None}
    if stepper is None:
        return parts
    if duplicates := parts.keys() - {"model"}:
        raise ValueError(f"the stepper stands for its {', '.join(sorted(duplicates))} too: give one of them")
    return {"model": stepper.model if model is None else model, "stepper": stepper}


def _name(path: File) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else "the file object"


def _read_checkpoint(path: File) -> dict[str, Any]:
    """Read a file of :func:`save_checkpoint`; raise ValueError if it is not one, damaged, or of a later format."""
    if isinstance(path, (str, os.PathLike)):
        with Path(path).open("rb") as file:
            content = _read_torch_file(file, os.fspath(path))
    else:
        content = _read_torch_file(path, _name(path))
    label = content.get("gradstep") if isinstance(content, dict) else None
    if not isinstance(label, dict) or label.get("kind") != "checkpoint":
        raise ValueError(f"{_name(path)} was not written by gradstep.save_checkpoint: torch.load reads it")
    if label["format"] > FILE_FORMAT:
        raise ValueError(
            f"{_name(path)} was written by gradstep {label['version']} in format {label['format']}, and gradstep "
            f"{gradstep.__version__} reads formats up to {FILE_FORMAT}: update gradstep"
        )
    return dict(content)


def _read_torch_file(file: IO[bytes], name: str) -> Any:
    """Load a file written by ``torch.save``, or raise ValueError if it is damaged.

    All checksums are compared first: ``torch.load`` compares none, and loads damaged numbers without an error.
    """
    start = file.tell()
    if not file.read(1):
        where = "empty" if start == 0 else "at its end: call its seek(0) before"
        raise ValueError(f"{name} is damaged, or no checkpoint: it is {where}")
    file.seek(start)
    if start:  # torch counts positions from a file's beginning
        file = io.BytesIO(file.read())
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
        if broken is None:
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch raise many types of errors for damaged files
        raise ValueError(f"{name} is damaged, or no checkpoint: {str(error).partition('. ')[0]}") from error
    raise ValueError(
        f"{name} is damaged: {broken} in it has another checksum than when it was saved; nothing was loaded. Take an "
        "earlier checkpoint, or a copy of this one"
    )


def _match_weights(
    model: nn.Module, saved: Mapping[str, Any], *, strict: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the saved entries that fit the model, under its present names, and for each other entry the reason.

    Wrappers such as DistributedDataParallel may have changed the names.

    Raises:
        RuntimeError: ``strict``, and an entry is missing, unexpected or of another shape.
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
            f"the checkpoint is of another model:\n{show_lines(lines)}\n"
            "load_checkpoint(..., strict=False) loads what matches, and lists the rest"
        )
    left_out = dict.fromkeys(missing, "not in the checkpoint") | dict.fromkeys(unexpected, "in the checkpoint only")
    fitting = {name: value for name, value in saved.items() if name in own and name not in reshaped}
    return fitting, left_out | reshaped


def _check_same_kind(name: str, own: Mapping[str, Any] | None, saved: Any) -> None:
    """Raise KeyError if the saved state lacks keys of this schedule or scaler, before anything is loaded."""
    if own is not None and isinstance(saved, Mapping) and (missing := own.keys() - saved.keys()):
        raise KeyError(f"the {name} in the checkpoint is of another kind: it has no {', '.join(sorted(missing))}")


def _is_plain(value: Any) -> bool:
    """Return whether a value can be read back without running code."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    try:
        torch.load(file, weights_only=True)
    except pickle.UnpicklingError:
        return False
    return True


def refuse_shards(parts: Mapping[str, Any], what: str) -> None:
    """Refuse to do ``what`` with a checkpoint's model or optimizer of which this process has only a part.

    Raises:
        ValueError: naming the part, and what saves it.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # before anybody has imported it nothing is sharded by it
    for name, part in parts.items():
        optimizers = part.optimizers if name == "stepper" else [part] if name == "optimizer" else []
        params = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        wrapped = False
        if isinstance(part, nn.Module):
            params = list(part.parameters())
            wrapped = fsdp is not None and any(isinstance(m, fsdp.FullyShardedDataParallel) for m in part.modules())
        if wrapped or any(map(is_distributed, params)):
            raise ValueError(
                f"the {name} is sharded, and cannot be {what} here: this process has its own shards only. Use "
                "torch.distributed.checkpoint with get_state_dict and set_state_dict, which know the other processes"
            )
