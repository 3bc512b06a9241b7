"""Exams for a schedule and for a clipping function, which the judge of optimizers cannot judge; and their verdict."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

from gradstep.judge import Match, Outcome, Status, Verdict
from gradstep.judge.properties import Property


@final
@dataclass(frozen=True)
class Slip:
    """A common mistake."""

    sentence: str  # what such a submission computes, to follow "It computes"
    look_for: str  # what to look for in the code
    compute: Callable[..., Any]  # the function with this mistake

    def match(self, read: str) -> Match:
        """Return the slip as a match of a verdict; ``read`` names its sources."""
        return Match((), self.sentence, 0.0, (), (self.look_for,), (read,))


def make_verdict(
    submission: Any, what: str, exams: Iterable[Property], slips: Callable[[Any], tuple[Match, ...]]
) -> Verdict:
    """Run all exams of a learner's function, which should be ``what``; if one fails, search for a slip.

    ``slips`` returns the slips that compute the same as the function.
    """
    started = time.perf_counter()
    probes = tuple(exam.probe(submission) for exam in exams)
    failed = [p for p in probes if p.outcome is Outcome.FAIL]
    matches = _find_slips(submission, slips) if failed else ()
    if not failed:
        reason = f"It is {what}."
    elif matches:
        reason = f"It computes {matches[0].sentence}."
    else:
        reason = f"It is not {what}: {', '.join(p.name for p in failed)}."
    status = Status.FAILED if failed else Status.PASSED
    seconds = time.perf_counter() - started
    return Verdict(submission.__name__, what, "torch", status, reason, probes, matches, seconds=seconds)


def _find_slips(submission: Any, slips: Callable[[Any], tuple[Match, ...]]) -> tuple[Match, ...]:
    try:
        return slips(submission)
    except KeyboardInterrupt:
        raise
    except BaseException:  # the probes report what it raises
        return ()
