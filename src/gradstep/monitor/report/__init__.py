"""The interactive report of a run: one page that holds everything it needs."""

from gradstep.monitor.report.build import write_report

__all__ = ["write_report"]
