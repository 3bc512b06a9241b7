"""Memory that is free: the machine's, and what control groups leave of it."""

from pathlib import Path

import pytest

import gradstep
from gradstep.planner.machine import UNLIMITED, usable_memory

KB, GB = 1024, 10**9


@pytest.fixture
def system(tmp_path):
    """A machine with 8 GB free, and a process in a group."""

    def write(cgroup: str, files: dict[str, object]) -> tuple[Path, Path]:
        proc, groups = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        groups.mkdir()
        (proc / "meminfo").write_text(f"MemTotal: 999 kB\nMemAvailable:   {8 * GB // KB} kB\n")
        (proc / "self" / "cgroup").write_text(cgroup)
        for name, content in files.items():
            file = groups / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{content}\n")
        return proc, groups

    return write


FREE = 8 * GB // KB * KB


def test_without_groups_it_is_what_is_available(system):
    assert usable_memory(*system("", {})) == FREE


@pytest.mark.parametrize("base", ["", "unified/"])
def test_version_2_the_tightest_group_above_counts(system, base):
    files = {
        f"{base}jobs/memory.max": 5 * GB,
        f"{base}jobs/memory.current": 3 * GB,
        f"{base}jobs/memory.stat": f"anon {GB}\ninactive_file {GB}",
        f"{base}jobs/one/memory.max": "max",
        f"{base}jobs/one/memory.current": 1 * GB,
    }
    assert usable_memory(*system("0::/jobs/one\n", files)) == 3 * GB  # 5 − 3 + 1 that can be dropped


def test_version_1(system):
    files = {"memory/a/memory.limit_in_bytes": 4 * GB, "memory/a/memory.usage_in_bytes": GB}
    assert usable_memory(*system("5:cpu:/x\n4:memory:/a\n", files)) == 3 * GB


def test_version_1_writes_a_huge_number_for_no_limit(system):
    files = {"memory/memory.limit_in_bytes": UNLIMITED * 2 - 4096, "memory/memory.usage_in_bytes": GB}
    assert usable_memory(*system("4:memory:/\n", files)) == FREE


def test_a_group_that_a_container_does_not_show_counts_at_its_root(system):
    files = {"memory.max": 2 * GB, "memory.current": GB}
    assert usable_memory(*system("0::/outside/of/this\n", files)) == GB


def test_an_overdrawn_group_leaves_nothing(system):
    files = {"memory.max": 2 * GB, "memory.current": 3 * GB}
    assert usable_memory(*system("0::/\n", files)) == 0


def test_a_system_that_does_not_tell_asks_for_a_budget(tmp_path):
    with pytest.raises(ValueError, match="give budget='24GB'"):
        usable_memory(tmp_path, tmp_path)


def test_this_machine_is_asked_where_no_budget_is_given():
    compared = gradstep.plans(1000, params="float32")
    assert compared.source == "free on this machine"
    assert compared.budget > 0
