"""A submission behind one interface: its arguments, its runs through scenarios, and the errors that it raises."""

from __future__ import annotations

import inspect
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, final

import numpy as np

from gradstep.judge.scenario import Gradients, Scenario, Trajectory, Values, flat, shared_defaults
from gradstep.judge.verdict import printable
from gradstep.rules import Rule

ALIASES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "lr": (("learning_rate",), ("step_size",), ("eta",), ("lrate",), ("alpha",)),
    "betas": (("beta1", "beta2"), ("beta_1", "beta_2"), ("b1", "b2"), ("rho1", "rho2")),
    "eps": (("epsilon",), ("eps1", "eps2"), ("e",)),
    "weight_decay": (("wd",), ("decay",), ("weight_decay_rate",)),
    "momentum": (("mu",), ("beta",)),
    "alpha": (("rho",), ("beta",), ("decay_rate",), ("beta2",)),
    "rho": (("alpha",), ("decay_rate",)),
    "d": (("clip_threshold",), ("clipping_threshold",)),
    "beta2_decay": (("decay_rate",),),
}
"""Other names for a setting; two names stand for the two numbers of a pair."""


@final
@dataclass(frozen=True)
class Arguments:
    """The settings that a submission takes, and their names there."""

    # the submission's own name (or two, for the numbers of a pair) by the rule's name
    names: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...] = ()  # required arguments that match no setting of the rule
    open: frozenset[str] = frozenset()  # settings of ``names`` that its ``**keywords`` may accept or refuse
    defaults: tuple[tuple[str, Any], ...] = ()  # the submission's own defaults, by the rule's names

    @property
    def offered(self) -> frozenset[str]:
        """The rule's settings that the submission takes."""
        return frozenset(self.names)

    def without(self, settings: frozenset[str]) -> Arguments:
        """Return a copy without settings that the submission has refused."""
        names = {name: used for name, used in self.names.items() if name not in settings}
        return replace(self, names=names, open=self.open - settings)

    def named(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings by the submission's own names, without those that it does not take."""
        keywords: dict[str, Any] = {}
        for setting, value in settings.items():
            own = self.names.get(setting, ())
            keywords |= dict(zip(own, value)) if len(own) == 2 else dict.fromkeys(own, value)
        return keywords


def arguments_of(make: Callable[..., Any], rule: type[Rule], *, skip: int, extra: Mapping[str, Any]) -> Arguments:
    """Return the arguments of a class, factory or function after the first ``skip``, which are not settings."""
    fields = shared_defaults(rule)
    try:
        parameters = _parameters(make)
    except (TypeError, ValueError):
        return Arguments({name: (name,) for name in fields})
    places = [p for p in parameters if _is_named(p)][skip:]
    own = {p.name: p.default for p in places}
    # A flag and a number with the same name are different settings.
    names = match_names(rule, own, lambda name, setting: _are_alike(own[name], fields[setting]))
    unseen: frozenset[str] = frozenset()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        unseen = frozenset(fields) - names.keys()
        names = {name: names.get(name, (name,)) for name in fields}
    matched = {n for used in names.values() for n in used} | extra.keys()
    unknown = tuple(p.name for p in places if p.default is p.empty and p.name not in matched)
    values = {name: default for name, default in own.items() if default is not inspect.Parameter.empty}
    return Arguments(names, unknown, unseen, collect_defaults(names, values))


def match_names(
    rule: type[Rule], own: Collection[str], suits: Callable[[str, str], bool] = lambda name, setting: True
) -> dict[str, tuple[str, ...]]:
    """Return the submission's own name (or two, for a pair) for each of the rule's settings that it has.

    ``suits`` says whether one of its names, ``own``, can stand for one of the rule's settings.
    """
    fields = shared_defaults(rule)
    names: dict[str, tuple[str, ...]] = {}
    for setting in fields:
        free = set(own) - {n for used in names.values() for n in used}
        aliases = (alias for alias in ALIASES.get(setting, ()) if fields.keys().isdisjoint(alias))
        for alias in ((setting,), *aliases):
            if free.issuperset(alias) and all(suits(name, setting) for name in alias):
                names[setting] = alias
                break
    return names


def collect_defaults(names: Mapping[str, tuple[str, ...]], values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the submission's defaults by the rule's names, from their ``values`` by its own names."""
    return tuple(
        (setting, tuple(values[n] for n in used) if len(used) == 2 else values[used[0]])
        for setting, used in names.items()
        if all(n in values for n in used)
    )


def _parameters(make: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a callable; of a class that takes ``**keywords``, also those of its bases."""
    parameters = list(inspect.signature(make).parameters.values())
    if not isinstance(make, type) or not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return parameters
    seen = {p.name for p in parameters}
    for base in make.__mro__[1:]:
        own = vars(base).get("__init__")
        if not inspect.isfunction(own) or base.__module__.partition(".")[0] == "torch":
            continue
        further = list(inspect.signature(own).parameters.values())[1:]
        parameters += [p.replace(kind=p.KEYWORD_ONLY) for p in further if p.name not in seen and _is_named(p)]
        seen |= {p.name for p in further}
        if not any(p.kind is p.VAR_KEYWORD for p in further):
            return [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    return parameters


def _is_named(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _are_alike(own: Any, default: Any) -> bool:
    return own is inspect.Parameter.empty or isinstance(own, bool) == isinstance(default, bool)


Kind: TypeAlias = Literal["torch", "numpy", "function", "update"]


class NotOfferedError(Exception):
    """The submission has no such setting or ability; scenarios that need it are skipped."""


class SubmissionError(Exception):
    """The submission breaks the interface; the message says what it did and what is expected."""


def array_for(values: Values, dtype: str, *, tensors: bool) -> Any:
    """Return a copy of the values as a submission receives them: a NumPy array, or a tensor of torch.

    >>> array_for(np.array([1.0, 2.0]), "float32", tensors=False)
    array([1., 2.], dtype=float32)
    """
    array = np.array(values, dtype=dtype)
    if not tensors:
        return array
    import torch

    return torch.from_numpy(array)


class Session(ABC):
    """One optimizer with the parameters of one scenario."""

    @abstractmethod
    def step(self, gradients: Gradients | None) -> None:
        """Take one step along these gradients; None leaves the last step's gradients in place."""

    @abstractmethod
    def values(self) -> list[Values]:
        """Return the current parameters, float64 arrays."""

    @abstractmethod
    def set_rate(self, lr: float) -> None:
        """Set the learning rate as a schedule does."""

    @abstractmethod
    def reload(self) -> None:
        """Save the state and load it into a new optimizer of the same parameters."""


@dataclass(frozen=True)
class Subject(ABC):
    """A submission of one form."""

    kind: ClassVar[Kind]  # its form
    make: Any  # the class, factory or function
    arguments: Arguments  # the settings it takes
    extra: dict[str, Any]  # arguments that are no settings of the rule; it always receives them

    @property
    @abstractmethod
    def abilities(self) -> frozenset[str]:
        """Those of ``groups``, ``reload`` and ``rates`` that this form can have."""

    @abstractmethod
    def start(self, scenario: Scenario, dtype: str) -> Session:
        """Make an optimizer over the scenario's parameters, in a dtype by its name."""

    def keywords(self, scenario: Scenario) -> dict[str, Any]:
        """Return the settings of the scenario as this submission's own arguments."""
        return {**self.arguments.named(scenario.settings), **self.extra}


_NOT_A_NUMBER = (ZeroDivisionError, OverflowError, FloatingPointError)

# Errors with which a constructor refuses a setting that it does not offer. In learners' code that is as often an
# unfinished branch or an assertion as a ValueError; none of them is a wrong step, so none counts as a mistake.
_REFUSALS = (TypeError, ValueError, NotImplementedError, AssertionError)

_HERE = Path(__file__).parents[1]


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
        yield _with_settings(scenario, settings, groups), ""


def _with_settings(scenario: Scenario, settings: Mapping[str, Any], groups: tuple[Mapping[str, Any], ...]) -> Scenario:
    """Return the scenario with these settings, the same object as before: results are kept by scenario."""
    try:
        return _scenario_with(scenario, _written_items(settings), tuple(map(_written_items, groups)))
    except TypeError:  # a value without hash, such as a list
        return replace(scenario, settings=settings, groups=groups)


@lru_cache(maxsize=2048)
def _scenario_with(scenario: Scenario, settings: _WrittenItems, groups: tuple[_WrittenItems, ...]) -> Scenario:
    values, *own = ({name: value for name, _, value in items} for items in (settings, *groups))
    return replace(scenario, settings=values, groups=tuple(own))


_WrittenItems: TypeAlias = tuple[tuple[str, str, Any], ...]
"""Settings with their values as written: a submission may tell 1 from True, which are equal."""


def _written_items(settings: Mapping[str, Any]) -> _WrittenItems:
    return tuple((name, repr(value), value) for name, value in settings.items())


def _lacks(scenario: Scenario, subject: Subject, fixed: Mapping[str, Any]) -> str:
    """Return the ability that the scenario needs and the submission lacks, as a reason to skip it, or ""."""
    if scenario.rates and ("rates" not in subject.abilities or "lr" in fixed):
        return "its learning rate is fixed"
    if scenario.groups and "groups" not in subject.abilities:
        return "it has no parameter groups"
    if scenario.reload_at and "reload" not in subject.abilities:
        return "it has no state_dict"
    return ""


@contextmanager
def fresh_defaults() -> Iterator[None]:
    """Make torch's new tensors float32 and on the CPU inside, whatever defaults have been set; does not load torch.

    >>> import torch
    >>> torch.set_default_dtype(torch.float64)
    >>> with fresh_defaults():
    ...     torch.zeros(1).dtype
    torch.float32
    >>> torch.zeros(1).dtype
    torch.float64
    >>> torch.set_default_dtype(torch.float32)
    """
    if "torch" not in sys.modules:
        yield
        return
    import torch

    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        if torch.get_default_device().type == "cpu":
            yield
        else:
            with torch.device("cpu"):
                yield
    finally:
        torch.set_default_dtype(dtype)
