"""A rule as it is computed and driven: the true one, or one with known mistakes in it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, final

from gradstep.judge.rewrite import Edit, NotFoundError, apply, compiled, tree_of
from gradstep.rules import Rule
from gradstep.rules import ops as _ops


@final
@dataclass(frozen=True)
class Habits:
    """How an optimizer goes about its parameters, beside the mathematics of one step; the defaults are right.

    Attributes:
        clock: what counts as a step: each update of the parameter (``own``), each call of ``step()`` (``calls``), each
            update of any parameter (``visits``).
        offset: added to the step number.
        missing: a parameter without gradient is left alone, treated as if its gradient were ``zero``, or ``ends`` the
            step for those after it.
        skips_zero: a parameter whose gradient is zero everywhere is left alone too.
        shared: all parameters use one state.
        unstored: slots that are computed but never written back (``*`` for all); ``p`` for the parameter itself.
        writes_gradient: the gradient with the decay in it is written over the gradient.
        latched: settings are read at construction only.
        first_group: every parameter uses the settings of the first group.
        forgets: what ``state_dict`` loses: the slots, or the step count.
        ignores: settings that have no effect: the rule's default is used instead.
    """

    clock: Literal["own", "calls", "visits"] = "own"
    offset: int = 0
    missing: Literal["left", "zero", "ends"] = "left"
    skips_zero: bool = False
    shared: bool = False
    unstored: tuple[str, ...] = ()
    writes_gradient: bool = False
    latched: bool = False
    first_group: bool = False
    forgets: Literal["nothing", "slots", "steps", "all"] = "nothing"
    ignores: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Change:
    """What one known mistake does to a rule.

    Attributes:
        edits: of the lines of ``coefficients`` and ``update``. In new lines ``c.rule`` is the rule with
            its settings, ``c.step`` the number of the step.
        habits: the fields of :class:`Habits` that differ.
    """

    edits: tuple[Edit, ...] = ()
    habits: tuple[tuple[str, Any], ...] = ()


@final
@dataclass(frozen=True)
class Formula:
    """The functions that compute one step, and the habits of the optimizer around them."""

    rule: type[Rule]
    coefficients: Callable[..., dict[str, float]]
    update: Callable[..., Any]
    habits: Habits = Habits()

    def settings(self, given: Mapping[str, Any]) -> Rule:
        """The rule with the given settings, but for those that this formula ignores."""
        return self.rule(**{name: value for name, value in given.items() if name not in self.habits.ignores})


def true_formula(rule: type[Rule]) -> Formula:
    """The rule as it is."""
    return Formula(rule, rule.coefficients, rule.update)


def changed(rule: type[Rule], changes: tuple[Change, ...]) -> Formula:
    """The rule with changes made one after the other.

    Raises:
        NotFoundError: a change does not apply to this rule, or not after those before it.
    """
    coefficients, update, habits = tree_of(rule.coefficients), tree_of(rule.update), Habits()
    here = there = 0
    for change in changes:
        for edit in change.edits:
            places = apply(edit, coefficients), apply(edit, update)
            if not any(places):
                raise NotFoundError(f"{edit.find!r} is not in the lines of {rule.__name__}")
            here, there = here + places[0], there + places[1]
        habits = _with(habits, change.habits)
    return Formula(
        rule,
        _function(rule.coefficients, coefficients) if here else rule.coefficients,
        _function(rule.update, update) if there else rule.update,
        habits,
    )


_UNCHANGED = Habits()


def _with(habits: Habits, new: tuple[tuple[str, Any], ...]) -> Habits:
    before = {f.name: getattr(habits, f.name) for f in fields(Habits)}
    for name, value in new:
        if before[name] != getattr(_UNCHANGED, name) and not isinstance(value, tuple):
            raise NotFoundError(f"two changes of {name} exclude each other")
    return replace(habits, **{n: before[n] + v if isinstance(v, tuple) else v for n, v in new})


def _function(original: Callable[..., Any], tree: ast.FunctionDef) -> Callable[..., Any]:
    names = vars(sys.modules[original.__module__])
    return compiled(tree, {"where": _ops.where, **names, "sqrt": _ops.sqrt, "maximum": _ops.maximum})
