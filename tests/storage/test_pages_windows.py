"""Windows of work: every element once, within the budget; and the walk through them."""

from __future__ import annotations

import gc
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradstep.storage.pages import Item, Layout, PageColumn, PageFile, Pager, PageWindow, plan_windows, resident_bytes
from gradstep.storage.pages.layout import HUGE

MB = 10**6
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is told what to keep in memory")


def adamw(sizes, *, eight_bit=False):
    """A layout and its items: two float32 slots per parameter, or two of codes with a scale per 256."""
    arrays, items = [], []
    for n, size in enumerate(sizes):
        if eight_bit:
            slots = [(f"{n}.{slot}", "uint8", size, 1) for slot in "mv"]
            slots += [(f"{n}.{slot}.scale", "float32", -(-size // 256), 256) for slot in "mv"]
        else:
            slots = [(f"{n}.{slot}", "float32", size, 1) for slot in "mv"]
        arrays += [slot[:3] for slot in slots]
        items.append(Item(size, tuple(PageColumn(slot[0], per=slot[3]) for slot in slots)))
    return Layout.of(arrays), items


@given(st.lists(st.integers(0, 3_000_000), max_size=12), st.integers(2 * MB, 30 * MB), st.booleans())
def test_every_element_once_in_order_within_the_budget(sizes, budget, eight_bit):
    layout, items = adamw(sizes, eight_bit=eight_bit)
    windows = plan_windows(layout, items, budget)
    walked = defaultdict(list)
    for window in windows:
        for piece in window.pieces:
            walked[piece.item].append((piece.start, piece.stop))
            assert piece.start % 16_384 == 0
    for n, size in enumerate(sizes):
        ends = [0]
        for start, stop in walked[n]:
            assert start == ends[-1]
            ends.append(stop)
        assert ends[-1] == size
    assert [w.pieces[0].item for w in windows if w.pieces] == sorted(w.pieces[0].item for w in windows if w.pieces)
    kept = sum(window.nbytes for window in windows if window.stays)
    moving = [window.nbytes for window in windows if not window.stays]
    assert kept + max(moving, default=0) <= budget
    assert not moving or kept + 2 * max(window.nbytes for window in windows) > budget  # no room is given away


@given(st.lists(st.integers(1, 2_000_000), min_size=1, max_size=6), st.booleans())
def test_the_ranges_of_a_window_hold_its_pieces_and_all_of_them_the_state(sizes, eight_bit):
    layout, items = adamw(sizes, eight_bit=eight_bit)
    windows = plan_windows(layout, items, budget=3 * MB)
    covered = np.zeros(layout.file_bytes, dtype=np.uint8)
    for window in windows:
        assert all(a[1] < b[0] for a, b in zip(window.ranges, window.ranges[1:]))
        for begin, end in window.ranges:
            covered[begin:end] = 1
    for begin, end in layout.ranges.values():
        assert covered[begin:end].all()


def test_by_hand():
    layout, items = adamw([40_000])
    # 320,000 bytes; a budget of 400,000 holds them.
    (window,) = plan_windows(layout, items, budget=400_000)
    m, v = layout.ranges["0.m"], layout.ranges["0.v"]
    assert window == PageWindow(window.pieces, ((m[0], v[1]),), stays=True)
    # 480,000 bytes in windows of 16,384 elements of 8 bytes: 131,072 bytes. A budget of 300,000 has room for the one
    # that moves and for one that stays.
    layout, items = adamw([60_000])
    m, v = layout.ranges["0.m"], layout.ranges["0.v"]
    windows = plan_windows(layout, items, budget=300_000)
    assert [(w.pieces[0].start, w.pieces[0].stop) for w in windows] == [
        (0, 16_384),
        (16_384, 32_768),
        (32_768, 49_152),
        (49_152, 60_000),
    ]
    assert windows[1].ranges == ((m[0] + 65_536, m[0] + 131_072), (v[0] + 65_536, v[0] + 131_072))
    assert windows[3].ranges == ((m[0] + 196_608, m[1]), (v[0] + 196_608, v[1]))
    assert [w.stays for w in windows] == [True, False, False, False]


def test_too_small_a_budget_says_what_would_do():
    layout, items = adamw([100_000])
    with pytest.raises(ValueError, match=r"Invalid page budget: 100 KB .* give at least 131 KB \(131,072 bytes\)"):
        plan_windows(layout, items, budget=100_000)
    assert plan_windows(layout, items, budget=131_072)


def test_what_must_stay_whole_is_not_parted():
    layout = Layout.of([("rows", "float32", 1000), ("columns", "float32", 500), ("m", "float32", 1 << 20)])
    items = [Item(500_000, (PageColumn("rows"), PageColumn("columns")), whole=True), Item(1 << 20, (PageColumn("m"),))]
    windows = plan_windows(layout, items, budget=1 << 20)
    assert [(p.start, p.stop) for w in windows for p in w.pieces if p.item == 0] == [(0, 500_000)]
    assert windows[0].ranges[0] == (layout.ranges["rows"][0], layout.ranges["columns"][1])


@pytest.fixture
def paged(tmp_path: Path):
    layout, items = adamw([3_000_000] * 8)  # 192 MB
    arrays = [(entry.name, entry.dtype, entry.count) for entry in layout.entries]
    with PageFile.create(tmp_path / "state.pages", arrays) as file:
        yield file, items


def rss() -> int:
    found = resident_bytes()
    assert found is not None
    return found


def compute(file: PageFile, items, window: PageWindow) -> None:
    for piece in window.pieces:
        for column in items[piece.item].columns:
            file.array(column.name)[column.part(piece.start, piece.stop)] += piece.item + 1


@linux
def test_memory_stays_within_the_budget_and_values_are_right(paged):
    file, items = paged
    budget = 40 * MB
    pager = Pager(file, plan_windows(file.layout, items, budget))
    before = rss()
    highest = 0
    for _ in range(3):
        for window in pager.windows():
            compute(file, items, window)
            highest = max(highest, rss() - before)
    after = rss() - before
    assert 20 * MB < highest <= budget + 16 * MB
    assert after <= budget
    for n, item in enumerate(items):
        for column in item.columns:
            assert (file.array(column.name) == 3 * (n + 1)).all()
    assert rss() - before > 150 * MB  # reading it all without a pager does fill memory: the measure works


def test_state_that_fits_is_one_window_that_stays(paged):
    file, items = paged
    (window,) = Pager(file, plan_windows(file.layout, items, 200 * MB)).windows()
    assert window.stays


class Blocks:
    """A residency that only keeps account: of the blocks of 2 MiB that would be in memory, and of the disk."""

    def __init__(self) -> None:
        self.present: set[int] = set()
        self.most = 0
        self.ahead: list[set[int]] = []
        self.written: set[bool] = set()

    def read_ahead(self, ranges):
        self.ahead.append(touched(ranges))

    def map(self, ranges):
        self.present |= touched(ranges)
        self.most = max(self.most, len(self.present))

    def release(self, ranges, *, write_back=False):
        assert all(number % HUGE == 0 for each in ranges for number in each)
        self.present -= touched(ranges)
        self.written.add(write_back)


def touched(ranges) -> set[int]:
    return {block for begin, end in ranges for block in range(begin // HUGE, -(-end // HUGE))}


@pytest.mark.parametrize("from_disk", [False, True])
@pytest.mark.parametrize("budget", [12 * MB, 40 * MB])
def test_what_moves_comes_before_its_turn_and_goes_after(paged, monkeypatch, from_disk, budget):
    file, items = paged
    windows = plan_windows(file.layout, items, budget)
    moving = [window for window in windows if not window.stays]
    assert 0 < len(moving) < len(windows)
    blocks = Blocks()
    monkeypatch.setattr(file, "residency", blocks)
    pager = Pager(file, windows, from_disk=from_disk)
    for _ in range(2):
        blocks.ahead.clear()
        for window in pager.windows():
            assert window.stays or touched(window.ranges) <= blocks.present
        assert not blocks.present
        assert blocks.ahead == [touched(window.ranges) for window in moving if from_disk]
    # A window and, at both ends of each one's two ranges, a part of a block.
    assert blocks.most <= max(window.nbytes for window in moving) // HUGE + 4
    assert blocks.written == {from_disk}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_leaving_early_releases_what_is_in_memory(paged, monkeypatch, error):
    file, items = paged
    blocks = Blocks()
    monkeypatch.setattr(file, "residency", blocks)
    pager = Pager(file, plan_windows(file.layout, items, 40 * MB))

    def step():
        for number, window in enumerate(pager.windows()):
            compute(file, items, window)
            if number == 12:
                assert blocks.present
                raise error

    with pytest.raises(error):
        step()
    gc.collect()
    assert len(blocks.present) <= 2  # where the next window would have begun
    for window in pager.windows():  # and another walk works
        compute(file, items, window)


@linux
def test_mapping_makes_pages_writable_without_touching_what_is_in_them(paged):
    file, _ = paged
    array = file.array("0.m")
    array[:] = 7
    file.residency.release([file.layout.ranges["0.m"]])
    before = rss()
    file.residency.map([file.layout.ranges["0.m"]])
    assert rss() - before > 10 * MB
    assert (array == 7).all()
