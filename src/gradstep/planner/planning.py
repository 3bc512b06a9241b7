"""The plan of one combination of model, optimizer and storage: its bytes, and the lines of Python that set it up."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from gradstep.planner.items import GATHERED, MemoryRow, checkpoint_bytes, list_rows, place_rows
from gradstep.planner.parameters import Module
from gradstep.planner.request import OLD_SHARDING, Combination, Request, check_replicas, describe_choice, make_request
from gradstep.planner.sharding import Traffic, cut_matrices, traffic
from gradstep.report.words import size
from gradstep.rules import RULES, Rule, settings_of
from gradstep.storage.policy import PAGE_BUDGET, Pages
from gradstep.warn import take_old_argument


@final
@dataclass(frozen=True)
class Plan:
    """The memory of a training run, as planned by :func:`plan`.

    Figures are bytes; with several ranks, those of one: the rank that keeps the most, or the one that was asked for.

    Attributes:
        model: name of the model.
        parameters: number of its elements; ``trainable``: number of those that are trained.
        optimizer: the rule's name.
        choice: the combination of storages.
        gpus: number of GPUs; 0 for the CPU.
        ranks: number of processes that train together.
        replicas: copies of the shards with ``"hsdp"``, else 1.
        tensor_parallel: how many of them divide each matrix.
        rows: every kind of memory.
        traffic: what a rank sends in a step (one forward and one backward pass).
        checkpoint: size of a checkpoint of weights and state.
        code: lines of Python that set this up, for a variable ``model``.
        budget: bytes of the device; None if unknown.
        binary: whether to print GiB (2³⁰ bytes) instead of GB (10⁹).

    >>> found = plan("124M", state="8bit", budget="2GB")
    >>> found.of("state"), found.device, found.fits
    (248968754, 1240968754, True)
    """

    model: str
    parameters: int
    trainable: int
    optimizer: str
    choice: Combination
    gpus: int
    ranks: int
    replicas: int
    tensor_parallel: int
    rows: tuple[MemoryRow, ...]
    traffic: tuple[Traffic, ...]
    checkpoint: int
    code: str
    budget: int | None = None
    binary: bool = False

    def of(self, kind: str) -> int:
        """Return the bytes of a ``kind`` (``"weights"``, ``"gradients"``, ``"state"``, ``"extra"``) in all places."""
        return sum(row.nbytes for row in self.rows if row.kind == kind)

    def on(self, place: str, kind: str | None = None) -> int:
        """Return the bytes in a ``place`` (``"device"``, ``"host"`` or ``"disk"``), of one ``kind`` or of all."""
        return sum(row.nbytes for row in self.rows if row.place == place and kind in (None, row.kind))

    def in_units(self, nbytes: int) -> str:
        """Return ``nbytes`` as text, in GB or GiB as the budget was given."""
        return size(nbytes, binary=self.binary)

    @property
    def sent(self) -> int:
        """Bytes that a rank sends in a step."""
        return sum(row.nbytes for row in self.traffic)

    @property
    def each(self) -> str:
        """The words for a figure of one of several ranks; empty for a single one."""
        return "" if self.ranks == 1 else " on each GPU" if self.gpus else " on each rank"

    @property
    def kept(self) -> int:
        """Bytes of weights, gradients and state in all places: the sum that texts usually give for a model."""
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
        """Whether the plan fits on the device; None without a budget."""
        return None if self.budget is None else self.device <= self.budget

    @property
    def checkpoint_peak(self) -> int:
        """Bytes of main memory while ``torch.load`` reads a checkpoint, before the first backward pass.

        On the CPU the checkpoint is in memory together with weights and state; for GPUs it is on the host. With
        ``mmap=True`` it is not read at once, and there is no such peak.
        """
        later = ("gradients", "temporaries", "activations", GATHERED)
        device = 0 if self.gpus else sum(r.nbytes for r in self.rows if r.place == "device" and r.name not in later)
        return device + self.host + self.checkpoint

    def as_dict(self) -> dict[str, Any]:
        """Return everything, totals included, as values for JSON."""
        lists = {"rows": [vars(row) for row in self.rows], "traffic": [vars(row) for row in self.traffic]}
        own = {name: value for name, value in vars(self).items() if name not in ("choice", "binary")}
        totals = ("kept", "sent", "device", "host", "disk", "total", "checkpoint_peak", "fits")
        return {**own, **vars(self.choice), **lists, **{name: getattr(self, name) for name in totals}}

    def __str__(self) -> str:
        kept = f"{self.in_units(self.kept)} of weights, gradients and state"
        head = f"{self.model}: {self.parameters:,} parameters, {self.optimizer}, {describe_choice(self.choice)}: {kept}"
        shown = [
            *self.rows,
            *(MemoryRow(f"total on {p}", "", self.on(p)) for p in ("device", "host", "disk") if self.on(p)),
            *(
                MemoryRow(f"sends {row.what}", "", row.nbytes, note=f"{row.collective}, each step")
                for row in self.traffic
            ),
        ]
        wide = max(len(row.name) for row in shown)
        lines = []
        for row in shown:
            place = "" if row.place == "device" else f"on {row.place}; "
            line = f"  {row.name:<{wide}}  {self.in_units(row.nbytes):>11}  {place}{row.note}"
            lines.append(line.rstrip("; "))
        return "\n".join([head, *lines])


@take_old_argument("sharded", "sharding", OLD_SHARDING)
def plan(
    model: Module | str | float,
    *,
    optimizer: str | Rule | type[Rule] = "adamw",
    params: str | None = None,
    gradients: str | None = None,
    state: str = "float32",
    rounding: str = "nearest",
    paged: bool | str | Path | Pages = False,
    gpus: int = 0,
    ranks: int | None = None,
    sharding: str = "ddp",
    replicas: int = 1,
    tensor_parallel: int = 1,
    rank: int | None = None,
    tokens: int | None = None,
    budget: str | int | None = None,
    activations: str | int | None = None,
    page_budget: str | int | None = None,
    engine: str = "auto",
) -> Plan:
    """Plan the memory of training a model, without allocating it.

    Args:
        model: a ``torch.nn.Module`` (one on the ``meta`` device needs no memory), a number of parameters (``"3B"``,
            ``3e9``), a Hugging Face ``config.json`` or its folder, or a name: gpt2, gpt2-medium, gpt2-large, gpt2-xl,
            llama-3.2-1b, llama-3.2-3b, llama-3-8b, llama-3-70b.
        optimizer: a rule's name, or a rule with its settings (``gradstep.rules.SGD(momentum=0.9)``).
        params: type of the weights, ``"float32"``, ``"bfloat16"`` or ``"float16"``; None keeps a module's types.
        gradients: type of the gradients; None takes that of the weights.
        state: how state is stored, ``"float32"``, ``"bfloat16"``, ``"8bit"`` or ``"4bit"``.
        rounding: rounding of half-precision weights: ``"nearest"``, ``"stochastic"``, ``"24bit"`` (bfloat16 with a
            byte of further bits), ``"kahan"`` (with a compensation of the weight's type) or ``"master"`` (with a
            float32 copy).
        paged: whether state is outside the device: on disk, or, with GPUs, in the host's memory; a folder or
            :class:`gradstep.Pages` says where on disk.
        gpus: number of GPUs; 0 plans for the CPU.
        ranks: number of processes that train together, each with its own device; None for one on each GPU.
        sharding: how ranks with different data share the work: ``"ddp"`` (DistributedDataParallel: each keeps
            everything), ``"zero1"`` (``ZeroRedundancyOptimizer``: state is dealt out, whole parameters each),
            ``"zero2"`` (``fully_shard`` with ``reshard_after_forward=False``: state, gradients and weights are sharded
            by rows, and the weights whole from the forward to the backward pass), ``"fsdp2"``, also ``"zero3"``
            (``fully_shard``: one block of layers whole at a time) or ``"hsdp"`` (the same on a mesh of two dimensions:
            ``replicas`` copies, each sharded over the ranks of one copy).
        replicas: number of copies of the shards with ``"hsdp"``, such as the number of machines.
        tensor_parallel: number of ranks that share the same data and divide each matrix; it must divide ``ranks``.
        rank: the number of the rank to plan for; None for the one that keeps the most.
        tokens: tokens of a rank's batch, for the activations that tensor parallelism sends; not counted without it.
        budget: memory of one GPU (or this machine): ``"24GB"`` is 24 × 10⁹ bytes, ``"24GiB"`` 24 × 2³⁰.
        activations: bytes of activations on each device; not counted without it.
        page_budget: memory for the pages of paged state; None takes 512 MB.
        engine: ``"auto"``, ``"fused"``, ``"foreach"``, ``"eager"`` or ``"compiled"``; they differ in their temporaries.

    Raises:
        ValueError: an unknown name, or settings that are not possible together.
        TypeError: a value of the wrong type.

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
    pages = Pages.of(paged or True, page_budget)
    request = make_request(
        model, optimizer, gpus, ranks, replicas, tensor_parallel, rank, tokens, budget, activations, pages, engine
    )
    choice = Combination(params or request.model.dtype, rounding, paged, state, sharding, gradients)
    check_replicas(request.ranks, choice.sharding)
    refusal = choice.refuse(request)
    if refusal is not None:
        raise ValueError(refusal)
    checkpoint, sent = checkpoint_bytes(request, choice), list_traffic(request, choice)
    return build_plan(request, choice, list_rows(request, choice), checkpoint, sent)


def list_traffic(request: Request, choice: Combination) -> tuple[Traffic, ...]:
    """Return what a rank sends in a step; it depends on the types and the sharding only."""
    cut = cut_matrices(request.model.cast(choice.params), request.ranks)
    return tuple(traffic(cut, choice.gradients, choice.sharding, request.ranks, request.tokens))


def build_plan(
    request: Request, choice: Combination, resident: Iterable[MemoryRow], checkpoint: int, sent: tuple[Traffic, ...]
) -> Plan:
    """Build the plan of a possible combination from its rows, the bytes of a checkpoint and its traffic."""
    ranks = request.ranks
    return Plan(
        model=request.model.name,
        parameters=sum(p.numel for p in request.model.parameters),
        trainable=sum(p.numel for p in request.model.trainable),
        optimizer=type(request.rule).__name__,
        choice=choice,
        gpus=request.gpus,
        ranks=ranks.count,
        replicas=ranks.replicas if choice.sharding == "hsdp" else 1,
        tensor_parallel=ranks.tensor,
        rows=tuple(place_rows(request, choice, resident)),
        traffic=sent,
        checkpoint=checkpoint,
        code=write_code(request, choice),
        budget=request.budget,
        binary=request.binary,
    )


WRAPPERS = {
    "ddp": "model = DistributedDataParallel(model)",
    "zero1": "model = DistributedDataParallel(model)",
    "zero2": "fully_shard(model, reshard_after_forward=False)",
    "hsdp": "fully_shard(model)",
    "fsdp2": "fully_shard(model)",
}
"""The call for each sharding; call ``fully_shard`` for the blocks of a model before the whole model."""


def write_code(request: Request, choice: Combination) -> str:
    """Return lines of Python to use after a model has been made; the last one makes its optimizer.

    Settings with their default values are left out. The names to import are ``gradstep``, ``torch``,
    ``DistributedDataParallel`` of ``torch.nn.parallel``, ``fully_shard`` of ``torch.distributed.fsdp``,
    ``ZeroRedundancyOptimizer`` of ``torch.distributed.optim``, ``init_device_mesh`` of
    ``torch.distributed.device_mesh`` and ``parallelize_module`` of ``torch.distributed.tensor.parallel``; ``layers``
    is the plan of the model's layers that the latter takes.
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
        settings["paged"] = choice.paged
        settings["page_budget"] = PAGE_BUDGET if request.pages == Pages().budget else request.pages
    if request.engine != "auto":
        settings["engine"] = request.engine
    arguments = "".join(f", {key}={_literal(value)}" for key, value in settings.items())
    # State with fewer bits than float32 excludes embeddings, which the optimizer finds by the model's modules.
    modules = "" if choice.state == "float32" else ", model=model"
    lines = []
    if choice.params is not None and choice.params != request.model.dtype:
        lines.append(f"model.to(torch.{choice.params})")
    ranks = request.ranks
    mesh, sizes = "", {"data": ranks.data}
    if choice.sharding == "hsdp":
        sizes = {"replicate": ranks.replicas, "shard": ranks.shards("hsdp")}
    if ranks.tensor > 1 or len(sizes) > 1:
        device, data = "cuda" if request.gpus else "cpu", ", ".join(map(_literal, sizes))
        sizes |= {"tensor": ranks.tensor} if ranks.tensor > 1 else {}
        dims = f"{tuple(sizes.values())}, mesh_dim_names=({', '.join(map(_literal, sizes))})"
        lines.append(f'mesh = init_device_mesh("{device}", {dims})')
        mesh = f"{'device_mesh' if choice.sharding == 'ddp' else 'mesh'}=mesh"
        if ranks.tensor > 1:
            lines.append('parallelize_module(model, mesh["tensor"], layers)')
            mesh += f"[{data}]"
    if ranks.data > 1:
        lines.append(f"{WRAPPERS[choice.sharding][:-1]}{mesh and ', ' + mesh})")
    groups = f"model.named_parameters(){modules}"
    if choice.sharding == "zero1":
        # One group, with the names and embeddings that ZeroRedundancyOptimizer does not pass on otherwise.
        groups = f'gradstep.param_groups(model, {getattr(rule, "weight_decay", 0.0)}, policy="all")'
        lines.append(f"optimizer = ZeroRedundancyOptimizer({groups}, {kind}{arguments})")
    else:
        lines.append(f"optimizer = {kind}({groups}{arguments})")
    return "\n".join(lines)


def _literal(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)
