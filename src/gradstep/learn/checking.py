"""The challenges, in the order of the course; and the judge of a learner's code, in this process or a separate one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from gradstep import judge
from gradstep.judge import Outcome, Probe, Status, Verdict, isolation
from gradstep.judge.catalogue import CONVENTIONS
from gradstep.learn.exams import clipping, schedule
from gradstep.learn.lesson import SECTIONS, UNWRITTEN, Framework, Lesson, lesson
from gradstep.spelling import suggest


@final
@dataclass(frozen=True)
class Challenge:
    """A class or function to write, with its lesson.

    Attributes:
        name: its name on the command line.
        entry: the class or function that the learner writes.
        rule: the rule that it is compared with; None if it is not an optimizer.
        needs: settings that the learner's class must take.
    """

    name: str
    entry: str
    rule: str | None = None
    needs: tuple[str, ...] = ()

    @property
    def lesson(self) -> Lesson:
        """The lesson: text, code, hints and questions."""
        return lesson(self.name)

    def file(self, framework: Framework) -> str:
        """Return the name of the learner's file."""
        return f"{self.name}_{framework}.py"

    def title_in(self, framework: Framework) -> str:
        """Return the title with the framework: "AdamW in PyTorch"."""
        return f"{self.entry} in {SECTIONS[framework]}"


CHALLENGES: dict[str, Challenge] = {
    challenge.name: challenge
    for challenge in (
        Challenge("sgd", "SGD", "sgd"),
        Challenge("momentum", "SGD", "sgd", needs=("momentum", "nesterov")),
        Challenge("rmsprop", "RMSprop", "rmsprop", needs=("alpha", "eps")),
        Challenge("adam", "Adam", "adam", needs=("betas", "eps", "weight_decay")),
        Challenge("adamw", "AdamW", "adamw", needs=("betas", "eps", "weight_decay")),
        Challenge("lion", "Lion", "lion", needs=("betas", "weight_decay")),
        Challenge("schedule", "warmup_cosine"),
        Challenge("clipping", "clip_grad_norm"),
    )
}


def challenge_named(name: str) -> Challenge:
    """Return the challenge of that name.

    Raises:
        ValueError: there is none; the message names the nearest.

    >>> challenge_named("adamw").entry
    'AdamW'
    >>> challenge_named("adma")
    Traceback (most recent call last):
    ValueError: no challenge 'adma'. Did you mean 'adam'? There are sgd, momentum, rmsprop, adam, adamw, lion, ...
    """
    if name.lower() not in CHALLENGES:
        near = suggest(name.lower(), CHALLENGES, most=1)
        raise ValueError(f"no challenge {name!r}.{near} There are {', '.join(CHALLENGES)}")
    return CHALLENGES[name.lower()]


_EXAMS = {"schedule": schedule.check_schedule, "clipping": clipping.check_clipping}

EXAM_TIME_LIMIT = 60.0
"""Seconds that the process may take to judge a schedule or a clipping function."""


def check(name: str, submission: Any, framework: Framework = "numpy", *, convention: str = "torch") -> Verdict:
    """Judge a submission for a challenge in this process, for notebooks.

    Args:
        name: the challenge.
        submission: the learner's class or function.
        framework: "numpy" or "torch".
        convention: for optimizers, the version of the rule that counts as right; see :func:`gradstep.check`.

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
    return _require_settings(challenge, judge.check(submission, challenge.rule, convention=convention, kind=framework))


def judge_file(challenge: Challenge, framework: Framework, file: Path, *, convention: str = "torch") -> Verdict:
    """Judge the learner's file in a separate process, with a time limit.

    Raises:
        ValueError: no such convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"no convention {convention!r}: there are {', '.join(CONVENTIONS)}")
    target = f"{file}:{challenge.entry}"
    if challenge.rule is None:
        exam, title = _EXAMS[challenge.name], challenge.lesson.title
        name = f"{exam.__module__}:{exam.__name__}"
        return isolation.check_file(target, title, kind=framework, time_limit=EXAM_TIME_LIMIT, exam=name)
    verdict = isolation.check_file(target, challenge.rule, convention=convention, kind=framework)
    return _require_settings(challenge, verdict)


def is_unfinished(verdict: Verdict) -> bool:
    """Return whether a part of the skeleton is still to be written."""
    # The skeleton raises this (see lesson.py), and the judge reports it.
    return any(f"NotImplementedError: {UNWRITTEN}" in probe.detail for probe in verdict.failed())


def _require_settings(challenge: Challenge, verdict: Verdict) -> Verdict:
    """Return the verdict, failed if the submission does not take a setting that the challenge is about."""
    missing = [f"no {name}" for name in challenge.needs if any(_lacks(p, name) for p in verdict.probes)]
    if not verdict.passed or not missing:
        return verdict
    reason = f"It is right as far as it goes, but takes {' and '.join(missing)}, which this challenge is about."
    return replace(verdict, status=Status.FAILED, reason=reason)


def _lacks(probe: Probe, setting: str) -> bool:
    return probe.outcome is Outcome.SKIPPED and setting in probe.detail.replace(",", " ").split()
