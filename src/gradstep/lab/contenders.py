"""Who races: optimizer classes with their settings for one task."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias, final

import torch
from torch import nn

from gradstep.lab.specs import OptimizerSpec, Value, parse_specs, suggestion, written
from gradstep.lab.task import Task
from gradstep.optimizers import OPTIMIZERS, Optimizer, optimizer
from gradstep.rules import RULES
from gradstep.variants import VARIANTS, meant, names_file, rule_in_file

OptimizerClass: TypeAlias = type[torch.optim.Optimizer]

PEER_PREFIX = "torch."
PEERS: Mapping[str, OptimizerClass] = MappingProxyType(
    {
        PEER_PREFIX + peer.__name__.lower(): peer
        for peer in (
            torch.optim.SGD,
            torch.optim.Adagrad,
            torch.optim.Adadelta,
            torch.optim.RMSprop,
            torch.optim.Adam,
            torch.optim.AdamW,
            torch.optim.Adamax,
            torch.optim.NAdam,
            torch.optim.RAdam,
            torch.optim.Adafactor,
        )
    }
)
"""torch's own classes under "torch.<name>"."""

CLASSES: Mapping[str, OptimizerClass] = MappingProxyType({**OPTIMIZERS, **PEERS})
"""Every optimizer that can race, by the name it is asked for."""

DEFAULT = parse_specs("sgd:momentum=0.9,rmsprop,adam,adamw,nadam,radam,lion,adafactor")
"""The line-up where none is asked for: the road from SGD to AdamW, and what came after."""

ENGINE = "engine"
"""The one setting that torch's own classes do not know."""


@final
@dataclass(frozen=True)
class Contender:
    """An optimizer with its settings for one task.

    Args:
        label: how charts and tables name it ("SGD momentum=0.9", "mine.py:Signum").
        name: the name it is asked for ("sgd", "torch.sgd", "mine.py:Signum").
        settings: every setting its constructor is called with, the learning rate included where there is one.
    """

    label: str
    name: str
    settings: tuple[tuple[str, Value], ...]

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimizer of these parameters."""
        return class_of(self.name)(parameters, **dict(self.settings))


def class_of(name: str) -> OptimizerClass:
    """The optimizer class that a spec's name stands for: a key of `CLASSES`, a rule in a file ("mine.py:Signum"), or
    a name that `gradstep.create` knows ("paged_adamw_8bit", "adamw8bit").

    Raises:
        ValueError: it stands for none, with what may have been meant.
    """
    if name in CLASSES:
        return CLASSES[name]
    if names_file(name):
        return optimizer(rule_in_file(name))
    try:
        rule, state, paged = next((v for key, v in VARIANTS.items() if key.lower() == name), None) or meant(name)
    except ValueError:
        names = list(CLASSES)
        raise ValueError(
            f"Unknown optimizer: {name!r}.{suggestion(name, names)} There are {', '.join(names)}, and FILE.py:NAME for "
            "a rule of your own."
        ) from None
    return optimizer(RULES[rule], state=state, paged=paged)


def base_name(name: str) -> str:
    """The name without the mark of torch's own classes: "torch.adamw" → "adamw"."""
    return name.removeprefix(PEER_PREFIX)


def with_peers(specs: Iterable[OptimizerSpec]) -> tuple[OptimizerSpec, ...]:
    """Each spec, followed by torch's own class with the same settings where torch has one."""
    candidates: list[OptimizerSpec] = []
    for spec in specs:
        settings = tuple((key, value) for key, value in spec.settings if key != ENGINE)
        peer = OptimizerSpec(PEER_PREFIX + base_name(spec.name), settings)
        candidates += [spec, peer] if peer.name in CLASSES else [spec]
    # By their text, since values may be lists; a dictionary keeps the order and drops what it has.
    return tuple({str(candidate): candidate for candidate in candidates}.values())


def enter(spec: OptimizerSpec, task: Task) -> Contender:
    """The contender that `spec` asks for, with the task's learning rate where the spec gives none.

    Raises:
        ValueError: there is no such optimizer or setting, or the optimizer refuses a value.
        TypeError: the optimizer refuses a value's type.
    """
    kind = class_of(spec.name)
    allowed = [key for key in inspect.signature(kind).parameters if key != "params"]
    settings = dict(spec.settings)
    for key in settings:
        if key not in allowed:
            raise ValueError(
                f"Unknown setting: {key!r} of {spec.name!r}.{suggestion(key, allowed)} There are {', '.join(allowed)}."
            )
    momentum = settings.get("momentum", 0.0)
    rated = base_name(spec.name)
    if issubclass(kind, Optimizer) and not names_file(spec.name):
        rated = kind.rule().__name__.lower()  # "adamw_8bit" has AdamW's
    rate = task.learning_rate(rated, momentum if isinstance(momentum, float) else 0.0)
    if rate is not None:
        settings.setdefault("lr", rate)
    try:
        built = kind([nn.Parameter(torch.zeros(2, 2, dtype=torch.float32, device="cpu"))], **settings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise type(error)(f"{spec}: {error}") from error
    # The optimizer's own rate where the task has none: a reader of the results wants to see it.
    if "lr" in built.defaults:
        settings.setdefault("lr", built.defaults["lr"])
    given = " ".join(f"{key}={written(value)}" for key, value in spec.settings)
    prefix = PEER_PREFIX if spec.name in PEERS else ""
    title = Path(spec.name).name if names_file(spec.name) else prefix + kind.__name__
    return Contender(f"{title} {given}".strip(), spec.name, tuple(settings.items()))
