"""``gradstep check``."""

import ast
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from gradstep.cli.screen import console, usage_errors, waiting
from gradstep.judge.isolation import TIME_LIMIT


def check(
    context: typer.Context,
    target: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE.py:NAME",
            help="The class, factory or function in a file; with --training: -- and the script's arguments.",
        ),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="The rule that it should compute: adamw, sgd, lion, ..., or FILE.py:NAME."),
    ] = None,
    convention: Annotated[
        str,
        typer.Option(
            help="The convention that counts as right: torch, paper, optax, tinytorch, keras, huggingface, "
            "bitsandbytes, textbook."
        ),
    ] = "torch",
    kind: Annotated[
        str | None,
        typer.Option(help="Its form, if the code does not show it: torch, numpy, function or update."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting held fixed; may be repeated.")
    ] = None,
    parameter: Annotated[
        str | None,
        typer.Option(help="For NumPy optimizers: the class in that file that makes a parameter of an array."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Advice counts as failure.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Show every probe, also those that passed.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds that the check may take.")] = TIME_LIMIT,
    training: Annotated[
        Path | None,
        typer.Option(
            metavar="SCRIPT.py",
            exists=True,
            dir_okay=False,
            help="Run a training script instead, and say which rule updated which parameter.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="With --training: steps of each optimizer that are watched.")] = 20,
) -> None:
    """Judge an optimizer of yours, and name the likely mistake.

    Exit codes: 0 right, 1 not, 2 could not be judged, or with --training: the script failed.
    """
    _refuse_unused(context, training=training is not None)
    if training is not None:
        raise typer.Exit(_check_training(training, target or [], steps, as_json=json_))
    if target is None or len(target) != 1:
        raise typer.BadParameter("give one FILE.py:NAME, or --training SCRIPT.py")
    if rule is None:
        raise typer.BadParameter(
            f"say what it should compute: --rule adamw, for example, or --rule {target[0]} if it is a rule of your own"
        )
    raise typer.Exit(
        _check_target(
            target[0],
            rule,
            settings or [],
            as_json=json_,
            every=all_,
            convention=convention,
            kind=kind,
            parameter=parameter,
            strict=strict,
            time_limit=time_limit,
        )
    )


def _refuse_unused(context: typer.Context, *, training: bool) -> None:
    """Refuse options that would have no effect."""
    source = {p.name: context.get_parameter_source(p.name or "") for p in context.command.params}
    given = {p.name: p for p in context.command.params if (s := source[p.name]) and s.name == "COMMANDLINE"}
    unused = given.keys() - {"target", "json_", "training", "steps"} if training else given.keys() & {"steps"}
    if unused:
        names = ", ".join(sorted(given[name].opts[0] for name in unused))
        if not training:
            raise typer.BadParameter(f"{names} is for --training SCRIPT.py: give both, or leave it out")
        raise typer.BadParameter(
            f"{names} has no effect with --training, which watches every rule in a script: leave it out, or "
            "give FILE.py:NAME instead of --training"
        )


def _check_target(target: str, rule: str, settings: list[str], *, as_json: bool, every: bool, **options: Any) -> int:
    """Judge a target; ``options`` are further arguments of :func:`gradstep.judge.isolation.check_file`."""
    from gradstep.judge.catalogue import CONVENTIONS
    from gradstep.judge.checking import find_rule
    from gradstep.judge.isolation import check_file
    from gradstep.judge.table import draw_verdict
    from gradstep.variants import names_file

    if options["convention"] not in CONVENTIONS:
        raise typer.BadParameter(f"no convention {options['convention']!r}: there are {', '.join(CONVENTIONS)}")
    if options["kind"] not in (None, "torch", "numpy", "function", "update"):
        raise typer.BadParameter(f"no kind {options['kind']!r}: there are torch, numpy, function and update")
    with usage_errors(ValueError):
        # A user's file runs only in the process that judges.
        name = rule if names_file(rule) else find_rule(rule).__name__.lower()
        fixed = dict(_parse_setting(text) for text in settings)
    with waiting(f"judging {target}"):
        verdict = check_file(target, name, fixed, **options)
    if as_json:
        typer.echo(json.dumps(verdict.as_dict(), indent=2, ensure_ascii=False))
    else:
        console().print(draw_verdict(verdict, every=every))
    return verdict.exit_code


def _check_training(script: Path, arguments: list[str], steps: int, *, as_json: bool) -> int:
    from gradstep.judge.updates.script import watch_script

    with _stdout_to_stderr() if as_json else contextlib.nullcontext():
        report, error = watch_script(script, arguments, steps=steps)
    if isinstance(error, SystemExit):
        print(report.ending if isinstance(error.code, int) else error.code, file=sys.stderr)  # a text as Python does
    elif error is not None and not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error)
    typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False) if as_json else str(report))
    return report.exit_code or (2 if error is not None and not isinstance(error, KeyboardInterrupt) else 0)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what is printed to stderr, by Python, by libraries in C and by child processes."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _parse_setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"A setting is NAME=VALUE, but is {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
