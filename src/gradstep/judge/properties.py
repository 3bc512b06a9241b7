"""What any optimizer must do beside the mathematics, whatever its form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from gradstep.judge.battery import LR, battery
from gradstep.judge.compare import distance, tolerance
from gradstep.judge.formula import true_formula
from gradstep.judge.observe import Failure, NotOffered, Observed, fitted, observe, said
from gradstep.judge.replay import Run
from gradstep.judge.scenario import Scenario, Trajectory
from gradstep.judge.subjects.base import NotOfferedError, Subject
from gradstep.judge.verdict import Outcome, Probe
from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of

STEPS_TO_CONVERGE = 150
DTYPE_SCENARIOS = ("first step", "averages", "weight decay", "tiny gradients", "fifty steps")


@final
@dataclass(frozen=True)
class Context:
    """What a property is examined on.

    Attributes:
        subject: the submission.
        rule: what it should compute.
        fixed: settings held fixed.
        agrees: whether its trajectories agreed with some accepted form of the rule in every scenario.
    """

    subject: Subject
    rule: type[Rule]
    fixed: Mapping[str, Any]
    agrees: bool

    def scenario(self, name: str) -> Scenario:
        """A scenario of the battery in the submission's settings.

        Raises:
            NotOfferedError: the submission cannot run it.
        """
        for scenario, lacking in fitted(battery(self.rule), self.subject, self.rule, self.fixed):
            if scenario.name == name:
                if lacking:
                    raise NotOfferedError(lacking)
                return scenario
        raise NotOfferedError(f"{self.rule.__name__} has no scenario {name!r}")

    def run(self, scenario: Scenario, dtype: str = "float64") -> Trajectory:
        """Where the submission goes in it.

        Raises:
            NotOfferedError: it cannot run it.
            RuntimeError: it failed.
        """
        seen = observe(self.subject, scenario, dtype)
        if isinstance(seen, NotOffered):
            raise NotOfferedError(seen.what)
        if isinstance(seen, Failure):
            raise RuntimeError(seen.what)
        if seen.raised_at:
            raise RuntimeError(seen.told)
        return seen.trajectory


@final
@dataclass(frozen=True)
class Property:
    """Something that must hold.

    Attributes:
        name: in one to three words.
        shows: what it is about.
        look_for: what to look for in the code where it does not hold.
        examine: returns what is wrong, or "".
        essential: whether its absence is a failure, or only worth a word.
    """

    name: str
    shows: str
    look_for: str
    examine: Callable[[Context], str]
    essential: bool = True

    def probe(self, context: Context) -> Probe:
        """The property examined, with everything that the submission may throw caught."""
        try:
            # NaN and infinity are judged by what comes out.
            with np.errstate(all="ignore"):
                wrong = self.examine(context)
        except NotOfferedError as lacking:
            return Probe(self.name, self.shows, Outcome.SKIPPED, str(lacking))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a submission may raise SystemExit
            wrong = str(error) if type(error) is RuntimeError else said(error)
        bad = Outcome.FAIL if self.essential else Outcome.ADVICE
        return Probe(self.name, self.shows, bad if wrong else Outcome.PASS, wrong, self.look_for)


def _determinism(context: Context) -> str:
    scenario = context.scenario("averages")
    one, two = context.run(scenario), context.run(scenario)
    return "" if np.array_equal(one, two, equal_nan=True) else "two runs with the same gradients differ"


def _order(context: Context) -> str:
    scenario = context.scenario("averages")
    turned = replace(scenario, initial=scenario.initial[::-1], gradients=tuple(g[::-1] for g in scenario.gradients))
    one, two = context.run(scenario), context.run(turned)
    half = scenario.initial[0].size
    same = _near(one, np.roll(two, half, axis=1), scenario)
    return "" if same else "the same parameters in another order end elsewhere"


def _split(context: Context) -> str:
    if not context.rule.elementwise:
        raise NotOfferedError(f"{context.rule.__name__} looks at whole parameters")
    scenario = context.scenario("averages")
    rows = replace(
        scenario,
        initial=tuple(row for p in scenario.initial for row in p),
        gradients=tuple(tuple(row for g in step if g is not None for row in g) for step in scenario.gradients),
    )
    same = _near(context.run(scenario), context.run(rows), scenario)
    return "" if same else "the same numbers in other tensors end elsewhere"


def _near(one: Trajectory, two: Trajectory, scenario: Scenario) -> bool:
    return distance(two, one) <= tolerance("float32", scenario.steps)


def _float32(context: Context) -> str:
    """Compared with the submission's own float64: that it computes the rule is judged elsewhere."""
    for name in DTYPE_SCENARIOS:
        try:
            scenario = context.scenario(name)
        except NotOfferedError:
            continue
        exact = observe(context.subject, scenario)
        if not isinstance(exact, Observed):
            continue
        apart = distance(context.run(scenario, "float32"), exact.trajectory)
        # Inputs are rounded too, and for centered variances and the like rounding is magnified.
        if not apart <= 4 * tolerance("float32", scenario.steps):
            return f"float32 is {apart:.0e} away from float64 in the scenario {name!r}"
    return ""


def _convergence(context: Context) -> str:
    given = {"lr": LR, "momentum": 0.5, **context.fixed}
    known = {f.name for f in shared_settings_of(context.rule)} & context.subject.arguments.offered
    settings = {name: value for name, value in given.items() if name in known}
    start = (np.linspace(-1, 1, 7) + 0.1,)
    slope = np.linspace(0.5, 4.0, 7)
    scenario = Scenario("convergence", "", settings, start, ((start[0] * slope,),))
    reference = Run(true_formula(context.rule), replace(scenario, settings=settings | _baked_in(context)))
    true = start[0]
    for step in range(1, STEPS_TO_CONVERGE + 1):
        true = reference.step(step, (true * slope,))
    best, first = (float(np.sum(slope * x * x) / 2) for x in (true, start[0]))
    if not best <= first:
        ends = f"goes from {first:.3g} to {best:.3g}" if np.isfinite(best) else f"leaves {first:.3g} for infinity"
        raise NotOfferedError(f"the rule itself diverges: by its formula in float64 the quadratic {ends}")
    session = context.subject.start(scenario, "float64")
    for _ in range(STEPS_TO_CONVERGE):
        session.step((session.values()[0] * slope,))
    end = session.values()[0]
    loss = float(np.sum(slope * end * end) / 2)
    if np.isfinite(loss) and loss <= max(2 * best, 0.01 * first):
        return ""
    way = "falls" if loss < first else "goes"
    return f"a quadratic {way} from {first:.3g} to {loss:.3g} in {STEPS_TO_CONVERGE} steps; the rule reaches {best:.3g}"


def _baked_in(context: Context) -> dict[str, Any]:
    known = {f.name for f in shared_settings_of(context.rule)}
    return {name: value for name, value in context.fixed.items() if name in known}


_BAD: tuple[tuple[str, Any], ...] = (
    *((name, -1.0) for name in ("lr", "eps", "weight_decay", "momentum", "alpha", "rho", "lr_decay")),
    ("betas", (1.0, 0.999)),
    ("betas", (0.9, -0.5)),
)


def _bad_settings(context: Context) -> str:
    known = {f.name for f in shared_settings_of(context.rule)} & context.subject.arguments.offered
    plain = context.scenario("first step")
    taken = []
    for name, value in _BAD:
        if name not in known or name in context.fixed or _allowed(context.rule, name, value):
            continue
        try:
            context.subject.start(replace(plain, settings={**plain.settings, name: value}), "float64")
        except Exception:
            continue
        taken.append(f"{name}={value}")
    return f"taken without a word: {', '.join(taken)}" if taken else ""


def _allowed(rule: type[Rule], name: str, value: Any) -> bool:
    try:
        rule(**{name: value})
    except (ValueError, TypeError):
        return False
    return True


def _empty(context: Context) -> str:
    plain = context.scenario("averages")
    none = np.zeros((0,))
    gradients = tuple((*g, none) for g in plain.gradients)
    context.run(replace(plain, initial=(*plain.initial, none), gradients=gradients))
    return ""


PROPERTIES = (
    Property("determinism", "the same twice", "random numbers, or state kept outside the optimizer", _determinism),
    Property("order", "the order of the parameters", "state that goes from one parameter to the next", _order),
    Property(
        "split", "how numbers are shared out to tensors", "a norm, a mean or a state over more than one element", _split
    ),
    Property("float32", "float32 as good as float64", "constants such as 1 - beta2 computed in float32", _float32),
    Property("convergence", "a quadratic's minimum", "the sign and the size of the step", _convergence),
    Property("empty", "a parameter without elements", "a division by the number of elements", _empty, essential=False),
)

SETTINGS = Property(
    "bad settings",
    "settings out of bounds are refused",
    "`raise ValueError` in the constructor, before anything is stored",
    _bad_settings,
    essential=False,
)
"""For everything that has a constructor."""
