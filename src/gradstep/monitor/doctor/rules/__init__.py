"""The rules of the doctor: for each cause of unhealthy training, a function that finds its signs.

To add a rule, write a function under ``@finds(...)`` in the file of its subject, and its texts in ``causes.md``.
"""

from gradstep.monitor.doctor.finding import CauseFinder
from gradstep.monitor.doctor.rules import gradients, learning_rate, loop, precision, settings

CAUSE_FINDERS = tuple(
    rule
    for module in (learning_rate, gradients, precision, settings, loop)
    for rule in vars(module).values()
    if isinstance(rule, CauseFinder)
)
"""All rules; their order has no effect."""
