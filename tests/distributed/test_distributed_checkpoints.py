"""torch.distributed.checkpoint: state saved on two ranks goes on bit for bit on any number, in every form."""

import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh

import gradstep
from gradstep.optimizers.memory import is_distributed
from tests.distributed.processes import run
from tests.distributed.test_sharded_parameters import RULES, dtype_of, faults, make, numbers, placed, whole

CASES: list[tuple[str, str, str]] = [
    ("NAdam", "8bit", "stochastic"),
    ("AdamW", "8bit", "nearest"),
    ("AdamW", "float32", "nearest"),
    ("Lion", "bfloat16", "kahan"),
    ("SGD", "8bit", "master"),
    ("Lion", "8bit", "24bit"),
]
FLAT: dict[str, Any] = {"flatten_optimizer_state_dict": True}
WHOLE: dict[str, Any] = {"full_state_dict": True}
BROADCAST: dict[str, Any] = WHOLE | {"broadcast_from_rank0": True}
OFFLOADED: dict[str, Any] = {"cpu_offload": True}

LOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "nested": ("nested", {}),
    "flat": ("flat", FLAT),
    "nested, cpu_offload": ("nested", OFFLOADED),
    "flat, cpu_offload": ("flat", FLAT | OFFLOADED),
    "nested, async": ("async nested", {}),
    "flat, async": ("async flat", FLAT),
    "whole": ("whole nested", WHOLE),
    "whole, flat": ("whole flat", FLAT),
    "broadcast": ("whole nested", BROADCAST),
    "whole, into shards": ("whole nested", {}),
}
"""Ways to load: which file, and the options. torch.optim's optimizers cannot load flat with full_state_dict either."""

ADAM = {"rule": "Adam"}

CHANGES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"state": "8bit"}, "Missing key"),
    ({"state": "8bit"}, {}, "Missing key"),
    ({"state": "bfloat16"}, {}, ""),
    ({}, {"state": "bfloat16"}, "Missing key"),
    ({"rounding": "stochastic"}, {"rounding": "stochastic", "state": "bfloat16"}, "has been rounded to bfloat16"),
    ({"rounding": "stochastic", "state": "bfloat16"}, {"rounding": "stochastic"}, ""),
    (ADAM | {"rounding": "kahan"}, ADAM | {"rounding": "stochastic"}, "kahan_comp was saved, and has not been read"),
    (ADAM | {"rounding": "master"}, ADAM | {"rounding": "stochastic"}, "master_param was saved, and has not been read"),
    (ADAM | {"rounding": "24bit"}, ADAM | {"rounding": "stochastic"}, "low_byte was saved, and has not been read"),
    ({"rounding": "kahan"}, {"rounding": "stochastic"}, "decoupled_weight_decay"),
    ({"rounding": "stochastic"}, {"rounding": "kahan"}, "Missing key"),
    ({"rule": "AdamW"}, {"rule": "Lion"}, "Missing key"),
    ({"rule": "Lion"}, {"rule": "Lion"}, ""),
    ({"rule": "LaProp"}, {"rule": "Lion"}, "is of LaProp, and this optimizer is Lion"),
    ({"rule": "AdamW", "state": "8bit"}, {"rule": "RAdam", "state": "8bit"}, "is of AdamW"),
    ({"rounding": "stochastic"}, {}, ""),
    ({"rounding": "kahan"}, {"rounding": "kahan"}, ""),
    ({"rounding": "kahan"}, {}, "decoupled_weight_decay"),
    ({"rounding": "master"}, {}, "decoupled_weight_decay"),
    ({"rounding": "24bit"}, {}, "decoupled_weight_decay"),
    ({"rule": "Adam"}, {"rule": "AdamW"}, "is not AdamW"),
]
"""The optimizer that is saved, the one that is loaded, and the error; without one, all values are as saved."""


class Holder(nn.Module):
    """A model of the parameters of a case, sharded by rows if there is a mesh."""

    def __init__(self, case: tuple[str, str, str], seed: int, mesh: Any) -> None:
        from torch.distributed.tensor import Shard

        super().__init__()
        tensors = numbers(seed, dtype=dtype_of(case[2]))
        tensors = tensors if mesh is None else placed(mesh, [Shard(0)], tensors)
        self.w = nn.ParameterList(map(nn.Parameter, tensors))

    def take_steps(self, optimizer: Any, first: int, stop: int) -> None:
        for t in range(first, stop):
            for p, g in zip(self.w, numbers(t, dtype=self.w[0].dtype), strict=True):
                p.grad = placed(p.device_mesh, p.placements, [g])[0] if is_distributed(p) else g
            optimizer.step()


def save(folder: str, cases: list[tuple[str, str, str]], mesh: Any) -> None:
    """Save each case in each form after 3 steps, in the background while training goes on."""
    group = dist.new_group(backend="gloo")  # what is saved in the background must not wait for messages of training
    forms: dict[str, dict[str, Any]] = {"nested": {}, "flat": FLAT}
    case: tuple[str, str, str]
    for case, (form, flat) in itertools.product(cases, forms.items()):
        model = Holder(case, 0, mesh)
        optimizer = make(*case, model.named_parameters())
        model.take_steps(optimizer, 1, 4)
        whole = get_state_dict(model, optimizer, options=StateDictOptions(**WHOLE, **OFFLOADED, **flat))
        if dist.get_rank() == 0:
            torch.save(whole, f"{folder}/{case} whole {form}")
        state = get_state_dict(model, optimizer, options=StateDictOptions(**flat))
        parts = {"model": state[0], "optimizer": state[1]}
        state_dict_saver.save(parts, checkpoint_id=f"{folder}/{case} {form}")
        background: Any = state_dict_saver.async_save(
            parts, checkpoint_id=f"{folder}/{case} async {form}", process_group=group
        )
        model.take_steps(optimizer, 4, 7)
        background.result()


def load(folder: str, cases: list[tuple[str, str, str]], ways: Any, mesh: Any = None) -> list[str]:
    """Go on for 3 steps from each checkpoint, and return what differs from 6 steps of one process."""
    found = []
    for case, way in itertools.product(cases, ways):
        model, expected = Holder(case, 9, mesh), Holder(case, 0, None)
        rule, precision, rounding = case
        kind: Any = getattr(gradstep, rule)
        optimizer = kind(model.named_parameters(), **RULES[rule], state=precision, rounding=rounding)  # without a seed
        other = make(*case, expected.named_parameters())
        form, settings = LOADS[way]
        options, of_model = StateDictOptions(**settings), StateDictOptions(**settings)
        file = f"{folder}/{case} {form}"
        if form.startswith("whole"):
            broadcast = settings == BROADCAST
            state = ({}, {}) if broadcast and dist.get_rank() != 0 else torch.load(file, weights_only=True)
            of_model = options if broadcast else StateDictOptions(**WHOLE)
        else:
            state = get_state_dict(model, optimizer, options=options)
            state_dict_loader.load({"model": state[0], "optimizer": state[1]}, checkpoint_id=file)
        set_model_state_dict(model, state[0], options=of_model)
        set_optimizer_state_dict(model, optimizer, state[1], options=options)
        expected.take_steps(other, 1, 4)
        for stage in ("loaded", "went on"):
            found += [f"{case} {way} {stage}: {fault}" for fault in faults(optimizer, model.w, other, expected.w)]
            model.take_steps(optimizer, 4, 7)
            expected.take_steps(other, 4, 7)
    return found


def other_optimizers(folder: str, mesh: Any) -> list[str]:
    """Load a checkpoint into an optimizer with another rule or precision: an error, or exactly its numbers."""
    found = []
    for (saved, loaded, expected), flat in [
        *itertools.product(CHANGES, [dict[str, Any]()]),
        *itertools.product(CHANGES if mesh.size() > 1 else CHANGES[-1:], [FLAT]),
    ]:
        models = [Holder(("", "", saved.get("rounding", "nearest")), seed, mesh) for seed in (0, 9)]
        optimizers: list[Any] = [
            getattr(gradstep, options.get("rule", "AdamW"))(
                model.named_parameters(), engine="eager", **{k: v for k, v in options.items() if k != "rule"}
            )
            for model, options in zip(models, (saved, loaded), strict=True)
        ]
        models[0].take_steps(optimizers[0], 1, 3)
        options, file = StateDictOptions(**flat), f"{folder}/{saved} {loaded} {bool(flat)}"
        state = get_state_dict(models[0], optimizers[0], options=options)
        state_dict_saver.save({"optimizer": state[1]}, checkpoint_id=file)
        message = ""
        try:
            state = get_state_dict(models[1], optimizers[1], options=options)
            state_dict_loader.load({"optimizer": state[1]}, checkpoint_id=file)
            set_optimizer_state_dict(models[1], optimizers[1], state[1], options=options)
        except (CheckpointException, RuntimeError, ValueError) as error:
            message = str(error)
        if message or expected:
            fault = "" if expected and expected in message else message or "no error"
        else:
            pairs = zip(models[0].w, models[1].w, strict=True)
            states = [(optimizers[0].state[p], optimizers[1].state[q]) for p, q in pairs]
            values = [(key, whole(a[key]).float(), whole(b[key]).float()) for a, b in states for key in b]
            fault = ", ".join(key for key, a, b in values if not torch.equal(a, b))
        found += [f"{saved} into {loaded}, {flat}: {fault}"] * bool(fault)
    return found


def whole_eight_bits_into_float32(mesh: Any) -> list[str]:
    """8-bit state saved whole from shards becomes its numbers in float32 state, in shards and in one process."""
    saved, plain, sharded, alone = (Holder(CASES[1], 0, of) for of in (mesh, None, mesh, None))
    optimizer, one = make(*CASES[1], saved.named_parameters()), make(*CASES[1], plain.named_parameters())
    saved.take_steps(optimizer, 1, 3)
    plain.take_steps(one, 1, 3)
    expected = gradstep.AdamW(plain.named_parameters())
    expected.load_state_dict(one.state_dict())
    state = get_optimizer_state_dict(saved, optimizer, options=StateDictOptions(**WHOLE))
    found = []
    for model in (sharded, alone):
        other = gradstep.AdamW(model.named_parameters())
        set_optimizer_state_dict(model, other, state)
        for k, (p, q) in enumerate(zip(model.w, plain.w, strict=True)):
            for key, value in expected.state[q].items():
                if not torch.equal(whole(other.state[p][key]), value):
                    found.append(f"8-bit {key} of {k} in float32, {is_distributed(p)}")
    return found


def converts_as_one_process(mesh: Any) -> list[str]:
    """convert_state() of shards, and of a whole state saved from them, has the bits of that of one process."""
    found = []
    for before, after in (("8bit", "float32"), ("float32", "8bit"), ("float32", "bfloat16")):
        saved, plain = (Holder(("", "", "nearest"), 0, of) for of in (mesh, None))
        optimizer, one = (make("AdamW", before, "nearest", of.named_parameters()) for of in (saved, plain))
        saved.take_steps(optimizer, 1, 3)
        plain.take_steps(one, 1, 3)
        expected, other, alone = (
            make("AdamW", after, "nearest", of.named_parameters()) for of in (plain, saved, plain)
        )
        expected.load_state_dict(gradstep.convert_state(one.state_dict(), expected).state_dict)
        state = get_optimizer_state_dict(saved, optimizer, options=StateDictOptions(**WHOLE))
        for part, loaded in ((optimizer.state_dict(), other), (state, alone)):
            loaded.load_state_dict(gradstep.convert_state(part, loaded).state_dict)
        for loaded, holder in ((other, saved), (alone, plain)):
            found += [f"{before} to {after}: {fault}" for fault in faults(loaded, holder.w, expected, plain.w)]
        try:
            gradstep.convert_state(optimizer.state_dict(), after)
            found.append("distributed state was converted without its optimizer")
        except ValueError as error:
            found += [] if "is distributed (DTensor): give the sharded optimizer" in str(error) else [str(error)]
    return found


def broadcast_into_bfloat16(mesh: Any) -> list[str]:
    """float32 state that rank 0 broadcasts into bfloat16 state is refused, and bfloat16 state arrives as it was."""
    found = []
    for precision, before in itertools.product(("float32", "bfloat16"), (0, 5)):
        models = [Holder(("", "", "nearest"), seed, mesh) for seed in (0, 9)]
        saved = make("AdamW", precision, "nearest", models[0].w)
        loaded = make("AdamW", "bfloat16", "nearest", models[1].w)
        models[0].take_steps(saved, 1, 3)
        models[1].take_steps(loaded, 1, 1 + before)
        state = get_optimizer_state_dict(models[0], saved, options=StateDictOptions(**WHOLE))
        message = ""
        try:
            set_optimizer_state_dict(models[1], loaded, state, options=StateDictOptions(**BROADCAST))
        except RuntimeError as error:
            message = str(error)
        if ("exp_avg was saved in float32, and has been rounded" in message) != (precision == "float32"):
            found.append(f"{precision} after {before}: {message or 'no error'}")
    return found


def created_state_counts_no_step(mesh: Any) -> list[str]:
    """torch's checkpoints create state by a step with gradients and a learning rate of 0, which is no update."""
    case = ("AdamW", "8bit", "nearest")
    model, expected = Holder(case, 0, mesh), Holder(case, 0, None)
    optimizer, other = make(*case, model.named_parameters()), make(*case, expected.named_parameters())
    get_state_dict(model, optimizer)
    found = [] if all(entry["step"] == 0 for entry in optimizer.state.values()) else ["a step was counted"]
    for holder, steps in ((model, optimizer), (expected, other)):
        holder.take_steps(steps, 1, 3)
    return found + faults(optimizer, model.w, other, expected.w)


def on_two_ranks(folder: str, cases: Any) -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    save(folder, cases, mesh)
    return load(folder, cases, LOADS, mesh) + created_state_counts_no_step(mesh)


def with_other_optimizers(folder: str) -> list[str]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    found = other_optimizers(folder, mesh) + whole_eight_bits_into_float32(mesh) + converts_as_one_process(mesh)
    return found + broadcast_into_bfloat16(mesh)


def on_other_ranks(folder: str, cases: Any, ways: Any) -> list[str]:
    return load(folder, cases, ways, init_device_mesh("cpu", (dist.get_world_size(),)))


def test_two_ranks_go_on_as_one_and_two(tmp_path):
    folder, cases = str(tmp_path), CASES[:1]
    assert run(on_two_ranks, 2, folder, cases) == [[]] * 2
    assert run(on_other_ranks, 1, folder, cases, ["nested", "flat", "whole"]) == [[]]
    assert load(folder, cases, ["whole", "whole, flat"]) == []  # without torch.distributed


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_another_optimizer_loads_the_same_numbers_or_raises(ranks, tmp_path):
    assert run(with_other_optimizers, ranks, str(tmp_path)) == [[]] * ranks


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_go_on_as_one_four_and_eight(case, tmp_path):
    folder = str(tmp_path)
    assert run(on_two_ranks, 2, folder, [case]) == [[]] * 2
    for ranks in (1, 4, 8):
        assert run(on_other_ranks, ranks, folder, [case], list(LOADS)) == [[]] * ranks
