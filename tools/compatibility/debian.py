"""Extract Debian's Python of another release or instruction set into a folder, without installing anything.

apt uses separate lists, cache and status here and does not change the system's.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

from tools.compatibility.process import Failed, run, show

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
SYSTEM_LIBRARIES = ("libstdc++6", "libgomp1", "libgcc-s1")
"""Libraries that wheels expect on every Linux, besides the C library."""


def python_folder(folder: Path, release: str, machine: str, version: str, log: Path) -> tuple[Path, list[str]]:
    """Extract Debian's Python into a folder, unless it is there already.

    Args:
        folder: where.
        release: Debian's, such as ``"bookworm"``.
        machine: the instruction set.
        version: the Python.
        log: the file that apt's output goes to.

    Returns:
        The interpreter, and the command that starts it here.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Failed("this row needs Debian's apt-get and dpkg-deb")
    ready = folder.with_name(folder.name + ".ready")
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        options, downloads = private_apt(folder.with_name(folder.name + ".apt"), release, machine)
        run("reading Debian's lists", ["apt-get", *options, "update"], log)
        show("   choosing Debian's packages", stay=False)
        wanted = closure([f"python{version}", f"python{version}-minimal", *SYSTEM_LIBRARIES], options)
        run("downloading Debian's Python", ["apt-get", *options, "install", "--download-only", "-y", *wanted], log)
        for package in sorted(downloads.glob("*.deb")):
            show(f"   extracting {package.name}", stay=False)
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        ready.touch()
    if machine == platform.machine():
        loader = next(path for path in folder.rglob(LOADERS[machine]))
        paths = f"{folder}/usr/lib/{machine}-linux-gnu:{folder}/lib/{machine}-linux-gnu"
        start = [str(loader), "--library-path", paths]
    else:
        emulator = shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")
        if emulator is None:
            raise Failed(f"this row needs qemu-{machine}-static (Debian and Ubuntu: apt install qemu-user-static)")
        start = [emulator, "-L", str(folder)]
    return folder / "usr" / "bin" / f"python{version}", start


def private_apt(folder: Path, release: str, machine: str) -> tuple[list[str], Path]:
    """Set up a private apt; return its options and the folder that it downloads packages into."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("lists/partial", "archives/partial", "state"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    architecture = ARCHITECTURES[machine]
    (folder / "sources.list").write_text(f"deb [arch={architecture}] {mirror()} {release} main\n", encoding="utf-8")
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder,
        "Dir::Cache::archives": folder / "archives",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")], folder / "archives"


def mirror() -> str:
    """Return the address of Debian's packages that this machine uses."""
    lists = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in lists if path.is_file())
    match = re.search(r"^(?:deb\s+(?:\[.*?\]\s+)?|URIs:\s*)(https?://\S*/debian)/?\s", text, re.MULTILINE)
    if match is None:
        raise Failed("no source of Debian's packages is named under /etc/apt")
    return match[1]


def closure(names: list[str], options: list[str]) -> list[str]:
    """Return the packages with all their dependencies."""
    command = ["apt-cache", *options, "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"]
    command += ["--no-breaks", "--no-replaces", "--no-enhances", *names]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted({line for line in lines if line and not line.startswith((" ", "<"))})
