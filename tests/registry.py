"""Every optimizer with its valid option sets and its bad inputs: the table that drives the other tests."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import gradstep

Options = dict[str, Any]


@dataclass(frozen=True)
class Bad:
    """Settings that must be refused, and how."""

    settings: Options
    error: type[Exception]
    words: str

    @contextmanager
    def refused(self) -> Iterator[None]:
        """What is done in this context must raise the error; the failure says with which settings it did not."""
        with pytest.raises(self.error, match=self.words):  # noqa: PT012
            yield
            pytest.fail(f"{self.settings} was accepted")


@dataclass(frozen=True, repr=False)
class Subject:
    """One optimizer: option sets that change the mathematics, and settings that must be refused."""

    name: str
    options: tuple[Options, ...]
    bad: tuple[Bad, ...]

    def __repr__(self) -> str:
        return self.name

    @property
    def rule(self) -> Any:
        return gradstep.RULES[self.name]

    @property
    def optimizer(self) -> Any:
        return getattr(gradstep, self.name)

    @property
    def torch(self) -> Any:
        """Torch's class of the same name; None for Lion."""
        return getattr(torch.optim, self.name, None)


def _numbers(words: str, name: str, *outside: float) -> tuple[Bad, ...]:
    """A setting that is one number: out of its bounds, not finite, not a number."""
    return (
        *(Bad({name: x}, ValueError, f"Invalid {words}: {x}") for x in (*outside, math.nan, math.inf)),
        Bad({name: "big"}, TypeError, f"{name} must be a number"),
        Bad({name: None}, TypeError, f"{name} must be a number"),
        Bad({name: True}, TypeError, f"{name} must be a number"),
        Bad({name: [0.1]}, TypeError, f"{name} must be one number"),
        Bad({name: torch.ones(2)}, ValueError, f"{name} must be one number"),
    )


def _flags(*names: str) -> tuple[Bad, ...]:
    return tuple(
        Bad({n: x}, TypeError, f"{n} must be True or False") for n in names for x in ("yes", None, 2, math.nan)
    )


_LR = _numbers("learning rate", "lr", -1, -1e-9)
_EPS = _numbers("epsilon value", "eps", -1e-8)
_DECAY = _numbers("weight_decay value", "weight_decay", -0.1)
_AVERAGING = (
    *_numbers("r value", "r", -1.0),
    *_numbers("weight_lr_power value", "weight_lr_power", -1.0),
)
_BETAS = (
    Bad({"betas": (1.0, 0.999)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
    Bad({"betas": (0.9, 1.0)}, ValueError, "Invalid beta parameter at index 1: 1.0"),
    Bad({"betas": (-0.1, 0.999)}, ValueError, "Invalid beta parameter at index 0: -0.1"),
    Bad({"betas": (0.9, math.nan)}, ValueError, "Invalid beta parameter at index 1: nan"),
    Bad({"betas": 0.9}, TypeError, "betas must be a pair of numbers"),
    Bad({"betas": (0.9,)}, TypeError, "betas must be a pair of numbers"),
    Bad({"betas": (0.9, 0.99, 0.999)}, TypeError, "betas must be a pair of numbers"),
    Bad({"betas": ("a", 0.9)}, TypeError, r"betas\[0\] must be a number"),
)
_ADAM: tuple[Options, ...] = (
    {},
    {"weight_decay": 0.1},
    {"amsgrad": True},
    {"amsgrad": True, "maximize": True, "weight_decay": 0.1},
    {"betas": (0.5, 0.75), "eps": 1e-3},
    {"betas": (0.0, 0.0)},
    {"lr": 0.03, "eps": 0.0},
)

_OF_ANY_SHAPE = (
    Subject(
        "SGD",
        (
            {"lr": 0.05},
            {"lr": 0.05, "weight_decay": 0.1},
            {"lr": 0.05, "maximize": True, "weight_decay": 0.1},
            {"lr": 0.05, "momentum": 0.9},
            {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "dampening": -0.5},
        ),
        (
            *_LR,
            *_DECAY,
            *_numbers("momentum value", "momentum", -0.9),
            *_flags("nesterov", "maximize"),
            Bad({"dampening": math.nan}, ValueError, "Invalid dampening value: nan"),
            Bad({"nesterov": True}, ValueError, "Nesterov momentum requires a momentum and zero dampening"),
            Bad(
                {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
                ValueError,
                "Nesterov momentum requires a momentum and zero dampening",
            ),
        ),
    ),
    Subject(
        "Adagrad",
        (
            {"lr": 0.05},
            {"lr": 0.05, "lr_decay": 0.1},
            {"lr": 0.05, "initial_accumulator_value": 0.5, "eps": 1e-3},
            {"lr": 0.05, "weight_decay": 0.1, "maximize": True},
        ),
        (
            *_LR,
            *_DECAY,
            *_EPS,
            *_numbers("lr_decay value", "lr_decay", -0.1),
            *_numbers("initial_accumulator_value value", "initial_accumulator_value", -0.1),
            *_flags("maximize"),
        ),
    ),
    Subject(
        "Adadelta",
        (
            {},
            {"lr": 0.5, "rho": 0.95, "eps": 1e-4},
            {"rho": 0.0},
            {"weight_decay": 0.1, "maximize": True},
        ),
        (*_LR, *_DECAY, *_EPS, *_numbers("rho value", "rho", -0.1, 1.1), *_flags("maximize")),
    ),
    Subject(
        "RMSprop",
        (
            {},
            {"alpha": 0.9, "eps": 1e-3},
            {"momentum": 0.9},
            {"centered": True, "alpha": 0.9},
            {"centered": True, "alpha": 0.9, "momentum": 0.9, "weight_decay": 0.1, "maximize": True},
        ),
        (
            *_LR,
            *_DECAY,
            *_EPS,
            *_numbers("alpha value", "alpha", -0.1),
            *_numbers("momentum value", "momentum", -0.1),
            *_flags("centered", "maximize"),
        ),
    ),
    Subject(
        "Adam",
        (*_ADAM, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
        (*_LR, *_DECAY, *_EPS, *_BETAS, *_flags("amsgrad", "bias_correction", "decoupled_weight_decay", "maximize")),
    ),
    Subject("AdamW", _ADAM, (*_LR, *_DECAY, *_EPS, *_BETAS, *_flags("amsgrad", "bias_correction", "maximize"))),
    Subject(
        "Adamax",
        ({}, {"betas": (0.5, 0.75), "eps": 1e-3}, {"weight_decay": 0.1, "maximize": True}),
        (*_LR, *_DECAY, *_EPS, *_BETAS, *_flags("maximize")),
    ),
    Subject(
        "NAdam",
        (
            {},
            {"betas": (0.5, 0.75), "eps": 1e-3},
            {"momentum_decay": 0.1, "weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
        ),
        (
            *_LR,
            *_DECAY,
            *_EPS,
            *_BETAS,
            *_numbers("momentum_decay value", "momentum_decay", -0.1),
            *_flags("decoupled_weight_decay", "maximize"),
        ),
    ),
    Subject(
        "RAdam",
        (
            {},
            {"betas": (0.5, 0.75), "eps": 1e-3},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
        ),
        (*_LR, *_DECAY, *_EPS, *_BETAS, *_flags("decoupled_weight_decay", "maximize")),
    ),
    Subject(
        "Lion",
        ({"lr": 0.01}, {"lr": 0.01, "betas": (0.5, 0.75)}, {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
        (*_LR, *_DECAY, *_BETAS, *_flags("maximize")),
    ),
    Subject(
        "AdaBelief",
        ({}, {"betas": (0.5, 0.75), "eps": 1e-3}, {"eps": 1e-8, "weight_decay": 0.1, "maximize": True}),
        (*_LR, *_DECAY, *_EPS, *_BETAS, *_flags("maximize")),
    ),
    Subject(
        "LaProp",
        ({}, {"betas": (0.5, 0.75), "eps": 1e-3}, {"weight_decay": 0.1, "maximize": True}),
        (*_LR, *_DECAY, *_EPS, *_BETAS, *_flags("maximize")),
    ),
    Subject(
        "ADOPT",
        (
            {},
            {"betas": (0.5, 0.75), "eps": 0.0},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
        ),
        (*_LR, *_DECAY, *_EPS, *_BETAS, *_flags("decoupled_weight_decay", "maximize")),
    ),
    Subject(
        "AdEMAMix",
        (
            {},
            {"betas": (0.5, 0.75, 0.9), "eps": 1e-3, "alpha": 2.0},
            {"t_alpha": 4, "t_beta3": 6, "weight_decay": 0.1, "maximize": True},
        ),
        (
            *_LR,
            *_DECAY,
            *_EPS,
            *_flags("maximize"),
            Bad({"betas": (0.9, 0.999)}, TypeError, "betas must be 3 numbers"),
            Bad({"betas": (0.9, 0.999, 1.0)}, ValueError, "Invalid beta parameter at index 2: 1.0"),
            Bad({"alpha": -1.0}, ValueError, "Invalid alpha value: -1.0"),
            Bad({"t_alpha": 0}, ValueError, "Invalid t_alpha value: 0"),
            Bad({"t_beta3": 2.5}, ValueError, "Invalid t_beta3 value: 2.5"),
        ),
    ),
    Subject(
        "ScheduleFreeSGD",
        (
            {"lr": 0.1},
            {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1, "warmup_steps": 3, "maximize": True},
            {"lr": 0.1, "r": 1.0, "weight_lr_power": 0.0},
        ),
        (
            *_LR,
            *_DECAY,
            *_numbers("momentum value", "momentum", 0.0, 1.0),
            *_numbers("warmup_steps value", "warmup_steps", -1.0),
            *_AVERAGING,
            *_flags("maximize"),
        ),
    ),
    Subject(
        "ScheduleFreeAdamW",
        ({}, {"betas": (0.5, 0.75), "eps": 1e-3, "weight_decay": 0.1, "warmup_steps": 3, "maximize": True}),
        (
            *_LR,
            *_DECAY,
            *_EPS,
            *_BETAS,
            Bad({"betas": (0.0, 0.9)}, ValueError, "Invalid beta parameter at index 0: 0"),
            *_numbers("warmup_steps value", "warmup_steps", -1.0),
            *_AVERAGING,
            *_flags("maximize"),
        ),
    ),
    Subject(
        "ScheduleFreeRAdam",
        ({}, {"betas": (0.5, 0.75), "eps": 1e-3, "weight_decay": 0.1, "silent_sgd_phase": False, "maximize": True}),
        (*_LR, *_DECAY, *_EPS, *_BETAS, *_AVERAGING, *_flags("silent_sgd_phase", "maximize")),
    ),
    Subject(
        "StableAdamW",
        ({}, {"betas": (0.5, 0.75), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
        (*_LR, *_DECAY, *_EPS, *_BETAS, *_flags("amsgrad", "bias_correction", "maximize")),
    ),
    Subject(
        "LAMB",
        ({"lr": 0.02}, {"betas": (0.5, 0.75), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
        (*_LR, *_DECAY, *_EPS, *_BETAS, *_flags("amsgrad", "bias_correction", "maximize")),
    ),
    Subject(
        "LARS",
        (
            {"lr": 0.5, "trust_coefficient": 0.02},
            {"lr": 0.5, "trust_coefficient": 0.02, "momentum": 0.5, "weight_decay": 0.1, "maximize": True},
        ),
        (
            *_LR,
            *_DECAY,
            *_numbers("momentum value", "momentum", -0.9),
            *_numbers("trust_coefficient value", "trust_coefficient", -0.1),
            *_flags("maximize"),
        ),
    ),
    Subject(
        "MARS",
        ({}, {"betas": (0.5, 0.75), "eps": 1e-3, "gamma": 0.5, "weight_decay": 0.1, "maximize": True}),
        (
            *_LR,
            *_DECAY,
            *_EPS,
            *_BETAS,
            *_numbers("gamma value", "gamma", -0.1),
            *_flags("amsgrad", "bias_correction", "maximize"),
        ),
    ),
    Subject(
        "ASGD",  # torch rounds the first rate to float32, which does nothing to these
        ({"lr": 2**-7, "t0": 20.0}, {"lr": 0.125, "lambd": 0.01, "alpha": 0.9, "weight_decay": 0.1, "maximize": True}),
        (
            *_LR,
            *_DECAY,
            *_numbers("lambd value", "lambd", -0.1),
            *_numbers("t0 value", "t0"),
            *_numbers("alpha value", "alpha"),
            *_flags("maximize"),
        ),
    ),
    Subject(
        "Rprop",
        ({}, {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.2), "maximize": True}),
        (
            *_LR,
            Bad({"etas": (1.0, 1.2)}, ValueError, "Invalid eta values: 1.0, 1.2"),
            Bad({"etas": (0.5, 1.0)}, ValueError, "Invalid eta values: 0.5, 1.0"),
            Bad({"etas": 0.5}, TypeError, "etas must be a pair of numbers"),
            Bad({"step_sizes": (-1.0, 50.0)}, ValueError, "Invalid step_sizes value at index 0: -1.0"),
            Bad({"step_sizes": (None, 50.0)}, TypeError, r"step_sizes\[0\] must be a number"),
            *_flags("maximize"),
        ),
    ),
    Subject(
        "Adafactor",
        (
            {},
            {"beta2_decay": -0.5, "eps": (1e-3, 1e-2)},
            {"lr": 2.0, "d": 2.0},
            {"weight_decay": 0.1, "maximize": True},
        ),
        (
            *_LR,
            *_DECAY,
            *_numbers("beta2_decay value", "beta2_decay", 0.1),
            *_numbers("d value", "d", 0.9),
            Bad({"eps": (-1.0, 1e-3)}, ValueError, "Invalid eps value at index 0: -1.0"),
            Bad({"eps": (None, -1.0)}, ValueError, "Invalid eps value at index 1: -1.0"),
            Bad({"eps": (None, None)}, TypeError, r"eps\[1\] must be a number"),
            Bad({"eps": 1e-3}, TypeError, "eps must be a pair of numbers"),
            *_flags("maximize"),
        ),
    ),
)


_MUON = Subject(
    "Muon",
    (
        {},
        {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0},
        {"lr": 0.02, "nesterov": False, "momentum": 0.8, "ns_steps": 3, "adjust_lr_fn": "original"},
        {"lr": 0.02, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 1e-3, "ns_steps": 8},
    ),
    (
        *_LR,
        *_EPS,
        *_DECAY,
        *_numbers("momentum value", "momentum", -0.1),
        *_flags("nesterov", "maximize"),
        Bad({"ns_coefficients": (1.0, 2.0)}, ValueError, r"Invalid ns_coefficients: \(1\.0, 2\.0\) \(must be three"),
        Bad({"ns_coefficients": "jordan"}, ValueError, "Invalid ns_coefficients: 'jordan'"),
        Bad({"ns_coefficients": (1.0, 2.0, "x")}, TypeError, r"ns_coefficients\[2\] must be a number"),
        Bad({"ns_steps": 0}, ValueError, r"Invalid ns_steps value: 0 \(must be a whole number from 1 to 99\)"),
        Bad({"ns_steps": 100}, ValueError, "Invalid ns_steps value: 100"),
        Bad({"ns_steps": 2.5}, ValueError, "Invalid ns_steps value: 2.5"),
        Bad({"ns_steps": True}, TypeError, "ns_steps must be a number"),
        Bad(
            {"adjust_lr_fn": "adam"}, ValueError, r"Invalid adjust_lr_fn: 'adam' \(choose None, 'original', 'match_rms"
        ),
        Bad({"adjust_lr_fn": 1.0}, ValueError, "Invalid adjust_lr_fn: 1.0"),
        Bad({"matrices": "kernels"}, ValueError, "Invalid matrices: 'kernels'"),
        Bad({"matrices": 0}, ValueError, "Invalid matrices: 0"),
    ),
)
_NORMUON = Subject(
    "NorMuon",
    ({}, {"lr": 0.02, "nesterov": False, "momentum": 0.8, "beta2": 0.5, "ns_steps": 3, "adjust_lr_fn": "original"}),
    (
        *_LR,
        *_EPS,
        *_DECAY,
        *_numbers("momentum value", "momentum", -0.1),
        *_numbers("beta2 value", "beta2", 1.5),
        *_flags("nesterov", "maximize"),
        Bad({"ns_steps": 0}, ValueError, r"Invalid ns_steps value: 0 \(must be a whole number from 1 to 99\)"),
        Bad({"matrices": "kernels"}, ValueError, "Invalid matrices: 'kernels'"),
        Bad({"adjust_lr_fn": None}, ValueError, r"Invalid adjust_lr_fn: None \(choose 'match_rms_adamw', 'original'\)"),
    ),
)
SUBJECTS = (*_OF_ANY_SHAPE, _MUON, _NORMUON)


def words(options: Options) -> str:
    """An option set as the name of a test."""
    return ",".join(f"{k}={v}" for k, v in options.items()) or "defaults"


def _chosen(*, elementwise: bool = False, in_torch: bool = False, matrices: bool = False) -> list[Subject]:
    """The subjects of a test; those that update matrices only, and not parameters of any shape, if it asks for them."""
    return [
        subject
        for subject in SUBJECTS
        if not (elementwise and subject.rule.sees != "elements")
        and not (in_torch and subject.torch is None)
        and (matrices or subject.rule.sees != "matrix")
    ]


def cases(**which: bool) -> list[Any]:
    """Every (subject, option set), as arguments of one test; the arguments are those of :func:`_chosen`."""
    return [
        pytest.param(subject, options, id=f"{subject.name}-{words(options)}")
        for subject in _chosen(**which)
        for options in subject.options
    ]


def subjects(**which: bool) -> list[Any]:
    """Every subject, as the argument of one test; the arguments are those of :func:`_chosen`."""
    return [pytest.param(subject, id=subject.name) for subject in _chosen(**which)]


def few_and_the_rest_slow(*names: str) -> list[Any]:
    """Every subject, those not named marked as slow: for a test whose kernels take long to compile."""
    return [
        pytest.param(subject, id=subject.name, marks=[] if subject.name in names else pytest.mark.slow)
        for subject in _chosen()
    ]


def in_turns(rows: Sequence[Any], choices: Mapping[str, Any], each: int) -> list[Any]:
    """Every row with every choice, as the arguments of one test; each with ``each`` of them, in turns, the rest slow.

    Faults are of a storage or of a rule, rarely of one pair of them; and every choice meets several rows.

    Args:
        rows: from :func:`cases` or :func:`subjects`.
        choices: by the name that they have in a test's.
        each: the choices of a row that are not slow.
    """
    names = list(choices)
    return [
        pytest.param(*row.values, choices[name], id=f"{row.id}-{name}", marks=[] if quick else pytest.mark.slow)
        for i, row in enumerate(rows)
        for k, name in enumerate(names)
        for quick in [(k - i * each) % len(names) < each]
    ]
