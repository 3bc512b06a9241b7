"""Learning rate, momentum or decay as a function of the number of the update; pure Python, no torch.

A schedule maps the number of an update to a value. Update 0 is the first one; after its end a schedule holds its last
value. Schedules are joined by :meth:`~gradstep.schedules.Schedule.then` and scaled by ``*``:

>>> from gradstep.schedules import cosine, warmup
>>> lr = warmup(updates=100, to=3e-4).then(cosine(3e-4, updates=900))
>>> lr.updates, lr(0), lr(50), lr(100), lr(1000)
(1000, 0.0, 0.00015, 0.0003, 0.0)

Nothing is counted or remembered inside: a run resumes from one integer, the number of updates done.
``gradstep.Scheduler`` drives an optimizer with them.
"""

from gradstep.schedules.base import Preview, PreviewRow, Schedule
from gradstep.schedules.cycles import OneCycle, cosine_restarts, one_cycle, triangular, warmup_stable_decay
from gradstep.schedules.path import cosine, linear, polynomial, warmup
from gradstep.schedules.steps import constant, exponential, inverse_sqrt, multi_step, step

__all__ = [
    "OneCycle",
    "Preview",
    "PreviewRow",
    "Schedule",
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "inverse_sqrt",
    "linear",
    "multi_step",
    "one_cycle",
    "polynomial",
    "step",
    "triangular",
    "warmup",
    "warmup_stable_decay",
]
