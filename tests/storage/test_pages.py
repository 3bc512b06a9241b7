"""Page files: what they hold, what they refuse, and in which words."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradstep.storage.pages import Layout, PageFile, PageFileError
from gradstep.storage.pages import header as headers
from gradstep.storage.pages.layout import HUGE, PAGE

ARRAYS = [("w.exp_avg", "float32", 1000), ("w.codes", "uint8", 77), ("w.step", "int64", 1), ("none", "float64", 0)]

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says which run of the system this is")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.pages"


def test_values_come_back_under_their_names(path):
    rng = np.random.default_rng(0)
    with PageFile.create(path, ARRAYS) as file:
        assert all(not file.array(name).any() for name, _, _ in ARRAYS)
        written = {name: (rng.random(n) * 200).astype(t) for name, t, n in ARRAYS}
        file.begin(7)
        for name, values in written.items():
            file.array(name)[:] = values
        file.commit(7)
    with PageFile.open(path, ARRAYS) as file:
        assert file.step == 7
        for name, values in written.items():
            assert file.array(name).dtype == values.dtype
            np.testing.assert_array_equal(file.array(name), values)


def test_the_header_is_text(path):
    PageFile.create(path, ARRAYS).close()
    lines = path.read_bytes()[:PAGE].split(b"\n")
    assert lines[0] == b"gradstep page file"
    head = json.loads(lines[1])
    assert (head["version"], head["byte_order"]) == (1, sys.byteorder)
    assert head["file_bytes"] == path.stat().st_size
    assert json.loads(path.read_bytes()[PAGE : PAGE + head["table_bytes"]])[0] == ["w.exp_avg", "<f4", 1000]


def test_every_byte_is_on_the_disks_account(path):
    with PageFile.create(path, [("w", "float32", 5 << 20)]):
        status = path.stat()
    assert status.st_blocks * 512 >= status.st_size  # no holes


def test_values_to_begin_with(path):
    def fill(name: str, array: np.ndarray) -> None:
        array[:] = {"a": 0.5, "b": 3}[name]

    with PageFile.create(path, [("a", "float32", 10), ("b", "uint8", 3)], fill=fill, step=4) as file:
        assert file.array("a").tolist() == [0.5] * 10
        assert file.array("b").tolist() == [3] * 3
        assert file.step == 4


@given(
    st.lists(st.tuples(st.sampled_from(["uint8", "float16", "float32", "int64"]), st.integers(0, 40_000)), max_size=30)
)
def test_arrays_lie_apart_in_order_and_aligned(found):
    layout = Layout.of((str(n), dtype, count) for n, (dtype, count) in enumerate(found))
    last = PAGE + len(layout.table)
    for entry in layout.entries:
        begin, end = layout.ranges[entry.name]
        assert begin >= last
        assert end - begin == entry.nbytes
        assert begin % (PAGE if entry.nbytes >= 4 * PAGE else 64) == 0
        last = end
    assert layout.file_bytes >= last
    assert Layout.from_table(layout.table) == layout


def test_ten_thousand_tiny_arrays_are_packed():
    layout = Layout.of((f"layers.{n}.bias.exp_avg", "float32", 16) for n in range(10_000))
    assert layout.file_bytes - PAGE - len(layout.table) < 10_000 * 64 + HUGE  # 64 bytes each, not 4,096


def test_large_arrays_begin_where_large_blocks_do():
    layout = Layout.of([("bias", "float32", 16), ("weight", "float32", 1 << 24), ("head", "float32", 1 << 24)])
    assert [layout.ranges[name][0] % HUGE for name in ("weight", "head")] == [0, 0]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ([("a", "float32", 1), ("a", "float32", 1)], "'a' comes twice"),
        ([("a", "float32", -1)], "'a' has -1 elements"),
        ([("a", "object", 1)], "'a' has elements of object"),
    ],
)
def test_layouts_that_cannot_be(path, arrays, words):
    with pytest.raises(ValueError, match=words):
        PageFile.create(path, arrays)
    assert not list(path.parent.iterdir())


def test_what_exists_is_not_overwritten(path):
    with PageFile.create(path, ARRAYS, step=3):
        before = path.read_bytes()
        with pytest.raises(FileExistsError, match=r"a page file of 4 arrays, .* KB, at the end of step 3; reopen it"):
            PageFile.create(path, ARRAYS)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes()[PAGE:] == before[PAGE:]
    path.write_bytes(b"a letter to my mother")
    with pytest.raises(FileExistsError, match="21 B that are no page file"):
        PageFile.create(path, ARRAYS)
    assert path.read_bytes() == b"a letter to my mother"


def refusal(path: Path, arrays=ARRAYS) -> str:
    with pytest.raises(PageFileError) as caught:
        PageFile.open(path, arrays)
    return str(caught.value)


def test_a_difference_is_readable(path):
    swapped = np.dtype("float32").newbyteorder()
    PageFile.create(path, [("a", "float32", 10), ("b", "float32", 20), ("old", "uint8", 3), ("c", swapped, 1)]).close()
    found = refusal(path, [("a", "float16", 10), ("b", "float32", 30), ("new", "uint8", 3), ("c", "float32", 1)])
    assert found.split("\n  ")[1:] == [
        "missing: new",
        "unexpected: old",
        "length differs: b (expected 30, found 20)",
        "dtype differs: a (expected float16, found float32), "
        "c (expected float32, found float32 of the other byte order)",
    ]
    many = refusal(path, [(f"x{n}", "uint8", 1) for n in range(100)])
    assert "missing: x0, x1, x2, x3, x4 and 95 more" in many


def test_another_order_is_another_layout(path):
    PageFile.create(path, ARRAYS).close()
    assert "from number 0 on: expected none, found w.exp_avg" in refusal(path, ARRAYS[::-1])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "expected 'gradstep page file' at its start, found b''"),
        (lambda data: b"PK\3\4" + data[4:], r"it is no page file: .* found b'PK\\x03\\x04"),
        (lambda data: data[:1000], "expected at least 4096 bytes, found 1000"),
        (lambda data: data[:-PAGE], r"expected 16,384 bytes \(16.4 KB\), found 12,288"),
        (lambda data: data + b"\0", r"expected 16,384 bytes \(16.4 KB\), found 16,385"),
        (lambda data: data.replace(b"uint8", b"uint9").replace(b"|u1", b"|i1"), "its table of arrays is damaged"),
        (lambda data: data.replace(b'"version": 1', b'"version": 2'), "its header is damaged"),
        (lambda data: data.replace(b'"step": 0', b'"step": 1'), "expected the end of a step, found a damaged mark"),
        (lambda data: data[: PAGE - 512] + bytes(512) + data[PAGE:], "found a damaged mark"),
    ],
)
def test_files_that_are_not_whole_are_refused(path, damage, words):
    PageFile.create(path, ARRAYS).close()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PageFileError, match=words):
        PageFile.open(path, ARRAYS)
    with path.open("rb") as file:  # and it is not locked for good
        assert file


@pytest.mark.parametrize(("name", "value"), [("VERSION", 2), ("byte", "big")])
def test_other_versions_and_byte_orders_are_refused(path, monkeypatch, name, value):
    with monkeypatch.context() as other:
        if name == "VERSION":
            other.setattr(headers, "VERSION", value)
        else:
            other.setattr(sys, "byteorder", value)
        # Only the header's text is of the other kind: it is refused before anything else is read.
        path.write_bytes(headers.encode_head(Layout.of(ARRAYS)).ljust(Layout.of(ARRAYS).file_bytes, b"\0"))
    words = "expected version 1, found 2" if name == "VERSION" else f"expected byte order {sys.byteorder}, found big"
    assert words in refusal(path)


def test_every_changed_byte_of_the_header_is_noticed(path):
    PageFile.create(path, ARRAYS).close()
    good = path.read_bytes()
    table_end = PAGE + len(Layout.of(ARRAYS).table)
    meaningful = [n for n in range(table_end) if good[n]]
    for n in meaningful[::3]:
        path.write_bytes(good[:n] + bytes([good[n] ^ 1]) + good[n + 1 :])
        refusal(path)


def test_steps_begin_and_end_in_turn(path):
    with PageFile.create(path, ARRAYS) as file:
        with pytest.raises(RuntimeError, match=r"step 1 was not begun: .* the end of step 0"):
            file.commit(1)
        file.begin(1)
        with pytest.raises(RuntimeError, match="step 2 was not begun"):
            file.commit(2)
        with pytest.raises(RuntimeError, match=r"the midst of step 1 .*load a checkpoint"):
            file.begin(1)
        with pytest.raises(RuntimeError, match="flush it after commit"):
            file.flush()
        file.begin(5, anew=True)
        file.commit(5)
        assert (file.step, file.stepping) == (5, False)


def test_closed_in_mid_step_is_refused(path):
    with PageFile.create(path, ARRAYS) as file:
        file.begin(12)
    assert f"found the midst of step 12 (of process {os.getpid()})" in refusal(path)


@LINUX
def test_after_a_restart_only_what_was_forced_to_the_disk_is_trusted(path, monkeypatch):
    file = PageFile.create(path, ARRAYS)
    file.close(flush=False)
    PageFile.open(path, ARRAYS).close(flush=False)  # this run of the system has it in memory
    with monkeypatch.context() as restarted:
        restarted.setattr(headers, "boot", lambda: "another run")
        assert "found step 0, not forced to the disk before the machine restarted" in refusal(path)
    PageFile.open(path, ARRAYS).close()
    monkeypatch.setattr(headers, "boot", lambda: "another run")
    PageFile.open(path, ARRAYS).close()


def test_the_disk_stops_saying_durable_before_a_step_changes_anything(path, monkeypatch):
    """What the disk holds is simulated: it gets the file when it is forced, and nothing in between."""
    disk = path.with_name("disk")
    forced: list[bytes] = []
    force = PageFile._force
    with PageFile.create(path, ARRAYS) as file:

        def seen(self: PageFile) -> None:
            force(self)
            forced.append(path.read_bytes())

        monkeypatch.setattr(PageFile, "_force", seen)
        file.flush()
        assert len(forced) == 2  # the contents, then the mark
        assert b'"durable"' not in forced[0][:PAGE]
        assert b'"durable"' in forced[1][:PAGE]
        disk.write_bytes(forced[1])
        PageFile.open(disk, ARRAYS).close(flush=False)
        flushed = FlushSeen(file._mapping, path)
        monkeypatch.setattr(file, "_mapping", flushed)
        file.begin(1)
        assert [part for part, _ in flushed.seen] == [(0, PAGE)]
        assert b'"stepping"' in flushed.seen[0][1]
        file.commit(1)
        file.begin(2)  # the disk does not say durable any more: nothing has to be forced
        assert len(flushed.seen) == 1
        file.commit(2)


class FlushSeen:
    """A mapping that notes what it is asked to force to the disk, and how the file looks then."""

    def __init__(self, mapping, path: Path) -> None:
        self.mapping, self.path = mapping, path
        self.seen: list[tuple[tuple[int, ...], bytes]] = []

    def flush(self, *part: int) -> None:
        self.seen.append((part, self.path.read_bytes()[:PAGE]))

    def __setitem__(self, part: slice, value: bytes) -> None:
        self.mapping[part] = value


def test_one_optimizer_at_a_time(path):
    with PageFile.create(path, ARRAYS):
        with pytest.raises(BlockingIOError, match="in use by another optimizer; one at a time") as caught:
            PageFile.open(path, ARRAYS)
        assert str(path) in str(caught.value)
        code = f"from gradstep.storage.pages import PageFile; PageFile.open({str(path)!r}, {ARRAYS!r})"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "BlockingIOError" in other.stderr
    PageFile.open(path, ARRAYS).close()


@pytest.mark.skipif(os.name == "nt", reason="no fork, no lock")
def test_a_forked_child_does_not_keep_the_lock(path):
    file = PageFile.create(path, ARRAYS)
    here, ready = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:  # a DataLoader's worker that outlives its parent
        os.write(ready, b"!")
        os.close(go)
        os.read(wait, 1)
        os._exit(0)
    try:
        os.read(here, 1)
        with pytest.raises(BlockingIOError):
            PageFile.open(path, ARRAYS)  # the child did not unlock it either
        file._lock._close()  # what becomes of the parent's lock when the parent is killed
        PageFile.open(path, ARRAYS).close()
    finally:
        for end in (go, wait, here, ready):
            os.close(end)
        os.waitpid(child, 0)


def test_a_full_disk_is_found_at_creation(path):
    with pytest.raises(OSError, match=r"paged state needs 100 PB .* are free") as caught:
        PageFile.create(path, [("w", "uint8", 10**17)])
    assert caught.value.errno == errno.ENOSPC
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("call", ["posix_fallocate", "write"])
def test_a_disk_that_fills_up_meanwhile_is_found_at_creation(path, monkeypatch, call):
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full, raising=False)
    with pytest.raises(OSError, match=r"no room for the \d+.* KB of paged state") as caught:
        PageFile.create(path, ARRAYS)
    assert caught.value.errno == errno.ENOSPC
    assert not list(path.parent.iterdir())


def test_where_nothing_can_be_reserved_zeros_are_written(path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    with PageFile.create(path, [("w", "float32", 1 << 20)]) as file:
        assert not file.array("w").any()
        assert path.stat().st_blocks * 512 >= path.stat().st_size


def test_failure_in_filling_leaves_nothing(path):
    def fill(name: str, array: np.ndarray) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PageFile.create(path, ARRAYS, fill=fill)
    assert not list(path.parent.iterdir())


def test_what_a_killed_creation_left_is_made_anew(path):
    path.with_name(path.name + ".new").write_bytes(b"\1" * 100_000)
    with PageFile.create(path, ARRAYS) as file:
        assert not file.array("w.exp_avg").any()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
