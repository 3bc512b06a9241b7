"""The arguments of a plan that are the same for every combination of storages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from gradstep.planner.models import model_of
from gradstep.planner.options import resolve_rule
from gradstep.planner.parameters import Model, Module
from gradstep.planner.temporaries import ENGINES, refuse
from gradstep.planner.units import is_binary, parse_size
from gradstep.rules import Rule
from gradstep.storage.policy import Pages, check_choice


@final
@dataclass(frozen=True)
class Request:
    """The parsed arguments of :func:`gradstep.plan` other than those of :class:`Choice`.

    Attributes:
        model: the model to train.
        rule: the rule of the optimizer.
        gpus: number of GPUs; 0 for the CPU.
        budget: bytes of the device, if known.
        activations: bytes of activations, if given.
        engine: name of the engine.
        pages: bytes for the pages of paged state.
        binary: whether to print sizes in GiB.
    """

    model: Model
    rule: Rule
    gpus: int
    budget: int | None
    activations: int | None
    engine: str
    pages: int
    binary: bool


def make_request(
    model: Module | str | float,
    optimizer: str | Rule | type[Rule],
    gpus: int,
    budget: str | int | None,
    activations: str | int | None,
    pages: Pages | None,
    engine: str,
) -> Request:
    """Parse and check arguments; they and the errors are those of :func:`gradstep.plan`."""
    if isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 0:  # type: ignore[redundant-expr]
        raise ValueError(f"Invalid gpus: {gpus!r} (a whole number; 0 plans for the CPU)")
    check_choice("engine", engine, ENGINES)
    resolved, rule = model_of(model), resolve_rule(optimizer)
    if resolved.counted and any(slot.collapsed is not None for slot in rule.slots(2)):
        raise ValueError(
            f"{type(rule).__name__}'s state depends on the shapes of the weights, which a count does not tell: "
            "give a torch.nn.Module or the name of a well-known model"
        )
    refusal = refuse(engine, rule, gpus)
    if refusal is not None:
        raise ValueError(refusal)
    return Request(
        model=resolved,
        rule=rule,
        gpus=gpus,
        budget=None if budget is None else parse_size(budget),
        activations=None if activations is None else parse_size(activations),
        engine=engine,
        pages=(pages or Pages()).budget,
        binary=is_binary(budget),
    )
