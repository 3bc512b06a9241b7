"""Make the environment of a row: an interpreter with the row's packages, gradstep's wheel and the test tools."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tools.compatibility.debian import python_folder
from tools.compatibility.process import run
from tools.compatibility.rows import ROOT, Row

WORK = ROOT / ".matrix"
"""Folder of downloads, installations and logs; git ignores it."""

TOOLS = ("pytest>=9.0", "pytest-xdist>=3.6", "hypothesis>=6.100")
"""Packages of the tests besides those of a row."""

TORCH_NEEDS = ("filelock", "fsspec", "jinja2", "networkx", "sympy", "typing_extensions")
"""Packages that torch needs on every kind of machine."""


class Unavailable(Exception):
    """A row needs something that does not exist on this machine."""


@final
@dataclass(frozen=True)
class Environment:
    """An environment that runs the tests of a row.

    Args:
        python: the program to start.
        variables: added to the environment of every process.
    """

    python: Path
    variables: Mapping[str, str]


def build_wheel(log: Path) -> Path:
    """Build gradstep's wheel from the checkout, so that rows install what a user would install."""
    target = WORK / "wheel"
    shutil.rmtree(target, ignore_errors=True)
    run("building gradstep's wheel", [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", target, "."], log)
    return next(target.glob("gradstep-*.whl"))


def find_python(version: str) -> Path:
    """Find an interpreter of a version: on the PATH, or among pyenv's.

    Raises:
        Unavailable: when there is none.
    """
    on_path = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    in_pyenv = sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)
    for candidate in ([Path(on_path)] if on_path else []) + in_pyenv:
        # pyenv's shims exist without the interpreter, and fail when they are started.
        if subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    raise Unavailable(f"there is no Python {version} on this machine")


def make_environment(row: Row, wheel: Path, folder: Path, log: Path) -> Environment:
    """Make the environment of a row in a folder.

    Raises:
        Unavailable: when the interpreter does not exist here.
        Failed: when an installation does not succeed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch_first = sorted(row.versions.items(), key=lambda item: item[0] != "torch")
    wanted = [f"{package}=={version}" for package, version in torch_first]
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{line}\n" for line in wanted), encoding="utf-8")
    variables = {"PIP_CONSTRAINT": str(constraints), "PIP_NO_COMPILE": "1", "PIP_PROGRESS_BAR": "off"}

    def install(what: str, pip: Sequence[str | Path], *packages: str | Path) -> None:
        run(f"installing {what}", [*pip, *packages], log.with_suffix(f".{what}.log"), variables=variables)

    if row.debian is None:
        return in_venv(row, wanted, wheel, folder, install)
    return beside_debian(row, row.debian, wanted, wheel, folder, install)


Install = Callable[..., None]


def in_venv(row: Row, wanted: list[str], wheel: Path, folder: Path, install: Install) -> Environment:
    """Make a virtual environment with an interpreter of this machine."""
    venv = folder / "venv"
    run("virtual environment", [find_python(row.python), "-m", "venv", venv], folder.parent / "venv.log")
    python = venv / "bin" / "python"
    pip = [python, "-m", "pip", "install"]
    # torch is installed first and alone, so that no other package brings another build of it.
    install("torch", pip, wanted[0])
    install("packages", pip, *wanted, *TOOLS)
    # Without dependencies: some rows are below the wheel's lowest versions, and show why these are the lowest.
    install("gradstep", pip, "--no-deps", wheel)
    return Environment(python, {})


def beside_debian(
    row: Row, release: str, wanted: list[str], wheel: Path, folder: Path, install: Install
) -> Environment:
    """Extract Debian's interpreter into a folder, and install packages with this machine's pip into another."""
    debian = WORK / "debian" / f"{release}-{row.machine}-{row.python}"
    python, prefix = python_folder(debian, release, row.machine, row.python, folder.parent / "debian.log")
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--target", str(site), "--only-binary=:all:"]
    pip += ["--python-version", row.python, "--implementation", "cp"]
    for tag in ("manylinux2014", *(f"manylinux_2_{n}" for n in range(5, 40))):
        pip += ["--platform", f"{tag}_{row.machine}"]
    if row.machine == platform.machine():
        packages = wanted
    else:  # pip would choose torch's dependencies for this machine's instruction set: CUDA's libraries on x86
        install("torch", pip, "--no-deps", wanted[0])
        packages = [*wanted[1:], *TORCH_NEEDS]
    install("packages", pip, *packages, *TOOLS)
    install("gradstep", pip, "--no-deps", wheel)
    return Environment(write_launcher(folder / "python", python, prefix, site, debian), {})


def write_launcher(path: Path, python: Path, prefix: list[str], site: Path, debian: Path) -> Path:
    """Write a script that starts an interpreter of another machine or C library.

    Tests start further processes with ``sys.executable``; ``sitecustomize`` sets it to the script.
    """
    quoted = " ".join(f"'{part}'" for part in [*prefix, str(python)])
    path.write_text(
        "#!/bin/sh\n"
        f"export PYTHONHOME='{debian}/usr' PYTHONPATH='{ROOT}:{site}' PYTHONNOUSERSITE=1 MATRIX_PYTHON='{path}'\n"
        f'exec {quoted} "$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o755)
    (site / "sitecustomize.py").write_text(
        "import os, sys\nsys.executable = sys._base_executable = os.environ['MATRIX_PYTHON']\n", encoding="utf-8"
    )
    return path


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
