"""The arguments of a plan: those that are the same for every combination of storages, and the combination itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from gradstep.planner.models import model_of
from gradstep.planner.parameters import ITEMSIZES, Model, Module
from gradstep.planner.sharding import BY_ROWS, OTHER_NAMES, SHARDINGS, PlannedRanks
from gradstep.rules import Rule
from gradstep.storage.policy import STATES, Pages, check_choice, check_precision, describe_state, refuse_rounding
from gradstep.storage.sizes import parse_bytes
from gradstep.variants import find_named_rule, make_rule

GB, GIB = 10**9, 2**30

ENGINE_CHOICES = ("auto", "fused", "foreach", "eager", "compiled")


@final
@dataclass(frozen=True)
class Request:
    """The parsed arguments of :func:`gradstep.plan` other than those of :class:`Combination`; sizes in bytes.

    ``pages`` is the memory for the pages of paged state; ``binary`` says whether to print sizes in GiB.
    """

    model: Model
    rule: Rule
    gpus: int
    ranks: PlannedRanks
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
    check_choice("engine", engine, ENGINE_CHOICES)
    resolved, rule = model_of(model), resolve_rule(optimizer)
    if resolved.counted and any(slot.collapsed is not None for slot in rule.slots(2)):
        raise ValueError(
            f"{type(rule).__name__}'s state depends on the shapes of the weights, which a count does not tell: "
            "give a torch.nn.Module or the name of a well-known model"
        )
    for p in resolved.parameters:
        unfit = rule.explain_refusal(p.shape) if p.trainable else None
        if unfit is not None:
            raise ValueError(f"{type(rule).__name__} cannot update {p.name} of shape {p.shape}: {unfit}")
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


def parse_size(text: str | int) -> int:
    """Return a number of bytes above 0 from "24GB", "24 GiB", "512 MB" or a whole number.

    Raises:
        ValueError: no such unit, or a size of 0.
        TypeError: neither text nor a whole number.

    >>> parse_size("24GB"), parse_size("24 GiB")
    (24000000000, 25769803776)
    """
    amount = parse_bytes(text)
    if amount == 0:
        raise ValueError(f"Invalid size: {text!r} (must be above 0)")
    return amount


def is_binary(text: str | int | None) -> bool:
    """Return whether a size was written in KiB, MiB or GiB, so that results are printed in these units too."""
    return isinstance(text, str) and text.strip().lower().endswith("ib")


def make_ranks(
    gpus: int, ranks: int | None, replicas: int, tensor_parallel: int, rank: int | None, tokens: int | None
) -> PlannedRanks:
    """Check the arguments of :func:`gradstep.plan` about processes, and return the ranks.

    >>> make_ranks(0, 8, 1, 2, None, None)
    PlannedRanks(data=4, tensor=2, rank=None, replicas=1)
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
    if data < replicas:
        least = 2 * replicas * tensor_parallel
        raise ValueError(
            f"replicas={replicas} needs two data parallel ranks or more for each copy of the shards, and there "
            f"{'is' if data == 1 else 'are'} {data}: give sharding='hsdp' with ranks={least} or more, or gpus={least}"
        )
    if data % replicas:
        raise ValueError(f"replicas={replicas} must divide the {data} data parallel ranks")
    if rank is not None and rank >= count:
        raise ValueError(f"rank={rank}: the {count} ranks are 0 to {count - 1}")
    return PlannedRanks(data, tensor_parallel, rank, replicas)


def resolve_rule(optimizer: str | Rule | type[Rule], **settings: Any) -> Rule:
    """Return a rule, given itself, its class, its name in any case, or ``FILE.py:NAME``; all but itself take settings.

    Raises:
        ValueError: no rule of that name, or a setting out of its bounds.
        TypeError: another type, or a setting that the rule does not have.

    >>> resolve_rule("adamw").slots(2)[0].name
    'exp_avg'
    """
    if isinstance(optimizer, Rule):
        return optimizer
    if isinstance(optimizer, type) and issubclass(optimizer, Rule):
        return make_rule(optimizer, settings)
    if not isinstance(optimizer, str):
        raise TypeError(f"optimizer must be a name, a Rule or a subclass of Rule, not {optimizer!r}")
    return make_rule(find_named_rule(optimizer), settings)


def refuse_engine(engine: str, rule: Rule, gpus: int) -> str | None:
    """Return why an engine cannot run a rule on these devices, or None."""
    if engine == "fused" and gpus:
        return "engine='fused' runs on the CPU only; engine='compiled' makes no temporaries on a GPU"
    narrow = ("elements", "means") if engine == "fused" else ("elements",)
    if engine in ("fused", "foreach", "compiled") and rule.sees not in narrow:
        return f"engine={engine!r} works element by element, and {type(rule).__name__} does not: take engine='eager'"
    return None


OLD_SHARDING = {"none": "ddp", "state": "zero1", "gradients": "zero2", "weights": "fsdp2"}
"""The values of ``sharding`` for the old spelling ``sharded=``."""

ROUNDING_CHOICES = ("master", "kahan", "24bit", "stochastic", "nearest")

OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "params": tuple(ITEMSIZES),
    "rounding": ROUNDING_CHOICES,
    "paged": (False, True),
    "state": tuple(STATES),
    "sharding": SHARDINGS,
}
"""The options, the most important first; the values of each from the least deviation from plain float32 on."""


@final
@dataclass(frozen=True)
class Combination:
    """One combination of options.

    Attributes:
        params: type of the weights; None keeps the model's types.
        rounding: how an update of half-precision weights is rounded.
        paged: whether state is outside the device: on disk, or for GPUs in the host's memory. A folder, or
            :class:`gradstep.Pages` with one, becomes its path as text.
        state: how state is stored.
        sharding: how data parallel ranks share the work; ``"zero3"`` becomes ``"fsdp2"``.
        gradients: type of the gradients; None takes that of the weights.
    """

    params: str | None = None
    rounding: str = "nearest"
    paged: bool | str | Path | Pages = False
    state: str = "float32"
    sharding: str = "ddp"
    gradients: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in {**OPTIONS, "gradients": tuple(ITEMSIZES)}.items():
            value = vars(self)[name]
            if name == "paged":
                pages = Pages.of(value, None)
                value = pages is not None and (pages.folder is None or str(pages.folder))
            elif name == "rounding" or name == "sharding":
                value = OTHER_NAMES.get(value, value) if name == "sharding" else value
                check_choice(name, value, allowed)
            elif value is not None or name == "state":
                value = check_precision(name, value, allowed)
            object.__setattr__(self, name, value)

    def refuse(self, request: Request) -> str | None:
        """Return why this combination is impossible, or None."""
        model, rule, gpus, ranks = request.model, request.rule, request.gpus, request.ranks
        if self.rounding != "nearest" and not any(p.is_half for p in model.cast(self.params).trainable):
            return f"rounding={self.rounding!r} is for bfloat16 or float16 weights, and there are none"
        dtypes = {p.real_dtype for p in model.cast(self.params).trainable}
        refusal = next(filter(None, (refuse_rounding(self.rounding, dtype) for dtype in dtypes)), None)
        if refusal is not None:
            return refusal
        if self.sharding != "ddp" and ranks.data < 2:
            least = 2 * ranks.tensor
            return (
                f"sharding={self.sharding!r} needs two data parallel ranks: give ranks={least} or more, or gpus={least}"
            )
        if self.sharding == "hsdp" and not 1 < ranks.replicas < ranks.data:
            return (
                "sharding='hsdp' needs replicas=, the number of copies of the shards: 2 or more, "
                f"with two of the {ranks.data} data parallel ranks or more for each"
            )
        if self.sharding == "zero1" and ranks.tensor > 1:
            return "sharding='zero1' (ZeroRedundancyOptimizer) is not for tensor parallelism: take sharding='fsdp2'"
        if isinstance(self.paged, str) and gpus:
            return f"paged={self.paged!r} is for the CPU: with GPUs give paged=True, which pages to the host's memory"
        if self.sharding in BY_ROWS or ranks.tensor > 1:  # the parameters are DTensors
            how = f"sharding={self.sharding!r}" if ranks.tensor == 1 else f"tensor_parallel={ranks.tensor}"
            if self.paged:
                return f"paged state holds whole parameters, and {how} divides them: take paged=False, or zero1"
        stateless = not any(rule.slots(len(p.shape)) for p in model.trainable)
        if stateless and (self.paged or self.state != "float32"):
            return f"{type(rule).__name__} as set here keeps no state that could be stored otherwise"
        return None


def check_replicas(ranks: PlannedRanks, sharding: str) -> None:
    """Raise ValueError for copies of shards with another sharding than ``"hsdp"``, which would ignore them."""
    if ranks.replicas > 1 and sharding != "hsdp":
        raise ValueError(f"replicas={ranks.replicas} is for sharding='hsdp', and not for {sharding!r}")


def describe_choice(choice: Combination) -> str:
    """Return a combination in words.

    >>> describe_choice(Combination("bfloat16", "kahan", state="8bit"))
    'bfloat16 weights with Kahan compensation, 8-bit state'
    """
    rounding = {
        "nearest": "" if choice.params in (None, "float32") else " rounded to nearest",
        "stochastic": " rounded stochastically",
        "24bit": " with 8 more bits",
        "kahan": " with Kahan compensation",
        "master": " with a float32 master copy",
    }[choice.rounding]
    weights = f"{choice.params} weights" if choice.params else "weights as they are"
    words = [weights + rounding, f"{describe_state(choice.state)} state"]
    if choice.paged:
        words.append("paged")
    if choice.sharding != "ddp":
        words.append(choice.sharding)
    return ", ".join(words)
