"""A file is the old one or the new one."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gradstep.storage.atomic import atomic_write


def test_new_and_replaced(tmp_path):
    path = tmp_path / "note"
    for content in (b"one", b"two"):
        with atomic_write(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"one"
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_keeps_the_old_and_leaves_nothing(tmp_path, error):
    path = tmp_path / "note"
    path.write_bytes(b"old")

    def write():
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from gradstep.storage.atomic import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.readline()
"""


def start(path: Path, then: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KILLED, str(path), then]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="no locks there: nothing is removed")
def test_what_killed_writers_left_is_removed_and_a_living_one_is_not_disturbed(tmp_path):
    path = tmp_path / "note [1].pt"  # a name that would mean something else as a pattern
    (tmp_path / ".note [1].pt.mine.tmp").write_bytes(b"of the user")
    (tmp_path / ".other.0123abcd.tmp").write_bytes(b"of another file")
    for _ in range(2):
        with start(path, "kill") as child:
            assert child.wait(60) == -9
    leftovers = list(tmp_path.glob(".note*.tmp"))
    assert len(leftovers) == 2, "the second writer has removed what the first left"
    with start(path, "wait") as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "writing\n"
        mine = set(tmp_path.glob(".note*.tmp")) - set(leftovers)
        assert len(mine) == 1, "the living writer has removed what the killed ones left, and has its own"
        with atomic_write(path) as file:
            file.write(b"whole")
            assert mine < set(tmp_path.glob(".note*.tmp"))
        assert path.read_bytes() == b"whole"
        living.communicate("go on\n", timeout=60)
        assert living.returncode == 0
    assert path.read_bytes() == b"half"
    assert sorted(one.name for one in tmp_path.iterdir()) == [".note [1].pt.mine.tmp", ".other.0123abcd.tmp", path.name]


def test_writers_of_one_file_at_the_same_time(tmp_path):
    """Each removes leftovers while the others make new files: nobody loses the file that it writes."""
    path = tmp_path / "note"

    def write(number: int) -> None:
        for _ in range(50):
            with atomic_write(path) as file:
                file.write(bytes([number]) * 1000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(set(path.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_called_so(tmp_path, number):
    """Also where somebody between (torch, in C++) makes another error of it."""
    path = tmp_path / "note"
    path.write_bytes(b"old")

    def write():
        with atomic_write(path) as file:
            file.write(b"x" * 3000)
            file.flush()
            try:
                raise OSError(number, "what the system says")
            except OSError:
                raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904  (as torch does)

    with pytest.raises(OSError, match=r"no space left in .* for note, which takes more than is free") as caught:
        write()
    assert caught.value.errno == errno.ENOSPC
    with (
        pytest.raises(OSError, match=r"no space left in .* which takes at least 1\.13 PB, and .* are free"),
        atomic_write(path, nbytes=2**50),
    ):
        raise AssertionError("it is refused before anything is written")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_data_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def name(self: Path, target: Path) -> Path:
        calls.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", name)
    with atomic_write(tmp_path / "note") as file:
        file.write(b"x")
    assert calls == ["file", "name", "folder"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
def test_permissions_and_links_stay(tmp_path):
    path, link = tmp_path / "note", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    with atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_write(tmp_path / "made") as file:
        file.write(b"")
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes of POSIX")
def test_what_is_no_file_stays(tmp_path):
    """A superuser's rename would replace even a device, such as /dev/null."""
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path in (pipe, folder):
        with pytest.raises(FileExistsError, match="is no ordinary file, and would be replaced"), atomic_write(path):
            raise AssertionError("nothing is written")
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [folder, pipe]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    words = r"there is no folder .*missing to write note into: make it first"
    with pytest.raises(FileNotFoundError, match=words), atomic_write(tmp_path / "missing" / "note"):
        raise AssertionError("nothing is written")


def test_a_file_over_the_limit_of_a_process_says_so_and_the_old_one_stays(tmp_path):
    resource = pytest.importorskip("resource", reason="POSIX only")
    path = tmp_path / "note"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with (
            pytest.raises(OSError, match=r"note is larger than a file may be in .*raise the limit") as caught,
            atomic_write(path) as file,
        ):
            file.write(bytes(2_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
