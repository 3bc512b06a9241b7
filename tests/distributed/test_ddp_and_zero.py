"""DistributedDataParallel and ZeroRedundancyOptimizer: the same bits on every rank, in every precision of state."""

import copy
import gc
import pickle
import sys
import warnings
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradstep
from tests.distributed.processes import run_once

STORAGES: dict[str, dict[str, Any]] = {"float32": {}, "bfloat16": {"state": "bfloat16"}, "8bit": {"state": "8bit"}}


class Network(nn.Module):
    """Matrices of the same and of other shapes, an embedding whose name says nothing, a norm and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(70, 64)
        self.first, self.second = nn.Linear(64, 96), nn.Linear(96, 64)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 70)

    def forward(self, x: torch.Tensor) -> Any:
        hidden = self.table(x)
        return self.head(self.norm(hidden + self.second(torch.tanh(self.first(hidden)))))


group: Any = None
"""The processes that train together: all three, or two of them."""


def network() -> Any:
    torch.manual_seed(0)
    return DistributedDataParallel(Network(), process_group=group)


def backward(model: nn.Module, step: int, rank: int) -> None:
    model.zero_grad()
    tokens = torch.randint(0, 70, (4, 5), generator=torch.Generator().manual_seed(100 * step + rank))
    nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()


def train(model: nn.Module, optimizer: Any, steps: range, **step: Any) -> list[torch.Tensor]:
    for t in steps:
        backward(model, t, dist.get_rank())
        optimizer.step(**step)
    return weights(model)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def groups(model: Any, kind: str) -> Any:
    return model.parameters() if kind == "parameters" else gradstep.param_groups(model, weight_decay=0.1)


def zero(module: Any, kind: str, **options: Any) -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # it warns of its own

    return ZeroRedundancyOptimizer(groups(module, kind), gradstep.AdamW, group, lr=1e-2, **options)


def consolidate(optimizer: Any) -> Any:
    optimizer.consolidate_state_dict(0)
    box = [optimizer.state_dict() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, group=group)
    return box[0]


def run_ddp(found: dict[str, Any]) -> None:
    """Ranks that have seeded torch differently."""
    for name, storage in STORAGES.items():
        for kind in ("parameters", "groups"):
            model = network()
            torch.manual_seed(dist.get_rank())
            optimizer = gradstep.AdamW(groups(model, kind), lr=1e-2, **storage)
            found[f"ddp {kind} {name}"] = train(model, optimizer, range(6))
        model = network()
        optimizer = gradstep.AdamW(groups(model, "groups"), lr=1e-2, **storage)
        found[f"ddp clipped {name}"] = train(model, optimizer, range(6), max_grad_norm=0.1)


def run_zero(found: dict[str, Any], saved: dict[str, Any]) -> None:
    """As with DistributedDataParallel; and from the middle on, from checkpoints of another number of ranks."""
    for name, storage in STORAGES.items():
        for kind in ("parameters", "groups"):
            model = network()
            optimizer = zero(model, kind, **storage)
            train(model, optimizer, range(3))
            found[f"checkpoint {kind} {name}"] = copy.deepcopy((weights(model), consolidate(optimizer)))
            found[f"zero {kind} {name}"] = train(model, optimizer, range(3, 6))
            summary = optimizer.optim.state_summary()
            found[f"summary {kind} {name}"] = (
                sum(
                    v.nbytes
                    for entry in optimizer.optim.state.values()
                    for v in entry.values()
                    if isinstance(v, torch.Tensor)
                ),
                summary.nbytes,
                summary.whole,
                max(row.nbytes for row in summary.rows),
                str(summary),
            )
            found[f"resumed {kind} {name}"] = resume(zero, kind, name, found[f"checkpoint {kind} {name}"])
        model = network()
        optimizer = zero(model, "groups", **storage)
        found[f"zero clipped {name}"] = train(model, optimizer, range(6), max_grad_norm=0.1)
        found[f"norm {name}"] = optimizer.optim.last_step.grad_norm
    for key, checkpoint in saved.items():
        _, kind, name = key.split()
        for make in (zero, plain):
            found[f"{make.__name__} from {kind} {name}"] = resume(make, kind, name, checkpoint)


def plain(model: Any, kind: str, **options: Any) -> Any:
    return gradstep.AdamW(groups(model, kind), lr=1e-2, **options)


def resume(make: Any, kind: str, name: str, checkpoint: Any) -> list[torch.Tensor]:
    start_weights, state = checkpoint
    model = network()
    with torch.no_grad():
        for p, value in zip(model.parameters(), start_weights, strict=True):
            p.copy_(value)
    optimizer = make(model, kind, seed=99, **STORAGES[name])
    optimizer.load_state_dict(copy.deepcopy(state))
    return train(model, optimizer, range(3, 6))


def run_faults(found: dict[str, Any]) -> None:
    rank = dist.get_rank()
    model = network()
    optimizer = zero(model, "groups", state="8bit")
    backward(model, 0, rank)
    before = weights(model)
    head = next(p for name, p in model.named_parameters() if name.endswith("head.weight"))
    head.grad[0, 0] = float("nan")
    optimizer.step(max_grad_norm=1.0)
    report = optimizer.optim.last_step
    found["not finite"] = report.stepped, report.reason, before, weights(model)
    backward(model, 0, rank)
    if head in {p for group in optimizer.optim.param_groups for p in group["params"]}:
        head.grad.data = head.grad[:-1]  # a gradient that does not fit, on the rank that has the parameter
    try:
        optimizer.optim.step(max_grad_norm=1.0)  # without the broadcast after it
    except RuntimeError as error:
        found["refused"] = str(error), before, weights(model)
    try:
        zero(model, "parameters", state="8bit", model=model)
    except ValueError as error:
        found["model"] = str(error)
    found["model is freed"] = is_freed_after_construction()
    run_copies(found)


def run_copies(found: dict[str, Any]) -> None:
    """A shallow copy of the local optimizer has its ranks; a deep copy would have parameters that nobody knows."""
    model = network()
    optimizer = zero(model, "groups")
    backward(model, 0, dist.get_rank())
    for name, make in (("deepcopy", copy.deepcopy), ("pickle", pickle.dumps)):
        try:
            make(optimizer.optim)
        except TypeError as error:
            found[name] = str(error)
    shallow = copy.copy(optimizer.optim)
    shallow.step(max_grad_norm=1e-3)
    squares = [p.grad.double().square().sum() for p in model.parameters()]
    found["norms"] = shallow.last_step.grad_norm, float(torch.stack(squares).sum().sqrt())


def is_freed_after_construction() -> bool:
    """Whether a model that the caller of a constructor deletes is freed before the caller returns."""
    model = Network()
    freed = weakref.ref(model)
    gradstep.AdamW([{"params": [nn.Parameter(torch.zeros(3))]}])
    del model
    gc.collect()
    return freed() is None


def everything() -> dict[int, dict[str, Any]]:
    """What three ranks find, then two of them, which also go on from the checkpoints of the three."""
    global group
    found: dict[int, dict[str, Any]] = {3: {}, 2: {}}
    run_ddp(found[3])
    run_zero(found[3], {})
    run_faults(found[3])
    group = dist.new_group([0, 1])
    if dist.get_rank() < 2:
        run_ddp(found[2])
        run_zero(found[2], {key: value for key, value in found[3].items() if key.startswith("checkpoint")})
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each of three ranks, and of two, found."""
    found = run_once(tmp_path_factory, everything, 3, timeout=280)
    return {ranks: [one[ranks] for one in found[:ranks]] for ranks in (3, 2)}


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", ["parameters", "groups", "clipped"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_replicas_are_equal_and_zero_equals_ddp(runs, ranks, kind, storage):
    expected = runs[ranks][0][f"ddp {kind} {storage}"]
    for found in runs[ranks]:
        assert_same(found[f"ddp {kind} {storage}"], expected)
        assert_same(found[f"zero {kind} {storage}"], expected)


@pytest.mark.parametrize("storage", STORAGES)
def test_the_norm_is_that_of_all_ranks(runs, storage):
    norms = {found[f"norm {storage}"] for found in runs[2]}
    assert len(norms) == 1
    (norm,) = norms
    assert norm is not None
    assert norm > 0.1


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", ["parameters", "groups"])
def test_zero_goes_on_with_another_number_of_ranks(runs, kind, storage):
    """From the checkpoint of three ranks, as DistributedDataParallel with the same checkpoint does."""
    expected = runs[2][0][f"plain from {kind} {storage}"]
    for found in runs[2]:  # the sum of three gradients would depend on an order that DistributedDataParallel changes
        assert_same(found[f"resumed {kind} {storage}"], found[f"zero {kind} {storage}"])
        assert_same(found[f"plain from {kind} {storage}"], expected)
        assert_same(found[f"zero from {kind} {storage}"], expected)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", ["parameters", "groups"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_has_its_share_of_the_state_and_says_so(runs, ranks, kind, storage):
    summaries = [found[f"summary {kind} {storage}"] for found in runs[ranks]]
    (whole,) = {summary[2] for summary in summaries}
    assert sum(held for held, *_ in summaries) == whole
    for held, told, _, _, text in summaries:
        assert held == told
        assert held <= whole / ranks + max(summary[3] for summary in summaries)
        assert text.splitlines()[-1].split() == ["on", "all", "ranks", f"{whole:,}"]


def test_a_gradient_that_is_not_finite_is_skipped_on_all_ranks(runs):
    for found in runs[3]:
        stepped, reason, before, after = found["not finite"]
        assert not stepped
        assert reason == "the gradient of module.head.weight is not finite"
        assert_same(before, after)


def test_a_rank_that_fails_keeps_no_other_waiting(runs):
    errors = [found["refused"][0] for found in runs[3]]
    assert sum("another rank could not take this step" in error for error in errors) == 2
    assert sum("head.weight" in error for error in errors) == 1
    for found in runs[3]:
        assert_same(*found["refused"][1:])


def test_the_local_optimizer_is_copied_with_its_ranks_or_not_at_all(runs):
    for found in runs[3]:
        for name in ("deepcopy", "pickle"):
            assert "cannot be copied or pickled" in found[name]
            assert "state_dict()" in found[name]
        assert found["norms"][0] == pytest.approx(found["norms"][1], rel=1e-6)


def test_model_is_refused_since_a_checkpoint_would_hold_it(runs):
    assert all("gradstep.param_groups(model)" in found["model"] for found in runs[3])


def test_the_search_for_the_outer_optimizer_keeps_no_values_of_its_callers(runs):
    assert all(found["model is freed"] for found in runs[3])


def run_checkpoints(folder: str) -> dict[str, Any]:
    """Save in all three processes, whose generators differ; then load in all of them, and in two of one."""
    rank = dist.get_rank()
    model = network()
    optimizer = plain(model, "groups", state="8bit")
    train(model, optimizer, range(2))
    torch.manual_seed(rank)
    gradstep.save_checkpoint(
        f"{folder}/all.pt", model=model, optimizer=optimizer, process_group=dist.group.WORLD, epoch=3
    )
    found: dict[str, Any] = {"expected": torch.rand(3)}
    torch.manual_seed(100)
    found["extra"] = gradstep.load_checkpoint(f"{folder}/all.pt", model=model, optimizer=optimizer)
    found["resumed"] = torch.rand(3)
    if rank == 0:
        gradstep.save_checkpoint(f"{folder}/one.pt", model=model, optimizer=optimizer)
    dist.barrier()
    torch.manual_seed(100 + rank)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gradstep.load_checkpoint(f"{folder}/one.pt", model=model, optimizer=optimizer)
    found["warned"] = [str(w.message) for w in caught]
    found["kept"] = torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(100 + rank)))
    try:
        gradstep.save_checkpoint(f"{folder}/no/such/folder.pt", model=model, process_group=dist.group.WORLD)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    return found | run_paged(f"{folder}/pages") | run_shards(folder) | run_flat()


def run_paged(folder: str) -> dict[str, Any]:
    """One folder for all ranks, which keep their pages apart and reopen them, with the seed that they began with."""
    model = network()
    found: dict[str, Any] = {"paged": [train(model, plain(model, "groups", state="8bit", seed=3), range(6))]}
    for make in (plain, zero):
        model, pages = network(), Path(folder, make.__name__)
        before = make(model, "groups", state="8bit", seed=3, paged=str(pages))
        train(model, before, range(3))
        del before
        gc.collect()
        after = make(model, "groups", state="8bit", seed=5, paged=gradstep.Pages(pages, resume=True))
        found["paged"].append(train(model, after, range(3, 6)))
        dist.barrier()
        found[f"folders of {make.__name__}"] = sorted(p.name for p in pages.iterdir())
    return found


def run_shards(folder: str) -> dict[str, Any]:
    """What FSDP makes of a model is refused on every rank."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    found: dict[str, Any] = {}
    whole, flat = Network(), FullyShardedDataParallel(Network(), device_id=torch.device("cpu"))
    fully_shard(whole)
    for name, model in (("FSDP2", whole), ("FSDP1", flat)):
        try:
            gradstep.save_checkpoint(f"{folder}/{name}.pt", model=model)
        except ValueError as error:
            found[name] = str(error)
    try:
        gradstep.save_checkpoint(f"{folder}/optimizer.pt", optimizer=gradstep.AdamW(whole.parameters()))
    except ValueError as error:
        found["optimizer"] = str(error)
    return found


def run_flat() -> dict[str, Any]:
    """FSDP1: an elementwise rule in float32 steps; what goes by shapes or by a norm is refused, and nothing changes."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    found: dict[str, Any] = {}
    for original in (False, True):
        made = {}
        for kind in (torch.optim.AdamW, gradstep.AdamW):
            torch.manual_seed(0)
            model = FullyShardedDataParallel(Network(), device_id=torch.device("cpu"), use_orig_params=original)
            made[kind] = model, kind(model.parameters(), lr=1e-2)
            for t in range(3):
                backward(model, t, dist.get_rank())
                made[kind][1].step()
        (theirs, _), (model, optimizer) = made.values()
        pairs = zip(theirs.parameters(), model.parameters(), strict=True)
        found[f"difference {original}"] = max(float((p - q).abs().max()) for p, q in pairs if p.numel())
        backward(model, 3, dist.get_rank())
        before = weights(model)
        attempts: dict[str, Any] = {
            "clip": lambda optimizer=optimizer: optimizer.step(max_grad_norm=1.0),
            "8bit": gradstep.AdamW(model.parameters(), state="8bit").step,
            "Adafactor": gradstep.Adafactor(model.parameters()).step,
        }
        for name, attempt in attempts.items():
            try:
                attempt()
            except (RuntimeError, ValueError) as error:
                found[f"{name} {original}"] = str(error)
        found[f"unchanged {original}"] = all(map(torch.equal, before, weights(model)))
    alone = FullyShardedDataParallel(nn.Linear(48, 48, bias=False), device_id=torch.device("cpu"), use_orig_params=True)
    alone(torch.ones(1, 48)).sum().backward()
    try:
        gradstep.AdamW(alone.parameters()).step(max_grad_norm=1.0)
    except RuntimeError as error:
        found["clip alone"] = str(error)
    return found


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> list[dict[str, Any]]:
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    return run_once(tmp_path_factory, run_checkpoints, 3, folder, timeout=280)


def test_each_rank_gets_its_own_random_generators(checkpoints):
    numbers = [found["resumed"] for found in checkpoints]
    assert not torch.equal(numbers[0], numbers[1])
    for found in checkpoints:
        assert torch.equal(found["resumed"], found["expected"])
        assert found["extra"] == {"epoch": 3}


def test_the_generators_of_another_rank_are_not_taken(checkpoints):
    assert [len(found["warned"]) for found in checkpoints] == [0, 1, 1]
    assert [found["kept"] for found in checkpoints] == [False, True, True]
    assert "process_group=torch.distributed.group.WORLD" in checkpoints[1]["warned"][0]


def test_every_rank_learns_that_the_first_could_not_save(checkpoints):
    assert "FileNotFoundError" in checkpoints[0]["error"]
    assert all("the first process of the group could not save" in found["error"] for found in checkpoints[1:])


def test_pages_of_each_rank_are_reopened(checkpoints):
    for found in checkpoints:
        assert [found[f"folders of {make}"] for make in ("plain", "zero")] == [["rank-0", "rank-1", "rank-2"]] * 2
        through, *reopened = found["paged"]
        for weights_of_pages in reopened:
            assert_same(through, weights_of_pages)


@pytest.mark.parametrize("what", ["FSDP1", "FSDP2", "optimizer"])
def test_shards_are_refused(checkpoints, what):
    assert all("torch.distributed.checkpoint" in found[what] for found in checkpoints)


@pytest.mark.parametrize("original", [False, True], ids=["FlatParameter", "use_orig_params"])
def test_flat_shards_step_in_float32_and_what_needs_shapes_is_refused(checkpoints, original):
    for found in checkpoints:
        assert found[f"difference {original}"] < 1e-6
        assert "clip_grad_norm_()" in found[f"clip {original}"]
        for what in ("8bit", "Adafactor"):
            assert "by the shapes of parameters, and these are flat shards" in found[f"{what} {original}"]
        assert found[f"unchanged {original}"]


def test_the_flat_shard_of_a_single_parameter_is_found(checkpoints):
    """Its part of the FlatParameter is all of it, and not a view of more."""
    assert all("clip_grad_norm_()" in found["clip alone"] for found in checkpoints)


def test_partitions_of_deepspeed_are_flat_shards(monkeypatch):
    """It is not installed here, but what it makes of groups is: one flat partition in each, in stage 3 in one."""
    matrix, flat = (torch.ones(shape).requires_grad_() for shape in ((80, 80), (6400,)))
    matrix.grad, flat.grad = torch.ones(80, 80), torch.ones(6400)
    monkeypatch.setitem(sys.modules, "deepspeed", ModuleType("deepspeed"))
    gradstep.AdamW([matrix], state="8bit").step()
    optimizer = gradstep.AdamW([matrix], state="8bit")
    optimizer.param_groups[0]["params"] = [flat]
    with pytest.raises(ValueError, match="these are flat shards"):
        optimizer.step()
    optimizer.add_param_group({"params": [matrix]})
    optimizer.param_groups[1]["params"] = []
    with pytest.raises(ValueError, match="these are flat shards"):
        optimizer.step()
    gradstep.AdamW([flat]).step()
