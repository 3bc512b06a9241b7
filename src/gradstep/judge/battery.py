"""The scenarios that a rule's submissions are put through, made from the rule's own settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from gradstep.judge.scenario import Gradients, Scenario, Values
from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of

LR = 0.05
DECAY = 0.3
SHAPE = (2, 3)

_QUICK = {"betas": (0.6, 0.8), "alpha": 0.7, "rho": 0.7, "beta2_decay": -0.5}
"""Averages that forget fast, so that each step's part in them shows."""

_LARGE_EPS = {"eps": 0.1}

_ON: Mapping[str, Any] = {
    "momentum": 0.9,
    "dampening": 0.3,
    "momentum_decay": 0.1,
    "initial_accumulator_value": 0.5,
    "d": 1.5,
}
"""Away from the default, for a scenario about that setting; 0.2 for numbers that are not listed, True for flags."""

_EVERYWHERE = {"lr", "weight_decay", "eps", *_QUICK}
"""Settings that several scenarios are about already."""

_WITH: Mapping[str, tuple[str, ...]] = {"dampening": ("momentum",), "nesterov": ("momentum",)}
"""Settings that do nothing, or are refused, without another."""


@cache
def battery(rule: type[Rule]) -> tuple[Scenario, ...]:
    """Every scenario for a rule, the plainest first."""
    rng = np.random.default_rng(20)
    make = _Maker(rule, rng)
    wide = [10.0 ** rng.uniform(-4, 4, SHAPE) * rng.choice([-1, 1], SHAPE) for _ in range(10)]
    tiny = [10.0 ** rng.uniform(-12, -6, SHAPE) * rng.choice([-1, 1], SHAPE) for _ in range(16)]
    some = make.some
    none: Values | None = None
    zeros = np.zeros(SHAPE)
    full = make.on("momentum") | {"weight_decay": DECAY}
    spots = np.where(np.arange(6).reshape(SHAPE) % 2, 0.0, 1.0)
    skips: list[Gradients] = [
        (some(), none, some()),
        (none, some(), some()),
        (some(), some(), none),
        (none, none, some()),
        (some(), some(), some()),
    ]
    scenarios = [
        make("first step", "sign, size and the correction of the first step", {}, make.several(1)),
        make("averages", "averages and their corrections", _QUICK, make.several(6)),
        make("long averages", "the corrections at the rule's own settings", make.on("momentum"), make.several(12)),
        make("weight decay", "where the decay goes", {"weight_decay": DECAY}, make.several(4), needs=("weight_decay",)),
        make(
            "zero gradients",
            "decay and averages where the gradient is zero",
            full,
            [(some(), some()), (zeros, some() * spots), (some() * spots, zeros), (zeros, zeros), (some(), some())],
        ),
        make("no gradient yet", "0 / 0, and a first gradient of zero", {}, [(zeros, zeros), (some(), zeros)]),
        make("tiny gradients", "ε: its place and its size", {}, list(zip(tiny[:8], tiny[8:]))),
        make("large epsilon", "ε: its place, and whether it is a setting", _LARGE_EPS | _QUICK, make.several(9)),
        make(
            "large rate",
            "the learning rate where it is limited, and its part in the decay",
            full | {"lr": 2.0},
            make.several(5),
        ),
        make("mixed scales", "gradients from 1e-4 to 1e4", full, [*zip(wide[:5], wide[5:]), *_jumps()]),
        make("fifty steps", "errors that grow slowly", full, make.several(50)),
        make(
            "rate changed",
            "a learning rate set in mid-run",
            full,
            make.several(7),
            rates={3: 10 * LR, 5: 0.0, 6: LR / 5},
            needs=("lr",),
        ),
        make("skipped", "parameters without gradient", full | _QUICK, skips),
        make(
            "groups",
            "groups with settings of their own",
            full,
            [(some(), some(), some()) for _ in range(4)],
            groups=({}, {"lr": LR / 4, "weight_decay": DECAY / 3}, {"lr": 2 * LR}),
        ),
        make("saved", "state saved and restored in mid-run", full, make.several(8), reload_at=4),
        make(
            "shapes",
            "numbers without dimensions, vectors, three dimensions, strided memory",
            full,
            make.odd(4),
            strided=True,
        ),
        make("kept gradient", "the gradient left in place", full, make.several(1) * 4, kept=True),
    ]
    for name in make.on("dampening", "lr_decay"):
        settings = full | make.on(name)
        scenarios.append(make(f"{name} skipped", "the count of steps", settings, skips, needs=(name,)))
        scenarios.append(
            make(f"{name} saved", "the count of steps", settings, make.several(8), reload_at=4, needs=(name,))
        )
    scenarios += [make.option(name) for name in make.options]
    scenarios.append(make("defaults", "the constructor's defaults", {}, make.several(4), defaults=True))
    return tuple(s for s in scenarios if "lr" in make.fields or not s.rates)  # without a rate none can be changed


def _jumps() -> list[Gradients]:
    """Large gradients, each followed by a small one the other way: what limits the large ones turns the next step."""
    rng = np.random.default_rng(5)
    found: list[Gradients] = []
    for _ in range(3):
        large = [rng.uniform(20, 80, SHAPE) * rng.choice([-1, 1], SHAPE) for _ in range(2)]
        found += [(large[0], large[1]), (-large[0] / 20, -large[1] / 10)]
    return found


class _Maker:
    """Makes scenarios of the settings that the rule has."""

    def __init__(self, rule: type[Rule], rng: np.random.Generator) -> None:
        self.rule, self.rng = rule, rng
        self.fields = {f.name: f.default for f in shared_settings_of(rule)}
        # The settings that get a scenario of their own.
        self.options = [name for name in self.fields if name not in _EVERYWHERE]

    def __call__(
        self,
        name: str,
        shows: str,
        settings: Mapping[str, Any],
        gradients: Sequence[Gradients],
        *,
        needs: Sequence[str] = (),
        defaults: bool = False,
        **more: Any,
    ) -> Scenario:
        rate = {"lr": LR} if "lr" in self.fields else {}
        base = {"eps": (1e-7, 1e-3)} if isinstance(self.fields.get("eps"), tuple) else {}
        if isinstance(self.fields.get("eps"), tuple) and "eps" in settings:
            settings = {**settings, "eps": (0.3, 0.5)}
        given = rate if defaults else base | rate | {"weight_decay": 0.0} | dict(settings)
        initial = tuple(self.rng.normal(size=g.shape) for g in _first(gradients))
        return Scenario(
            name,
            shows,
            self.known(given),
            initial,
            tuple(gradients),
            needs=frozenset(needs) & self.fields.keys(),
            defaults=defaults,
            **more,
        )

    def known(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in settings.items() if name in self.fields}

    def on(self, *names: str) -> dict[str, Any]:
        return {n: True if self.fields[n] is False else _ON.get(n, 0.2) for n in names if n in self.fields}

    def option(self, name: str) -> Scenario:
        """A setting away from its default; gradients grow and shrink, so that maxima and bounds show."""
        settings = self.on(name, *_WITH.get(name, ())) | {"weight_decay": DECAY} | _QUICK
        gradients = [(self.some() * size, self.some() * size) for size in (1.0, 0.5, 0.1, 8.0, 2.0, 0.3, 0.1)]
        return self(name, f"the option {name}", settings, gradients, needs=(name,))

    def some(self) -> Values:
        return self.rng.normal(0.3, 1.0, SHAPE)

    def several(self, steps: int) -> list[Gradients]:
        return [(self.some(), self.some()) for _ in range(steps)]

    def odd(self, steps: int) -> list[Gradients]:
        shapes: tuple[tuple[int, ...], ...] = ((), (4,), (3, 2), (2, 1, 3))
        return [tuple(np.asarray(self.rng.normal(size=shape)) for shape in shapes) for _ in range(steps)]


def _first(gradients: Sequence[Gradients]) -> list[Values]:
    """The first gradient of each parameter: for its shape."""
    return [next(g for g in column if g is not None) for column in zip(*gradients)]
