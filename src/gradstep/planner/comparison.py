"""Compare every combination of storages with a budget, and recommend one."""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any, final

from gradstep.planner.items import checkpoint_bytes, list_rows
from gradstep.planner.machine import usable_memory
from gradstep.planner.parameters import Module
from gradstep.planner.planning import Plan, build_plan, list_traffic
from gradstep.planner.request import OLD_SHARDING, OPTIONS, Combination, check_replicas, describe_choice, make_request
from gradstep.rules import Rule
from gradstep.storage.policy import Pages
from gradstep.warn import take_old_argument


@final
@dataclass(frozen=True)
class Plans:
    """The plans of all combinations, from the least deviation from plain float32 to the greatest.

    Attributes:
        plans: the plan of each combination.
        budget: bytes of the device; ``source`` says where the figure is from.

    >>> found = plans("3B", budget="32GB")
    >>> len(found.plans), found.best.device, found.best.choice.state
    (36, 30023437504, '8bit')
    """

    plans: tuple[Plan, ...]
    budget: int
    source: str

    @cached_property
    def best(self) -> Plan | None:
        """The plan with the least deviation that fits; None if nothing fits."""
        return next((plan for plan in self.plans if plan.fits), None)

    @cached_property
    def smallest(self) -> Plan:
        """The plan that needs the least memory on the device, whether it fits or not."""
        return min(self.plans, key=lambda plan: plan.device)

    @cached_property
    def brief(self) -> tuple[Plan, ...]:
        """One plan for each type of weights, rounding and state: the least deviation that fits, or the smallest."""
        groups: dict[tuple[Any, ...], list[Plan]] = {}
        for plan in self.plans:
            groups.setdefault((plan.choice.params, plan.choice.rounding, plan.choice.state), []).append(plan)
        return tuple(
            next((plan for plan in group if plan.fits), min(group, key=lambda plan: plan.device))
            for group in groups.values()
        )

    @property
    def reason(self) -> str:
        """The reason for recommending :attr:`best`; without one, how much the smallest plan needs."""
        plain, best, smallest = self.plans[0], self.best, self.smallest
        budget = f"{plain.in_units(self.budget)} ({self.source})"
        if best is None:
            unit = " A budget without a unit is in bytes; 24GB has one." if self.budget < 1_000_000 else ""
            return (
                f"Nothing fits {budget}: the smallest, {describe_choice(smallest.choice)}, needs "
                f"{plain.in_units(smallest.device)}{plain.each}.{unit}"
            )
        left = plain.in_units(self.budget - best.device)
        has_activations = any(row.name == "activations" for row in best.rows)
        room = f"It leaves {left}" + ("." if has_activations else " for activations, which are not counted.")
        fit = f"{describe_choice(best.choice)}, with {plain.in_units(best.device)}{plain.each} of {budget}"
        elsewhere = [
            f"{plain.in_units(best.on(p))} {words}"
            for p, words in (("host", "in the host's memory"), ("disk", "on disk"))
            if best.on(p)
        ]
        more = "".join(f", and {words}" for words in elsewhere)
        if best is plain:
            return f"The plainest fits: {fit}{more}. {room}"
        return (
            f"The least deviation from plain float32 that fits: {fit}{more}. {room} "
            f"The plainest, {describe_choice(plain.choice)}, needs {plain.in_units(plain.device)}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything as values for JSON."""
        return {
            "budget": self.budget,
            "source": self.source,
            "recommended": None if self.best is None else self.plans.index(self.best),
            "reason": self.reason,
            "plans": [plan.as_dict() for plan in self.plans],
        }


@take_old_argument("sharded", "sharding", OLD_SHARDING)
def plans(
    model: Module | str | float,
    *,
    optimizer: str | Rule | type[Rule] = "adamw",
    budget: str | int | None = None,
    gpus: int = 0,
    ranks: int | None = None,
    replicas: int = 1,
    tensor_parallel: int = 1,
    rank: int | None = None,
    tokens: int | None = None,
    activations: str | int | None = None,
    page_budget: str | int | None = None,
    engine: str = "auto",
    gradients: str | None = None,
    **fixed: str | bool | Path | Pages,
) -> Plans:
    """Compare every combination of storages with a budget, the least deviation from plain float32 first.

    The order, most important first: the type of the weights (float32, bfloat16); their rounding (with a master copy,
    Kahan, 24 bits, stochastic, to nearest); whether state is paged; how it is stored (float32, bfloat16, 8 bits); how
    it is sharded. So sharding over the ranks comes before any loss of precision, 8-bit state comes before paging, which
    costs time at every step, and weights stay in float32 as long as something else is sufficient.

    Args:
        model, optimizer, gpus, ranks, tensor_parallel, rank, tokens: as in :func:`plan`.
        replicas: as in :func:`plan`; ``"hsdp"`` is compared only with 2 or more.
        activations, page_budget, engine, gradients: as in :func:`plan`.
        budget: memory of one GPU (or this machine), such as ``"24GB"``; None takes this machine's free memory.
        fixed: any of ``params``, ``state``, ``rounding``, ``paged``, ``sharding``, to compare only combinations with
            these values. float16 weights, which need loss scaling, and 4-bit state, which costs more of the loss, are
            compared only if they are requested.

    Raises:
        ValueError: as in :func:`plan`; GPUs without a budget; no combination with the fixed values is possible.

    >>> plans("3B", budget="32GB").best.choice
    Combination(params='float32', rounding='nearest', paged=False, state='8bit', sharding='ddp', gradients=None)
    """
    unknown = fixed.keys() - OPTIONS.keys()
    if unknown:
        raise TypeError(f"plans() has no argument {min(unknown)!r} (what can be fixed is {', '.join(OPTIONS)})")
    pages = Pages.of(fixed.get("paged", True) or True, page_budget)
    request = make_request(
        model, optimizer, gpus, ranks, replicas, tensor_parallel, rank, tokens, budget, activations, pages, engine
    )
    least_refused: dict[str, Any] = {"params": "bfloat16", **fixed}  # bfloat16 weights allow the most other choices
    least = Combination(**least_refused, gradients=gradients)
    if "sharding" in fixed:
        check_replicas(request.ranks, least.sharding)
    refusal = least.refuse(request)
    if refusal is not None:
        raise ValueError(refusal)
    if budget is None:
        if gpus:
            raise ValueError("the memory of a GPU is not known here: give budget='24GB'")
        request = replace(request, budget=usable_memory())
    source = "free on this machine" if budget is None else "as given"
    usual = {"params": ("float32", "bfloat16"), "state": ("float32", "bfloat16", "8bit")}
    options = {**OPTIONS, **usual, **{name: (value,) for name, value in fixed.items()}}
    choices = [Combination(**dict(zip(options, values)), gradients=gradients) for values in product(*options.values())]
    choices = [choice for choice in choices if choice.refuse(request) is None]

    # Paging only moves memory, a checkpoint is whole, and what is sent depends on types and sharding.
    rows_of = cache(lambda plain: tuple(list_rows(request, plain)))
    sum_checkpoint = cache(lambda plain: checkpoint_bytes(request, plain))
    sum_traffic = cache(lambda plain: list_traffic(request, plain))

    def build(choice: Combination) -> Plan:
        resident = replace(choice, paged=False)
        whole, sent = replace(resident, sharding="ddp"), replace(resident, rounding="nearest", state="float32")
        return build_plan(request, choice, rows_of(resident), sum_checkpoint(whole), sum_traffic(sent))

    return Plans(tuple(map(build, choices)), request.budget or 0, source)
