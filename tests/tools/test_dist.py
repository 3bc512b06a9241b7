"""What is published: metadata that an index can show, and packages that a stranger can use."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
from tools import dist, metadata

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_metadata_are_right():
    assert dist.find_mistakes(dist.read_metadata()) == []


@pytest.mark.parametrize("address", ["", "https://example.org/gradstep"])
def test_no_link_of_the_description_needs_a_file_beside_it(address):
    assert dist.find_broken_links(README)  # in the repository they are relative
    shown = metadata.description(README, address, "1.2.3")
    assert dist.find_broken_links(shown) == []
    linked = set(re.findall(r"https://example\.org/gradstep/(?:blob|raw)/v1\.2\.3/([^)]+)", shown))
    assert linked == (set(dist.find_broken_links(README)) if address else set())
    assert all((ROOT / file).exists() for file in linked)
    assert ("](" in shown) == bool(address)


@pytest.mark.parametrize(
    ("field", "value", "mistake"),
    [
        ("Version", "9.9.9", "the version is 9.9.9, in the source"),
        ("Requires-Python", ">=3.11", "Requires-Python is >=3.11"),
        ("Project-URL", "Repository, here", "no address: Repository, here"),
    ],
)
def test_a_mistake_is_found(field, value, mistake):
    made = dist.read_metadata()
    del made[field]
    made[field] = value
    assert any(found.startswith(mistake) for found in dist.find_mistakes(made))


def test_a_link_to_a_file_is_found():
    made = dist.read_metadata()
    made.set_payload("[how](docs/install.md)")
    assert dist.find_mistakes(made) == ["the description links to docs/install.md, which leads nowhere on an index"]


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_set_up_runs_again_when_the_version_changes(tmp_path):
    """The installed metadata have the version, also those of an editable installation."""
    for name in ("pyproject.toml", "constraints.txt", "Makefile", "tools/setup", "src/gradstep/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def planned() -> str:
        command = ["make", "--dry-run", "--no-print-directory", "setup"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    touched = re.search(r"touch (\S+)", planned())
    assert touched is not None
    (tmp_path / touched[1]).parent.mkdir()
    (tmp_path / touched[1]).touch()
    assert "tools/setup" not in planned()
    source = tmp_path / "src/gradstep/__init__.py"
    source.write_text(source.read_text() + "# changed\n")
    assert "tools/setup" not in planned()
    source.write_text(re.sub('__version__ = ".*"', '__version__ = "9.9.9"', source.read_text()))
    assert "tools/setup" in planned()


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the sdist is compared with git's list of files")
def test_packages_are_built_and_used():
    """What takes longer is left to `make dist`: the clone, the examples, other Pythons."""
    done = subprocess.run([sys.executable, "-m", "tools.dist", "build", "wheel", "commands"], cwd=ROOT, check=False)
    assert done.returncode == 0
