"""``gradstep plan``."""

import json as text
from pathlib import Path
from typing import Annotated

import typer

from gradstep.cli.screen import console, usage_errors
from gradstep.rules import Rule
from gradstep.storage.policy import STATES


def plan(
    model: Annotated[
        str,
        typer.Argument(help="A known name (gpt2, ...), a count (3B) or a Hugging Face config.json."),
    ],
    optimizer: Annotated[
        str,
        typer.Option(
            "--optimizer", "-o", help="name[:key=value,...], as in sgd:lr=0.1,momentum=0.9; or FILE.py:NAME, a rule."
        ),
    ] = "adamw",
    budget: Annotated[
        str | None,
        typer.Option(help="Memory of a device: 24GB (10⁹ bytes) or 24GiB (2³⁰); by default free memory."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="How many GPUs, each with the budget; 0 plans for the CPU.")] = 0,
    params: Annotated[str | None, typer.Option(help="Only these weights: float32, bfloat16, float16.")] = None,
    gradients: Annotated[
        str | None, typer.Option(help="Type of the gradients; by default that of the weights.")
    ] = None,
    state: Annotated[str | None, typer.Option(help=f"Only this state: {', '.join(STATES)}.")] = None,
    rounding: Annotated[
        str | None, typer.Option(help="Only plans with this rounding: nearest, stochastic, 24bit, kahan, master.")
    ] = None,
    paged: Annotated[
        bool | None, typer.Option("--paged/--resident", help="Only plans with paged state, or only without.")
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(min=1, help="How many processes, each with a device; by default one on each GPU."),
    ] = None,
    sharding: Annotated[
        str | None, typer.Option(help="Only plans with this sharding: ddp, zero1, zero2, hsdp, fsdp2 (or zero3).")
    ] = None,
    sharded: Annotated[str | None, typer.Option(hidden=True, help="The old spelling of --sharding.")] = None,
    replicas: Annotated[
        int, typer.Option(min=1, help="Copies of the shards with --sharding hsdp, such as the number of machines.")
    ] = 1,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="How many of the ranks divide each matrix.")] = 1,
    rank: Annotated[int | None, typer.Option(min=0, help="The rank to plan for; by default the largest.")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a rank's batch, for what tensor parallelism sends.")
    ] = None,
    activations: Annotated[str | None, typer.Option(help="Activations on each device, such as 2GB.")] = None,
    page_budget: Annotated[
        str | None, typer.Option(help="Memory that paged state passes through; by default 512MB.")
    ] = None,
    engine: Annotated[str, typer.Option(help="The engine: auto, fused, foreach, eager, compiled.")] = "auto",
    all_: Annotated[bool, typer.Option("--all", help="Show every combination.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    chart: Annotated[Path | None, typer.Option(help="Draw the table into this file (.svg or .html).")] = None,
) -> None:
    """What training a model keeps in memory, in every combination, and which to take."""
    from gradstep.planner import plans
    from gradstep.planner.display import draw_chart, draw_table
    from gradstep.planner.request import OLD_SHARDING
    from gradstep.report import check_picture_file

    given = {"params": params, "state": state, "rounding": rounding, "paged": paged, "sharding": sharding}
    fixed = {name: value for name, value in given.items() if value is not None}
    if sharded is not None:
        fixed["sharding"] = OLD_SHARDING.get(sharded, sharded)
        typer.echo(f"--sharded {sharded} is now --sharding {fixed['sharding']}", err=True)
    with usage_errors(ValueError, TypeError):
        if chart is not None:
            check_picture_file(chart)
        result = plans(
            model,
            optimizer=parse_rule(optimizer),
            budget=budget,
            gpus=gpus,
            ranks=ranks,
            replicas=replicas,
            tensor_parallel=tensor_parallel,
            rank=rank,
            tokens=tokens,
            activations=activations,
            page_budget=page_budget,
            gradients=gradients,
            engine=engine,
            **fixed,
        )
    shown = result.plans if all_ else result.brief
    screen = console()
    if json:
        print(text.dumps(result.as_dict(), indent=2))
    else:
        screen.print(draw_table(result, shown), soft_wrap=True)
    if chart is not None:
        draw_chart(result, shown).save(chart)
        if not json:
            screen.print(f"Chart: {chart}", soft_wrap=True)


def parse_rule(text: str) -> Rule:
    """Return the rule that an argument names, with its settings.

    Raises:
        ValueError: no such rule, several of them, or bad settings.
    """
    from gradstep.planner.request import resolve_rule

    if not {":", ","} & set(text):
        return resolve_rule(text)
    from gradstep.lab.specs import parse_specs

    specs = parse_specs(text)
    if len(specs) > 1:
        raise ValueError(f"Plan one optimizer at a time, not {' and '.join(spec.name for spec in specs)}")
    return resolve_rule(specs[0].name, **dict(specs[0].settings))
