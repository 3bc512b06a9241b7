"""One thing that is asked of a submission, and the verdict over all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

from gradstep.judge import Match, Outcome, Probe, Status, Verdict
from gradstep.judge.observe import said


@final
@dataclass(frozen=True)
class Exam:
    """One thing that is asked.

    Attributes:
        name: in one to three words.
        shows: what it is about.
        look_for: what to look for in the code where it fails.
        ask: called with the submission; returns what is wrong, or "".
    """

    name: str
    shows: str
    look_for: str
    ask: Callable[[Any], str]

    def probe(self, submission: Any) -> Probe:
        """The outcome, with everything that the submission may throw caught."""
        try:
            wrong = self.ask(submission)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a submission may raise SystemExit
            wrong = said(error)
        return Probe(self.name, self.shows, Outcome.FAIL if wrong else Outcome.PASS, wrong, self.look_for)


@final
@dataclass(frozen=True)
class Slip:
    """A known way to get it wrong.

    Attributes:
        sentence: what the submission then is, to follow "It computes".
        look_for: what to look for in the code.
        does: the wrong function, in the examiner's own terms.
    """

    sentence: str
    look_for: str
    does: Callable[..., Any]

    def match(self, read: str) -> Match:
        """This slip as it stands in a verdict."""
        return Match((), self.sentence, 0.0, (), (self.look_for,), (read,))


def verdict(submission: Any, what: str, exams: Iterable[Exam], slips: Callable[[Any], tuple[Match, ...]]) -> Verdict:
    """Everything asked, and where something is wrong, the slip that would explain it.

    Args:
        submission: the learner's function.
        what: what it should be.
        exams: what is asked.
        slips: the known slips that do as the submission does.
    """
    started = time.perf_counter()
    probes = tuple(exam.probe(submission) for exam in exams)
    failed = [p for p in probes if p.outcome is Outcome.FAIL]
    matches = _explain(submission, slips) if failed else ()
    if not failed:
        reason = f"It is {what}."
    elif matches:
        reason = f"It computes {matches[0].sentence}."
    else:
        reason = f"It is not {what}: {', '.join(p.name for p in failed)}."
    status = Status.FAILED if failed else Status.PASSED
    seconds = time.perf_counter() - started
    return Verdict(submission.__name__, what, "torch", status, reason, probes, matches, seconds=seconds)


def _explain(submission: Any, slips: Callable[[Any], tuple[Match, ...]]) -> tuple[Match, ...]:
    try:
        return slips(submission)
    except KeyboardInterrupt:
        raise
    except BaseException:  # what it raises is told by the probes
        return ()
