"""Who races: optimizer classes with their settings for one task."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias, final

import torch
from torch import nn

from gradstep.lab.specs import OptimizerSpec, Value, parse_specs, suggestion, written
from gradstep.lab.task import Task
from gradstep.optimizers import OPTIMIZERS

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
        label: how charts and tables name it ("SGD momentum=0.9").
        name: the name it is asked for ("sgd", "torch.sgd").
        settings: every setting its constructor is called with, the learning rate included.
    """

    label: str
    name: str
    settings: tuple[tuple[str, Value], ...]

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimizer of these parameters."""
        return CLASSES[self.name](parameters, **dict(self.settings))


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
    if spec.name not in CLASSES:
        names = list(CLASSES)
        raise ValueError(
            f"Unknown optimizer: {spec.name!r}.{suggestion(spec.name, names)} There are {', '.join(names)}."
        )
    optimizer = CLASSES[spec.name]
    allowed = [key for key in inspect.signature(optimizer).parameters if key != "params"]
    settings = dict(spec.settings)
    for key in settings:
        if key not in allowed:
            raise ValueError(
                f"Unknown setting: {key!r} of {spec.name!r}.{suggestion(key, allowed)} There are {', '.join(allowed)}."
            )
    momentum = settings.get("momentum", 0.0)
    rate = task.learning_rate(base_name(spec.name), momentum if isinstance(momentum, float) else 0.0)
    if rate is not None:
        settings.setdefault("lr", rate)
    try:
        built = optimizer([nn.Parameter(torch.zeros(2, 2, dtype=torch.float32, device="cpu"))], **settings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise type(error)(f"{spec}: {error}") from error
    # The optimizer's own rate where the task has none: a reader of the results wants to see it.
    settings.setdefault("lr", built.defaults["lr"])
    given = " ".join(f"{key}={written(value)}" for key, value in spec.settings)
    prefix = PEER_PREFIX if spec.name in PEERS else ""
    return Contender(f"{prefix}{optimizer.__name__} {given}".strip(), spec.name, tuple(settings.items()))
