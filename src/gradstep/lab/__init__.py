"""The lab: races between optimizers on real tasks, recorded in a file and shown in a report.

A race needs the extra `lab`. From Python:

    from pathlib import Path
    from gradstep.lab import plan, run
    from gradstep.lab.terminal import PlainDisplay
    from rich.console import Console

    outcome = run(plan(["digits"], "adamw,lion", out=Path("runs")), PlainDisplay(Console()))
"""

from gradstep.lab.results import Outcome, read_results
from gradstep.lab.session import Plan, plan, run
from gradstep.lab.task import Evaluation, Task
from gradstep.lab.tasks import TASKS

__all__ = ["TASKS", "Evaluation", "Outcome", "Plan", "Task", "plan", "read_results", "run"]
