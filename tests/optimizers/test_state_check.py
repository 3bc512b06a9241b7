"""State that does not fit is refused before anything moves: by name, with what was given and what is allowed."""

import copy
import math
import re
from collections import UserDict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

import gradstep
from gradstep.optimizers.state.check import check_entry
from gradstep.optimizers.state.storage import MOST_STEPS, Storage
from gradstep.rules import SGD, Adafactor, AdamW, Lion, NAdam, RMSprop
from tests.training import leaked, trained, unchanged

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SHAPE = (64, 80)  # 5,120 elements are 20 blocks: large enough for 8 bits


def entry_of(rule=AdamW, state="float32", dtype=torch.float32, rounding="nearest", shape=SHAPE, **options):
    """A parameter, how it is stored, its rule, and its state after a step."""
    p = torch.ones(shape, dtype=dtype)
    optimizer = gradstep.optimizer(rule)([p], state=state, rounding=rounding, **options)
    p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    made = rule(**options)
    return p, Storage(state, rounding).of(made, {}, p, "w"), made, dict(optimizer.state[p])


ENTRIES = [
    {},
    {"state": "bfloat16"},
    {"state": "8bit"},
    {"dtype": torch.float64},
    {"dtype": torch.bfloat16, "rounding": "kahan"},
    {"dtype": torch.bfloat16, "rounding": "24bit"},
    {"dtype": torch.float16, "rounding": "master", "state": "8bit"},
    {"dtype": torch.complex64},
    {"rule": NAdam},
    {"rule": Adafactor},
    {"rule": Adafactor, "shape": ()},
    {"rule": SGD},
    {"rule": SGD, "momentum": 0.9},
    {"rule": Lion, "shape": (0, 3)},
]


@pytest.mark.parametrize("made", ENTRIES, ids=str)
def test_what_a_step_leaves_behind_fits(made):
    p, stored, rule, entry = entry_of(**made)
    check_entry(p, stored, rule, entry, "w")
    check_entry(p, stored, rule, {}, "w")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, *FLOAT8])
def test_what_can_be_converted_without_a_loss_fits(dtype):
    p, stored, rule, entry = entry_of()
    entry["exp_avg"] = entry["exp_avg"].t().contiguous().t().to(dtype)
    entry["step"] = np.int64(3)
    check_entry(p, stored, rule, entry, "w")


@pytest.mark.parametrize(
    ("made", "switched_on"),
    [
        ({}, {"amsgrad": True}),
        ({"state": "8bit"}, {"amsgrad": True}),
        ({"rule": RMSprop}, {"centered": True, "momentum": 0.5}),
        ({"rule": Adafactor}, {}),
        ({"rule": Lion}, {}),
    ],
)
def test_a_slot_that_is_missing(made, switched_on):
    """It is refused as torch does; before the first step, and where a setting has switched it on since, it begins."""
    p, stored, rule, entry = entry_of(**made)
    slot = stored.slots[0].name
    for gone in (entry | {slot: None}, {key: value for key, value in entry.items() if key != slot}, {"step": 3}):
        with pytest.raises(
            RuntimeError, match=f"the state of w does not fit: {slot} is missing; put it back, or delete"
        ):
            check_entry(p, stored, rule, gone, "w")
    check_entry(p, stored, rule, {"step": 0}, "w")
    wider = type(rule)(**switched_on)
    check_entry(p, Storage(made.get("state", "float32")).of(wider, {}, p, "w"), wider, entry, "w")


def test_what_can_be_converted_fits():
    """A model that is converted in mid-run (to float64, to channels_last) takes its state along."""
    p, stored, rule, entry = entry_of(state="8bit")
    check_entry(p, stored, rule, entry | {"exp_avg": torch.full(SHAPE, 0.1)}, "w")
    check_entry(p, stored, rule, entry | {"exp_avg": entry["exp_avg"].t().contiguous().t()}, "w")
    p, stored, rule, entry = entry_of()
    check_entry(p, stored, rule, entry | {"exp_avg": entry["exp_avg"].double()}, "w")


STEPS = [
    (-5, ValueError),
    (math.nan, ValueError),
    (math.inf, ValueError),
    (1e30, ValueError),
    (2.5, ValueError),
    (MOST_STEPS + 1, ValueError),
    (torch.tensor(-1.0), ValueError),
    (torch.tensor([1.0, 2.0]), TypeError),
    (torch.tensor(1j), TypeError),
    (torch.tensor(1.0, device="meta"), TypeError),
    ("x", TypeError),
    (None, TypeError),
    (True, TypeError),
    ([1], TypeError),
]


@pytest.mark.parametrize(("step", "error"), STEPS, ids=str)
def test_a_step_count_that_is_none(step, error):
    p, stored, rule, entry = entry_of()
    with pytest.raises(error, match=r"the state of w does not fit: step is .* whole number from 0 to 16,777,216"):
        check_entry(p, stored, rule, entry | {"step": step}, "w")


@pytest.mark.parametrize("step", [0, MOST_STEPS, torch.tensor([7]), torch.tensor(7, dtype=torch.int64), np.float32(7)])
def test_a_step_count(step):
    p, stored, rule, entry = entry_of()
    check_entry(p, stored, rule, entry | {"step": step}, "w")


@pytest.mark.parametrize(
    ("value", "error"), [(math.nan, ValueError), (-math.inf, ValueError), ("x", TypeError), (None, TypeError)]
)
def test_a_scalar_of_the_rule(value, error):
    p, stored, rule, entry = entry_of(NAdam)
    with pytest.raises(error, match=r"mu_product is .*before the first step 1.0"):
        check_entry(p, stored, rule, entry | {"mu_product": value}, "w")
    del entry["mu_product"]
    with pytest.raises(RuntimeError, match="mu_product is missing"):
        check_entry(p, stored, rule, entry, "w")


def test_a_missing_step_count():
    """torch's SGD does not count, and needs not; where the count matters, it must be there."""
    for rule, options in ((SGD, {"momentum": 0.9}), (RMSprop, {})):
        p, stored, made, entry = entry_of(rule, **options)
        del entry["step"]
        check_entry(p, stored, made, entry, "w")
    p, stored, made, entry = entry_of()
    del entry["step"]
    with pytest.raises(RuntimeError, match="step is missing, and AdamW needs the number of steps"):
        check_entry(p, stored, made, entry, "w")


def freed(like):
    tensor = torch.empty_like(like)
    tensor.untyped_storage().resize_(0)
    return tensor


def beyond_its_memory(like):
    tensor = torch.empty_like(like)
    tensor.untyped_storage().resize_(tensor.untyped_storage().nbytes() - 1)
    return tensor


@pytest.mark.parametrize("key", ["step", "mu_product"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch._efficientzerotensor(()), "torch.float32 tensor of shape () without memory"),
        (lambda: torch.tensor(3.0).to_sparse(), "torch.sparse_coo torch.float32 tensor of shape ()"),
        (lambda: leaked(torch.tensor(3.0)), "torch.float32 tensor of shape () without memory"),
        (lambda: freed(torch.tensor(3.0)), "torch.float32 tensor of shape () without memory"),
        (lambda: beyond_its_memory(torch.tensor(3.0)), "torch.float32 tensor of shape () without memory"),
    ],
)
def test_a_number_that_is_not_in_memory(make, words, key):
    """Where it can be read at all, torch cannot count on from it."""
    p, stored, rule, entry = entry_of(NAdam)
    with pytest.raises(TypeError, match=re.escape(f"the state of w does not fit: {key} is a {words}, but must be a")):
        check_entry(p, stored, rule, entry | {key: make()}, "w")
    optimizer, _ = trained(gradstep.NAdam, [torch.ones(3)], [[torch.ones(3)]])
    saved = optimizer.state_dict()
    saved["state"][0][key] = make()
    with unchanged(optimizer), pytest.raises(TypeError, match=re.escape(f"parameter 0 of group 0: {key} is a {words}")):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("engine", ["auto", "eager", "foreach", "reference"])
@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_scale", "exp_avg_sq", "exp_avg_sq_scale"])
def test_eight_bits_made_in_inference_mode(key, engine):
    """They are copied, as other arrays are: in the middle of a step, torch refuses to write to them."""
    results = []
    for inference in (False, True):
        start, steps = [torch.ones(SHAPE)], [[torch.full(SHAPE, 0.5)]]
        optimizer, (p,) = trained(gradstep.AdamW, start, steps, state="8bit", engine=engine, seed=0)
        with torch.inference_mode(inference):
            optimizer.state[p][key] = optimizer.state[p][key].clone()
        optimizer.step()
        results.append((p.detach(), optimizer.state[p][key]))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


ARRAYS = [
    (lambda t: t[:-1], r"has shape \(63, 80\), but must have \(64, 80\)", RuntimeError),
    (lambda t: t.t(), r"has shape \(80, 64\), but must have \(64, 80\)", RuntimeError),
    (lambda t: t.reshape(-1), r"has shape \(5120,\), but must have \(64, 80\)", RuntimeError),
    (lambda t: torch.zeros(SHAPE, dtype=torch.int64), "is torch.int64, but must hold floating-point", RuntimeError),
    (lambda t: torch.zeros(SHAPE, dtype=torch.bool), "is torch.bool, but must hold floating-point", RuntimeError),
    (lambda t: torch.empty(SHAPE, dtype=torch.float4_e2m1fn_x2), "is torch.float4_e2m1fn_x2, but must", RuntimeError),
    (lambda t: t * (1 + 0j), "is torch.complex64, but the parameter is torch.float32", RuntimeError),
    (lambda t: t.to_sparse(), "is torch.sparse_coo, but must be dense", RuntimeError),
    (lambda t: t.to_mkldnn(), "is torch._mkldnn, but must be dense", RuntimeError),
    (lambda t: leaked(t), "has no memory for its 5,120 elements", RuntimeError),
    (lambda t: t.to("meta"), "is on the meta device", RuntimeError),
    (lambda t: torch._efficientzerotensor(SHAPE), "has no memory for its 5,120 elements", RuntimeError),
    (freed, "has no memory for its 5,120 elements", RuntimeError),
    (beyond_its_memory, "has no memory for its 5,120 elements", RuntimeError),
    (lambda t: torch._neg_view(t), "is a lazily conjugated or negated view", RuntimeError),
    (lambda t: TwoTensor(t, t), "is a TwoTensor, but must be a plain torch.Tensor", TypeError),
    (lambda t: 3.0, "is 3.0, but must be a tensor", TypeError),
    (lambda t: [0.0], r"is \[0.0\], but must be a tensor", TypeError),
]


@pytest.mark.parametrize(("spoil", "words", "error"), ARRAYS)
@pytest.mark.parametrize(
    ("made", "key"),
    [
        ({}, "exp_avg_sq"),
        ({"dtype": torch.bfloat16, "rounding": "kahan"}, "kahan_comp"),
        ({"dtype": torch.bfloat16, "rounding": "master"}, "master_param"),
    ],
)
def test_an_array_that_does_not_fit(made, key, spoil, words, error):
    if key != "exp_avg_sq":
        words = words.replace("parameter is torch.float32", "parameter is torch.bfloat16")
    p, stored, rule, entry = entry_of(**made)
    with pytest.raises(error, match=f"the state of w does not fit: {key} {words}"):
        check_entry(p, stored, rule, entry | {key: spoil(entry[key].float())}, "w")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.float(), "is torch.float32, but must be torch.uint8"),
        (lambda t: t.view(torch.int8), "is torch.int8, but must be torch.uint8"),
        (lambda t: t[:-1], r"has shape \(63, 80\), but must have \(64, 80\)"),
        (lambda t: t.to("meta"), "is on the meta device"),
    ],
)
def test_a_byte_of_further_bits_that_does_not_fit(spoil, words):
    p, stored, rule, entry = entry_of(dtype=torch.bfloat16, rounding="24bit")
    with pytest.raises(RuntimeError, match=f"the state of w does not fit: low_byte {words}"):
        check_entry(p, stored, rule, entry | {"low_byte": spoil(entry["low_byte"])}, "w")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_array():
    p, stored, rule, entry = entry_of()
    nested = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])
    with pytest.raises(RuntimeError, match="exp_avg is a nested tensor, but must be dense"):
        check_entry(p, stored, rule, entry | {"exp_avg": nested}, "w")


SCALES = [
    (lambda t: t[:-1], r"has shape \(19,\), but must have \(20,\)", RuntimeError),
    (lambda t: torch.cat([t, t]), r"has shape \(40,\), but must have \(20,\)", RuntimeError),
    (lambda t: t.double(), "is torch.float64, but must be torch.uint8", RuntimeError),
    (lambda t: t.repeat(2)[::2], r"has strides \(2,\), but must be contiguous", RuntimeError),
    (lambda t: t[:1].expand(20), r"has strides \(0,\), but must be contiguous", RuntimeError),
    (lambda t: t.to("meta"), "is on the meta device", RuntimeError),
    (lambda t: t.to_sparse(), "is torch.sparse_coo", RuntimeError),
    (lambda t: TwoTensor(t, t), "is a TwoTensor", TypeError),
    (lambda t: freed(t), "has no memory", RuntimeError),
    (lambda t: 1, "is 1, but must be a tensor", TypeError),
    (lambda t: None, "is missing, without which exp_avg", RuntimeError),
]


@pytest.mark.parametrize(("spoil", "words", "error"), SCALES)
@pytest.mark.parametrize("state", ["8bit", "float32"])
def test_scales_that_do_not_fit(spoil, words, error, state):
    """In an 8-bit optimizer, and where codes have come into a float32 one, which decodes them."""
    p, stored, rule, entry = entry_of(state="8bit")
    stored = Storage(state).of(rule, {}, p, "w")
    check_entry(p, stored, rule, entry, "w")
    with pytest.raises(error, match=f"the state of w does not fit: exp_avg_scale {words}"):
        check_entry(p, stored, rule, entry | {"exp_avg_scale": spoil(entry["exp_avg_scale"])}, "w")


NO_ENTRIES: list[Any] = [None, 5, [], "x", torch.zeros(3), np.zeros(3), UserDict(step=1), MappingProxyType({})]


@pytest.mark.parametrize("entry", NO_ENTRIES, ids=str)
def test_an_entry_that_is_no_dictionary(entry):
    p, stored, rule, _ = entry_of()
    with pytest.raises(TypeError, match=r"the state of w does not fit: it is .* must be a dictionary"):
        check_entry(p, stored, rule, entry, "w")
    for kind in (gradstep.SGD, gradstep.AdamW):
        optimizer, (p,) = trained(kind, [torch.ones(3)], [[torch.ones(3)]])
        optimizer.state[p] = entry
        with pytest.raises(TypeError, match=r"parameter 0 of group 0 does not fit: it is .* must be a dictionary"):
            optimizer.step()
        assert optimizer.state[p] is entry
        p.grad = None
        optimizer.step()  # as in torch, nobody looks at it


@pytest.mark.parametrize("state", [None, [], 5])
def test_a_state_that_is_no_dictionary(state):
    optimizer, _ = trained(gradstep.AdamW, [torch.ones(3)], [[torch.ones(3)]])
    with unchanged(optimizer), pytest.raises(TypeError, match="state must be a dictionary, by parameter, but is a "):
        optimizer.state = state


def test_rows_of_the_factored_second_moment():
    p, stored, rule, entry = entry_of(Adafactor)
    with pytest.raises(RuntimeError, match=r"row_var has shape \(64, 80\), but must have \(64, 1\)"):
        check_entry(p, stored, rule, entry | {"row_var": torch.zeros(SHAPE)}, "w")


# -- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "error"), STEPS, ids=str)
def test_a_checkpoint_with_a_step_count_that_is_none(step, error):
    optimizer, _ = trained(gradstep.AdamW, [torch.ones(3)], [[torch.ones(3)]])
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = step
    with unchanged(optimizer), pytest.raises(error, match="parameter 0 of group 0: step is"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize(
    ("key", "value", "error", "words"),
    [
        ("mu_product", math.nan, ValueError, "mu_product is nan, but must be finite"),
        ("mu_product", torch.ones(2), TypeError, "mu_product is a torch.float32 tensor of shape"),
        ("exp_avg", torch.ones(3, dtype=torch.int32), RuntimeError, "exp_avg is torch.int32"),
        ("exp_avg", torch.ones(3, dtype=torch.bool), RuntimeError, "exp_avg is torch.bool"),
        ("exp_avg", torch.ones(3, device="meta"), RuntimeError, "exp_avg is on the meta device"),
        ("exp_avg", torch.ones(3).to_sparse(), RuntimeError, "exp_avg is torch.sparse_coo"),
    ],
)
def test_a_checkpoint_with_state_that_does_not_fit(key, value, error, words):
    optimizer, _ = trained(gradstep.NAdam, [torch.ones(3)], [[torch.ones(3)]])
    saved = optimizer.state_dict()
    saved["state"][0][key] = value
    with unchanged(optimizer), pytest.raises(error, match=words):
        optimizer.load_state_dict(saved)


def test_all_that_does_not_fit_is_listed():
    optimizer, _ = trained(gradstep.AdamW, [torch.ones(3), torch.ones(2)], [[torch.ones(3), torch.ones(2)]])
    saved = optimizer.state_dict()
    saved["state"][0]["step"], saved["state"][1]["exp_avg"] = -1, torch.ones(7)
    with pytest.raises(RuntimeError, match=r"(?s)parameter 0 of group 0: step is -1.*parameter 1 of group 0: exp_avg"):
        optimizer.load_state_dict(saved)


# -- state in eight bits of torch's own -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT8)
@pytest.mark.parametrize("kind", ["AdamW", "NAdam", "SGD"])
def test_a_checkpoint_in_float8(kind, dtype):
    """Each such number is a float32 number: what torch makes of it, by casting."""
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9} if kind == "SGD" else {"lr": 0.1}
    results = []
    for package in (gradstep, torch.optim):
        optimizer, params = trained(
            getattr(package, kind), [torch.ones(3)], [[torch.tensor([0.3, -2.0, 1e-3])]], **options
        )
        saved = copy.deepcopy(optimizer.state_dict())
        entry = saved["state"][0]
        entry |= {name: value.to(dtype) for name, value in entry.items() if value.dim()}
        optimizer.load_state_dict(saved)
        assert all(value.dtype == torch.float32 for value in optimizer.state[params[0]].values())
        optimizer.step()
        results.append(params[0].detach())
    torch.testing.assert_close(*results)


def test_a_checkpoint_in_float8_for_a_state_that_rounds():
    """The blocks of 8-bit state round: so they are not made of it without a word."""
    p = torch.ones(SHAPE, requires_grad=True)
    p.grad = torch.full(SHAPE, 0.3)
    optimizer = gradstep.AdamW([p], state="8bit")
    plain = gradstep.AdamW([p])
    plain.step()
    saved = copy.deepcopy(plain.state_dict())
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].to(FLOAT8[0])
    with pytest.raises(RuntimeError, match="exp_avg is stored as float8_e4m3fn, and here as 8bit"):
        optimizer.load_state_dict(saved)
    found = gradstep.convert_state(saved, optimizer)
    optimizer.load_state_dict(found.state_dict)
    assert {change.before for change in found.changes} == {"float8_e4m3fn", "float32"}
