"""Walk through a page as its reader would, and put what the terminal shows into it.

python tools/walk.py docs/course-walk.md            every screen of the page made anew (about five minutes)
python tools/walk.py docs/course-walk.md --check    nothing is written; exit code 1 and the differences if some differ

The page is its own script. In a block of ``console``, a line that begins with ``$ `` is typed into a terminal, in a
folder that is empty at first; what follows it is what is shown. Comments before a block say what else a reader does:

<!-- write: FILE -->   the Python block takes the place of the lines marked "Your turn" in the file as it was first
<!-- keys: b a c -->   these are typed, each with Enter; ^C is Ctrl-C
<!-- copy: FILE TO --> afterwards FILE of that folder becomes TO beside the page (a picture)
<!-- first: N -->      only the first N lines of what is shown stay in the page
"""

from __future__ import annotations

import argparse
import difflib
import fcntl
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import final

COLUMNS, LINES = 100, 60
PATIENCE = 300.0
"""Seconds for a command."""

_QUIET = 0.4
"""Seconds without output after which a program that was given no Enter yet is taken to wait for one."""

_BLOCK = re.compile(r"((?:<!--.*?-->\n)*)```(\w+)\n(.*?)^```$\n", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- (\w+): (.*?) -->")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r(?=\n)|\x07")
_TURN = re.compile(r"^( *)# Your turn: .*\n *raise NotImplementedError\(.*\)\n", re.MULTILINE)
_TIMES = re.compile(r"\d[\d,.]*(?= (?:s|ms|µs|ns|times as)\b)")


@final
class Walk:
    """A reader in a folder.

    Args:
        folder: where commands run.
        page: the folder of the page.
        check: whether nothing is written beside the page.
    """

    def __init__(self, folder: Path, page: Path, *, check: bool) -> None:
        self.folder, self.page, self.check = folder, page, check
        self.first: dict[Path, str] = {}

    def block(self, found: re.Match[str]) -> str:
        """The block as it is after what it says was done."""
        comments, kind, body = found.groups()
        orders = dict(_COMMENT.findall(comments))
        if kind == "python" and "write" in orders:
            self.write(self.folder / orders["write"], body)
        if kind != "console":
            return found[0]
        keys = orders.get("keys", "").split()
        most = int(orders["first"]) if "first" in orders else None
        shown = []
        for line in re.findall(r"^\$ .*$", body, re.MULTILINE):
            print(line, file=sys.stderr, flush=True)
            output = self.terminal(line[2:], keys).splitlines()
            left = output[:most] if most is None or len(output) <= most else [*output[:most], "…"]
            shown.append("\n".join([line, *left]).rstrip() + "\n")
        if "copy" in orders and not self.check:
            source, target = orders["copy"].split()
            shutil.copyfile(self.folder / source, self.page / target)
        return f"{comments}```console\n" + "\n".join(shown) + "```\n"

    def write(self, file: Path, body: str) -> None:
        """The reader's lines in the file, where it is marked; the whole file where nothing is."""
        skeleton = self.first.setdefault(file, file.read_text("utf-8"))
        turn = _TURN.search(skeleton)
        if turn is None:
            raise SystemExit(f"{file.name} has no line marked 'Your turn'")
        lines = "".join(turn[1] + line if line.strip() else line for line in body.splitlines(keepends=True))
        file.write_text(skeleton[: turn.start()] + lines + skeleton[turn.end() :], encoding="utf-8")

    def terminal(self, command: str, keys: list[str]) -> str:
        """What a terminal shows of a command, without colours; each key is typed when the program waits."""
        ours, theirs = os.openpty()
        columns = re.match(r"(?:\w+=\S+ )*COLUMNS=(\d+) ", command)
        size = struct.pack("HHHH", LINES, int(columns[1]) if columns else COLUMNS, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        process = subprocess.Popen(
            ["bash", "-c", command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=self.folder,
            env=environment(),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        text, left, end = b"", list(keys), time.monotonic() + PATIENCE
        try:
            while time.monotonic() < end:
                ready, _, _ = select.select([ours], [], [], _QUIET)
                if not ready:
                    if left and text and _waiting(process.pid):
                        key = left.pop(0)
                        os.write(ours, b"\x03" if key == "^C" else (key.replace("⏎", "") + "\n").encode())
                    continue
                try:
                    piece = os.read(ours, 65536)
                except OSError:  # nobody is at the other end any more
                    break
                text += piece
        finally:
            process.kill()
            process.wait()
            os.close(ours)
        plain = _CONTROL.sub("", text.decode("utf-8", errors="replace"))
        return "\n".join(line.rstrip() for line in plain.splitlines())


def _waiting(session: int) -> bool:
    """Whether the programs of a session sleep: none of them computes."""
    states = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True, check=False)
    return not any(line.startswith("R") for line in states.stdout.split())


def environment() -> dict[str, str]:
    """A terminal in which this Python's own commands come first."""
    own = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**own, "PATH": path, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": "ignore"}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Put what the terminal shows into a page.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--check", action="store_true", help="say what differs, and write nothing")
    given = parser.parse_args()
    before = given.page.read_text("utf-8")
    with tempfile.TemporaryDirectory(prefix="walk-") as folder:
        walk = Walk(Path(folder), given.page.parent, check=given.check)
        after = _BLOCK.sub(walk.block, before).replace(folder, "…")
    if not given.check:
        given.page.write_text(after, encoding="utf-8")
        return
    one, two = (_TIMES.sub("#", text).splitlines() for text in (before, after))
    differences = list(difflib.unified_diff(one, two, "the page", "the terminal", lineterm="", n=1))
    print("\n".join(differences))
    raise SystemExit(bool(differences))


if __name__ == "__main__":
    main()
