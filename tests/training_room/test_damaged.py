"""Checkpoints that are damaged, wherever: never loaded with other numbers than were saved, and never by half."""

import io
import random
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import gradstep
from gradstep.training.random_state import random_state, restore_random_state
from tests.training_room.test_saved import everything, made, same, train

SECTOR = 512
EXTRA: dict[str, Any] = {"epoch": 3, "seen": {"names": ["a"], "mean": torch.ones(2)}}


def saved() -> tuple[bytes, Any, Any]:
    """A checkpoint, what it holds, and the random generators that it was saved with."""
    run = made(state="8bit")
    train(run, 2)
    file = io.BytesIO()
    gradstep.save_checkpoint(file, **run, **EXTRA)
    return file.getvalue(), everything(run), random_state()


def parts_of(whole: bytes) -> dict[str, list[int]]:
    """The places of a checkpoint's bytes, by what they belong to."""
    places: dict[str, list[int]] = {"arrays": [], "pickle": [], "rest": []}
    owner = ["rest"] * len(whole)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        for entry in archive.infolist():
            start = whole.index(archive.read(entry), entry.header_offset)
            kind = "pickle" if entry.filename.endswith("data.pkl") else "arrays"
            owner[start : start + entry.file_size] = [kind] * entry.file_size
    for place, kind in enumerate(owner):
        places[kind].append(place)
    return places


def bits(whole: bytes, count: int) -> Iterator[bytes]:
    """Files with one flipped bit: a third in arrays, a third in pickles, a third in headers and directories."""
    draw = random.Random(0)
    places = list(parts_of(whole).values())
    for number in range(count):
        damaged = bytearray(whole)
        damaged[draw.choice(places[number % 3])] ^= 1 << draw.randrange(8)
        yield bytes(damaged)


def sectors(whole: bytes, count: int) -> Iterator[bytes]:
    """Files with one sector of zeros, from the first to the last."""
    last = (len(whole) - 1) // SECTOR
    for number in range(count):
        place = SECTOR * (last * number // max(count - 1, 1))
        damaged = whole[:place] + bytes(SECTOR) + whole[place + SECTOR :]
        if damaged[: len(whole)] != whole:
            yield damaged[: len(whole)]


def cuts(whole: bytes, count: int) -> Iterator[bytes]:
    """Files that end early."""
    for number in range(count):
        yield whole[: len(whole) * number // count]


def load_all(damage: Callable[[bytes, int], Iterator[bytes]], count: int) -> dict[str, int]:
    """How many are refused, and how many load with every number right (what was hit has no meaning)."""
    whole, held, drawn = saved()
    run = made(state="8bit")
    train(run, 1)
    before, places = everything(run), random_state()
    outcome = {"refused": 0, "right": 0}
    for damaged in damage(whole, count):
        try:
            extra = gradstep.load_checkpoint(io.BytesIO(damaged), **run)
        except ValueError:
            assert same(everything(run), before)
            assert same(random_state(), places)
            outcome["refused"] += 1
            continue
        assert same(extra, EXTRA)
        assert same(everything(run), held)
        assert same(random_state(), drawn)
        outcome["right"] += 1
        for name, part in run.items():
            part.load_state_dict(before[name])
        restore_random_state(places)
    return outcome


@pytest.mark.parametrize("count", [pytest.param(24, id="few"), pytest.param(300, id="300", marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", [bits, sectors, cuts])
def test_a_damaged_checkpoint_is_refused_or_right(damage, count):
    """A bit in an array or in a pickle is always found, and so is a lost sector or end.

    What loads has every number right: it was hit in the padding or in the dates of the zip.
    """
    outcome = load_all(damage, count)
    print(f"{damage.__name__}: {outcome}")
    if damage is bits:
        assert outcome["refused"] >= 2 * (count // 3)
    else:
        assert outcome["right"] <= (count // 50 if damage is sectors else 0)


def test_every_array_has_its_checksum_whatever_torch_was_told(tmp_path):
    """torch can leave checksums out, and compares none."""
    run = made()
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        gradstep.save_checkpoint(tmp_path / "run.pt", **run)
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(before)
    with zipfile.ZipFile(tmp_path / "run.pt") as archive:
        assert archive.testzip() is None
        arrays = [entry for entry in archive.infolist() if entry.file_size]
        assert len(arrays) > 10
        assert all(entry.CRC for entry in arrays)


def test_the_damaged_array_is_named(tmp_path):
    path = tmp_path / "run.pt"
    run = made()
    gradstep.save_checkpoint(path, **run)
    whole = bytearray(path.read_bytes())
    at = whole.index(run["model"][0].weight.detach().numpy().tobytes())
    whole[at + 100] ^= 4
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"run\.pt is damaged: .*data/\d+ .* nothing was loaded\. Take an earlier"):
        gradstep.load_checkpoint(path, **run)


def test_another_generator_of_numpy_is_named():
    generators: Any = np.random
    own = generators.get_bit_generator()
    generators.set_bit_generator(np.random.PCG64(0))
    try:
        with pytest.raises(ValueError, match="NumPy's global generator is PCG64, whose state cannot be saved"):
            random_state()
    finally:
        generators.set_bit_generator(own)
