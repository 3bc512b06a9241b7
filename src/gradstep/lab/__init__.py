"""The lab: races between optimizers on real tasks, recorded in a file and shown in a report.

A race needs the extra `lab`. From Python:

    from pathlib import Path
    from gradstep.lab import plan, run
    from gradstep.lab.display import Silence

    outcome = run(plan(["digits"], "adamw,lion", out=Path("runs")), Silence())
"""

from gradstep.lab.results import read_results
from gradstep.lab.session import Outcome, Plan, plan, run
from gradstep.lab.task import Evaluation, Task
from gradstep.lab.tasks import TASKS

__all__ = ["TASKS", "Evaluation", "Outcome", "Plan", "Task", "plan", "read_results", "run"]
