"""A combination as the lines of Python that set it up."""

from __future__ import annotations

from gradstep.planner.options import Choice
from gradstep.planner.request import PAGE_BUDGET, Request
from gradstep.planner.units import parse_size
from gradstep.rules import RULES, settings_of

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
