"""Every combination against a budget, and the one to take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from typing import Any, final

from gradstep.planner.items import Item, items
from gradstep.planner.machine import available_memory
from gradstep.planner.options import OPTIONS, Choice, describe
from gradstep.planner.parameters import Module
from gradstep.planner.planning import Plan, build_plan
from gradstep.planner.request import PAGE_BUDGET, request_of
from gradstep.report.words import size
from gradstep.rules import Rule


@final
@dataclass(frozen=True)
class Plans:
    """All combinations, from the least deviation from plain float32 to the greatest; made by :func:`plans`.

    Attributes:
        plans: one for each.
        budget: bytes of the device; ``source`` says where the figure is from.
    """

    plans: tuple[Plan, ...]
    budget: int
    source: str

    @cached_property
    def best(self) -> Plan | None:
        """The least deviation that fits, or None if nothing does."""
        return next((plan for plan in self.plans if plan.fits), None)

    @cached_property
    def smallest(self) -> Plan:
        """The one that needs least on the device, whether it fits or not."""
        return min(self.plans, key=lambda plan: plan.device)

    @cached_property
    def brief(self) -> tuple[Plan, ...]:
        """For every type of weights, rounding and state one: the least deviation that fits, or the smallest."""
        found: dict[tuple[Any, ...], list[Plan]] = {}
        for plan in self.plans:
            found.setdefault((plan.choice.params, plan.choice.rounding, plan.choice.state), []).append(plan)
        return tuple(
            next((plan for plan in group if plan.fits), min(group, key=lambda plan: plan.device))
            for group in found.values()
        )

    @property
    def reason(self) -> str:
        """Why :attr:`best` is recommended, or how much is missing."""
        plain, best, smallest = self.plans[0], self.best, self.smallest
        binary = plain.binary
        there = f"{size(self.budget, binary=binary)} ({self.source})"
        each = " on each GPU" if plain.gpus > 1 else ""
        if best is None:
            return (
                f"Nothing fits {there}: the smallest, {describe(smallest.choice)}, needs "
                f"{size(smallest.device, binary=binary)}{each}."
            )
        left = size(self.budget - best.device, binary=binary)
        given = any(row.name == "activations" for row in best.rows)
        room = f"It leaves {left}" + ("." if given else " for activations, which are not counted.")
        fit = f"{describe(best.choice)}, with {size(best.device, binary=binary)}{each} of {there}"
        elsewhere = [
            f"{size(best.on(p), binary=binary)} {words}"
            for p, words in (("host", "in the host's memory"), ("disk", "on disk"))
            if best.on(p)
        ]
        more = "".join(f", and {words}" for words in elsewhere)
        if best is plain:
            return f"The plainest fits: {fit}{more}. {room}"
        return (
            f"The least deviation from plain float32 that fits: {fit}{more}. {room} "
            f"The plainest, {describe(plain.choice)}, needs {size(plain.device, binary=binary)}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return {
            "budget": self.budget,
            "source": self.source,
            "recommended": None if self.best is None else self.plans.index(self.best),
            "reason": self.reason,
            "plans": [plan.as_dict() for plan in self.plans],
        }


def plans(
    model: Module | str | float,
    *,
    optimizer: str | Rule | type[Rule] = "adamw",
    budget: str | int | None = None,
    gpus: int = 0,
    activations: str | int | None = None,
    page_budget: str | int = PAGE_BUDGET,
    engine: str = "auto",
    gradients: str | None = None,
    **fixed: str | bool,
) -> Plans:
    """Every combination of storages against a budget, the least deviation from plain float32 first.

    The order, from what weighs most: the type of the weights (float32, bfloat16); how they are rounded (with a master
    copy, Kahan, stochastically, to nearest); whether state is paged; how it is stored (float32, bfloat16, 8 bits);
    what is sharded. So GPUs that are there are used before anything is made less precise, 8-bit state is taken before
    paging, which costs time at every step, and weights stay in float32 as long as anything else helps.

    Args:
        model, optimizer, gpus, activations, page_budget, engine, gradients: as in :func:`plan`.
        budget: what one GPU (or this machine) has, such as ``"24GB"``; None takes this machine's free memory.
        fixed: any of ``params``, ``state``, ``rounding``, ``paged``, ``sharded``, to compare only what has it.
            float16 weights, which need loss scaling, are compared only if they are asked for.

    Raises:
        ValueError: as :func:`plan` does; no budget for GPUs; nothing that has all that is fixed.

    >>> plans("3B", budget="32GB").best.choice
    Choice(params='float32', rounding='nearest', paged=False, state='8bit', sharded='none', gradients=None)
    """
    unknown = fixed.keys() - OPTIONS.keys()
    if unknown:
        raise TypeError(f"plans() has no argument {min(unknown)!r} (what can be fixed is {', '.join(OPTIONS)})")
    request = request_of(model, optimizer, gpus, budget, activations, page_budget, engine)
    wanted: dict[str, Any] = {"params": "bfloat16", **fixed}  # of all weights those that refuse least
    refusal = Choice(**wanted, gradients=gradients).refuse(request.model, request.rule, gpus)
    if refusal is not None:
        raise ValueError(refusal)
    if budget is None:
        if gpus:
            raise ValueError("the memory of a GPU is not known here: give budget='24GB'")
        request = replace(request, budget=available_memory())
    source = "free on this machine" if budget is None else "as given"
    offered = {**OPTIONS, "params": ("float32", "bfloat16"), **{name: (value,) for name, value in fixed.items()}}
    choices = [Choice(**dict(zip(offered, values)), gradients=gradients) for values in product(*offered.values())]
    honoured = [choice for choice in choices if choice.refuse(request.model, request.rule, gpus) is None]

    @cache  # paging and sharding move things, but add nothing up anew
    def whole(plain: Choice) -> tuple[Item, ...]:
        return tuple(items(request, plain))

    found = [build_plan(request, c, whole(replace(c, paged=False, sharded="none"))) for c in honoured]
    return Plans(tuple(found), request.budget or 0, source)
