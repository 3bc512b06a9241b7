"""Where a monitor's numbers go."""

from gradstep.monitor.sinks.base import Sink
from gradstep.monitor.sinks.html import Html
from gradstep.monitor.sinks.json_lines import JsonLines
from gradstep.monitor.sinks.tensorboard import TensorBoard
from gradstep.monitor.sinks.terminal import Terminal
from gradstep.monitor.sinks.trackers import Trackio, WandB

__all__ = ["Html", "JsonLines", "Sink", "TensorBoard", "Terminal", "Trackio", "WandB"]
