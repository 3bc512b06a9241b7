"""A submission run through scenarios: what it did, or how it failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from gradstep.judge.scenario import Scenario, Trajectory, flat
from gradstep.judge.subjects.base import NotOfferedError, Subject, SubmissionError
from gradstep.judge.verdict import printable
from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of

_NOT_A_NUMBER = (ZeroDivisionError, OverflowError, FloatingPointError)
# What a constructor says no with to a setting that it does not offer. Among learners' code that is as often an
# unfinished branch or an assertion as a ValueError; none of them is a wrong step, so none counts as a mistake.
_REFUSALS = (TypeError, ValueError, NotImplementedError, AssertionError)
_HERE = Path(__file__).parent


@final
@dataclass(frozen=True)
class Failure:
    """The submission raised.

    Attributes:
        what: the error in one line, with the line of the submission where it arose.
        step: the step that it arose in; 0 for the constructor.
    """

    what: str
    step: int


@final
@dataclass(frozen=True)
class NotOffered:
    """The submission does not have what the scenario is about."""

    what: str


@final
@dataclass(frozen=True, eq=False)
class Observed:
    """Where the submission's parameters went.

    Attributes:
        trajectory: NaN from an error of arithmetic on.
        raised_at: the step that raised it, or 0.
        told: the error.
    """

    trajectory: Trajectory
    raised_at: int = 0
    told: str = ""


Observation = Observed | Failure | NotOffered


def observe(subject: Subject, scenario: Scenario, dtype: str = "float64") -> Observation:
    """One scenario, with everything that the submission may throw caught."""
    rows = np.full((scenario.steps + 1, scenario.start.size), np.nan)
    rows[0] = scenario.start
    step = 0
    try:
        # NaN and infinity are judged where they arrive, not where they arise.
        with np.errstate(all="ignore"):
            session = subject.start(scenario, dtype)
            rows[0] = flat(session.values())
            for step, gradients in enumerate(scenario.gradients, 1):
                if step in scenario.rates:
                    session.set_rate(scenario.rates[step])
                if step == scenario.reload_at:
                    session.reload()
                session.step(None if scenario.kept and step > 1 else gradients)
                after = flat(session.values())
                if after.size != rows.shape[1]:
                    return Failure(f"step {step} changed the parameters' shapes", step)
                rows[step] = after
    except NotOfferedError as lacking:
        return NotOffered(str(lacking))
    except _NOT_A_NUMBER as error:
        return Observed(rows, step, said(error)) if step else Failure(said(error), 0)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a submission may raise SystemExit
        if step == 0 and scenario.needs and isinstance(error, _REFUSALS):
            return NotOffered(f"it refuses: {said(error)}")
        return Failure(said(error), step)
    return Observed(rows)


def said(error: BaseException) -> str:
    """The error in one line, with the last line of code that is not gradstep's own nor a library's."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if isinstance(error, SubmissionError):
        return printable(text)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _own(f.filename)]
    where = f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    return printable(f"{type(error).__name__}{': ' + text if text else ''}{where}")


def _own(filename: str) -> bool:
    path = Path(filename)
    return path.suffix == ".py" and _HERE not in path.parents and "site-packages" not in path.parts


def fitted(
    scenarios: tuple[Scenario, ...], subject: Subject, rule: type[Rule], fixed: Mapping[str, Any]
) -> Iterator[tuple[Scenario, str]]:
    """Each scenario in the settings that the submission takes, and why it is left out, or "".

    Every setting is given explicitly, the rule's default too, so that other defaults than the rule's show in the
    scenario that is about them and nowhere else.
    """
    defaults = {f.name: f.default for f in shared_settings_of(rule)}
    offered = subject.arguments.offered
    for scenario in scenarios:
        missing = scenario.needs - offered
        ability = _lacks(scenario, subject, fixed)
        if missing:
            yield scenario, f"it takes no {' and no '.join(sorted(missing))}"
            continue
        if ability:
            yield scenario, ability
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
    if scenario.rates and ("rates" not in subject.abilities or "lr" in fixed):
        return "its learning rate is fixed"
    if scenario.groups and "groups" not in subject.abilities:
        return "it has no parameter groups"
    if scenario.reload_at and "reload" not in subject.abilities:
        return "it has no state_dict"
    return ""
