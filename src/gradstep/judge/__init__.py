"""Conformance: does an optimizer compute what it says, and if not, which mistake was made?"""

from gradstep.judge.checking import check
from gradstep.judge.testing import conformance
from gradstep.judge.verdict import Match, Outcome, Probe, Status, Verdict

__all__ = ["Match", "Outcome", "Probe", "Status", "Verdict", "check", "conformance"]
