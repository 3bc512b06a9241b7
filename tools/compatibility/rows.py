"""The rows of the matrix: the versions to try, and the tests for them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

PACKAGES = ("torch", "numpy", "llvmlite")
"""The packages whose versions every row chooses."""

LAB = ("rich", "scikit-learn", "typer")
"""The packages of the extra ``lab``, which a row may choose too."""

PART = (
    "tests/engines/test_storages.py",
    "tests/numpy/test_steps.py",
    "tests/optimizers/test_checkpoints.py",
    "tests/optimizers/test_clipping.py",
    "tests/optimizers/test_front.py",
    "tests/optimizers/test_grad_scaler.py",
    "tests/training_room/test_stepper.py",
)
"""Tests that show whether a version works: kernel and reference, both fronts, checkpoints, clipping, loss scaling."""

COMMANDS = ("tests/test_cli.py", "tests/lab/test_display.py", "tests/lab/test_results.py", "tests/lab/test_specs.py")
"""Tests of the command line and of the lab's output."""

EMULATED = (
    "tests/engines/test_same_bits.py",
    "tests/numpy/test_steps.py",
    "tests/rules/test_by_hand.py",
    "tests/storage/test_codecs.py",
    "tests/storage/test_elements.py",
    "tests/storage/test_rounding.py",
)
"""Tests of the arithmetic only: under emulation a test takes some ten times as long."""


@final
@dataclass(frozen=True)
class Row:
    """One environment and its tests.

    Args:
        name: unique name; the key of its result.
        python: major and minor version, such as ``"3.11"``; a trailing ``t`` means a free-threaded build.
        versions: a version for each of PACKAGES, and for further packages to install.
        tests: the paths for pytest.
        machine: the instruction set; emulated if it is not this machine's.
        debian: the Debian release whose Python is extracted into a folder; None: Python from this machine.
        note: a remark in the table.
    """

    name: str
    python: str
    versions: dict[str, str]
    tests: tuple[str, ...] = PART
    machine: str = "x86_64"
    debian: str | None = None
    note: str = ""


def floors() -> dict[str, str]:
    """Return the oldest versions of the packages and of Python that pyproject.toml allows."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    matches = {p: re.search(rf'"{p}>=([0-9.]+)', text) for p in (*PACKAGES, *LAB)}
    matches["python"] = re.search(r'requires-python = ">=([0-9.]+)"', text)
    missing = [p for p, match in matches.items() if match is None]
    if missing:
        raise ValueError(f"pyproject.toml names no oldest version of {', '.join(missing)}")
    return {p: match[1] for p, match in matches.items() if match is not None}


def pinned() -> dict[str, str]:
    """Return the versions of constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return {p: v for p, v in re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", text, re.MULTILINE) if p in PACKAGES}


CI = "the oldest of all but torch, also of `gradstep[lab]`; CI runs it"
OLD_TORCH = "below the floor: its Adam has no `decoupled_weight_decay`, before 2.6 no optimizer takes names"
OLD_LLVMLITE = "below the floor: its IR has typed pointers"


def rows() -> list[Row]:
    """Return every row, in the order of the table."""
    now, oldest = pinned(), floors()
    python = "3.11"
    newest = {"torch": "2.15.0", "numpy": "2.5.5", "llvmlite": "0.50.0"}
    least = {p: oldest[p] for p in PACKAGES}
    rest = {p: oldest[p] for p in LAB} | least | {"torch": now["torch"]}

    def torch(version: str, note: str = "") -> Row:
        return Row(f"torch-{version}", python, now | {"torch": version}, note=note)

    def numpy(version: str) -> Row:
        return Row(f"numpy-{version}", python, now | {"numpy": version})

    def llvmlite(version: str, note: str = "") -> Row:
        return Row(f"llvmlite-{version}", python, now | {"llvmlite": version}, note=note)

    return [
        Row("newest", "3.13", newest, note="the newest of everything"),
        Row("oldest", oldest["python"], least, note="the oldest of everything that pyproject.toml allows"),
        Row(
            "floor",
            python,
            rest,
            (*PART, *COMMANDS),
            note=CI,
        ),
        *(torch(v, OLD_TORCH) for v in ("2.4.0", "2.5.0", "2.6.0")),
        *(torch(v) for v in ("2.7.0", "2.8.0", "2.9.0", "2.10.0", "2.11.0", "2.12.0")),
        *(torch(v) for v in ("2.14.1", "2.15.0")),
        *(numpy(v) for v in ("2.0.0", "2.1.0", "2.2.0", "2.3.0")),
        llvmlite("0.44.0", OLD_LLVMLITE),
        *(llvmlite(v) for v in ("0.45.0", "0.46.0", "0.47.0", "0.48.0", "0.49.0")),
        Row("python-3.10", "3.10", now | {"numpy": "2.2.6"}, note="no newer NumPy is made for it"),
        Row("python-3.12", "3.12", now),
        Row("python-3.14", "3.14", now, debian="sid", note="Debian's Python 3.14 with its C library, in a folder"),
        Row("python-3.14t", "3.14t", now, note="free-threaded"),
        Row(
            "aarch64",
            python,
            now | {"torch": "2.10.0"},
            EMULATED,
            machine="aarch64",
            debian="bookworm",
            note="emulated by qemu; later torch for Arm needs CUDA's libraries",
        ),
    ]
