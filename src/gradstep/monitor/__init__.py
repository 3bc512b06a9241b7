"""Record and show the numbers of a training run, collected inside the step by :class:`gradstep.Monitor`."""

from gradstep.monitor.lines import read_run
from gradstep.monitor.record import Group, Header, Numbers, Parameter, PerParameter, Run, Update
from gradstep.monitor.sinks import Html, JsonLines, Sink, TensorBoard, Terminal, Trackio, WandB

__all__ = [
    "Group",
    "Header",
    "Html",
    "JsonLines",
    "Numbers",
    "Parameter",
    "PerParameter",
    "Run",
    "Sink",
    "TensorBoard",
    "Terminal",
    "Trackio",
    "Update",
    "WandB",
    "read_run",
]
