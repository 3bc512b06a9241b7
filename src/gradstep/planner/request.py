"""The arguments of a plan that are the same for every combination of storages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.planner.models import model_of
from gradstep.planner.options import check, rule_of
from gradstep.planner.parameters import Model, Module
from gradstep.planner.temporaries import ENGINES, refuse
from gradstep.planner.units import is_binary, parse_size
from gradstep.rules import Rule

PAGE_BUDGET = "512MB"
"""Memory that paged state passes through."""


@final
@dataclass(frozen=True)
class Request:
    """The arguments of :func:`gradstep.plan` that are no choice of storage, read and checked.

    Attributes:
        model: what is trained.
        rule: by which optimizer.
        gpus: on how many; 0 for the CPU.
        budget: bytes of the device, if they are known.
        activations: bytes that were given for them.
        engine: who executes.
        pages: bytes that paged state passes through.
        binary: whether to answer in GiB.
    """

    model: Model
    rule: Rule
    gpus: int
    budget: int | None
    activations: int | None
    engine: str
    pages: int
    binary: bool


def request_of(
    model: Module | str | float,
    optimizer: str | Rule | type[Rule],
    gpus: int,
    budget: str | int | None,
    activations: str | int | None,
    page_budget: str | int,
    engine: str,
) -> Request:
    """Read and check the arguments; they, and the errors, are those of :func:`gradstep.plan`."""
    if isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 0:  # type: ignore[redundant-expr]
        raise ValueError(f"Invalid gpus: {gpus!r} (a whole number; 0 plans for the CPU)")
    check("engine", engine, ENGINES)
    meant, rule = model_of(model), rule_of(optimizer)
    if meant.counted and any(slot.collapsed is not None for slot in rule.slots(2)):
        raise ValueError(
            f"{type(rule).__name__}'s state depends on the shapes of the weights, which a count does not tell: "
            "give a torch.nn.Module or the name of a well-known model"
        )
    refusal = refuse(engine, rule, gpus)
    if refusal is not None:
        raise ValueError(refusal)
    return Request(
        model=meant,
        rule=rule,
        gpus=gpus,
        budget=None if budget is None else parse_size(budget),
        activations=None if activations is None else parse_size(activations),
        engine=engine,
        pages=parse_size(page_budget),
        binary=is_binary(budget),
    )
