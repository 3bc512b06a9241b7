"""What to do next."""

from __future__ import annotations

from gradstep.judge import Verdict
from gradstep.learn.challenges import CHALLENGES, Challenge
from gradstep.learn.checking import unwritten
from gradstep.learn.course import Course
from gradstep.learn.experiments import EXPERIMENTS
from gradstep.learn.lesson import FRAMEWORKS
from gradstep.learn.progress import Progress


def advice(progress: Progress, course: Course, passed: Challenge | None = None) -> str:
    """The command that comes next: what was begun is passed, then asked about; then the next is begun.

    Args:
        progress: what was done.
        course: where.
        passed: a challenge that was passed just now: its own questions come first.
    """
    framework = progress.framework
    if passed is not None and passed.name not in progress.answers:
        return f"gradstep learn quiz {passed.name}{course.option}"
    works = {name: progress.of(name, framework) for name in CHALLENGES}
    begun = [name for name, work in works.items() if work is not None and not work.passed]
    unasked = [name for name, work in works.items() if work is not None and name not in progress.answers]
    new = [name for name, work in works.items() if work is None]
    for act, names in (("check", begun), ("quiz", unasked), ("start", new)):
        if names:
            return f"gradstep learn {act} {names[0]}{course.option}"
    for experiment in EXPERIMENTS:
        if experiment not in progress.experiments:
            return f"gradstep learn run {experiment}{course.option}"
    other = next(f for f in FRAMEWORKS if f != framework)
    if any(progress.of(name, other) is None for name in CHALLENGES):
        return f"gradstep learn start sgd --{other}{course.option}"
    return "gradstep race digits"


def after(verdict: Verdict, course: Course, challenge: Challenge) -> str:
    """What to do after a check."""
    if verdict.passed:
        return advice(course.progress(), course, challenge)
    hint = f"gradstep learn hint {challenge.name}{course.option}"
    if unwritten(verdict):
        return f"write it, then gradstep learn check {challenge.name}{course.option} (stuck? {hint})"
    return hint
