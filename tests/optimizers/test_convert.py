"""State from one way to store it to another: what is lossless is so bit for bit, and what is lost is said."""

import copy
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradstep
from gradstep import modify, rules
from gradstep.optimizers.checkpoint.bitsandbytes import decode, dynamic_map, encode
from gradstep.optimizers.checkpoint.convert import compare_slot, summarize_changes
from gradstep.optimizers.checkpoint.matching import unnest_fields
from tests.optimizers.user_rules import Belief
from tests.registry import few_and_the_rest_slow
from tests.training import assert_same, assert_same_bits, gradients, leaves, normal, starts, trained, walk

SHAPES = [(64, 66), (5,), (70, 60)]
STEPS = gradients(4, SHAPES)
FIXTURE = torch.load(Path(__file__).with_name("bitsandbytes_adamw8bit.pt"), weights_only=True)
"""Written by bitsandbytes 0.50.2 after five steps of AdamW8bit over shapes (64, 66) and (5,), with every 257th number
of both slots as its own ``dequantize_blockwise`` decodes them."""


def half_way(kind=gradstep.AdamW, **options):
    return trained(kind, starts(SHAPES), STEPS[:3], **options)


def values(state_dict, key, rule="AdamW"):
    return gradstep.convert_state(state_dict, "float32", rule=rule).state_dict["state"][key]


# -- the known ways --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["float32", "bfloat16", "8bit"])
@pytest.mark.parametrize("subject", few_and_the_rest_slow("AdamW", "SGD", "RMSprop"))
def test_to_what_it_is_already_changes_no_bit(subject, state):
    options = {"momentum": 0.9} if subject.name == "SGD" else {}
    if subject.name == "Adafactor" and state != "float32":
        with pytest.raises(ValueError, match="only a row and a column"):
            half_way(subject.optimizer, state=state)
        return
    optimizer, params = half_way(subject.optimizer, state=state, **options)
    converted = gradstep.convert_state(optimizer.state_dict(), state)
    assert converted.lossless
    other = subject.optimizer(leaves(params), state=state, seed=0, **options)
    other.load_state_dict(converted.state_dict)
    assert_same(other, optimizer)
    for o in (optimizer, other):
        walk(o, o.param_groups[0]["params"], STEPS[3:])
    assert_same(other, optimizer)


def test_what_it_reads_is_not_changed_and_shares_no_memory():
    optimizer, _ = half_way(state="8bit")
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    for to in ("8bit", "float32", "torch", "bitsandbytes-8bit", optimizer):
        made = gradstep.convert_state(saved, to).state_dict
        for entry in made["state"].values():
            for value in unnest_fields(entry).values():
                if isinstance(value, torch.Tensor):
                    value.zero_()
        made["param_groups"][0]["lr"] = 77.0
    for key, entry in before["state"].items():
        for name, value in unnest_fields(entry).items():
            assert_same_bits(unnest_fields(saved["state"][key])[name], value, name)
    assert saved["param_groups"] == before["param_groups"]


@pytest.mark.parametrize(("state", "most"), [("8bit", 2**-4), ("bfloat16", 2**-8)])
def test_narrowing_says_what_it_loses(state, most):
    """Half a unit of 3 or of 7 places of mantissa, but for what is too small for its block."""
    optimizer, _ = half_way()
    converted = gradstep.convert_state(optimizer.state_dict(), state)
    assert [(c.slot, c.after, c.parameters) for c in converted.changes] == [
        ("exp_avg", state, 2),
        ("exp_avg_sq", state, 2),
        ("exp_avg", "float32", 1),  # the bias
        ("exp_avg_sq", "float32", 1),
    ]
    assert not converted.lossless
    assert [c.lossless for c in converted.changes] == [False, False, True, True]
    errors, zeros = [], 0
    for key, p in enumerate(optimizer.param_groups[0]["params"]):
        for name in ("exp_avg", "exp_avg_sq"):
            exact, rounded = optimizer.state[p][name], values(converted.state_dict, key)[name]
            small = exact.abs() < 2.0**-14 * exact.abs().max()
            error = (rounded - exact).abs() / exact.abs()
            assert (error[~small] <= most).all()
            if name == "exp_avg" and p.dim() > 1:
                errors.append(float(error.max()))
                zeros += int((error > 0.1).sum())
    assert converted.losses[0].error == max(errors) > 0
    assert converted.losses[0].far == zeros / (64 * 66 + 70 * 60)
    assert "8bit in 2 parameters, off by at most" in str(gradstep.convert_state(optimizer.state_dict(), "8bit"))


@given(
    old=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    scale=st.floats(0.5, 1.5),
)
@settings(max_examples=50)
def test_the_error_is_what_its_definition_says(old, scale):
    exact = torch.tensor(old)
    rounded = exact * scale
    (change,) = summarize_changes([compare_slot("m", "a", "b", exact, rounded)])
    pairs = [(a, b) for a, b in zip(exact.tolist(), rounded.tolist(), strict=True) if a]
    errors = [abs(b - a) / abs(a) for a, b in pairs]
    assert change.error == pytest.approx(max(errors, default=0.0), rel=1e-4, abs=1e-7)
    near = sum(abs(e - 0.1) < 1e-5 for e in errors)
    assert change.far == pytest.approx(sum(e > 0.1 for e in errors) / max(len(errors), 1), abs=near + 1e-9)


def test_the_error_of_what_is_not_finite():
    old = torch.tensor([1.0, math.nan, math.inf, 0.0])
    assert compare_slot("m", "a", "b", old, old.clone()).error == 0
    assert compare_slot("m", "a", "b", old, torch.tensor([1.0, 1.0, math.inf, 0.0])).error == math.inf
    assert compare_slot("m", "a", "b", old, torch.tensor([1.0, math.nan, math.inf, 1.0])).error == math.inf
    assert compare_slot("m", "a", "nothing", old, None).error == 1


@pytest.mark.parametrize("state", ["float32", "bfloat16", "8bit"])
def test_to_torch_and_back(state):
    optimizer, params = half_way(state=state)
    converted = gradstep.convert_state(optimizer.state_dict(), "torch")
    assert converted.lossless
    assert converted.state_dict.keys() == {"state", "param_groups"}
    theirs = torch.optim.AdamW(leaves(params))
    theirs.load_state_dict(copy.deepcopy(converted.state_dict))  # torch takes the tensors themselves
    assert theirs.state_dict()["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
    walk(theirs, theirs.param_groups[0]["params"], STEPS[3:])
    again = gradstep.convert_state(converted.state_dict, optimizer)
    assert again.lossless  # what came from 8 bits goes back to the very same
    other = gradstep.AdamW(leaves(params), state=state)
    other.load_state_dict(again.state_dict)
    for key in range(3):
        for name in ("exp_avg", "exp_avg_sq"):
            assert_same_bits(values(other.state_dict(), key)[name], values(optimizer.state_dict(), key)[name], name)


def test_a_torch_optimizer_as_the_target():
    optimizer, params = half_way(state="8bit")
    theirs = torch.optim.AdamW(leaves(params))
    theirs.load_state_dict(gradstep.convert_state(optimizer.state_dict(), theirs).state_dict)
    assert theirs.state[theirs.param_groups[0]["params"][0]]["exp_avg"].dtype == torch.float32


def test_an_embedding_is_known_by_its_name():
    params = leaves(starts([(64, 66), (70, 60)]))
    optimizer = gradstep.AdamW([("embed.weight", params[0]), ("head.weight", params[1])])
    walk(optimizer, params, gradients(1, [(64, 66), (70, 60)]))
    state = gradstep.convert_state(optimizer.state_dict(), "8bit").state_dict["state"]
    assert state[0]["exp_avg"].dtype == torch.float32
    assert state[1]["exp_avg"]["codes"].dtype == torch.uint8
    gradstep.AdamW(optimizer.param_groups, state="8bit").load_state_dict(
        gradstep.convert_state(optimizer.state_dict(), "8bit").state_dict
    )


def test_memory_order_is_kept():
    p = normal(8, 16, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    optimizer = gradstep.AdamW([p])
    walk(optimizer, [p], [[normal(8, 16, 8, 8, seed=1)]])
    saved = gradstep.convert_state(optimizer.state_dict(), "8bit").state_dict
    assert saved["state"][0]["exp_avg"]["codes"].stride() == p.stride()
    gradstep.AdamW([p], state="8bit").load_state_dict(saved)


def test_a_rule_of_one_s_own():
    kind = gradstep.optimizer(Belief)
    optimizer, params = half_way(kind)
    with pytest.raises(ValueError, match=r"no rule is called 'Belief'.*give rule=, its class"):
        gradstep.convert_state(optimizer.state_dict(), "8bit")
    for converted in (
        gradstep.convert_state(optimizer.state_dict(), "8bit", rule=Belief),
        gradstep.convert_state(optimizer.state_dict(), kind(leaves(params), state="8bit")),
    ):
        kind(leaves(params), state="8bit").load_state_dict(converted.state_dict)


def test_a_modified_rule_s_checkpoint_says_what_to_do():
    cautious = gradstep.optimizer(modify(rules.AdamW, rules.Cautious))
    reducing = gradstep.optimizer(modify(rules.AdamW, rules.VarianceReduction))  # keeps the last gradient too
    optimizer, params = half_way(cautious)
    saved = optimizer.state_dict()
    cautious(leaves(params), state="8bit").load_state_dict(gradstep.convert_state(saved, "8bit").state_dict)
    plain = gradstep.AdamW(leaves(params))
    for read in (plain.load_state_dict, lambda state: gradstep.convert_state(state, plain)):
        with pytest.raises(ValueError, match=r"of CautiousAdamW.*convert_state\(state_dict, optimizer, rule='AdamW'\)"):
            read(saved)
    plain.load_state_dict(gradstep.convert_state(saved, plain, rule="AdamW").state_dict)
    other = reducing(leaves(params))
    for read in (other.load_state_dict, lambda state: gradstep.convert_state(state, other)):
        with pytest.raises(ValueError, match="They keep other averages: load it into CautiousAdamW, or begin with"):
            read(saved)


def test_nobody_says_what_it_is_of():
    optimizer, _ = half_way(torch.optim.AdamW)
    with pytest.raises(ValueError, match="does not say what optimizer it is of: give rule='AdamW'"):
        gradstep.convert_state(optimizer.state_dict(), "8bit")
    with pytest.raises(
        ValueError, match=r"Invalid layout: '2bit' \(choose 'float32', 'bfloat16', '8bit', '4bit', 'torch'"
    ):
        gradstep.convert_state(optimizer.state_dict(), "2bit", rule="AdamW")
    with pytest.raises(RuntimeError, match="does not fit Lion:\n  parameter 0 of group 0: exp_avg_sq is unexpected"):
        gradstep.convert_state(optimizer.state_dict(), "8bit", rule="Lion")


def test_moments_of_another_rule_have_to_be_declared():
    optimizer, params = half_way(gradstep.Adam)
    other = gradstep.AdamW(leaves(params))
    with pytest.raises(ValueError, match=r"is of Adam, and the optimizer is AdamW.*rule='AdamW'"):
        gradstep.convert_state(optimizer.state_dict(), other)
    other.load_state_dict(gradstep.convert_state(optimizer.state_dict(), other, rule="AdamW").state_dict)
    assert_same_bits(other.state[other.param_groups[0]["params"][0]]["exp_avg"], optimizer.state[params[0]]["exp_avg"])


# -- bitsandbytes ----------------------------------------------------------------------------------------------------


def test_a_real_checkpoint_is_decoded_as_bitsandbytes_does():
    converted = gradstep.convert_state(FIXTURE["state_dict"], "float32", rule="AdamW")
    assert converted.lossless
    assert {c.before for c in converted.changes} == {"bitsandbytes 8bit", "float32"}
    entry = converted.state_dict["state"][0]
    for name, sample in zip(("exp_avg", "exp_avg_sq"), FIXTURE["samples"], strict=True):
        assert entry[name].shape == (64, 66)
        assert_same_bits(entry[name].reshape(-1)[::257], sample, name)
    assert float(entry["step"]) == 5
    assert converted.state_dict["param_groups"][0]["lr"] == 1e-2


@pytest.mark.parametrize("state", ["float32", "bfloat16", "8bit"])
def test_a_real_checkpoint_is_loaded_by_our_optimizer(state):
    shapes = [(64, 66), (5,)]
    optimizer = gradstep.AdamW(leaves(starts(shapes)), state=state)
    optimizer.load_state_dict(gradstep.convert_state(FIXTURE["state_dict"], optimizer).state_dict)
    walk(optimizer, optimizer.param_groups[0]["params"], gradients(1, shapes))
    assert [int(entry["step"]) for entry in optimizer.state.values()] == [6, 6]


def test_a_real_checkpoint_is_written_again():
    """Code by code; the scale of a block whose peak is negative may be the next float."""
    theirs = {key: {**e, **e["__bnb_optimizer_quant_state__"]} for key, e in FIXTURE["state_dict"]["state"].items()}
    converted = gradstep.convert_state(FIXTURE["state_dict"], "bitsandbytes-8bit", rule="AdamW")
    for key, entry in converted.state_dict["state"].items():
        for name, value in entry.items():
            if name.startswith("absmax"):
                torch.testing.assert_close(value, theirs[key][name], rtol=1.5e-7, atol=0)
            elif name != "step":
                assert_same_bits(value, theirs[key][name], name)
        assert entry["step"] == 5
        assert type(entry["step"]) is int
    assert all(c.error < 2e-7 for c in converted.changes)
    before = FIXTURE["state_dict"]["param_groups"][0]
    after = converted.state_dict["param_groups"][0]
    assert {k: v for k, v in after.items() if k in before} == before


@pytest.mark.parametrize("to", ["bitsandbytes", "bitsandbytes-8bit"])
@pytest.mark.parametrize("name", ["Adam", "AdamW", "Lion", "SGD", "RMSprop", "Adagrad"])
def test_to_bitsandbytes_and_back(name, to):
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer, params = half_way(getattr(gradstep, name), **options)
    there = gradstep.convert_state(optimizer.state_dict(), to)
    assert there.lossless == (to == "bitsandbytes")
    coded = [value["state1"].dtype == torch.uint8 for value in there.state_dict["state"].values()]
    assert coded == ([False] * 3 if to == "bitsandbytes" else [True, False, True])
    other = getattr(gradstep, name)(leaves(params), **options)
    other.load_state_dict(gradstep.convert_state(there.state_dict, other).state_dict)
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    if to == "bitsandbytes":
        assert_same(other, optimizer)


def test_what_bitsandbytes_has_not_is_refused():
    with pytest.raises(ValueError, match=r"bitsandbytes' layout is known for Adam, .*, not for NAdam"):
        gradstep.convert_state(half_way(gradstep.NAdam)[0].state_dict(), "bitsandbytes")
    with pytest.raises(ValueError, match="bitsandbytes keeps no max_exp_avg_sq for AdamW"):
        gradstep.convert_state(half_way(amsgrad=True)[0].state_dict(), "bitsandbytes")
    with pytest.raises(ValueError, match="bitsandbytes has no maximize=True for AdamW"):
        gradstep.convert_state(half_way(maximize=True)[0].state_dict(), "bitsandbytes")
    with pytest.raises(ValueError, match="decays the weight itself"):
        gradstep.convert_state(half_way(gradstep.Adam, weight_decay=0.1)[0].state_dict(), "bitsandbytes")


@given(seed=st.integers(0, 999), count=st.integers(1, 700), spread=st.floats(0, 4), signed=st.booleans())
@settings(max_examples=50)
def test_every_code_is_the_nearest(seed, count, spread, signed):
    """Against all 256 numbers of the table, by brute force."""
    value = normal(count, seed=seed) * 10 ** (spread * normal(count, seed=seed + 1))
    value = value if signed else value.abs()
    table = dynamic_map(signed=signed)
    codes, absmax = encode(value, table)
    scale = absmax.repeat_interleave(256)[:count]
    got = decode(codes, absmax, table)
    best = (table[:, None] * scale - value).abs().amin(0)
    assert ((got - value).abs() <= best * (1 + 1e-5) + 1e-6 * scale).all()
    peaks = [got[i : i + 256].abs().max() / value[i : i + 256].abs().max() for i in range(0, count, 256)]
    assert torch.tensor(peaks).sub(1).abs().max() < 2e-7


def test_a_block_of_zeros():
    codes, absmax = encode(torch.zeros(300), dynamic_map(signed=True))
    assert not decode(codes, absmax, dynamic_map(signed=True)).any()


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda d: d.pop("state"), KeyError, "'state' is missing"),
        (lambda d: d.update(param_groups=[5]), TypeError, "'param_groups' .* must be a list of dictionaries"),
        (lambda d: d["state"].update({0: 5}), TypeError, "under 0 is 5, but must be a dictionary"),
        (lambda d: d["state"][0].update(step=-1), ValueError, "step is -1"),
    ],
)
def test_what_is_not_built_as_a_checkpoint(spoil, error, words):
    p = torch.ones(3, requires_grad=True)
    optimizer = gradstep.AdamW([p])
    p.grad = torch.ones(3)
    optimizer.step()
    saved = optimizer.state_dict()
    spoil(saved)
    with pytest.raises(error, match=words):
        gradstep.convert_state(saved, optimizer)


def test_what_torch_would_leave_out_in_silence_is_refused():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = gradstep.Adam([p], bias_correction=False)
    optimizer.step()
    with pytest.raises(ValueError, match=r"torch\.optim has no bias_correction=False for Adam"):
        gradstep.convert_state(optimizer.state_dict(), "torch")
    optimizer.param_groups[0]["bias_correction"] = True
    gradstep.convert_state(optimizer.state_dict(), "torch")
