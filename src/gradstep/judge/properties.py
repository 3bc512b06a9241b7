"""Run a submission through scenarios, and test properties that one of any form must have beside the mathematics."""

import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np

from gradstep.judge.formula import Formula
from gradstep.judge.replay import FormulaRun, ReferenceTrajectory, coarsest, tolerance
from gradstep.judge.scenario import LR, Scenario, Trajectory, battery, flat, shared_defaults
from gradstep.judge.subjects.base import NotOfferedError, Subject, SubmissionError
from gradstep.judge.verdict import Outcome, Probe, printable
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
    """The trajectory of a submission."""

    trajectory: Trajectory  # its parameters after each step; NaN after an arithmetic error
    raised_at: int = 0  # the step that raised that error, or 0
    error: str = ""  # that error


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


Examine: TypeAlias = Callable[[Any], str]
STEPS_TO_CONVERGE = 150
DTYPE_SCENARIOS = ("first step", "averages", "weight decay", "tiny gradients", "fifty steps")


@final
@dataclass(frozen=True)
class Context:
    """The submission whose properties are tested, the rule that it should compute, and settings that stay fixed.

    ``agrees`` says whether its trajectories agree with an accepted form of the rule in every scenario.
    """

    subject: Subject
    rule: type[Rule]
    fixed: Mapping[str, Any]
    agrees: bool

    def scenario(self, name: str) -> Scenario:
        """Return a scenario of the battery with the settings that the submission takes.

        Raises:
            NotOfferedError: the submission cannot run it.
        """
        for scenario, reason in fit_scenarios(battery(self.rule), self.subject, self.rule, self.fixed):
            if scenario.name == name:
                if reason:
                    raise NotOfferedError(reason)
                return scenario
        raise NotOfferedError(f"{self.rule.__name__} has no scenario {name!r}")

    def make(self, *arguments: Any) -> Any:
        """Call the submission with these arguments and usual settings, as far as it takes them."""
        usual = {"lr": LR, "momentum": 0.9, "weight_decay": 0.1, **self.fixed}
        return self.subject.make(*arguments, **self.subject.arguments.named(usual), **self.subject.extra)

    def run(self, scenario: Scenario, dtype: str = "float64") -> Trajectory:
        """Return the submission's trajectory in a scenario, with parameters of this dtype.

        Raises:
            NotOfferedError: the submission cannot run it.
            SubmissionError: the submission raised an error.
        """
        result = observe(self.subject, scenario, dtype)
        if result.raised_at:
            raise SubmissionError(result.error)
        return result.trajectory


@final
@dataclass(frozen=True)
class Property:
    """A property that a submission must have."""

    name: str  # one to three words
    shows: str  # what it tests
    look_for: str  # what to look for in the code if it does not hold
    examine: Examine  # returns what is wrong with what it is given, such as a :class:`Context`, or ""
    essential: bool = True  # whether its absence is a failure; otherwise it is advice

    def probe(self, submission: Any) -> Probe:
        """Test the property, and catch everything that the submission raises."""
        try:
            # NaN and infinity are judged by the results, not by warnings.
            with np.errstate(all="ignore"):
                wrong = self.examine(submission)
        except NotOfferedError as error:
            return Probe(self.name, self.shows, Outcome.SKIPPED, str(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a submission may raise SystemExit
            wrong = describe_error(error)
        bad = Outcome.FAIL if self.essential else Outcome.ADVICE
        return Probe(self.name, self.shows, bad if wrong else Outcome.PASS, wrong, self.look_for)


def as_property(name: str, shows: str, look_for: str, *, essential: bool = True) -> Callable[[Examine], Property]:
    """Return a decorator that makes a property of the function that examines a submission."""
    return lambda examine: Property(name, shows, look_for, examine, essential)


@as_property("determinism", "the same result in two runs", "random numbers, or state kept outside the optimizer")
def _determinism(context: Context) -> str:
    scenario = context.scenario("averages")
    one, two = context.run(scenario), context.run(scenario)
    return "" if np.array_equal(one, two, equal_nan=True) else "two runs with the same gradients differ"


@as_property("order", "the order of the parameters", "state that goes from one parameter to the next")
def _order(context: Context) -> str:
    scenario = context.scenario("averages")
    reversed_ = replace(scenario, initial=scenario.initial[::-1], gradients=tuple(g[::-1] for g in scenario.gradients))
    one, two = context.run(scenario), context.run(reversed_)
    half = scenario.initial[0].size
    same = _are_near(one, np.roll(two, half, axis=1), scenario)
    return "" if same else "the same parameters in another order end elsewhere"


@as_property("split", "the same numbers in other tensors", "a norm, a mean or a state over more than one element")
def _split(context: Context) -> str:
    if context.rule.sees != "elements":
        raise NotOfferedError(f"{context.rule.__name__} looks at whole parameters")
    scenario = context.scenario("averages")
    rows = replace(
        scenario,
        initial=tuple(row for p in scenario.initial for row in p),
        gradients=tuple(tuple(row for g in step if g is not None for row in g) for step in scenario.gradients),
    )
    same = _are_near(context.run(scenario), context.run(rows), scenario)
    return "" if same else "the same numbers in other tensors end elsewhere"


def _are_near(one: Trajectory, two: Trajectory, scenario: Scenario) -> bool:
    return ReferenceTrajectory(one).distance(two) <= tolerance("float32", scenario.steps)


@as_property("float32", "float32 as good as float64", "constants such as 1 - beta2 computed in float32")
def _float32(context: Context) -> str:
    """Compare float32 with the submission's own float64; the scenarios test whether it computes the rule."""
    for name in DTYPE_SCENARIOS:
        try:
            scenario = context.scenario(name)
            exact = observe(context.subject, scenario)
        except (NotOfferedError, FailureError):
            continue
        apart = ReferenceTrajectory(exact.trajectory).distance(context.run(scenario, "float32"))
        # Inputs are rounded too, and centered variances, for example, magnify rounding.
        if not apart <= 4 * tolerance(coarsest(context.rule), scenario.steps):
            return f"float32 is {apart:.0e} away from float64 in the scenario {name!r}"
    return ""


@as_property("convergence", "a quadratic's minimum", "the sign and the size of the step")
def _convergence(context: Context) -> str:
    usual = {"lr": LR, "momentum": 0.5, **context.fixed}
    settings = {name: value for name, value in usual.items() if name in _offered(context)}
    shape = (2, 4) if context.rule.sees == "matrix" else (7,)
    start = (np.linspace(-1, 1, math.prod(shape)).reshape(shape) + 0.1,)
    slope = np.linspace(0.5, 4.0, start[0].size).reshape(shape)
    scenario = Scenario("convergence", "", settings, start, ((start[0] * slope,),))
    reference = FormulaRun(Formula(context.rule), replace(scenario, settings=settings | _fixed_settings(context)))
    true = start[0]
    for step in range(1, STEPS_TO_CONVERGE + 1):
        true = reference.step(step, (true * slope,)).reshape(shape)
    best, first = (float(np.sum(slope * x * x) / 2) for x in (true, start[0]))
    if not best <= first:
        ends = f"goes from {first:.3g} to {best:.3g}" if np.isfinite(best) else f"leaves {first:.3g} for infinity"
        raise NotOfferedError(f"the rule itself diverges: by its formula in float64 the quadratic {ends}")
    session = context.subject.start(scenario, "float64")
    for _ in range(STEPS_TO_CONVERGE):
        session.step((session.values()[0].reshape(shape) * slope,))
    end = session.values()[0].reshape(shape)
    loss = float(np.sum(slope * end * end) / 2)
    if np.isfinite(loss) and loss <= max(2 * best, 0.01 * first):
        return ""
    verb = "falls" if loss < first else "goes"
    return (
        f"a quadratic {verb} from {first:.3g} to {loss:.3g} in {STEPS_TO_CONVERGE} steps; the rule reaches {best:.3g}"
    )


def _offered(context: Context) -> set[str]:
    """Return the rule's settings that the submission takes."""
    return shared_defaults(context.rule).keys() & context.subject.arguments.offered


def _fixed_settings(context: Context) -> dict[str, Any]:
    """Return the fixed settings that the rule has, also those that are built into the submission."""
    return {name: value for name, value in context.fixed.items() if name in shared_defaults(context.rule)}


_BAD: tuple[tuple[str, Any], ...] = (
    *((name, -1.0) for name in ("lr", "eps", "weight_decay", "momentum", "alpha", "rho", "lr_decay")),
    ("betas", (1.0, 0.999)),
    ("betas", (0.9, -0.5)),
)


@as_property(
    "bad settings",
    "settings out of bounds are refused",
    "`raise ValueError` in the constructor, before anything is stored",
    essential=False,
)
def bad_settings(context: Context) -> str:
    """Return the settings out of bounds that the constructor takes; for forms with a constructor."""
    plain = context.scenario("first step")
    accepted = []
    for name, value in _BAD:
        if name not in _offered(context) or name in context.fixed or _is_allowed(context.rule, name, value):
            continue
        try:
            context.subject.start(replace(plain, settings={**plain.settings, name: value}), "float64")
        except Exception:
            continue
        accepted.append(f"{name}={value}")
    return f"taken without a word: {', '.join(accepted)}" if accepted else ""


def _is_allowed(rule: type[Rule], name: str, value: Any) -> bool:
    try:
        rule(**{name: value})
    except (ValueError, TypeError):
        return False
    return True


@as_property("empty", "a parameter without elements", "a division by the number of elements", essential=False)
def _empty(context: Context) -> str:
    plain = context.scenario("averages")
    none = np.zeros((0, 3) if context.rule.sees == "matrix" else (0,))
    gradients = tuple((*g, none) for g in plain.gradients)
    context.run(replace(plain, initial=(*plain.initial, none), gradients=gradients))
    return ""


PROPERTIES = (_determinism, _order, _split, _float32, _convergence, _empty)
