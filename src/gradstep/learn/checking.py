"""A learner's code before the judge: in this process, or in one of its own."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gradstep import judge
from gradstep.judge import Outcome, Probe, Status, Verdict, isolation
from gradstep.judge.catalogue import CONVENTIONS
from gradstep.judge.worker import LoadError, load, pick
from gradstep.learn.challenges import Challenge, challenge_named
from gradstep.learn.exams import clipping, schedule
from gradstep.learn.lesson import UNWRITTEN, Framework

_EXAMS = {"schedule": schedule.check, "clipping": clipping.check}

TIME_LIMIT = 60.0
"""Seconds for a process that judges a schedule or a clipping function, the import of torch included."""


def check(name: str, submission: Any, framework: Framework = "numpy", *, convention: str = "torch") -> Verdict:
    """Judge what was written for a challenge, in this process; what a notebook calls.

    Args:
        name: the challenge.
        submission: the class or function.
        framework: "numpy" or "torch".
        convention: for optimizers, whose reading of the rule counts as right; see :func:`gradstep.check`.

    Raises:
        ValueError: no such challenge or convention.

    Example:
        >>> class SGD:
        ...     def __init__(self, params, lr=1e-3):
        ...         self.params, self.lr = params, lr
        ...
        ...     def step(self):
        ...         for p in self.params:
        ...             if p.grad is not None:
        ...                 p.data += self.lr * p.grad
        >>> check("sgd", SGD).reason
        "It computes SGD with the update's sign flipped: it climbs."
    """
    challenge = challenge_named(name)
    if challenge.rule is None:
        return _EXAMS[challenge.name](submission, framework)
    return _complete(challenge, judge.check(submission, challenge.rule, convention=convention, kind=framework))


def check_file(challenge: Challenge, framework: Framework, file: Path, *, convention: str = "torch") -> Verdict:
    """Judge the learner's file in a process of its own, with a time limit.

    Raises:
        ValueError: no such convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"no convention {convention!r}: there are {', '.join(CONVENTIONS)}")
    if challenge.rule is None:
        return _examine(challenge, framework, file)
    target = f"{file}:{challenge.entry}"
    found = isolation.check_file(target, challenge.rule, convention=convention, kind=framework)
    return _complete(challenge, found)


def unwritten(verdict: Verdict) -> bool:
    """Whether something is still as it was in the skeleton."""
    # The line that the skeleton raises (see lesson.py), as the judge reports it.
    return any(f"NotImplementedError: {UNWRITTEN}" in probe.detail for probe in verdict.failed())


def _complete(challenge: Challenge, verdict: Verdict) -> Verdict:
    """A submission that leaves out what the challenge is about has not passed it."""
    missing = [f"no {name}" for name in challenge.needs if any(_lacks(p, name) for p in verdict.probes)]
    if not verdict.passed or not missing:
        return verdict
    reason = f"It is right as far as it goes, but takes {' and '.join(missing)}, which this challenge is about."
    return replace(verdict, status=Status.FAILED, reason=reason)


def _lacks(probe: Probe, setting: str) -> bool:
    return probe.outcome is Outcome.SKIPPED and setting in probe.detail.replace(",", " ").split()


def _examine(challenge: Challenge, framework: Framework, file: Path) -> Verdict:
    blank = Verdict(file.name, challenge.lesson.title, "torch", Status.UNJUDGED, "")
    context = multiprocessing.get_context("spawn")
    answer, tell = context.Pipe(duplex=False)
    worker = context.Process(target=_worker, args=(tell, challenge.name, framework, file), daemon=True)
    worker.start()
    tell.close()  # the worker's copy is the last: if it ends without a word, there is an end of file here
    try:
        if not answer.poll(TIME_LIMIT):
            return blank.because(f"It could not be judged: it did not end within {TIME_LIMIT:g} s.")
        told: Verdict | str = answer.recv()
        return told if isinstance(told, Verdict) else blank.because(f"It could not be judged: {told}.")
    except EOFError:
        return blank.because("It could not be judged: it ended its process.")
    finally:
        worker.kill()
        worker.join()


def _worker(tell: Connection, name: str, framework: Framework, file: Path) -> None:
    """What runs in the other process; a text is told where the file cannot be judged."""
    try:
        submission = pick(load(file), challenge_named(name).entry)
        tell.send(check(name, submission, framework))
    except LoadError as error:
        tell.send(str(error))
