"""``gradstep lr-find``."""

import os
from pathlib import Path
from typing import Annotated

import typer

from gradstep.cli.screen import INTERRUPTED, console, usage_errors, waiting


def lr_find(
    task: Annotated[str, typer.Argument(help="What to train: digits, text, ...")],
    optimizer: Annotated[
        str, typer.Option("--optimizer", "-o", help="name[:key=value,...], as in sgd:momentum=0.9.")
    ] = "adamw",
    sweeps: Annotated[int, typer.Option(min=1, help="Sweeps, each with other random numbers.")] = 3,
    updates: Annotated[int, typer.Option(min=10, help="Updates of a sweep.")] = 100,
    start: Annotated[float, typer.Option(help="The lowest learning rate.")] = 1e-7,
    end: Annotated[float, typer.Option(help="The highest learning rate.")] = 10.0,
    accumulate: Annotated[int, typer.Option(min=1, help="Micro-batches of an update.")] = 1,
    precision: Annotated[str, typer.Option(help="Forward pass in float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the model and of the first sweep.")] = 0,
    chart: Annotated[Path, typer.Option(help="Draw the curves into this file (.svg or .html).")] = Path(
        "runs/lr_find.html"
    ),
) -> None:
    """Find a learning rate for one of the lab's tasks. Exit codes: 0 found, 1 nothing to recommend."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded; see race
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with waiting("loading PyTorch"):
        from gradstep.lab.contenders import make_contender
        from gradstep.lab.specs import parse_specs, suggest
        from gradstep.lab.tasks import TASKS
        from gradstep.report import check_file
        from gradstep.training.lr_find import lr_find as find
        from gradstep.training.stepper import Stepper

    with usage_errors(ValueError, TypeError):
        if task not in TASKS:
            raise ValueError(f"Unknown task: {task!r}.{suggest(task, list(TASKS))} There are {', '.join(TASKS)}.")
        specs = parse_specs(optimizer)
        if len(specs) > 1:
            raise ValueError(f"One optimizer at a time, not {' and '.join(spec.name for spec in specs)}")
        check_file(chart)
        chosen = TASKS[task]
        contender = make_contender(specs[0], chosen)
        model = chosen.model(seed)
        stepper = Stepper(
            model,
            contender.optimizer(model.parameters()),
            accumulate=accumulate,
            precision=precision,  # type: ignore[arg-type]  # judged there
        )
    screen = console()
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=screen, transient=True) as bar:
        bar_task = bar.add_task("", total=sweeps * updates)

        def advance(sweep: int, update: int, lr: float, loss: float) -> None:
            text = f"sweep {sweep + 1} of {sweeps}: lr {lr:.1e}, loss {loss:.4g}"
            bar.update(bar_task, completed=sweep * updates + update + 1, description=text)

        try:
            result = find(
                stepper,
                chosen.loss,
                chosen.batches,
                start=start,
                end=end,
                updates=updates,
                sweeps=sweeps,
                seed=seed,
                on_update=advance,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    result.plot().save(chart)
    screen.print(f"{chosen.title}, {contender.label}: {result}", soft_wrap=True, highlight=False)
    screen.print(f"Chart: {chart}", soft_wrap=True)
    raise typer.Exit(1 if result.refusal else 0)
