"""Modifiers: classes that change what another rule does, and the function that joins both."""

from __future__ import annotations

import copyreg
from abc import ABCMeta
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar

from gradstep.rules.base import SIGHTS, Rule, StepRule


@dataclass(frozen=True)
class Modifier(StepRule):
    """The base of modifiers: a modifier stands before a rule, and changes its gradient, its step or its decay.

    It is a frozen dataclass that overrides :meth:`StepRule.step` or :meth:`StepRule.decay` as a class method, and calls
    ``super()`` for the rule's own. It may add settings, slots and coefficients in the same way.

    Args:
        maximize: as of :class:`Rule`.

    >>> from dataclasses import dataclass
    >>> from gradstep import Modifier, modify, rules
    >>> from gradstep.rules.ops import sign
    >>> @dataclass(frozen=True)
    ... class Signed(Modifier):
    ...     "Every element moves by the learning rate."
    ...     needs = ("lr",)
    ...     def coefficients(self, step, **scalars):
    ...         return {**super().coefficients(step, **scalars), "lr": self.lr}
    ...     @classmethod
    ...     def step(cls, p, g, s, c):
    ...         return c.lr * sign(super().step(p, g, s, c))
    >>> modify(rules.Lion, Signed)(lr=0.1)
    SignedLion(maximize=False, lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Settings that the modified rule must have."""


class ModifiedClass(ABCMeta):
    """The metaclass of the classes that :func:`modify` makes: a pickle contains the parts of such a class."""

    parts: tuple[type[Rule], ...]


def _reduce(kind: ModifiedClass) -> Any:
    return modify, kind.parts


copyreg.pickle(ModifiedClass, _reduce)


def modify(rule: Any, *modifiers: Any) -> Any:  # mypy takes no abstract class for type[Modifier]
    """Make a rule class from another one and modifiers, such as ``modify(rules.AdamW, rules.Cautious)``.

    The same arguments give the same class. Its name is that of all parts, and checkpoints contain it.

    Args:
        rule: a rule that subtracts a step, such as ``gradstep.rules.AdamW``.
        modifiers: what to change, from the innermost to the outermost: each sees the step of all before it.

    Raises:
        TypeError: the rule is no :class:`StepRule`, lacks a setting that a modifier needs, or has the modifier, or one
            derived from it, already; a modifier is no finished class of one.

    >>> import torch, gradstep
    >>> from gradstep import rules
    >>> CautiousLion = gradstep.optimizer(gradstep.modify(rules.Lion, rules.Cautious))
    >>> p = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = CautiousLion([p], lr=1.0)
    >>> for gradient in ([3.0, 3.0], [1.0, -0.1]):  # the second element's momentum is against its second gradient
    ...     p.grad = torch.tensor(gradient)
    ...     optimizer.step()
    >>> p.tolist()
    [-1.6666667461395264, -0.6666666865348816]
    """
    if not (isinstance(rule, type) and issubclass(rule, Rule)):
        raise TypeError(f"modify() takes the class of a rule, such as gradstep.rules.AdamW, not {rule!r}")
    if Modifier in rule.__bases__:
        raise TypeError(f"{rule.__name__} is a modifier: give the rule first, such as gradstep.rules.AdamW")
    if not issubclass(rule, StepRule):
        raise TypeError(
            f"{rule.__name__} cannot be modified, since a modifier changes the result of step() and it has update(): "
            "derive it from gradstep.StepRule, and let step() return what is subtracted from keep * p"
        )
    settings = {setting.name for setting in fields(rule)}
    for number, modifier in enumerate(modifiers):
        _check_modifier(modifier)
        missing = [name for name in modifier.needs if name not in settings]
        if missing:
            raise TypeError(
                f"{modifier.__name__} cannot modify {rule.__name__}, which has no {' and no '.join(missing)}"
            )
        twice = [part for part in _changes(modifier) if part in _changes(rule, *modifiers[:number])]
        if twice:
            through = "" if twice[0] is modifier else f" (once through {modifier.__name__})"
            raise TypeError(f"{rule.__name__} would have {twice[0].__name__} twice{through}: give it once")
    if not modifiers:
        raise TypeError(f"modify() needs a modifier, such as gradstep.rules.Cautious, beside {rule.__name__}")
    return _modified(rule, *modifiers)


def _check_modifier(modifier: Any) -> None:
    """Refuse what is no finished class of a modifier; raise TypeError."""
    if not (isinstance(modifier, type) and issubclass(modifier, Modifier)):
        raise TypeError(f"modify() takes classes of modifiers, such as gradstep.rules.Cautious, not {modifier!r}")
    if modifier is Modifier:
        raise TypeError(
            "Modifier is the base of modifiers and changes nothing: give one, such as gradstep.rules.Cautious"
        )
    if "__dataclass_fields__" not in vars(modifier):
        raise TypeError(f"{modifier.__name__} needs @dataclass(frozen=True) above it, so that its settings are found")


def _changes(*classes: type[Rule]) -> list[type[Rule]]:
    """Return the modifiers among these classes and their bases that define a step, a decay or an update themselves."""
    parts = [part for kind in classes for part in kind.__mro__ if issubclass(part, Modifier) and part is not Modifier]
    return [part for part in parts if not {"step", "decay", "update"}.isdisjoint(vars(part))]


@cache
def _modified(*parts: type[Rule]) -> Any:
    rule, *modifiers = parts
    body: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": f"{rule.__name__}, modified by {', '.join(modifier.__name__ for modifier in modifiers)}.",
        "sees": max((part.sees for part in parts), key=SIGHTS.index),
        "parts": parts,
    }
    outermost_first = modifiers[::-1]
    name = "".join(part.__name__ for part in (*outermost_first, rule))
    kind: Any = ModifiedClass(name, (*outermost_first, rule), body)
    return dataclass(frozen=True)(kind)
