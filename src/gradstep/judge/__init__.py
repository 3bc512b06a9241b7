"""Conformance: check whether an optimizer computes its rule, and if not, name the likely mistake."""

from gradstep.judge.checking import check, conformance
from gradstep.judge.verdict import Match, Outcome, Probe, Status, Verdict

__all__ = ["Match", "Outcome", "Probe", "Status", "Verdict", "check", "conformance"]
