"""The published table is what was tried, and the versions that are promised passed."""

import pytest

from tools.compatibility.rows import PACKAGES, floors, rows
from tools.compatibility.table import BEGIN, END, PAGE, read_results, table


def number(version):
    """A version as numbers; a build's name (``+cpu``) does not count."""
    return tuple(map(int, version.partition("+")[0].split(".")))


def test_names_are_unique():
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names)


def test_the_table_is_made_of_the_results():
    results = read_results()
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert shown == table([(row, results[row.name]) for row in rows() if row.name in results])


@pytest.mark.parametrize("package", [*PACKAGES, "python"])
def test_the_oldest_version_that_is_promised_was_tried_and_passed(package):
    oldest = number(floors()[package])
    passed = [number(r[package]) for r in read_results().values() if r["outcome"] == "passes"]
    assert any(version[: len(oldest)] == oldest for version in passed)


def test_what_fails_is_not_promised():
    least = {package: number(version) for package, version in floors().items()}
    for name, result in read_results().items():
        if result["outcome"] == "fails":
            assert any(number(result[p]) < least[p] for p in least), f"{name} is allowed by pyproject.toml, and fails"


def test_another_processor_was_tried():
    assert {r["machine"] for r in read_results().values() if r["outcome"] == "passes"} >= {"x86_64", "aarch64"}
