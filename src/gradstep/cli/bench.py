"""``gradstep bench``."""

from pathlib import Path
from typing import Annotated

import typer

from gradstep.cli.screen import console, usage_errors, waiting


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
        from gradstep.lab.bench_report import draw_chart, run_with_bar, summary
    from gradstep.report import check_file

    with usage_errors(ValueError):
        check_file(chart)
        works = [work for work in lab.WORKS if not quick or work.parameters <= lab.QUICK_PARAMETERS]
        cases = [*lab.cases(works), *lab.rule_cases(lab.rule_names(rules), works[-1])]
    screen = console()
    results = run_with_bar(cases, repeat or (lab.QUICK_REPEAT if quick else lab.REPEAT), screen)
    if json is not None:
        results.save(json)
    screen.print(summary(results, draw_chart(results).save(chart)), soft_wrap=True)
