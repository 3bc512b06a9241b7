"""``gradstep race``, ``report``, ``bench``, ``lr-find`` and ``schedules``: the commands that race, measure and draw."""

import os
from pathlib import Path
from typing import Annotated

import typer

from gradstep.cli.screen import EXIT_INTERRUPTED, console, usage_errors, waiting


def race(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK]...", help="What to train: digits, text, ...; all by default."),
    ] = None,
    optimizers: Annotated[
        str | None,
        typer.Option(
            "--optimizers",
            "-o",
            help="The optimizers: name[:key=value,...], comma-separated, as in adamw,sgd:lr=0.1,momentum=0.9.",
        ),
    ] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Also race torch.optim's class of the same name.")] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Few steps, of the tasks that can show a difference by then: about 45 s."),
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each optimizer; by default the task's.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each optimizer, each from other random weights.")] = 3,
    start: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Start of the paths over a surface, as in --start=-1,1.")
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="Clip gradients to this norm before every step; by default no clipping.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder under which results and report are put.")] = Path("runs"),
    list_: Annotated[bool, typer.Option("--list", help="List the tasks and optimizers, and end.")] = False,
) -> None:
    """Train the same model from the same start with each optimizer, and compare."""
    # Set before torch is loaded: torch's threads wait for each other in a busy loop, which makes a step ten times
    # slower if other programs use the cores. Sleeping threads cost almost nothing, and all contenders the same.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with waiting("loading PyTorch"):
        from gradstep.lab import session, terminal

    screen = console()
    if list_:
        screen.print(terminal.listing())
        return
    with waiting("preparing the race"), usage_errors(ValueError, TypeError, NotADirectoryError):
        plan = session.plan(
            tasks=tasks or [],
            optimizers=optimizers,
            peers=peers,
            quick=quick,
            steps=steps,
            seeds=seeds,
            start=start,
            clip=clip,
            out=out,
        )
    for each in plan.races:
        for notice in each.explain_default_rates():
            screen.print(notice, highlight=False, markup=False, soft_wrap=True)
    try:
        outcome = session.run(plan, terminal.display_for(screen))
    except OSError as error:
        screen.print(f"Cannot write the results: {error}. What was written stays; --out chooses another folder.")
        raise typer.Exit(1) from error
    screen.print(terminal.closing(outcome), soft_wrap=True)
    if outcome.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a race, such as one under runs/.")],
) -> None:
    """Build the report of a race again from its results."""
    from gradstep.lab.report import write_race_report

    with usage_errors(ValueError, FileNotFoundError):
        file = write_race_report(run)
    console().print(f"Report: {file}", soft_wrap=True)


def bench(
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Few repetitions, and no model of over 30 M parameters: about half a minute."),
    ] = False,
    repeat: Annotated[
        int | None, typer.Option(min=1, help="Repetitions of each case; short steps are repeated more.")
    ] = None,
    rules: Annotated[
        str,
        typer.Option(help="Also measure these rules on 25 M parameters: all, or names separated by commas."),
    ] = "",
    json: Annotated[Path | None, typer.Option(help="Write every measured time to this file.")] = None,
    chart: Annotated[Path, typer.Option(help="Draw the chart into this file (.svg or .html).")] = Path(
        "runs/bench.html"
    ),
) -> None:
    """Time gradstep's step against torch's, on real models' shapes, and against this machine's memory."""
    with waiting("loading PyTorch"):
        from gradstep.lab import bench as lab
        from gradstep.lab.bench_report import draw_benchmark, run_with_bar, summary
    from gradstep.report import check_picture_file

    with usage_errors(ValueError):
        check_picture_file(chart)
        works = [work for work in lab.WORKS if not quick or work.parameters <= lab.QUICK_PARAMETERS]
        cases = [*lab.cases(works), *lab.rule_cases(lab.rule_names(rules), works[-1])]
    screen = console()
    results = run_with_bar(cases, repeat or (lab.QUICK_REPEAT if quick else lab.REPEAT), screen)
    if json is not None:
        results.save(json)
    screen.print(summary(results, draw_benchmark(results).save(chart)), soft_wrap=True)


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
        from gradstep.lab.specs import parse_specs
        from gradstep.lab.tasks import TASKS
        from gradstep.report import check_picture_file
        from gradstep.spelling import suggest
        from gradstep.training.lr_find import lr_find as find
        from gradstep.training.stepper import Stepper

    with usage_errors(ValueError, TypeError):
        if task not in TASKS:
            raise ValueError(f"Unknown task: {task!r}.{suggest(task, TASKS)} There are {', '.join(TASKS)}.")
        specs = parse_specs(optimizer)
        if len(specs) > 1:
            raise ValueError(f"One optimizer at a time, not {' and '.join(spec.name for spec in specs)}")
        check_picture_file(chart)
        chosen = TASKS[task]
        contender = make_contender(specs[0], chosen)
        model = chosen.model(seed)
        stepper = Stepper(
            model,
            contender.optimizer(model),
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
            raise typer.Exit(EXIT_INTERRUPTED) from None
    result.plot().save(chart)
    screen.print(f"{chosen.title}, {contender.label}: {result}", soft_wrap=True, highlight=False)
    screen.print(f"Chart: {chart}", soft_wrap=True)
    raise typer.Exit(1 if result.refusal else 0)


def schedules(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCHEDULE]...", help="The schedules: cosine, wsd, one-cycle, ...; all by default."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Length of each schedule, in updates.")] = 1000,
    warmup: Annotated[
        int | None,
        typer.Option(help="Updates of a linear warmup before each; by default only where the name says so."),
    ] = None,
    lr: Annotated[float, typer.Option(help="The highest value.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Draw them together into this file (.svg or .html).")] = None,
) -> None:
    """Draw learning-rate schedules, together in one picture."""
    from rich.table import Table

    from gradstep.report import check_picture_file
    from gradstep.report.words import number, sparkline
    from gradstep.schedules.gallery import draw_together, gallery

    with usage_errors(ValueError):
        if out is not None:
            check_picture_file(out)
        drawn = gallery(names or (), steps=steps, warm=warmup, lr=lr)
    screen = console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("schedule", f"over {steps:,} updates", "first", "highest", "last"):
        table.add_column(title, justify="right" if title in ("first", "highest", "last") else "left", no_wrap=True)
    letters = min(48, max(12, screen.width - 56))
    for name, schedule in drawn.items():
        values = [schedule.value(update) for update in sorted({*range(0, steps, -(-steps // 2000)), steps - 1})]
        ends = (number(value) for value in (values[0], max(values), values[-1]))
        table.add_row(name, sparkline(values, letters, low=0.0), *ends)
    screen.print(table)
    if out is not None:
        title = f"{'Schedules' if len(drawn) > 1 else next(iter(drawn))} over {steps:,} updates"
        screen.print(f"Picture: {draw_together(drawn, steps, title).save(out)}", soft_wrap=True)
