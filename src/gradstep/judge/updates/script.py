"""Run a training script, and watch its optimizers."""

import os
import runpy
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from gradstep.judge.updates.report import WatchReport
from gradstep.judge.updates.watch import WATCHED_STEPS, RuleWatch


def watch_script(
    script: Path, arguments: Sequence[str] = (), *, steps: int = WATCHED_STEPS
) -> tuple[WatchReport, BaseException | None]:
    """Run a training script as Python would, and watch every optimizer that steps in it.

    It runs in this process, until it ends, raises, or is ended by Ctrl-C: the report is about the steps until then.

    Args:
        script: the file.
        arguments: what it finds in ``sys.argv`` after its own name.
        steps: how many steps of each optimizer are watched.

    Returns:
        The report; and the error that ended the script, if it raised (Ctrl-C included) or exited with an error or a
        text. Its traceback begins in the script.
    """
    watch = RuleWatch((), None, steps)
    # torch warns of global hooks, which the watch has set.
    warnings.filterwarnings("ignore", message="Using `torch.compile.module.` when there are global hooks")
    before = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path[0:0] = [str(script.resolve().parent)]
    error: BaseException | None = None
    try:
        with _exits_raised():
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as exit_:
        error = exit_ if exit_.code not in (None, 0) else None
    except BaseException as raised:  # also Ctrl-C: the user wants the report
        error = raised
    finally:
        watch.close()
        sys.argv, sys.path[:] = before
    if error is not None:
        error.__traceback__ = _frames_from(script, error)
    return replace(watch.report, ending=_describe(error)), error


@contextmanager
def _exits_raised() -> Iterator[None]:
    """Let ``os._exit`` in the main thread end the script instead of the process, which would leave no report."""
    leave, process = os._exit, os.getpid()

    def exit_script(status: int) -> NoReturn:
        if os.getpid() == process and threading.current_thread() is threading.main_thread():
            raise SystemExit(status)
        leave(status)

    os._exit = exit_script
    try:
        yield
    finally:
        os._exit = leave


def _frames_from(script: Path, error: BaseException) -> TracebackType | None:
    """Return the traceback from the script's first frame on; None if the script could not begin."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != str(script):
        frames = frames.tb_next
    return frames


def _describe(error: BaseException | None) -> str:
    """Return in words how the script ended; empty if it ran to its end."""
    if error is None:
        return ""
    if isinstance(error, KeyboardInterrupt):
        return "the script was interrupted"
    if isinstance(error, SystemExit):
        return f"the script exited with {error.code}"
    text = str(error).strip().partition("\n")[0]
    return f"the script raised {type(error).__name__}" + (f": {text}" if text else "")
