"""The contenders of a race: optimizer classes with their settings for one task."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias, final

import torch
from torch import nn

from gradstep.lab.specs import OptimizerSpec, SpecValue, parse_specs, write_value
from gradstep.lab.task import Task
from gradstep.optimizers import OPTIMIZERS, Optimizer, optimizer
from gradstep.rules import RULES
from gradstep.spelling import suggest
from gradstep.variants import explain_name, names_file, parse_name, rule_in_file

ContenderClass: TypeAlias = type[torch.optim.Optimizer]

PEER_PREFIX = "torch."
TORCH_CONTENDERS: Mapping[str, ContenderClass] = MappingProxyType(
    {
        PEER_PREFIX + name.lower(): vars(torch.optim)[name]
        for name, rule in RULES.items()
        if name in vars(torch.optim) and rule.sees != "matrix"
    }
)
"""torch's own classes under "torch.<name>", but those that update matrices alone: the tasks have biases too."""

CLASSES: Mapping[str, ContenderClass] = MappingProxyType({**OPTIMIZERS, **TORCH_CONTENDERS})
"""Every optimizer that can race, by its name in a spec."""

DEFAULT_LINEUP = parse_specs("sgd:momentum=0.9,rmsprop,adam,adamw,nadam,radam,lion,adafactor")
"""The default line-up: the way from SGD to AdamW, and later optimizers."""

ENGINE = "engine"
"""The one setting that torch's own classes do not have."""


@final
@dataclass(frozen=True)
class Contender:
    """An optimizer with its settings for one task."""

    label: str  # its name in charts and tables ("SGD momentum=0.9", "mine.py:Signum", "Muon, rest AdamW")
    name: str  # its name in a spec ("sgd", "torch.sgd", "mine.py:Signum")
    # all arguments of its constructor, with the learning rate where there is one
    settings: tuple[tuple[str, SpecValue], ...]
    adamw_lr: float | None = None  # AdamW's rate for what a rule of matrices does not update
    default_lr: float | None = None  # the rule's own default, where neither the spec nor the task gives a rate

    @property
    def described_settings(self) -> tuple[tuple[str, SpecValue], ...]:
        """The settings, and AdamW's learning rate beside a rule of matrices."""
        return self.settings if self.adamw_lr is None else (*self.settings, ("AdamW's lr", self.adamw_lr))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Make a new optimizer for the parameters of a model."""
        kind = class_of(self.name)
        if not updates_matrices_only(kind):
            return kind(model.parameters(), **dict(self.settings))
        new = kind(model.named_parameters(), **{"model": model, **dict(self.settings)})
        for group in new.param_groups:
            if group.get("rule") == "AdamW":
                group["lr"] = self.adamw_lr
        return new


def updates_matrices_only(kind: ContenderClass) -> bool:
    """Return whether a built-in optimizer's own rule updates matrices, and AdamW the other parameters of a model."""
    return issubclass(kind, Optimizer) and kind.rule().sees == "matrix" and kind.rule() in RULES.values()


def class_of(name: str) -> ContenderClass:
    """Return the optimizer class of a spec's name.

    Args:
        name: a key of `CLASSES`, a rule in a file ("mine.py:Signum"), or a name that `gradstep.create` takes
            ("paged_adamw_8bit", "adamw8bit").

    Raises:
        ValueError: no such optimizer; the message names similar ones.
    """
    if name in CLASSES:
        return CLASSES[name]
    if names_file(name):
        return optimizer(rule_in_file(name))
    if (
        name.startswith(PEER_PREFIX)
        and base_name(name) in OPTIMIZERS
        and updates_matrices_only(CLASSES[base_name(name)])
    ):
        raise ValueError(f"{name!r} cannot race: it updates matrices only, and the tasks have biases too")
    try:
        rule, state, paged = parse_name(name)
    except ValueError:
        names = list(CLASSES)
        reason = explain_name(name) or suggest(name, names)
        raise ValueError(
            f"Unknown optimizer: {name!r}.{reason} There are {', '.join(names)}, and FILE.py:NAME for "
            "a rule of your own."
        ) from None
    return optimizer(RULES[rule], state=state, paged=paged)


def base_name(name: str) -> str:
    """Return the name without the prefix of torch's own classes: "torch.adamw" → "adamw"."""
    return name.removeprefix(PEER_PREFIX)


def with_peers(specs: Iterable[OptimizerSpec]) -> tuple[OptimizerSpec, ...]:
    """Return each spec, followed by torch's own class with the same settings where torch has one."""
    candidates: list[OptimizerSpec] = []
    for spec in specs:
        settings = tuple((key, value) for key, value in spec.settings if key != ENGINE)
        peer = OptimizerSpec(PEER_PREFIX + base_name(spec.name), settings)
        candidates += [spec, peer] if peer.name in CLASSES else [spec]
    # Keyed by text, since values may be lists; a dictionary keeps the order and drops duplicates.
    return tuple({str(candidate): candidate for candidate in candidates}.values())


def make_contender(spec: OptimizerSpec, task: Task) -> Contender:
    """Return the contender of a spec, with the task's learning rate where the spec gives none.

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
                f"Unknown setting: {key!r} of {spec.name!r}.{suggest(key, allowed)} There are {', '.join(allowed)}."
            )
    momentum = settings.get("momentum", 0.0)
    rated = base_name(spec.name)
    if issubclass(kind, Optimizer) and not names_file(spec.name):
        rated = kind.rule().__name__.lower()  # "adamw_8bit" takes AdamW's rate
    rate = task.learning_rate(rated, momentum if isinstance(momentum, float) else 0.0)
    if rate is not None:
        settings.setdefault("lr", rate)
    matrices_only = updates_matrices_only(kind)
    if matrices_only and all(p.dim() < 2 for p in task.model(0).parameters()):
        raise ValueError(f"{spec.name!r} cannot race on {task.name}, which has no matrix: name other tasks")
    try:
        trial = kind([nn.Parameter(torch.zeros(2, 2, dtype=torch.float32, device="cpu"))], **settings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise type(error)(f"{spec}: {error}") from error
    # The optimizer's default rate where the task has none: a reader of the results wants to see it.
    default_lr = trial.defaults.get("lr") if "lr" not in settings else None
    if default_lr is not None:
        settings["lr"] = default_lr
    spec_settings = " ".join(f"{key}={write_value(value)}" for key, value in spec.settings)
    prefix = PEER_PREFIX if spec.name in TORCH_CONTENDERS else ""
    title = Path(spec.name).name if names_file(spec.name) else prefix + kind.__name__
    adamw_lr = task.learning_rate("adamw") if matrices_only else None
    beside = ", rest AdamW" if matrices_only else ""
    return Contender(
        f"{title} {spec_settings}".strip() + beside, spec.name, tuple(settings.items()), adamw_lr, default_lr
    )
