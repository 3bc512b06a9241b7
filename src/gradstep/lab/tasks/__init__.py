"""The tasks of a race, by name, in the order in which they are shown."""

from collections.abc import Mapping
from types import MappingProxyType

from gradstep.lab.task import Task
from gradstep.lab.tasks.digits import Digits
from gradstep.lab.tasks.surface import Ravine, Rosenbrock
from gradstep.lab.tasks.text import Text

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in (Digits(), Text(), Rosenbrock(), Ravine())})

__all__ = ["TASKS"]
