"""Plans as a chart of stacked bars."""

from __future__ import annotations

from collections.abc import Sequence

from gradstep.planner.comparison import Plans
from gradstep.planner.planning import Plan
from gradstep.planner.units import GB, GIB, size
from gradstep.report import Bar, BarChart

COLOURS = {
    "weights": "blue",
    "gradients": "sky",
    "state": "vermilion",
    "extra": "amber",
    "elsewhere": "pale",
}
NAMES = {"elsewhere": "state paged out"}


def chart(plans: Plans, shown: Sequence[Plan]) -> BarChart:
    """One bar for each plan, with the budget as a line across them."""
    first = plans.plans[0]
    unit, name = (GIB, "GiB") if first.binary else (GB, "GB")
    bars = []
    for plan in shown:
        parts = [(_bytes(plan, kind) / unit, colour) for kind, colour in COLOURS.items()]
        best = plan == plans.best
        remark = " recommended" if best else "" if plan.fits else " too much"
        bars.append(Bar(_label(plan), parts, size(plan.device, binary=plan.binary) + remark, bold=best))
    keys = [(NAMES.get(kind, kind), colour) for kind, colour in COLOURS.items() if any(_bytes(p, kind) for p in shown)]
    return BarChart(
        f"{first.model}: {first.parameters:,} parameters with {first.optimizer}",
        f"{name}{' on each GPU' if first.gpus > 1 else ''}; the number is what is on the device",
        bars,
        limit=(plans.budget / unit, f"budget {size(plans.budget, binary=first.binary)}"),
        keys=keys,
    )


def _bytes(plan: Plan, kind: str) -> int:
    if kind == "elsewhere":
        return plan.host + plan.disk
    return sum(row.nbytes for row in plan.rows if row.kind == kind and row.place == "device")


def _label(plan: Plan) -> str:
    choice = plan.choice
    weights = (choice.params or "as it is") + ("" if choice.params == "float32" else f" {choice.rounding}")
    words = [weights, f"{'8-bit' if choice.state == '8bit' else choice.state} state"]
    words += ["paged"] if choice.paged else []
    words += [f"{choice.sharded} sharded"] if choice.sharded != "none" else []
    return " · ".join(words)
