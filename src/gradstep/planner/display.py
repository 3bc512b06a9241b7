"""Show plans as a table on the terminal and as a chart; needs the extra ``lab``."""

from collections.abc import Sequence
from textwrap import indent

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradstep.planner.comparison import Plans
from gradstep.planner.planning import Plan
from gradstep.planner.request import GB, GIB, describe_choice
from gradstep.report import Bar, BarChart
from gradstep.storage.policy import describe_state

OPTION_TITLES = ("", "weights", "rounding", "state in", "paged", "sharding")
ITEM_KINDS = ("weights", "gradients", "state", "extra")


def draw_table(plans: Plans, shown: Sequence[Plan]) -> RenderableType:
    """Return the sum, the recommendation with its reason and code, and a table of combinations that marks it."""
    first = plans.plans[0]
    places = [p for p in ("host", "disk") if any(plan.on(p) for plan in shown)]
    grid = Table(box=None, pad_edge=False)
    for title in OPTION_TITLES:
        grid.add_column(title, no_wrap=True)
    sends = ["sends"] if first.ranks > 1 else []
    for title in (*ITEM_KINDS, "total", *(f"on {p}" for p in places), *sends, "fits?"):
        grid.add_column(title, justify="right", no_wrap=True)
    for plan in shown:
        best = plan == plans.best
        grid.add_row(
            "▶" if best else "",
            plan.choice.params or "as it is",
            plan.choice.rounding if plan.choice.params != "float32" else "–",
            plan.choice.state,
            "yes" if plan.choice.paged else "–",
            plan.choice.sharding if plan.ranks > plan.tensor_parallel else "–",
            *(plan.in_units(plan.on("device", kind)) for kind in ITEM_KINDS),
            plan.in_units(plan.device),
            *(plan.in_units(plan.on(p)) if plan.on(p) else "–" for p in places),
            *(plan.in_units(plan.sent) for _ in sends),
            "yes" if plan.fits else "no",
            style="bold green" if best else "" if plan.fits else "dim",
        )
    return Group(
        Text(_head(first), style="bold"),
        Text(_where(plans)),
        Text(""),
        Text(plans.reason),
        *([Text("\n" + indent(plans.best.code, "    "), style="bold green")] if plans.best else []),
        Text(""),
        grid,
        Text(""),
        *_notes(plans, shown),
    )


def _head(plain: Plan) -> str:
    """Return the memory of weights, gradients and state in the plainest combination, which texts usually give."""
    parts = ", ".join(f"{kind} {plain.in_units(plain.of(kind))}" for kind in ("weights", "gradients", "state"))
    head = (
        f"{plain.model}: {plain.parameters:,} parameters with {plain.optimizer} keep "
        f"{plain.in_units(plain.kept)} in {describe_choice(plain.choice)} ({parts})"
    )
    frozen = plain.parameters - plain.trainable
    if frozen:
        head += f"; {frozen:,} of the parameters are frozen"
    return head + "."


def _where(plans: Plans) -> str:
    plain = plans.plans[0]
    budget = f"{plain.in_units(plans.budget)} ({plans.source})"
    if not plain.gpus and plain.ranks > 1:
        divided = f", of which {plain.tensor_parallel} divide each matrix" if plain.tensor_parallel > 1 else ""
        return f"Planned for each of {plain.ranks} ranks on CPUs{divided}, with {budget}; for GPUs, add --gpus."
    if not plain.gpus:
        return f"Planned for the CPU of this machine with {budget}; for a GPU, add --gpus 1 --budget 24GB."
    of = f"each of {plain.gpus} GPUs" if plain.gpus > 1 else "one GPU"
    return f"Planned for {of} with {budget}; for the CPU, leave --gpus out."


def _notes(plans: Plans, shown: Sequence[Plan]) -> list[RenderableType]:
    plan = plans.best or plans.smallest
    estimates = {row.name: row for row in plan.rows if row.note.startswith("an estimate")}
    notes = [f"{name}: {plan.in_units(row.nbytes)}, {row.note}" for name, row in estimates.items()]
    if "temporaries" in estimates and plan.gpus:
        notes[0] += "; --engine compiled makes none"
    notes.append(
        f"A checkpoint takes {plan.in_units(plan.checkpoint)}; while torch.load reads it (without mmap=True), "
        f"{plan.in_units(plan.checkpoint_peak)} of main memory."
    )
    if plan.ranks > 1:
        missing = plan.tensor_parallel > 1 and not any(row.what == "activations" for row in plan.traffic)
        notes.append(
            "“sends”: bytes that a rank sends in a forward and a backward pass, by ring algorithms"
            + ("; the activations of tensor parallelism are counted with --tokens." if missing else ".")
        )
    if len(shown) < len(plans.plans):
        notes.append(f"Shown are {len(shown)} of {len(plans.plans)} combinations; --all shows them all.")
    return [Text(note, style="dim") for note in notes]


KIND_COLOURS = {
    "weights": "blue",
    "gradients": "sky",
    "state": "vermilion",
    "extra": "amber",
    "state paged out": "pale",
}


def draw_chart(plans: Plans, shown: Sequence[Plan]) -> BarChart:
    """Draw a bar for each plan, and the budget as a line across them."""
    first = plans.plans[0]
    unit, name = (GIB, "GiB") if first.binary else (GB, "GB")
    bars = []
    for plan in shown:
        parts = [(_bytes(plan, kind) / unit, colour) for kind, colour in KIND_COLOURS.items()]
        best = plan == plans.best
        remark = " recommended" if best else "" if plan.fits else " too much"
        bars.append(Bar(_label(plan), parts, plan.in_units(plan.device) + remark, bold=best))
    keys = [(kind, colour) for kind, colour in KIND_COLOURS.items() if any(_bytes(plan, kind) for plan in shown)]
    return BarChart(
        f"{first.model}: {first.parameters:,} parameters with {first.optimizer}",
        f"{name}{first.each}; the number is what is on the device",
        bars,
        limit=(plans.budget / unit, f"budget {first.in_units(plans.budget)}"),
        keys=keys,
    )


def _bytes(plan: Plan, kind: str) -> int:
    return plan.on("device", kind) if kind in ITEM_KINDS else plan.host + plan.disk


def _label(plan: Plan) -> str:
    choice = plan.choice
    weights = (choice.params or "as it is") + ("" if choice.params == "float32" else f" {choice.rounding}")
    words = [weights, f"{describe_state(choice.state)} state"]
    words += ["paged"] if choice.paged else []
    words += [choice.sharding] if choice.sharding != "ddp" else []
    return " · ".join(words)
