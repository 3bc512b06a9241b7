"""``gradstep learn``: the course, a file per command."""

import typer

from gradstep.cli.learn.check import check
from gradstep.cli.learn.hint import hint
from gradstep.cli.learn.notebook import notebook
from gradstep.cli.learn.overview import overview
from gradstep.cli.learn.quiz import quiz
from gradstep.cli.learn.run import run
from gradstep.cli.learn.solution import solution
from gradstep.cli.learn.start import start
from gradstep.cli.learn.step_through import step_through

__all__ = ["learn"]

learn = typer.Typer(
    help="Write the optimizers yourself: challenges from SGD to AdamW, checked, with hints and pictures."
)
learn.callback(invoke_without_command=True)(overview)
for command in (start, check, hint, solution, quiz, run, notebook):
    learn.command()(command)
learn.command("step-through")(step_through)
