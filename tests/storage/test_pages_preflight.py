"""What is found out about a folder before anything is put there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gradstep.storage.pages import Preflight, check_room, preflight

GB = 10**9


def test_measures_and_leaves_nothing(tmp_path):
    found = preflight(tmp_path, 10**6, probe=8 << 20)
    assert found.free > 10**6
    assert 1e5 < found.write_bandwidth < 1e12
    assert 1e5 < found.read_bandwidth < 1e12
    assert not list(tmp_path.iterdir())


def test_too_little_room_has_both_numbers(tmp_path):
    with pytest.raises(OSError, match="paged state needs 1000 PB") as caught:
        preflight(tmp_path, 10**18)
    assert caught.value.errno == errno.ENOSPC
    assert "1,000,000,000,000,000,000 bytes" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder for paged state"):
        check_room(tmp_path / "no", 1)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        check_room(tmp_path / "file", 1)


def test_seconds_by_hand():
    found = Preflight(Path("/fast"), 8 * GB, 100 * GB, 1e9, 2e9, dirty_limit=4 * GB)
    assert found.seconds_from_disk == 12.0  # 8 s of writing, 4 s of reading
    assert not found.cached
    assert str(found) == (
        "8 GB of state in /fast, 100 GB free; measured 2 GB/s reading, 1 GB/s writing: 12 s per step from the disk"
    )
    assert Preflight(Path("/fast"), 2 * GB, 100 * GB, 1e9, 2e9, dirty_limit=4 * GB).cached
    assert not Preflight(Path("/fast"), 2 * GB, 100 * GB, 1e9, 2e9, dirty_limit=None).cached
