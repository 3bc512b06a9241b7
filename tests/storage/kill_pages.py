"""Kills a stepping process at random moments and looks at what it left. Run by test_pages_kill.py, alone in a process.

`python kill_pages.py PATH ROUNDS [unmarked]` prints what was found as JSON. "unmarked" steps without begin and commit,
to show that such files are torn: that the marks are what finds them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from gradstep.storage.pages import PageFile, PageFileError

ARRAYS = [(name, "int64", 32_768) for name in ("exp_avg", "exp_avg_sq", "max")]


def steps(path: Path, marked: bool, begun: int) -> None:
    """Write the step's number everywhere, again and again, until killed; say so after the first one."""
    file = PageFile.open(path, ARRAYS)
    arrays = [file.array(name) for name, _, _ in ARRAYS]
    for step in range(1, sys.maxsize):
        if marked:
            file.begin(step)
        for array in arrays:
            array[:] = step
        if marked:
            file.commit(step)
        if step == 1:
            os.write(begun, b"!")


def main(path: Path, rounds: int, marked: bool) -> dict[str, int]:
    """Counts of files that were refused, good, and torn although they opened."""
    moments = random.Random(0)
    counts = {"refused": 0, "good": 0, "torn": 0}
    for _ in range(rounds):
        path.unlink(missing_ok=True)
        PageFile.create(path, ARRAYS).close(flush=False)
        stepping, begun = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                steps(path, marked, begun)
            finally:
                os._exit(1)  # an error: the pipe closes without a word
        os.close(begun)
        if not os.read(stepping, 1):
            raise RuntimeError("the stepping process failed")
        os.close(stepping)
        time.sleep(moments.uniform(0, 0.002))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        try:
            file = PageFile.open(path, ARRAYS)
        except PageFileError as error:
            # Killed while it writes the mark itself, it leaves one whose checksum is wrong: refused as well.
            if not any(words in str(error) for words in ("the midst of step", "a damaged mark")):
                raise
            counts["refused"] += 1
            continue
        expected = file.step if marked else int(file.array("exp_avg")[0])
        whole = all((file.array(name) == expected).all() for name, _, _ in ARRAYS)
        counts["good" if whole else "torn"] += 1
        file.close(flush=False)
    return counts


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), "unmarked" not in sys.argv)))
