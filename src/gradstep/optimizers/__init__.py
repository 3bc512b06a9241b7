"""Every rule as a PyTorch optimizer, with every engine."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from gradstep.optimizers.front import Optimizer, StepReport
from gradstep.rules import RULES, Rule, settings_of


@cache
def optimizer(rule: type[Rule]) -> type[Optimizer]:
    """A ``torch.optim.Optimizer`` class from a rule, with every engine.

    Args:
        rule: a final subclass of :class:`gradstep.Rule`, decorated with ``@dataclass(frozen=True)``.

    Returns:
        A class that takes ``(params, ...the rule's settings, engine="auto")``.

    Raises:
        TypeError: not a finished rule.

    >>> import torch, gradstep
    >>> AdamW = gradstep.optimizer(gradstep.rules.AdamW)
    >>> w = torch.tensor([0.5], requires_grad=True)
    >>> w.grad = torch.tensor([0.02])
    >>> AdamW([w], lr=1e-4, weight_decay=1e-3).step()
    >>> f"{w.item():.8f}"
    '0.49989995'
    """
    if not (inspect.isclass(rule) and issubclass(rule, Rule)):  # type: ignore[redundant-expr]  # anything may come
        raise TypeError(f"optimizer() takes a subclass of gradstep.Rule, not {rule!r}")
    if inspect.isabstract(rule):
        missing = ", ".join(sorted(rule.__abstractmethods__))
        raise TypeError(f"{rule.__name__} is not finished: write {missing}")
    if "__dataclass_fields__" not in vars(rule):
        raise TypeError(f"{rule.__name__} needs @dataclass(frozen=True) above it, so that its settings are found")

    def get_rule(cls: type[Optimizer]) -> type[Rule]:
        return rule

    made = type(rule.__name__, (Optimizer,), {"rule": classmethod(get_rule), "__doc__": rule.__doc__})
    made.__module__ = __name__
    made.__signature__ = _signature(rule)  # type: ignore[attr-defined]
    return made


def _signature(rule: type[Rule]) -> inspect.Signature:
    position, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    settings = [
        inspect.Parameter(s.name, keyword if s.kw_only else position, default=s.default, annotation=s.type)
        for s in settings_of(rule)
    ]
    own = [
        inspect.Parameter("engine", keyword, default="auto", annotation=str),
        inspect.Parameter("state", keyword, default="float32", annotation=str),
        inspect.Parameter("rounding", keyword, default="nearest", annotation=str),
        inspect.Parameter("seed", keyword, default=None, annotation="int | None"),
    ]
    return inspect.Signature([inspect.Parameter("params", position), *settings, *own])


OPTIMIZERS: Mapping[str, type[Optimizer]] = {name.lower(): optimizer(rule) for name, rule in RULES.items()}
"""Every built-in optimizer by its name in lower case."""


def __getattr__(name: str) -> Any:
    if name in RULES:
        return optimizer(RULES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["OPTIMIZERS", "Optimizer", "StepReport", "optimizer", *RULES]
