"""The plan of one combination of model, optimizer and storage: its bytes, and the lines of Python that set it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from gradstep.planner.items import GATHERED, Item, Row, items, rows
from gradstep.planner.options import Choice, describe
from gradstep.planner.parameters import Module
from gradstep.planner.request import PAGE_BUDGET, Request, request_of
from gradstep.planner.units import parse_size
from gradstep.report.words import size
from gradstep.rules import RULES, Rule, settings_of


@final
@dataclass(frozen=True)
class Plan:
    """What a training run keeps in memory; made by :func:`plan`.

    Figures are bytes, on each GPU where there are several.

    Attributes:
        model: what it is for.
        parameters: number of its elements; ``trainable`` of those that are trained.
        optimizer: the rule's name.
        choice: how things are stored.
        gpus: how many; 0 for the CPU.
        rows: everything that is kept, one by one.
        checkpoint: size of a checkpoint of weights and state.
        code: lines of Python that set this up, for a ``model``.
        budget: what there is on the device, or None if nothing was said.
        binary: whether to print GiB (2³⁰ bytes) in place of GB (10⁹).
    """

    model: str
    parameters: int
    trainable: int
    optimizer: str
    choice: Choice
    gpus: int
    rows: tuple[Row, ...]
    checkpoint: int
    code: str
    budget: int | None = None
    binary: bool = False

    def of(self, kind: str) -> int:
        """Bytes of one kind, wherever they are."""
        return sum(row.nbytes for row in self.rows if row.kind == kind)

    def on(self, place: str) -> int:
        """Bytes in one place."""
        return sum(row.nbytes for row in self.rows if row.place == place)

    @property
    def kept(self) -> int:
        """Bytes of weights, gradients and state, wherever they are: the sum that texts give for a model."""
        return sum(map(self.of, ("weights", "gradients", "state")))

    @property
    def device(self) -> int:
        """Bytes on the device: each GPU, or this machine's memory for a plan on the CPU."""
        return self.on("device")

    @property
    def host(self) -> int:
        """Bytes in the host's memory that GPUs page their state to."""
        return self.on("host")

    @property
    def disk(self) -> int:
        """Bytes in files that state is paged to."""
        return self.on("disk")

    @property
    def total(self) -> int:
        """Bytes in all places."""
        return sum(row.nbytes for row in self.rows)

    @property
    def fits(self) -> bool | None:
        """Whether the device holds it; None without a budget."""
        return None if self.budget is None else self.device <= self.budget

    @property
    def checkpoint_peak(self) -> int:
        """Bytes of main memory while ``torch.load`` brings a checkpoint in, before the first backward pass.

        On the CPU the checkpoint stands beside weights and state; for GPUs it stands on the host. With ``mmap=True`` it
        need not be read at once, and this does not arise.
        """
        passing = ("gradients", "temporaries", "activations", GATHERED)
        held = 0 if self.gpus else sum(r.nbytes for r in self.rows if r.place == "device" and r.name not in passing)
        return held + self.host + self.checkpoint

    def as_dict(self) -> dict[str, Any]:
        """Everything, totals included, as JSON takes it."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "trainable": self.trainable,
            "optimizer": self.optimizer,
            **vars(self.choice),
            "gpus": self.gpus,
            "code": self.code,
            "kept": self.kept,
            "rows": [vars(row) for row in self.rows],
            "device": self.device,
            "host": self.host,
            "disk": self.disk,
            "total": self.total,
            "checkpoint": self.checkpoint,
            "checkpoint_peak": self.checkpoint_peak,
            "budget": self.budget,
            "fits": self.fits,
        }

    def __str__(self) -> str:
        kept = f"{size(self.kept, binary=self.binary)} of weights, gradients and state"
        head = f"{self.model}: {self.parameters:,} parameters, {self.optimizer}, {describe(self.choice)}: {kept}"
        shown = [*self.rows, *(Row(f"total on {p}", "", self.on(p)) for p in ("device", "host", "disk") if self.on(p))]
        wide = max(len(row.name) for row in shown)
        lines = []
        for row in shown:
            place = "" if row.place == "device" else f"on {row.place}; "
            line = f"  {row.name:<{wide}}  {size(row.nbytes, binary=self.binary):>11}  {place}{row.note}"
            lines.append(line.rstrip("; "))
        return "\n".join([head, *lines])


def plan(
    model: Module | str | float,
    *,
    optimizer: str | Rule | type[Rule] = "adamw",
    params: str | None = None,
    gradients: str | None = None,
    state: str = "float32",
    rounding: str = "nearest",
    paged: bool = False,
    gpus: int = 0,
    sharded: str = "none",
    budget: str | int | None = None,
    activations: str | int | None = None,
    page_budget: str | int = PAGE_BUDGET,
    engine: str = "auto",
) -> Plan:
    """What training this model will keep in memory, before anything is allocated.

    Args:
        model: a ``torch.nn.Module`` (one on the ``meta`` device needs no memory), a number of parameters (``"3B"``,
            ``3e9``), a Hugging Face ``config.json`` or its folder, or a name: gpt2, gpt2-medium, gpt2-large, gpt2-xl,
            llama-3.2-1b, llama-3.2-3b, llama-3-8b, llama-3-70b.
        optimizer: a rule's name, or a rule with its settings (``gradstep.rules.SGD(momentum=0.9)``).
        params: type of the weights, ``"float32"``, ``"bfloat16"`` or ``"float16"``; None leaves a module as it is.
        gradients: the same for gradients; None: as the weights.
        state: how state is stored, ``"float32"``, ``"bfloat16"`` or ``"8bit"``.
        rounding: of half-precision weights: ``"nearest"``, ``"stochastic"``, ``"kahan"`` (a compensation of the
            weight's type) or ``"master"`` (a float32 copy).
        paged: whether state lives outside: on disk, or, with GPUs, in the host's memory.
        gpus: how many GPUs; 0 plans for the CPU.
        sharded: what is dealt out over them: ``"none"``, ``"state"``, ``"gradients"`` (and state) or ``"weights"``
            (all).
        budget: what one GPU (or this machine) has: ``"24GB"`` is 24 × 10⁹ bytes, ``"24GiB"`` 24 × 2³⁰.
        activations: bytes of activations on each device; they are not counted otherwise.
        page_budget: memory that paged state passes through.
        engine: who executes: ``"auto"``, ``"fused"``, ``"eager"`` or ``"compiled"``; they differ in temporaries.

    Raises:
        ValueError: an unknown name, or settings that cannot be honoured together.
        TypeError: a value of the wrong kind.

    >>> print(plan("3B", paged=True))
    3B: 3,000,000,000 parameters, AdamW, float32 weights, float32 state, paged: 48.0 GB of weights, gradients and state
      weights              12.0 GB
      gradients            12.0 GB
      exp_avg              12.0 GB  on disk
      exp_avg_sq           12.0 GB  on disk
      step                     4 B
      temporaries              0 B  the fused engine makes none
      pages in memory     512.0 MB
      total on device      24.5 GB
      total on disk        24.0 GB
    """
    request = request_of(model, optimizer, gpus, budget, activations, page_budget, engine)
    choice = Choice(params or request.model.dtype, rounding, paged, state, sharded, gradients)
    refusal = choice.refuse(request.model, request.rule, gpus)
    if refusal is not None:
        raise ValueError(refusal)
    return build_plan(request, choice, tuple(items(request, choice)))


def build_plan(request: Request, choice: Choice, whole: Sequence[Item]) -> Plan:
    """Build the plan of one combination from the memory of the whole model."""
    return Plan(
        model=request.model.name,
        parameters=sum(p.numel for p in request.model.parameters),
        trainable=sum(p.numel for p in request.model.trainable),
        optimizer=type(request.rule).__name__,
        choice=choice,
        gpus=request.gpus,
        rows=tuple(rows(request, choice, whole)),
        checkpoint=sum(item.nbytes for item in whole if item.kind in ("weights", "state")),
        code=code(request, choice),
        budget=request.budget,
        binary=request.binary,
    )


SHARDS = {"gradients": "fully_shard(model, reshard_after_forward=False)", "weights": "fully_shard(model)"}
"""FSDP2's call for what is dealt out over the GPUs with the state; the blocks of a model come before the whole."""


def code(request: Request, choice: Choice) -> str:
    """Lines to paste after a model has been made, the last of which makes its optimizer.

    Settings that have their defaults are left out. Imports are those of the names: ``gradstep``, ``torch``,
    ``fully_shard`` of ``torch.distributed.fsdp`` and ``ZeroRedundancyOptimizer`` of ``torch.distributed.optim``.
    """
    rule = request.rule
    name = type(rule).__name__
    kind = f"gradstep.{name}" if RULES.get(name) is type(rule) else f"gradstep.optimizer({name})"
    settings = {s.name: getattr(rule, s.name) for s in settings_of(type(rule)) if getattr(rule, s.name) != s.default}
    if choice.state != "float32":
        settings["state"] = choice.state
    if choice.rounding != "nearest":
        settings["rounding"] = choice.rounding
    if choice.paged:
        settings["paged"] = True
        settings["page_budget"] = PAGE_BUDGET if request.pages == parse_size(PAGE_BUDGET) else request.pages
    if request.engine != "auto":
        settings["engine"] = request.engine
    given = "".join(f", {key}={_literal(value)}" for key, value in settings.items())
    # What has fewer bits than float32 leaves embeddings out, which are known by their modules.
    modules = "" if choice.state == "float32" else ", model=model"
    lines = []
    if choice.params is not None and choice.params != request.model.dtype:
        lines.append(f"model.to(torch.{choice.params})")
    if choice.sharded in SHARDS:
        lines.append(SHARDS[choice.sharded])
    if choice.sharded == "state":
        lines.append(f"optimizer = ZeroRedundancyOptimizer(model.parameters(), {kind}{given})")
    else:
        lines.append(f"optimizer = {kind}(model.named_parameters(){modules}{given})")
    return "\n".join(lines)


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
