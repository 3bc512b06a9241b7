"""The lab: races between optimizers on real tasks, recorded in a file and shown in a report.

A race needs the extra `lab`. From Python:

    from pathlib import Path
    from gradstep.lab import plan, run
    from gradstep.lab.terminal import PlainDisplay
    from rich.console import Console

    outcome = run(plan(["digits"], "adamw,lion", out=Path("runs")), PlainDisplay(Console()))
"""

from typing import Any

from gradstep.lab.results import SessionOutcome, read_results
from gradstep.lab.session import SessionPlan, plan, run
from gradstep.lab.task import Evaluation, Task
from gradstep.lab.tasks import TASKS
from gradstep.warn import find_old_name

__all__ = ["TASKS", "Evaluation", "SessionOutcome", "SessionPlan", "Task", "plan", "read_results", "run"]


def __getattr__(name: str) -> Any:
    return find_old_name(__name__, name, {"Outcome": "SessionOutcome", "Plan": "SessionPlan"})
