"""Run a case on gradstep and on torch or another engine, and judge the results."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

import gradstep
from fuzzing.cases import Case
from fuzzing.differences import find_difference
from fuzzing.running import Trace, Values, near, run, same_bits

HALF = ("16", "complex32", "float8")


def judge(case: Case, mark: Callable[[str], None]) -> tuple[str, str]:
    """Return the verdict on a case, and a text.

    ``"same"``: the same numbers. ``"both refuse"``. ``"alone"``: there is nothing to compare with. ``"difference"``:
    an intended difference. ``"finding"``: anything else.
    """
    mark("ours")
    ours = run_ours(case, mark)
    if ours.half:
        return "finding", f"half a step: {ours.half} was changed ({ours.describe()})"
    mark("theirs")
    theirs = run_theirs(case, mark)
    mark("compare")
    return _compare(case, ours, theirs)


def run_ours(case: Case, mark: Callable[[str], None]) -> Trace:
    """Run a case on gradstep."""
    with _default(case.dtype):
        return run(case, getattr(gradstep, case.optimizer), _options(case), mark)


def run_theirs(case: Case, mark: Callable[[str], None]) -> Trace:
    """Run a case on torch.optim, or on another engine of gradstep."""
    if case.torch:
        return run(case, getattr(torch.optim, case.optimizer), {"foreach": False}, mark)
    other = {"auto": "reference", "eager": "reference", "reference": "auto"}[case.engine]
    return run(case, getattr(gradstep, case.optimizer), {**_options(case), "engine": other}, mark)


def _options(case: Case) -> dict[str, Any]:
    options: dict[str, Any] = {"engine": case.engine, "seed": 1}
    options |= {"state": case.state} if case.state != "float32" else {}
    options |= {"rounding": case.rounding} if case.rounding != "nearest" else {}
    return options


def _compare(case: Case, ours: Trace, theirs: Trace) -> tuple[str, str]:
    if any("cannot serve" in trace.describe() for trace in (ours, theirs)):
        return "alone", "an engine that was asked for does not serve a parameter"
    if ours.absent and theirs.absent:
        return "alone", "means nothing"
    if ours.absent != theirs.absent:
        return "alone", "means nothing to one of them"
    # Each engine sums a norm in its own order; float64 shows the rounding.
    double = "float64" in case.parameters or "data of float64" in case.kind
    bitwise = ours.bitwise and theirs.bitwise and not (case.call and double)
    sizes: dict[str, float] = {}
    for step, (mine, other) in enumerate(zip(ours.values, theirs.values, strict=False)):
        wrong = _find_first_difference(case, mine, other, step, bitwise, sizes)
        if wrong:
            name = find_difference(case, "other numbers", wrong) if case.torch else ""
            return ("difference", name) if name else ("finding", f"other numbers after step {step}: {wrong}")
    if ours.error is not None and not (_is_clean(ours.error) or type(ours.error) is type(theirs.error)):
        return "finding", f"an error that explains nothing: {ours.describe()}"
    if ours.error is not None and theirs.error is not None:
        return "both refuse", ours.describe()
    if ours.error is None and theirs.error is None:
        return "same", ""
    name = find_difference(case, ours.describe(), theirs.describe()) if case.torch else ""
    if name:
        return "difference", name
    rival = "torch" if case.torch else "the other engine"
    return "finding", f"gradstep: {ours.describe()} | {rival}: {theirs.describe()}"


def _find_first_difference(
    case: Case, mine: Values, other: Values, step: int, bitwise: bool, sizes: dict[str, float]
) -> str:
    """Return the first value that differs between the two, in words.

    Args:
        case: the case.
        mine, other: the values after this step.
        step: number of steps so far.
        bitwise: whether two engines promise the same bits.
        sizes: the largest number of each value in the steps before; this step's sizes are added.
    """
    for name, a in mine.items():
        b = other.get(name)
        if b is None or (case.torch and name.startswith("step of") and case.optimizer == "SGD"):
            continue
        if bitwise and not case.torch:
            if not same_bits(a, b):
                return f"{name} is not the same bit for bit"
            continue
        p = other.get(f"parameter {name.rpartition(' ')[2]}")
        if p is None or a.dtype == torch.uint8 or any(h in str(t.dtype) for h in HALF for t in (a, b, p)):
            continue  # these are computed in float32 here, and rounded otherwise
        if not case.torch and "data of" in case.kind:
            continue  # float64 now, with what float32 rounded before
        before = sizes.get(name, 0.0)
        sizes[name] = max([before, *(float(t.abs().max()) for t in (a, b) if t.numel() and torch.isfinite(t).all())])
        # The running product of NAdam is a float32 number, and torch takes it from there.
        floor = torch.finfo(torch.float32).eps if case.optimizer == "NAdam" else 0.0
        wrong = near(a, b, step, before, floor)
        if wrong:
            return f"{name} is {wrong}"
    return ""


def _is_clean(error: BaseException) -> bool:
    """Return whether an error is one that gradstep promises, and not an accident in Python or NumPy."""
    if isinstance(
        error, (AssertionError, AttributeError, ZeroDivisionError, UnboundLocalError, SystemError, MemoryError)
    ):
        return False
    return isinstance(error, (ValueError, TypeError, RuntimeError, KeyError, NotImplementedError, OverflowError))


@contextmanager
def _default(name: str) -> Any:
    if not name:
        yield
        return
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
