"""Run a submission through scenarios: its trajectory, or its failure."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from gradstep.judge.scenario import Scenario, Trajectory, flat, shared_defaults
from gradstep.judge.subjects.base import NotOfferedError, Subject, SubmissionError
from gradstep.judge.verdict import printable
from gradstep.rules import Rule

_NOT_A_NUMBER = (ZeroDivisionError, OverflowError, FloatingPointError)
# Errors with which a constructor refuses a setting that it does not offer. In learners' code that is as often an
# unfinished branch or an assertion as a ValueError; none of them is a wrong step, so none counts as a mistake.
_REFUSALS = (TypeError, ValueError, NotImplementedError, AssertionError)
_HERE = Path(__file__).parent


@final
class FailureError(SubmissionError):
    """The submission raised an error: the text has it in one line, with the submission's line that raised it.

    Attributes:
        step: the number of the step that raised it; 0 for the constructor.
    """

    def __init__(self, what: str, step: int) -> None:
        super().__init__(what)
        self.step = step


@final
@dataclass(frozen=True, eq=False)
class Observed:
    """The trajectory of a submission.

    Attributes:
        trajectory: its parameters after each step; NaN after an arithmetic error.
        raised_at: the step that raised that error, or 0.
        error: that error.
    """

    trajectory: Trajectory
    raised_at: int = 0
    error: str = ""


def observe(subject: Subject, scenario: Scenario, dtype: str = "float64") -> Observed:
    """Run the submission through one scenario, with parameters of this dtype.

    Raises:
        NotOfferedError: the submission lacks the setting or ability that the scenario tests.
        FailureError: the submission raised an error, of whatever kind.
    """
    rows = np.full((scenario.steps + 1, scenario.start.size), np.nan)
    rows[0] = scenario.start
    step = 0
    try:
        # NaN and infinity are judged by the trajectory, not by warnings.
        with np.errstate(all="ignore"):
            session = subject.start(scenario, dtype)
            rows[0] = flat(session.values())
            for step, gradients in enumerate(scenario.gradients, 1):
                if step in scenario.rates:
                    session.set_rate(scenario.rates[step])
                if step == scenario.reload_at:
                    session.reload()
                session.step(None if scenario.keeps_gradients and step > 1 else gradients)
                after = flat(session.values())
                if after.size != rows.shape[1]:
                    raise FailureError(f"step {step} changed the parameters' shapes", step)
                rows[step] = after
    except (NotOfferedError, FailureError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a submission may raise SystemExit
        what = describe_error(error)
        if step and isinstance(error, _NOT_A_NUMBER):
            return Observed(rows, step, what)
        if step == 0 and scenario.needs and isinstance(error, _REFUSALS):
            raise NotOfferedError(f"it refuses: {what}") from error
        raise FailureError(what, step) from error
    return Observed(rows)


def describe_error(error: BaseException) -> str:
    """Return the error in one line, with the last line of code that is neither gradstep's nor a library's."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if isinstance(error, SubmissionError):
        return printable(text)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_submission(f.filename)]
    where = f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    return printable(f"{type(error).__name__}{': ' + text if text else ''}{where}")


def _is_submission(filename: str) -> bool:
    path = Path(filename)
    return path.suffix == ".py" and _HERE not in path.parents and "site-packages" not in path.parts


def fit_scenarios(
    scenarios: tuple[Scenario, ...], subject: Subject, rule: type[Rule], fixed: Mapping[str, Any]
) -> Iterator[tuple[Scenario, str]]:
    """Yield each scenario with the settings that the submission takes, and the reason to skip it, or "".

    Every setting is given explicitly, so that a submission's own defaults show only in the scenario that tests them.
    """
    defaults = shared_defaults(rule)
    offered = subject.arguments.offered
    for scenario in scenarios:
        missing = scenario.needs - offered
        reason = f"it takes no {' and no '.join(sorted(missing))}" if missing else _lacks(scenario, subject, fixed)
        if reason:
            yield scenario, reason
            continue
        settings = dict(scenario.settings) if scenario.defaults else {**defaults, **scenario.settings}
        settings = {name: value for name, value in settings.items() if name in offered}
        settings |= {name: value for name, value in fixed.items() if name in defaults}
        groups = tuple({n: v for n, v in own.items() if n in offered and n not in fixed} for own in scenario.groups)
        try:
            rule(**settings)
        except ValueError as refused:
            yield scenario, f"not with these settings: {refused}"
            continue
        yield replace(scenario, settings=settings, groups=groups), ""


def _lacks(scenario: Scenario, subject: Subject, fixed: Mapping[str, Any]) -> str:
    """Return the ability that the scenario needs and the submission lacks, as a reason to skip it, or ""."""
    if scenario.rates and ("rates" not in subject.abilities or "lr" in fixed):
        return "its learning rate is fixed"
    if scenario.groups and "groups" not in subject.abilities:
        return "it has no parameter groups"
    if scenario.reload_at and "reload" not in subject.abilities:
        return "it has no state_dict"
    return ""
