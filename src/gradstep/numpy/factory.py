"""Make an optimizer over NumPy arrays from any rule."""

from __future__ import annotations

import inspect
import types
from functools import cache

from gradstep.numpy.classic import SGD, Adam, AdamW
from gradstep.numpy.rule_optimizer import RuleOptimizer
from gradstep.numpy.settings import SETTINGS, signature_of
from gradstep.rules import Rule

_CLASSIC: dict[type[Rule], type[RuleOptimizer]] = {kind.rule_class: kind for kind in (SGD, Adam, AdamW)}


@cache
def optimizer(rule: type[Rule]) -> type[RuleOptimizer]:
    """Return an optimizer class over NumPy arrays for a rule, built in or a user's own.

    Args:
        rule: a finished subclass of :class:`gradstep.Rule`, decorated with ``@dataclass(frozen=True)``.

    Returns:
        A class that takes ``(params, ...the rule's settings, engine="auto")``.

    Raises:
        TypeError: ``rule`` is not a class of this kind, or lacks a method.

    >>> import numpy as np
    >>> from gradstep import rules
    >>> from gradstep.numpy import Parameter
    >>> p = Parameter(np.zeros(2), grad=np.array([3.0, -4.0]))
    >>> optimizer(rules.Lion)([p], lr=0.5).step()
    >>> p.data
    array([-0.5,  0.5])
    """
    if not (inspect.isclass(rule) and issubclass(rule, Rule)):  # type: ignore[redundant-expr]  # anything may come
        raise TypeError(f"optimizer() takes a subclass of gradstep.Rule, not {rule!r}")
    if inspect.isabstract(rule):
        raise TypeError(f"{rule.__name__} is not finished: write {', '.join(sorted(rule.__abstractmethods__))}")
    if "__dataclass_fields__" not in vars(rule):
        raise TypeError(f"{rule.__name__} needs @dataclass(frozen=True) above it, so that its settings are found")
    if rule in _CLASSIC:
        return _CLASSIC[rule]
    new = types.new_class(rule.__name__, (RuleOptimizer,), {"rule": rule})
    new.__doc__ = inspect.cleandoc(rule.__doc__ or "") + "\n" + SETTINGS
    new.__module__ = "gradstep.numpy"  # pickle finds the classes of built-in rules there by their names
    new.__signature__ = signature_of(rule)  # type: ignore[attr-defined]  # new_class() returns any type
    return new
