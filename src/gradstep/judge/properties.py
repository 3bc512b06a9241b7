"""Properties that a submission must have beside the mathematics: one of any form, a NumPy optimizer, a function."""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, final

import numpy as np

from gradstep.judge.formula import Formula, FormulaRun
from gradstep.judge.scenario import (
    LR,
    ReferenceTrajectory,
    Scenario,
    Trajectory,
    battery,
    coarsest,
    fill_betas,
    shared_defaults,
    tolerance,
)
from gradstep.judge.subjects.detect import Gradient, NumpySubject, get_buffers
from gradstep.judge.subjects.functions import FunctionSubject
from gradstep.judge.subjects.subject import (
    FailureError,
    NotOfferedError,
    Subject,
    SubmissionError,
    array_for,
    describe_error,
    fit_scenarios,
    observe,
)
from gradstep.judge.verdict import Outcome, Probe
from gradstep.rules import Rule

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
        usual = {"lr": LR, "momentum": 0.9, "weight_decay": 0.1, "silent_sgd_phase": False, **self.fixed}
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
    # The rule also gets the fixed settings that are built into the submission.
    fixed = {name: value for name, value in context.fixed.items() if name in shared_defaults(context.rule)}
    reference = FormulaRun(Formula(context.rule), replace(scenario, settings=settings | fixed))
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
    for name, pair_or_number in _BAD:
        value = fill_betas(context.rule, {name: pair_or_number})[name]
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


def _make_optimizer(context: Context, dtype: str) -> tuple[Any, list[Any]]:
    """Return an optimizer over two parameters of shape (2, 3), and the parameters."""
    assert isinstance(context.subject, NumpySubject), "these are its properties"
    values = np.linspace(-1, 1.5, 6, dtype=dtype).reshape(2, 3)
    params = [context.subject.parameter(values.copy()) for _ in range(2)]
    return context.make(params), params


@as_property("gradient untouched", "p.grad belongs to the caller", "`grad += ...`, `grad *= ...`")
def _gradient(context: Context) -> str:
    optimizer, params = _make_optimizer(context, "float64")
    for _ in range(2):
        grads = [np.linspace(-2, 3, 6).reshape(2, 3).view(Gradient) for _ in params]
        copies = [g.copy() for g in grads]
        for p, g in zip(params, grads):
            p.grad = g
        optimizer.step()
        if not all(np.array_equal(g, c) for g, c in zip(grads, copies)):
            return "the numbers in p.grad change during the step"
    return ""


@as_property(
    "float32 kept", "a float32 parameter stays float32", "Python floats keep an array's type; `np.float64` does not"
)
def _dtype(context: Context) -> str:
    optimizer, params = _make_optimizer(context, "float32")
    for p in params:
        p.grad = np.ones((2, 3), dtype=np.float32).view(Gradient)
    optimizer.step()
    kind = np.asarray(params[0].data).dtype
    return "" if kind == np.float32 else f"a float32 parameter becomes {kind}"


@as_property("no gradients at all", "a step before any backward", "`if p.grad is None: continue`")
def _no_gradients(context: Context) -> str:
    optimizer, params = _make_optimizer(context, "float64")
    before = [np.array(p.data) for p in params]
    optimizer.step()
    return "" if all(np.array_equal(p.data, b) for p, b in zip(params, before)) else "parameters without gradient move"


def _take_two_steps(context: Context) -> tuple[Any, list[Any]]:
    """Return an optimizer after two steps, and its parameters."""
    optimizer, params = _make_optimizer(context, "float64")
    for scale in (1.0, -0.5):
        for p in params:
            p.grad = (scale * np.linspace(-2, 3, 6).reshape(2, 3)).view(Gradient)
        optimizer.step()
    return optimizer, params


@as_property("state copied", "get_momentum_state gives copies", "`[b.copy() for b in self.buffers]`")
def _state_copied(context: Context) -> str:
    ends = []
    for spoil in (False, True):
        optimizer, params = _take_two_steps(context)
        state = get_buffers(optimizer)
        if spoil:
            _overwrite(state)
        for p in params:
            p.grad = np.ones((2, 3)).view(Gradient)
        optimizer.step()
        ends.append([np.array(p.data) for p in params])
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*ends))
    return "" if same else "what get_momentum_state returns is the optimizer's own state, not a copy of it"


def _overwrite(state: Any) -> None:
    for item in state or ():
        for array in item if isinstance(item, (tuple, list)) else (item,):
            if isinstance(array, np.ndarray):
                array[...] = 99.0


@as_property(
    "state refused",
    "a state of other parameters is refused",
    "`if len(state) != len(self.params): raise ValueError` before anything is stored",
    essential=False,
)
def _state_refused(context: Context) -> str:
    optimizer, _ = _take_two_steps(context)
    state = deepcopy(get_buffers(optimizer))
    if not state:
        raise NotOfferedError("it keeps no buffers")
    try:
        optimizer.set_momentum_state(state[:1])
    except Exception:
        return ""
    return "set_momentum_state takes the state of one parameter for two"


@as_property(
    "step count", "step_count counts the steps", "`self.step_count += 1` once, at the end of step()", essential=False
)
def _step_count(context: Context) -> str:
    optimizer, _ = _take_two_steps(context)
    if "step_count" not in dir(optimizer):
        raise NotOfferedError("it has no step_count")
    return "" if optimizer.step_count == 2 else f"step_count is {optimizer.step_count} after two steps"


@as_property("pure", "the inputs are left alone", "`p -= ...`, `g *= ...`: take `p = p - ...`")
def _pure(context: Context) -> str:
    subject = context.subject
    if not isinstance(subject, FunctionSubject) or subject.takes_config:
        raise NotOfferedError("it is no function")
    p, g = np.linspace(-1, 1.5, 6), np.linspace(-2, 3, 6)
    arrays = tuple(array_for(x, "float64", tensors=subject.tensors) for x in (p, g))
    context.make(*arrays, {}, 1)
    if not np.array_equal(np.asarray(arrays[1]), g):
        return "the gradient changes during the step"
    return "" if np.array_equal(np.asarray(arrays[0]), p) else "the parameter given is changed beside the one returned"


NUMPY = (_gradient, _dtype, _no_gradients, _state_copied, _state_refused, _step_count)
"""For NumPy optimizers only."""

FUNCTION = (_pure,)
"""For functions only."""
