"""DTensor parameters: any number of processes gets the bits of one process, on the fused engine.

python -m tests.distributed.test_sharded_parameters --write  # the documentation's table of the proofs
"""

import copy
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import gradstep
from gradstep.optimizers.memory import is_distributed, local_tensor
from tests.distributed.processes import run

SHAPES = [(130, 512), (7, 1024), (3, 2048), (512,), (5,)]
"""Rows that divide evenly and unevenly, and fewer than ranks; 8-bit is decided by the whole (2,048 elements a rank)."""

RULES: dict[str, Any] = {
    "AdamW": {"lr": 1e-2, "weight_decay": 0.1},
    "Lion": {"lr": 1e-3, "weight_decay": 0.1},
    "NAdam": {"lr": 1e-2},
    "SGD": {"lr": 0.1, "momentum": 0.9},
}
STORAGES = [
    ("float32", "nearest"),
    ("bfloat16", "nearest"),
    ("8bit", "nearest"),
    ("float32", "stochastic"),
    ("8bit", "stochastic"),
    ("bfloat16", "kahan"),
    ("8bit", "master"),
    ("8bit", "24bit"),
    ("4bit", "nearest"),
]
CASES = [
    ("AdamW", "float32", "nearest"),
    ("AdamW", "8bit", "master"),
    ("SGD", "bfloat16", "kahan"),
    ("Lion", "float32", "24bit"),
    ("NAdam", "4bit", "stochastic"),
]
"""The quick ones: every rounding and every state; each compiles kernels in each process."""


def make(rule: str, state: str, rounding: str, params: Any, seed: int = 1) -> Any:
    return getattr(gradstep, rule)(params, **RULES[rule], state=state, rounding=rounding, seed=seed)


def dtype_of(rounding: str) -> torch.dtype:
    return torch.float32 if rounding == "nearest" else torch.bfloat16


def numbers(seed: int, shapes: Any = SHAPES, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if is_distributed(tensor) else tensor


def faults(optimizer: Any, params: Any, other: Any, others: Any) -> list[str]:
    """What differs in the bits of parameters and state."""
    found = []
    for k, (p, q) in enumerate(zip(params, others, strict=True)):
        if not torch.equal(whole(p.detach()), q):
            found.append(f"parameter {k}")
        state, expected = optimizer.state[p], other.state[q]
        found += [f"keys {list(state)} of {k}"] * (state.keys() != expected.keys())
        for key, value in expected.items():
            got = whole(state[key])
            if not torch.equal(got.reshape(value.shape), value):
                found.append(f"{key} of {k}")
            if (
                is_distributed(p)
                and value.dim()
                and (state[key].placements, state[key].device_mesh) != (p.placements, p.device_mesh)
            ):
                found.append(f"{key} of {k} is distributed as {state[key].placements}")
    found += [f"engines {optimizer.engines()}"] * ({row[1] for row in optimizer.engines()} != {"fused"})
    return found


def placed(mesh: Any, kinds: Any, tensors: Any) -> list[Any]:
    """The tensors, equal on all ranks, as DTensors; numbers are copied, and vectors where others have columns."""
    from torch.distributed.tensor import Replicate, distribute_tensor

    return [
        distribute_tensor(
            t,
            mesh,
            [Replicate() if t.dim() == 0 or (t.dim() == 1 and kind.is_shard(1)) else kind for kind in kinds],
            src_data_rank=None,
        )
        for t in tensors
    ]


def differences(mesh: Any, kinds: Any, case: tuple[str, str, str], clip: float | None) -> list[str]:
    """Take some steps with and without processes, and return what differs."""
    dtype = dtype_of(case[2])
    params = [nn.Parameter(t) for t in placed(mesh, kinds, numbers(0, dtype=dtype))]
    others = [nn.Parameter(t) for t in numbers(0, dtype=dtype)]
    optimizer, other = (make(*case, tensors) for tensors in (params, others))
    clipping: dict[str, Any] = {} if clip is None else {"max_grad_norm": clip}
    for t in range(1, 5):
        gradients = numbers(t, dtype=dtype)
        for p, q, g, d in zip(params, others, gradients, placed(mesh, kinds, gradients), strict=True):
            p.grad, q.grad = d, g
        optimizer.step(**clipping)
        other.step(**clipping)
    found = faults(optimizer, params, other, others)
    if clip is not None and abs(optimizer.last_step.grad_norm / other.last_step.grad_norm - 1) > 1e-12:
        found.append(f"norm {optimizer.last_step.grad_norm} of {other.last_step.grad_norm}")
    return [f"{case} {kinds} clip={clip}: {fault}" for fault in found]


def through_a_model(mesh: Any, shard: Any, **options: Any) -> list[str]:
    """The same with the gradients of FSDP2's and tensor parallelism's own backward passes."""
    models = make_models(mesh, shard, width=256)
    optimizers = [gradstep.AdamW(one.named_parameters(), lr=1e-2, seed=1, **options) for one in models]
    train_together(mesh, models, optimizers, steps=3, max_grad_norm=0.1)
    (model, expected), (optimizer, other) = models, optimizers
    found = faults(optimizer, model.parameters(), other, expected.parameters())
    return [f"{shard.__name__} {options}: {fault}" for fault in found]


def make_models(mesh: Any, shard: Any, width: int) -> tuple[Any, Any]:
    """A model of inputs of this width, divided by `shard`, and its copy of one process."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, 38), nn.ReLU(), nn.Linear(38, 7), nn.LayerNorm(7))
    expected = copy.deepcopy(model)
    shard(model, mesh)
    return model, expected


def train_together(mesh: Any, models: Any, optimizers: Any, steps: int, **clipping: Any) -> None:
    """Train a divided model on other data in each process, and its copy with the same gradients."""
    (model, expected), names = models, mesh.mesh_dim_names or ()
    for t in range(steps):
        torch.manual_seed(10 * t + dist.get_rank(None if "tp" not in names else mesh.get_group("dp")))
        model.zero_grad()
        model(torch.randn(5, model[0].in_features)).square().mean().backward()
        for p, q in zip(model.parameters(), expected.parameters(), strict=True):
            q.grad = whole(p.grad)
        for optimizer in optimizers:
            optimizer.step(**clipping)


def fsdp(model: Any, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)


def fsdp_and_tensor_parallel(model: Any, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh["dp"])


def all_skip(mesh: Any, kinds: Any) -> list[str]:
    """A NaN on one rank: all skip, with the same reason, and nothing changes."""
    params = [nn.Parameter(t) for t in placed(mesh, kinds, numbers(0))]
    named = [(f"p{k}", p) for k, p in enumerate(params)] + [("plain", nn.Parameter(torch.ones(3)))]
    optimizer = gradstep.AdamW(named)
    found = []
    for name, where in (("p1", params[1]), ("plain", named[-1][1])):
        for (_, p), g in zip(named, [*placed(mesh, kinds, numbers(1)), torch.ones(3)], strict=True):
            p.grad = g
        if dist.get_rank() == 0:
            gradient: Any = where.grad
            (gradient if name == "plain" else gradient.to_local()).view(-1)[0] = float("nan")
        before = [whole(p.detach()).clone() for _, p in named]
        optimizer.step(max_grad_norm=1.0)
        report: Any = optimizer.last_step
        if report.stepped or report.reason != f"the gradient of {name} is not finite":
            found.append(f"{report} with a NaN in {name}")
        if not all(torch.equal(whole(p.detach()), b) for (_, p), b in zip(named, before, strict=True)):
            found.append(f"the step with a NaN in {name} changed a parameter")
    return found


def statistics_differ(mesh: Any, kinds: Any) -> list[str]:
    params = [nn.Parameter(t) for t in placed(mesh, kinds, numbers(0))]
    others = [nn.Parameter(t) for t in numbers(0)]
    tables = []
    for members, distribute in ((params, True), (others, False)):
        optimizer = gradstep.AdamW([{"params": members[:2]}, {"params": members[2:]}])
        optimizer.watch = "groups"
        for detail in ("groups", "parameters"):
            optimizer.watch = detail
            gradients = numbers(1)
            for p, g in zip(members, placed(mesh, kinds, gradients) if distribute else gradients, strict=True):
                p.grad = g
            optimizer.step()
            statistics: Any = optimizer.last_step.statistics  # type: ignore[union-attr]
            tables.append(torch.from_numpy(statistics.table))
            tables.append(torch.from_numpy(statistics.elements))
            assert statistics.finite
    same = [torch.allclose(a, b, rtol=2e-6, atol=0) for a, b in zip(tables[:4], tables[4:], strict=True)]
    return [] if all(same) else [f"statistics differ: {tables}"]


def refusals(mesh: Any) -> list[str]:
    from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

    def message(params: Any, gradient: Any = None, **options: Any) -> str:
        try:
            optimizer = gradstep.AdamW([("w", params)], **options)
            params.grad = gradient
            optimizer.step()
        except (ValueError, RuntimeError) as error:
            return str(error)
        return "nothing was refused"

    uneven = nn.Parameter(distribute_tensor(torch.zeros(65, 100), mesh, [Shard(0)]))
    summands = nn.Parameter(DTensor.from_local(torch.zeros(4, 4), mesh, [Partial()]))
    matrix = nn.Parameter(distribute_tensor(torch.zeros(64, 100), mesh, [Shard(0)]))
    expected = {
        "paged= is for parameters of one process": message(matrix, paged=True),
        "may cut through a block": message(uneven, state="8bit"),
        "hold summands": message(summands),
        "must be a DTensor of shape (64, 100)": message(matrix, torch.zeros(64, 100)),
        "nothing was refused": message(matrix, torch.zeros_like(matrix), state="bfloat16"),
    }
    return [f"{got} instead of {part}" for part, got in expected.items() if part not in got]


def on_two_ranks(cases: Any) -> list[str]:
    from torch.distributed.tensor import Shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    found = []
    for number, case in enumerate(cases):
        found += differences(mesh, [Shard(0)], case, 0.05 if number % 2 else None)
        found += differences(mesh, [Shard(1)], case, None if number % 2 else 0.05)
    for options in ({}, {"state": "8bit"}):
        found += through_a_model(mesh, fsdp, **options)
    found += all_skip(mesh, [Shard(0)])
    found += statistics_differ(mesh, [Shard(0)])
    return found + eight_bits_are_shared_out(2) + refusals(mesh)


def on_four_ranks(cases: Any) -> list[str]:
    from torch.distributed.tensor import Replicate, Shard

    row, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    found = []
    for number, case in enumerate(cases):
        clip = 0.05 if number % 2 else None
        for mesh, kinds in (
            (row, [Shard(0)]),
            (square, [Replicate(), Shard(0)]),
            (square, [Shard(0), Shard(1)]),
            (square, [Shard(0), Shard(0)]),
        ):
            found += differences(mesh, kinds, case, clip)
    hybrid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
    for options in ({}, {"state": "8bit"}):
        found += through_a_model(square, fsdp_and_tensor_parallel, **options)
        found += through_a_model(hybrid, fsdp, **options)
    found += all_skip(square, [Shard(0), Shard(1)]) + all_skip(square, [Replicate(), Shard(0)])
    return found + statistics_differ(square, [Shard(0), Shard(1)])


def on_many_ranks() -> list[str]:
    """Models, skips and statistics with shards of unequal lengths, and ranks without any element of some parameters."""
    from torch.distributed.tensor import Shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    found = []
    for options in ({}, {"state": "8bit"}):
        found += through_a_model(mesh, fsdp, **options)
    return found + all_skip(mesh, [Shard(0)]) + statistics_differ(mesh, [Shard(0)])


def every_storage(rule: str) -> list[str]:
    """A rule with every state and rounding, with and without clipping, on every mesh of these ranks."""
    from torch.distributed.tensor import Replicate, Shard

    found = []
    meshes = {shape: init_device_mesh("cpu", shape) for _, shape, _, _ in proofs(dist.get_world_size())}
    for (_, shape, axes, (state, rounding)), clip in itertools.product(proofs(dist.get_world_size()), (None, 0.05)):
        kinds = [Replicate() if axis is None else Shard(axis) for axis in axes]
        found += differences(meshes[shape], kinds, (rule, state, rounding), clip)
    return found


def proofs(ranks: int) -> list[tuple[str, tuple[int, ...], list[int | None], tuple[str, str]]]:
    """Return every way to train, mesh, axis that each of its dimensions shards (None: copies), state and rounding."""
    row, square = (ranks,), (ranks // 2, 2)
    ways: list[tuple[str, tuple[int, ...], list[int | None]]] = [
        ("FSDP2, and tensor parallelism by rows", row, [0]),
        ("tensor parallelism by columns", row, [1]),
    ]
    if ranks in (4, 8):
        both = "FSDP2 + tensor parallelism"
        ways += [("HSDP", square, [None, 0]), (both, square, [0, 1]), (both, square, [0, 0])]
    found = [(*way, storage) for way, storage in itertools.product(ways, STORAGES)]
    # 512 columns are not more than two blocks of 256.
    return [one for one in found if not (ranks > 2 and one[2] == [1] and one[3][0] in ("8bit", "4bit"))]


def eight_bits_are_shared_out(ranks: int) -> list[str]:
    """Under FSDP2 a rank has at most its share of the 8-bit state of one process, and 1%."""
    from torch.distributed.fsdp import fully_shard

    def state_bytes(model: Any) -> int:
        optimizer: Any = gradstep.AdamW(model.named_parameters(), state="8bit")
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        tensors = [local_tensor(v) for entry in optimizer.state.values() for v in entry.values()]
        return sum(t.numel() * t.element_size() for t in tensors)

    one = nn.Sequential(*[nn.Linear(512, 512) for _ in range(4)])
    model = copy.deepcopy(one)
    fully_shard(model)
    own, most = state_bytes(model), 1.01 * state_bytes(one) / ranks
    return [] if own <= most else [f"{own} bytes on a rank, at most {most}"]


QUICK = [("AdamW", "8bit", "stochastic")]
RANKS = [1, 2, 3, 4, 8]
"""The numbers of processes in the proofs."""


def test_any_number_of_ranks_has_the_bits_of_one():
    assert run(on_two_ranks, 2, CASES) == [[]] * 2
    assert run(on_four_ranks, 4, QUICK) == [[]] * 4


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [3, 8])
def test_models_with_uneven_and_empty_shards_have_the_bits_of_one_process(ranks):
    assert run(on_many_ranks, ranks) == [[]] * ranks


@pytest.mark.slow
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("rule", RULES)
def test_every_combination_has_the_bits_of_one_process(rule, ranks):
    """Uneven shards with 3 and 4 ranks; with 4 and 8 some ranks have no element of some parameters."""
    assert run(every_storage, ranks, rule, timeout=280) == [[]] * ranks


PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
TABLE = re.compile(r"(<!-- table of ways.*?-->\n)(.*?)(<!-- end -->)", re.DOTALL)


def table() -> str:
    """Return the documentation's table: the numbers of ranks with which each way and storage is proved."""
    names = [state if rounding == "nearest" else f"{state}, {rounding}" for state, rounding in STORAGES]
    lines = ["| way to train | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    proved = [(ranks, way, storage) for ranks in RANKS for way, _, _, storage in proofs(ranks)]
    for way in dict.fromkeys(way for _, way, _ in proved):
        cells = [", ".join(str(n) for n in RANKS if (n, way, storage) in proved) for storage in STORAGES]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def test_the_table_in_the_documentation_is_of_the_proofs():
    found = TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    assert found[2] == table(), "python -m tests.distributed.test_sharded_parameters --write"


if __name__ == "__main__":
    assert sys.argv[1:] == ["--write"], __doc__
    PAGE.write_text(TABLE.sub(lambda m: m[1] + table() + m[3], PAGE.read_text(encoding="utf-8")), encoding="utf-8")
