"""A training script run under the watch."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from gradstep.judge.updates.report import WatchReport
from gradstep.judge.updates.watch import STEPS, RuleWatch


def watch_script(
    script: Path, arguments: Sequence[str] = (), *, steps: int = STEPS
) -> tuple[WatchReport, BaseException | None]:
    """Run a training script as Python would, and watch every optimizer that steps in it.

    It runs in this process and with what it prints, until it ends, raises, or is ended by Ctrl-C: what it has shown by
    then is the report.

    Args:
        script: the file.
        arguments: what it finds in ``sys.argv`` after its own name.
        steps: how many steps of each optimizer are watched.

    Returns:
        The report; and what the script ended with, if it raised (Ctrl-C included) or exited with an error or a text.
    """
    watch = RuleWatch((), None, steps)
    before = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path[0:0] = [str(script.resolve().parent)]
    raised: BaseException | None = None
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as error:
        raised = error if error.code not in (None, 0) else None
    except BaseException as error:  # also Ctrl-C: the report is what it was for
        raised = error
    finally:
        watch.close()
        sys.argv, sys.path[:] = before
    return watch.report, raised
