"""Record and show the numbers of a training run, collected inside the step by :class:`gradstep.Monitor`."""

from typing import Any

from gradstep.monitor.lines import read_run
from gradstep.monitor.record import Group, Header, Numbers, ParameterInfo, PerParameter, Run, Update
from gradstep.monitor.sinks import Html, JsonLines, Sink, TensorBoard, Terminal, Trackio, WandB
from gradstep.warn import find_old_name

__all__ = [
    "Group",
    "Header",
    "Html",
    "JsonLines",
    "Numbers",
    "ParameterInfo",
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


def __getattr__(name: str) -> Any:
    return find_old_name(__name__, name, {"Parameter": "ParameterInfo"})
