"""Run the commands of a page as its reader would, and write the terminal's output into the page.

python tools/walk.py docs/course-walk.md            write every output again (about five minutes)
python tools/walk.py docs/course-walk.md --check    write nothing; print differences, exit code 1 if there are any

The page is its own script. In a block of ``console``, a line that begins with ``$ `` is typed into a terminal, in a
folder that is empty at first; the output follows it. Comments before a block have further instructions:

<!-- write: FILE -->   the Python block replaces the lines marked "Your turn" in the original file
<!-- keys: b a c -->   these keys are typed, each with Enter; ^C is Ctrl-C
<!-- copy: FILE TO --> afterwards FILE of that folder is copied to TO beside the page (a picture)
<!-- first: N -->      only the first N lines of the output stay in the page
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
"""Seconds without output after which a program without an Enter so far counts as waiting for one."""

_BLOCK = re.compile(r"((?:<!--.*?-->\n)*)```(\w+)\n(.*?)^```$\n", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- (\w+): (.*?) -->")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r(?=\n)|\x07")
_ERASED = re.compile(r"[^\n]*\n(?:\x1b\[\?25h)?\r\x1b\[1A\x1b\[2K")
"""A line that a program shows while it works, and takes away again."""
_TURN = re.compile(r"^( *)# Your turn: .*\n *raise NotImplementedError\(.*\)\n", re.MULTILINE)
_TIMES = re.compile(r"\d[\d,.]*(?= (?:s|ms|µs|ns|times as)\b)")


@final
class Walk:
    """A reader who runs a page's commands in a folder.

    Args:
        folder: the folder of the commands.
        page: the folder of the page.
        check: whether to write nothing beside the page.
    """

    def __init__(self, folder: Path, page: Path, *, check: bool) -> None:
        self.folder, self.page, self.check = folder, page, check
        self.first: dict[Path, str] = {}

    def block(self, match: re.Match[str]) -> str:
        """Run a block and return it with the new output."""
        comments, kind, body = match.groups()
        orders = dict(_COMMENT.findall(comments))
        if kind == "python" and "write" in orders:
            self.write(self.folder / orders["write"], body)
        if kind != "console":
            return match[0]
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
        """Write the reader's lines into the marked parts of the file; without marks, write the whole file."""
        skeleton = self.first.setdefault(file, file.read_text("utf-8"))
        turn = _TURN.search(skeleton)
        if turn is None:
            raise SystemExit(f"{file.name} has no line marked 'Your turn'")
        lines = "".join(turn[1] + line if line.strip() else line for line in body.splitlines(keepends=True))
        file.write_text(skeleton[: turn.start()] + lines + skeleton[turn.end() :], encoding="utf-8")

    def terminal(self, command: str, keys: list[str]) -> str:
        """Return a command's output on a terminal, without colours; each key is typed when the program waits."""
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
                except OSError:  # the program has closed its end
                    break
                text += piece
        finally:
            process.kill()
            process.wait()
            os.close(ours)
        plain = _CONTROL.sub("", _ERASED.sub("", text.decode("utf-8", errors="replace")))
        return "\n".join(line.rstrip() for line in plain.splitlines())


def _waiting(session: int) -> bool:
    """Return whether all programs of a session sleep, so that none computes."""
    states = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True, check=False)
    return not any(line.startswith("R") for line in states.stdout.split())


def environment() -> dict[str, str]:
    """Return the variables of a terminal in which this Python's commands come first."""
    own = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**own, "PATH": path, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": "ignore"}


def main() -> None:
    """Run the command line."""
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
