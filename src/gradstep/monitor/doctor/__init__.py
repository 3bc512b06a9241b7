"""The doctor: find out from the record of a run why training is unhealthy."""

import os
from typing import Any

import numpy as np

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Cause, Fact, Finding, Severity
from gradstep.monitor.doctor.readings import Diagnosis, Reading, rank_findings, readings
from gradstep.monitor.doctor.rules import CAUSE_FINDERS
from gradstep.monitor.doctor.rules.gradients import matrix_norms
from gradstep.monitor.doctor.rules.learning_rate import SHORT_WIDTH, relapse
from gradstep.monitor.lines import read_run
from gradstep.monitor.record import Run
from gradstep.warn import find_old_name

__all__ = [
    "CAUSE_FINDERS",
    "SHORT_WIDTH",
    "Cause",
    "Diagnosis",
    "Evidence",
    "Fact",
    "Finding",
    "Reading",
    "Severity",
    "diagnose",
    "matrix_norms",
    "relapse",
]


def diagnose(run: Run | str | os.PathLike[str]) -> Diagnosis:
    """Find the causes of unhealthy training, the likeliest first, each with its evidence and a remedy.

    It reads a record of :class:`gradstep.Monitor`, of a finished or a running training. Some causes show only in
    numbers of single parameters: give the monitor ``per_parameter=True``, the model, and ``planned_updates``.

    Args:
        run: a record, its file, or the folder of the file.

    Returns:
        The findings, none if the run looks healthy, and a reading of every quantity.

    Raises:
        FileNotFoundError: there is no such record.
        ValueError: not the record of a monitor.

    Example:
        >>> from gradstep.monitor.record import Group, Header, Run
        >>> header = Header("Adam", "torch", None, (Group("group 0", {"lr": 1e-3, "weight_decay": 0.01}),), ())
        >>> for finding in diagnose(Run((header,), ())).findings:
        ...     print(finding.cause.title, "-", finding.evidence[0])
        Adam where AdamW was meant - Adam has weight_decay=0.01 in group 0, added to the gradient
    """
    record = run if isinstance(run, Run) else read_run(run)
    evidence = Evidence(record)
    with np.errstate(over="ignore", invalid="ignore"):  # the numbers of a diverging run overflow float64
        findings = rank_findings(f for find in CAUSE_FINDERS if (f := find(evidence)) is not None)
        return Diagnosis(findings, readings(evidence, findings), len(record.updates))


def __getattr__(name: str) -> Any:
    return find_old_name(__name__, name, {"RULES": "CAUSE_FINDERS"})
