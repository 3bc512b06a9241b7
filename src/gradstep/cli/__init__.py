"""The command line: it parses and prints; the rooms below do the work."""

import typer

from gradstep.cli.check import check
from gradstep.cli.kernel import kernel
from gradstep.cli.lab import bench, lr_find, race, report, schedules
from gradstep.cli.learn import learn
from gradstep.cli.monitor import doctor, monitor
from gradstep.cli.plan import plan

app = typer.Typer(
    name="gradstep",
    help="Optimizers for training neural networks: race them, measure them, choose one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (race, report, bench, plan, check, monitor, doctor, lr_find, schedules, kernel):
    app.command()(command)
app.add_typer(learn, name="learn")
