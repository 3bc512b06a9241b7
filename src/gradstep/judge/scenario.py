"""Scenarios: short training runs with fixed numbers; those of a rule; and how far apart two runs through them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of

Values: TypeAlias = NDArray[np.float64]

Gradients: TypeAlias = tuple["Values | None", ...]

Trajectory: TypeAlias = NDArray[np.float64]
"""Array of shape (steps + 1, elements of all parameters); row 0 is before the first step. NaN after an error."""


@final
@dataclass(frozen=True, eq=False)
class Scenario:
    """Parameters, their gradients at every step, and events between the steps."""

    name: str  # one to three words, for the report's table
    shows: str  # which faults it reveals
    settings: Mapping[str, Any]  # hyperparameters by the rule's names; the others have the rule's defaults
    initial: tuple[Values, ...]  # the parameters before the first step
    gradients: tuple[Gradients, ...]  # per step, a gradient for each parameter or None
    # settings without which the scenario shows nothing; it is skipped if the submission lacks them
    needs: frozenset[str] = frozenset()
    groups: tuple[Mapping[str, Any], ...] = ()  # each parameter's settings that differ; empty for one group of all
    rates: Mapping[int, float] = field(default_factory=dict)  # to set, by the number of the next step (the first is 1)
    reload_at: int = 0  # before this step the state moves through ``state_dict`` into a new optimizer; 0 for never
    keeps_gradients: bool = False  # the gradients of the first step stay in place and are not assigned again
    strided: bool = False  # parameters are not contiguous in memory
    defaults: bool = False  # the constructor receives no settings except the learning rate

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.gradients)

    def settings_of(self, parameter: int) -> dict[str, Any]:
        """Return the settings of one parameter, by its index, before any change of the rate."""
        return {**self.settings, **(self.groups[parameter] if self.groups else {})}

    @cached_property
    def start(self) -> Values:
        """Row 0 of the trajectory."""
        return flat(self.initial)

    def locate(self, column: int) -> tuple[int, tuple[int, ...]]:
        """Return the parameter and the index of its element that a column of the trajectory holds."""
        for parameter, values in enumerate(self.initial):
            if column < values.size:
                return parameter, tuple(int(i) for i in np.unravel_index(column, values.shape))
            column -= values.size
        raise IndexError(column)


def flat(values: tuple[Values, ...] | list[Values]) -> Values:
    """Return all elements of all arrays as one float64 vector."""
    return np.concatenate([np.asarray(v, dtype=np.float64).ravel() for v in values])


def shared_defaults(rule: type[Rule]) -> dict[str, Any]:
    """Return the defaults of the settings that the rule shares with torch's class of the same name, by name."""
    return {setting.name: setting.default for setting in shared_settings_of(rule)}


LR = 0.05

DECAY = 0.3

SHAPE = (2, 3)

QUICK = {"betas": (0.6, 0.8), "alpha": 0.7, "rho": 0.7, "beta2_decay": -0.5}
"""Decay rates of averages that forget fast, so that each step shows in them."""


def fill_betas(rule: type[Rule], settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with a third beta of 0.9 beside the two of :data:`QUICK`, where the rule has three."""
    count = len(shared_defaults(rule).get("betas", ()))
    if "betas" in settings and len(settings["betas"]) < count:
        return {**settings, "betas": (*settings["betas"], *(0.9,) * (count - len(settings["betas"])))}
    return settings


_AWAY: Mapping[str, Any] = {
    "t_alpha": 6,
    "t_beta3": 6,
    "warmup_steps": 6.0,
    "momentum": 0.9,
    "dampening": 0.3,
    "momentum_decay": 0.1,
    "initial_accumulator_value": 0.5,
    "d": 1.5,
    "t0": 3.0,
    "etas": (0.3, 1.5),
    "step_sizes": (0.01, 0.2),
    "ns_coefficients": (2.0, -1.5, 0.5),
    "ns_steps": 3,
    "adjust_lr_fn": "match_rms_adamw",
}
"""Values away from the defaults, for scenarios about one setting; 0.2 for other numbers, the other value for flags."""

_EVERYWHERE = {"lr", "weight_decay", "eps", *QUICK}
"""Settings that several scenarios test already."""

_REQUIRED: Mapping[str, tuple[str, ...]] = {"dampening": ("momentum",), "nesterov": ("momentum",)}
"""Settings that do nothing, or are refused, without another setting."""


@cache
def battery(rule: type[Rule]) -> tuple[Scenario, ...]:
    """Return every scenario for a rule, the plainest first."""
    rng = np.random.default_rng(20)
    make = _ScenarioMaker(rule, rng)
    wide = [10.0 ** rng.uniform(-4, 4, SHAPE) * rng.choice([-1, 1], SHAPE) for _ in range(10)]
    tiny = [10.0 ** rng.uniform(-12, -6, SHAPE) * rng.choice([-1, 1], SHAPE) for _ in range(16)]
    some = make.gradient
    zeros = np.zeros(SHAPE)
    full = make.settings_away("momentum") | {"weight_decay": DECAY}
    spots = np.where(np.arange(6).reshape(SHAPE) % 2, 0.0, 1.0)
    skips: list[Gradients] = [
        (some(), None, some()),
        (None, some(), some()),
        (some(), some(), None),
        (None, None, some()),
        (some(), some(), some()),
    ]
    scenarios = [
        make("first step", "sign, size and the correction of the first step", {}, make.gradients(1)),
        make("averages", "averages and their corrections", QUICK, make.gradients(6)),
        make(
            "long averages",
            "the corrections at the rule's own settings",
            make.settings_away("momentum"),
            make.gradients(12),
        ),
        make(
            "weight decay", "where the decay goes", {"weight_decay": DECAY}, make.gradients(4), needs=("weight_decay",)
        ),
        make(
            "zero gradients",
            "decay and averages where the gradient is zero",
            full,
            [(some(), some()), (zeros, some() * spots), (some() * spots, zeros), (zeros, zeros), (some(), some())],
        ),
        make("no gradient yet", "0 / 0, and a first gradient of zero", {}, [(zeros, zeros), (some(), zeros)]),
        make("tiny gradients", "ε: its place and its size", {}, list(zip(tiny[:8], tiny[8:]))),
        make("large epsilon", "ε: its place, and whether it is a setting", {"eps": 0.5} | QUICK, make.gradients(9)),
        make(
            "large rate",
            "the learning rate where it is limited, and its part in the decay",
            full | {"lr": 2.0},
            make.gradients(5),
        ),
        make("mixed scales", "gradients from 1e-4 to 1e4", full, [*zip(wide[:5], wide[5:]), *_jumps()]),
        make("fifty steps", "errors that grow slowly", full, make.gradients(50)),
        make(
            "rate changed",
            "a learning rate set in mid-run",
            full,
            make.gradients(7),
            rates={3: 10 * LR, 5: 0.0, 6: LR / 5},
            needs=("lr",),
        ),
        make("skipped", "parameters without gradient", full | QUICK, skips),
        make(
            "groups",
            "groups with settings of their own",
            full,
            [(some(), some(), some()) for _ in range(4)],
            groups=({}, {"lr": LR / 4, "weight_decay": DECAY / 3}, {"lr": 2 * LR}),
        ),
        make("saved", "state saved and restored in mid-run", full, make.gradients(8), reload_at=4),
        make(
            "shapes",
            "tall and wide matrices, strided memory"
            if rule.sees == "matrix"
            else "numbers without dimensions, vectors, three dimensions, strided memory",
            full,
            make.gradients_of_odd_shapes(4),
            strided=True,
        ),
        make("kept gradient", "the gradient left in place", full, make.gradients(1) * 4, keeps_gradients=True),
    ]
    for name in make.settings_away("dampening", "lr_decay", "t0", "warmup_steps"):
        settings = full | make.settings_away(name)
        scenarios.append(make(f"{name} skipped", "the count of steps", settings, skips, needs=(name,)))
        scenarios.append(
            make(f"{name} saved", "the count of steps", settings, make.gradients(8), reload_at=4, needs=(name,))
        )
    scenarios += [make.option(name) for name in make.options]
    scenarios.append(make("defaults", "the constructor's defaults", {}, make.gradients(4), defaults=True))
    return tuple(s for s in scenarios if "lr" in make.defaults or not s.rates)


def _jumps() -> list[Gradients]:
    """Return large gradients, each followed by a small opposite one: if large ones are limited, the next step turns."""
    rng = np.random.default_rng(5)
    steps: list[Gradients] = []
    for _ in range(3):
        large = [rng.uniform(20, 80, SHAPE) * rng.choice([-1, 1], SHAPE) for _ in range(2)]
        steps += [(large[0], large[1]), (-large[0] / 20, -large[1] / 10)]
    return steps


class _ScenarioMaker:
    """Makes scenarios with the settings that the rule has."""

    def __init__(self, rule: type[Rule], rng: np.random.Generator) -> None:
        self.rule, self.rng = rule, rng
        self.defaults = shared_defaults(rule)
        # Settings that get a scenario of their own.
        self.options = [name for name in self.defaults if name not in _EVERYWHERE]

    def __call__(
        self,
        name: str,
        shows: str,
        settings: Mapping[str, Any],
        gradients: Sequence[Gradients],
        *,
        needs: Sequence[str] = (),
        defaults: bool = False,
        groups: Sequence[Mapping[str, Any]] = (),
        **more: Any,
    ) -> Scenario:
        rate = {"lr": LR} if "lr" in self.defaults else {}
        base = {"eps": (1e-7, 1e-3)} if isinstance(self.defaults.get("eps"), tuple) else {}
        if isinstance(self.defaults.get("eps"), tuple) and "eps" in settings:
            settings = {**settings, "eps": (0.3, 0.5)}
        silent = {"silent_sgd_phase": len(gradients) > 5}  # schedule-free RAdam moves nothing in its first four steps
        values = rate if defaults else base | rate | silent | {"weight_decay": 0.0} | dict(settings)
        firsts = (next(g for g in column if g is not None) for column in zip(*gradients))
        initial = tuple(self.rng.normal(size=g.shape) for g in firsts)
        return Scenario(
            name,
            shows,
            self._known(values),
            initial,
            tuple(gradients),
            needs=frozenset(needs) & self.defaults.keys(),
            defaults=defaults,
            groups=tuple(map(self._known, groups)),
            **more,
        )

    def _known(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the settings that the rule has."""
        known = {name: value for name, value in settings.items() if name in self.defaults}
        return fill_betas(self.rule, known)

    def settings_away(self, *names: str) -> dict[str, Any]:
        own = [n for n in names if n in self.defaults]
        away = {n: not self.defaults[n] if isinstance(self.defaults[n], bool) else _AWAY.get(n, 0.2) for n in own}
        other: dict[str, Any] = {"adjust_lr_fn": "original"}
        return {n: other.get(n, 0.5) if value == self.defaults[n] else value for n, value in away.items()}

    def option(self, name: str) -> Scenario:
        """Make a scenario of one setting away from its default; its gradients grow and shrink to show bounds."""
        settings = self.settings_away(name, *_REQUIRED.get(name, ())) | {"weight_decay": DECAY} | QUICK
        turned = np.transpose if name == "adjust_lr_fn" else np.asarray  # its scale is another for tall matrices
        gradients = [(self.gradient() * k, turned(self.gradient() * k)) for k in (1.0, 0.5, 0.1, 8.0, 2.0, 0.3, 0.1)]
        return self(name, f"the option {name}", settings, gradients, needs=(name,))

    def gradient(self) -> Values:
        return self.rng.normal(0.3, 1.0, SHAPE)

    def gradients(self, steps: int) -> list[Gradients]:
        return [(self.gradient(), self.gradient()) for _ in range(steps)]

    def gradients_of_odd_shapes(self, steps: int) -> list[Gradients]:
        shapes = ((1, 4), (4, 1), (3, 2), (2, 5)) if self.rule.sees == "matrix" else ((), (4,), (3, 2), (2, 1, 3))
        return [tuple(np.asarray(self.rng.normal(size=shape)) for shape in shapes) for _ in range(steps)]


ROUNDING_BOUNDS = {"float64": 2.0**15, "float32": 2.0, "bfloat16": 4.0}
"""Units in the last place by which a step may be off.

Correct optimizers stay below one unit, unless their formula magnifies rounding: a corrected average kept as the state
loses 1 / (1 − β₂) units, a thousand. In float64 that is far below any mistake; float32 has no such room. Newton–Schulz
iterations in bfloat16 were up to 2.5 units off, where the two addends of a product are rounded each.
"""


def tolerance(dtype: str, steps: int) -> float:
    """Return the largest relative distance that rounding explains after a number of steps.

    Roundings of different steps go up as often as down, so they add up like a random walk.

    Args:
        dtype: the type that the submission computes in, a key of :data:`ROUNDING_BOUNDS`.
        steps: the number of steps, ≥ 0.

    >>> tolerance("float64", 1) < 1e-10, tolerance("float32", 1) < 1e-6
    (True, True)
    """
    eps = 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)
    return ROUNDING_BOUNDS[dtype] * eps * float(np.sqrt(1 + steps))


def coarsest(rule: type[Rule]) -> str:
    """Return the coarsest type that a submission may compute in: products of matrices are usually in bfloat16."""
    return "bfloat16" if rule.sees == "matrix" else "float32"


@final
class ReferenceTrajectory:
    """A trajectory from which the distances of others are measured.

    An element's distance is relative to its largest magnitude plus the length of its path so far, as its rounding is.

    Args:
        trajectory: the parameters at every step, one row for each.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        numbers = np.nan_to_num(trajectory, nan=0.0, posinf=0.0, neginf=0.0)
        with np.errstate(all="ignore"):
            path = np.abs(np.diff(numbers, axis=0, prepend=numbers[:1])).cumsum(axis=0)
            self._measure = np.maximum(np.maximum.accumulate(np.abs(numbers), axis=0) + path, np.finfo(np.float64).tiny)
        self._finite = np.isfinite(trajectory)
        self.trajectory = trajectory

    def distances(self, other: Trajectory) -> Values:
        """Return the relative distance of another trajectory at every step and element; it may end earlier.

        The distance is 0 where neither is finite, and infinite where only one is.
        """
        end = len(other)
        with np.errstate(all="ignore"):
            apart = np.abs(other - self.trajectory[:end]) / self._measure[:end]
        finite = np.isfinite(other)
        same = finite == self._finite[:end]
        return np.where(finite & same, apart, np.where(same, 0.0, np.inf))

    def distance(self, other: Trajectory) -> float:
        """Return the largest of the distances."""
        return float(self.distances(other).max(initial=0.0))


@final
@dataclass(frozen=True)
class Parting:
    """The place where two trajectories begin to differ.

    Attributes:
        scenario: name of the scenario.
        step: number of the first step after which they differ, from 1.
        parameter: index of the parameter, from 0.
        element: index of the element in the parameter.
        before: the element's value before that step, in the true trajectory.
        expected: its value after that step, in the true trajectory.
        got: its value after that step, in the submission.
    """

    scenario: str
    step: int
    parameter: int
    element: tuple[int, ...]
    before: float
    expected: float
    got: float

    def __str__(self) -> str:
        index = ", ".join(map(str, self.element))
        return (
            f"{self.compare_lengths()}; step {self.step}, parameter {self.parameter}, element [{index}]: "
            f"from {self.before:.10g} to {self.expected:.10g} expected, got {self.got:.10g}"
        )

    def compare_lengths(self) -> str:
        """Return in plain words how the element's move differs from the right one.

        >>> Parting("first step", 1, 0, (0,), before=1.0, expected=0.9, got=1.1).compare_lengths()
        'the step goes the wrong way'
        >>> Parting("first step", 1, 0, (0,), before=1.0, expected=0.9, got=0.99).compare_lengths()
        'the step is 0.1 times as long as it should be'
        """
        moved, right = self.got - self.before, self.expected - self.before
        if not np.isfinite(moved):
            return "the new weight is not finite"
        if moved == 0:
            return "the weight does not move"
        if right == 0:
            return "the weight moves and should not"
        ratio = moved / right
        if ratio < 0:
            return "the step goes the wrong way"
        if abs(ratio - 1) < 0.01:
            return f"the step is nearly right: its length is off by {abs(ratio - 1):.1g} of itself"
        return f"the step is {ratio:.3g} times as long as it should be"
