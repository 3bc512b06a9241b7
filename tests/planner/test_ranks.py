"""The bytes of a rank and what it sends, worked by hand; the table in the documentation.

python -m tests.planner.test_ranks --write
"""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import gradstep

PAGE = Path(__file__).parents[2] / "docs" / "planner.md"
TABLE = re.compile(r"(<!-- table of ranks.*?-->\n)(.*?)(<!-- end -->)", re.DOTALL)
PARAMETERS = 70_553_706_496
ROWS = [
    (n, s, t)
    for n in (8, 64, 1024)
    for s, t in (("ddp", 1), ("zero1", 1), ("zero2", 1), ("hsdp", 1), ("fsdp2", 1), ("fsdp2", 8))
    if (n, s) != (8, "hsdp")
]


def plan_70b(ranks: int, sharding: str, tensor: int) -> gradstep.Plan:
    sharding = sharding if ranks > tensor else "ddp"
    return gradstep.plan(
        "llama-3-70b", params="bfloat16", state="8bit", rounding="stochastic", ranks=ranks, sharding=sharding,
        replicas=ranks // 8 if sharding == "hsdp" else 1, tensor_parallel=tensor, tokens=8192,
    )  # fmt: skip


def table() -> str:
    lines = [
        "| ranks | sharding | weights | gradients | state | gathered | in all | sent: weights "
        "| gradients | activations |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for ranks, sharding, tensor in ROWS:
        plan = plan_70b(ranks, sharding, tensor)
        sent = Counter[str]()
        for row in plan.traffic:
            sent[row.what] += row.nbytes
        gathered = sum(row.nbytes for row in plan.rows if row.name == "gathered")
        kept = [*map(plan.of, ("weights", "gradients", "state")), gathered, plan.device]
        name = plan.choice.sharding + f", tensor parallel {tensor}" if tensor > 1 else sharding
        name = f"hsdp, {plan.replicas} replicas" if sharding == "hsdp" else name
        name = name if ranks > tensor else f"tensor parallel {tensor}"
        figures = [*kept, *(sent[what] for what in ("weights", "gradients", "activations"))]
        cells = (f"{nbytes / 1e9:,.2f}" if nbytes else "–" for nbytes in figures)
        lines.append(f"| {ranks:,} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def test_the_table_in_the_documentation_is_the_planner_s():
    found = TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    assert found[2] == table(), "python -m tests.planner.test_ranks --write"


@pytest.mark.parametrize(
    ("sharding", "sent"),
    [
        ("ddp", {"gradients": 2 * 7 / 8 * 2}),
        ("zero1", {"gradients": 2 * 7 / 8 * 2, "weights": 7 / 8 * 2}),
        ("zero2", {"gradients": 7 / 8 * 2, "weights": 7 / 8 * 2}),
        ("fsdp2", {"gradients": 7 / 8 * 2, "weights": 2 * 7 / 8 * 2}),
    ],
)
def test_what_8_ranks_send_by_a_parameter_of_16_bits(sharding, sent):
    plan = gradstep.plan("llama-3-70b", params="bfloat16", ranks=8, sharding=sharding)  # rows are multiples of 8
    found = {row.what: row.nbytes / PARAMETERS for row in plan.traffic}
    assert found == pytest.approx(sent, rel=1e-9)
    assert plan.sent == sum(row.nbytes for row in plan.traffic)
    assert gradstep.plan("llama-3-70b").sent == 0


def test_copies_of_shards_add_up_their_gradients():
    """Two copies over four ranks each: shards are exchanged within a copy, and gradients of shards between copies."""
    plan = gradstep.plan("llama-3-70b", params="bfloat16", ranks=8, sharding="hsdp", replicas=2)
    sent = [(row.collective, row.what, row.nbytes / PARAMETERS) for row in plan.traffic]
    assert sent == [
        ("all-gather", "weights", 2 * 3 / 4 * 2),
        ("reduce-scatter", "gradients", 3 / 4 * 2),
        ("all-reduce", "gradients", 2 * 1 / 2 * 2 / 4),
    ]
    alone = gradstep.plan("llama-3-70b", params="bfloat16", ranks=4, sharding="fsdp2")
    assert plan.rows == alone.rows
    assert (plan.replicas, alone.replicas) == (2, 1)


def test_the_ranks_of_every_copy_have_its_shards_in_order():
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(10, 5, bias=False)  # rows of 2, 2 and 1 on the three ranks of a copy
    options: dict[str, Any] = {"ranks": 12, "sharding": "hsdp", "replicas": 2, "tensor_parallel": 2}
    weights = [gradstep.plan(model, rank=rank, **options).of("weights") for rank in range(12)]
    assert weights == [40, 40, 40, 40, 40, 0] * 2  # tensor parallelism leaves 3 and 2 rows of the 5
    ranks = [gradstep.plan(model, ranks=6, sharding="hsdp", replicas=2, rank=rank) for rank in range(6)]
    assert [plan.of("weights") for plan in ranks] == [80, 80, 40] * 2


def test_uneven_shards_are_padded():
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(10, 5, bias=False)  # rows of 2, 2 and 1 on three ranks
    (gather, scatter) = gradstep.plan(model, ranks=3, sharding="fsdp2", rank=2).traffic
    assert (gather.nbytes, scatter.nbytes) == (2 * 2 * 80, 2 * 80)
    weights = [gradstep.plan(model, ranks=4, sharding="zero3", rank=rank).of("weights") for rank in range(4)]
    assert weights == [80, 80, 40, 0]


def test_gradients_of_another_type_are_sent_as_such():
    plan = gradstep.plan("8B", params="bfloat16", gradients="float32", ranks=8, sharding="fsdp2")
    found = {row.what: row.nbytes for row in plan.traffic}
    assert found == {"weights": 28 * 10**9, "gradients": 28 * 10**9}


def test_the_activations_of_tensor_parallelism():
    """Llama 3 70B: an all-reduce of tokens × 8,192 behind the embedding and two a layer, and as many backwards."""
    plan = plan_70b(8, "ddp", 8)
    (row,) = plan.traffic
    assert row.nbytes == 2 * 7 * (1 + 2 * 80) * 2 * 8192 * 8192 * 2 // 8
    norms = (2 * 80 + 1) * 8192
    assert plan.of("weights") == 2 * ((PARAMETERS - norms) // 8 + norms)  # norms are copied


def test_the_first_of_1024_ranks_has_126_rows_of_the_vocabulary():
    """All other rows are multiples of 1,024; 1,024 × 125.25 rows are the vocabulary's, twice."""
    whole, part = (gradstep.plan("llama-3-70b", ranks=n, sharding=s) for n, s in ((1, "ddp"), (1024, "fsdp2")))
    more, counts = 4 * 2 * 8192 * (1024 * 126 - 128_256), 4 * 723
    assert part.of("weights") * 1024 == whole.of("weights") + more
    assert (part.of("state") - counts) * 1024 == whole.of("state") - counts + 2 * more


if __name__ == "__main__":
    assert sys.argv[1:] == ["--write"], __doc__
    PAGE.write_text(TABLE.sub(lambda m: m[1] + table() + m[3], PAGE.read_text(encoding="utf-8")), encoding="utf-8")
