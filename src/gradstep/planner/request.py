"""The arguments of a plan that are the same for every combination of storages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from gradstep.planner.models import model_of
from gradstep.planner.parameters import Model, Module
from gradstep.planner.sharding import Ranks
from gradstep.planner.units import is_binary, parse_size
from gradstep.rules import RULES, Rule
from gradstep.storage.policy import Pages, check_choice
from gradstep.variants import names_file, rule_in_file

ENGINES = ("auto", "fused", "eager", "compiled")


@final
@dataclass(frozen=True)
class Request:
    """The parsed arguments of :func:`gradstep.plan` other than those of :class:`Choice`; sizes in bytes.

    ``pages`` is the memory for the pages of paged state; ``binary`` says whether to print sizes in GiB.
    """

    model: Model
    rule: Rule
    gpus: int
    ranks: Ranks
    tokens: int | None
    budget: int | None
    activations: int | None
    engine: str
    pages: int
    binary: bool


def make_request(
    model: Module | str | float,
    optimizer: str | Rule | type[Rule],
    gpus: int,
    ranks: int | None,
    replicas: int,
    tensor_parallel: int,
    rank: int | None,
    tokens: int | None,
    budget: str | int | None,
    activations: str | int | None,
    pages: Pages | None,
    engine: str,
) -> Request:
    """Parse and check arguments; they and the errors are those of :func:`gradstep.plan`."""
    processes = make_ranks(gpus, ranks, replicas, tensor_parallel, rank, tokens)
    check_choice("engine", engine, ENGINES)
    resolved, rule = model_of(model), resolve_rule(optimizer)
    if resolved.counted and any(slot.collapsed is not None for slot in rule.slots(2)):
        raise ValueError(
            f"{type(rule).__name__}'s state depends on the shapes of the weights, which a count does not tell: "
            "give a torch.nn.Module or the name of a well-known model"
        )
    refusal = refuse_engine(engine, rule, gpus)
    if refusal is not None:
        raise ValueError(refusal)
    return Request(
        model=resolved,
        rule=rule,
        gpus=gpus,
        ranks=processes,
        tokens=tokens,
        budget=None if budget is None else parse_size(budget),
        activations=None if activations is None else parse_size(activations),
        engine=engine,
        pages=(pages or Pages()).budget,
        binary=is_binary(budget),
    )


def make_ranks(
    gpus: int, ranks: int | None, replicas: int, tensor_parallel: int, rank: int | None, tokens: int | None
) -> Ranks:
    """Check the arguments of :func:`gradstep.plan` about processes, and return the ranks.

    >>> make_ranks(0, 8, 1, 2, None, None)
    Ranks(data=4, tensor=2, rank=None, replicas=1)
    """
    for name, value, least, what in (
        ("gpus", gpus, 0, "a whole number; 0 plans for the CPU"),
        ("ranks", 1 if ranks is None else ranks, 1, "the number of processes, at least 1"),
        ("replicas", replicas, 1, "the number of copies of the shards with sharding='hsdp', at least 1"),
        ("tensor_parallel", tensor_parallel, 1, "the number of ranks that divide a matrix, at least 1"),
        ("rank", 0 if rank is None else rank, 0, "the number of a rank, from 0 on"),
        ("tokens", 1 if tokens is None else tokens, 1, "the tokens of a rank's batch, at least 1"),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:  # type: ignore[redundant-expr]
            raise ValueError(f"Invalid {name}: {value!r} ({what})")
    count = ranks or max(1, gpus)
    if gpus and count != gpus:
        raise ValueError(f"ranks={count} and gpus={gpus}: each GPU has one rank, so give one of them")
    if count % tensor_parallel:
        raise ValueError(f"tensor_parallel={tensor_parallel} must divide the {count} ranks (ranks=, or gpus=)")
    data = count // tensor_parallel
    if data % replicas:
        raise ValueError(f"replicas={replicas} must divide the {data} data parallel ranks")
    if rank is not None and rank >= count:
        raise ValueError(f"rank={rank}: the {count} ranks are 0 to {count - 1}")
    return Ranks(data, tensor_parallel, rank, replicas)


def resolve_rule(optimizer: str | Rule | type[Rule], **settings: Any) -> Rule:
    """Return a rule, given itself, its class, its name in any case, or ``FILE.py:NAME``; a name takes settings.

    Raises:
        ValueError: no rule of that name.
        TypeError: another type.

    >>> resolve_rule("adamw").slots(2)[0].name
    'exp_avg'
    """
    if isinstance(optimizer, Rule):
        return optimizer
    if isinstance(optimizer, type) and issubclass(optimizer, Rule):
        return optimizer()
    if not isinstance(optimizer, str):
        raise TypeError(f"optimizer must be a name, a Rule or a subclass of Rule, not {optimizer!r}")
    if names_file(optimizer):
        return rule_in_file(optimizer)(**settings)
    names = {name.lower(): name for name in RULES}
    check_choice("optimizer", optimizer.lower(), tuple(names))
    return RULES[names[optimizer.lower()]](**settings)


def refuse_engine(engine: str, rule: Rule, gpus: int) -> str | None:
    """Return why an engine cannot run a rule on these devices, or None."""
    if engine == "fused" and gpus:
        return "engine='fused' runs on the CPU only; engine='compiled' makes no temporaries on a GPU"
    if engine in ("fused", "compiled") and not rule.elementwise:
        return f"engine={engine!r} works element by element, and {type(rule).__name__} needs means: take engine='eager'"
    return None
