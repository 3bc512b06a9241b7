"""What a monitored run leaves: who is trained and how, then numbers for every update. No torch is needed to read it.

:func:`gradstep.monitor.lines.read_run` reads a file into a :class:`Run`. Numbers that were not collected are None (in
arrays: NaN); a number that is not finite is what it is.
"""

from gradstep.monitor.record.header import Group, Header, Parameter
from gradstep.monitor.record.run import Run
from gradstep.monitor.record.update import Numbers, PerParameter, Update

__all__ = ["Group", "Header", "Numbers", "Parameter", "PerParameter", "Run", "Update"]
