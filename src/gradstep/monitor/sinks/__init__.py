"""Sinks: the destinations of a monitor's records."""

from gradstep.monitor.sinks.base import Sink
from gradstep.monitor.sinks.files import Html, JsonLines
from gradstep.monitor.sinks.terminal import Terminal
from gradstep.monitor.sinks.trackers import TensorBoard, Trackio, WandB

__all__ = ["Html", "JsonLines", "Sink", "TensorBoard", "Terminal", "Trackio", "WandB"]
