"""Every rule with every storage of state and parameter: the engines agree bit for bit, and nothing else decides."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradstep.engines.fused.job import CHUNK
from gradstep.storage.codecs import BLOCK
from tests.registry import SUBJECTS, cases, in_turns, subjects
from tests.training import assert_same, assert_same_bits, gradients, normal, trained

STORAGES: dict[str, Any] = {
    f"{dtype}-{state}-{rounding}": (getattr(torch, dtype), {"state": state, "rounding": rounding})
    for dtype in ("float32", "bfloat16", "float16")
    for state in ("float32", "bfloat16", "8bit", "4bit")
    for rounding in ("nearest", "stochastic", "24bit", "kahan", "master")
    if (dtype != "float32" or rounding == "nearest") and (state, rounding) != ("float32", "nearest")
    if dtype == "bfloat16" or rounding != "24bit"
}
SHAPE = (67, 70)  # 18 blocks and a part of one, whose end is no whole vector


def run(subject, options, dtype, engine, *, seed=5, shape=SHAPE, steps=3):
    start = [normal(*shape, dtype=dtype)]
    grads = [[normal(*shape, seed=t, dtype=dtype) * 10.0 ** (t - 2)] for t in range(1, steps + 1)]
    return trained(subject.optimizer, start, grads, **options, engine=engine, seed=seed)[0]


FEW = (
    "bfloat16-8bit-stochastic",
    "float16-bfloat16-kahan",
    "float32-8bit-nearest",
    "float32-4bit-nearest",
    "bfloat16-float32-master",
    "bfloat16-8bit-24bit",
)


def named(name):
    return next(s for s in SUBJECTS if s.name == name)


def agree(subject, options, name):
    dtype, storage = STORAGES[name]
    options = options | storage
    if subject.name == "Adagrad" and dtype == torch.float16:
        options |= {"eps": 1e-3}
    assert_same(*(run(subject, options, dtype, engine) for engine in ("fused", "reference")))


@pytest.mark.parametrize("storage", STORAGES)
def test_adamw_is_the_reference_bit_for_bit(storage):
    agree(named("AdamW"), {"weight_decay": 0.1}, storage)


@pytest.mark.parametrize(("subject", "storage"), in_turns(subjects(elementwise=True), {s: s for s in FEW}, 3))
def test_every_rule_is_the_reference_bit_for_bit(subject, storage):
    agree(subject, subject.options[-1], storage)


@pytest.mark.parametrize(("subject", "options"), cases(elementwise=True)[3:])
def test_every_option_with_8_bits(subject, options):
    assert_same(
        *(run(subject, options | {"state": "8bit"}, torch.float32, engine) for engine in ("fused", "reference"))
    )


@pytest.mark.parametrize(("dtype", "storage"), STORAGES.values(), ids=STORAGES)
def test_eager_draws_the_same_noise(dtype, storage):
    adam = named("AdamW")
    assert_same(*(run(adam, storage, dtype, engine) for engine in ("fused", "eager")))


@pytest.mark.parametrize("storage", [{"state": "8bit"}, {"state": "bfloat16"}], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_decides_nothing(storage, threads):
    adamw = named("AdamW")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = run(adamw, storage, torch.float32, "fused", shape=(9, CHUNK))
    finally:
        torch.set_num_threads(before)
    assert_same(found, run(adamw, storage, torch.float32, "reference", shape=(9, CHUNK)))


@pytest.mark.parametrize("elements", [4096, 4096 + 1, 4096 + BLOCK - 1, CHUNK - 2, CHUNK, CHUNK + 2, CHUNK + BLOCK + 2])
def test_every_length_around_block_and_chunk(elements):
    adamw = named("AdamW")
    shape = (1, elements)
    assert_same(*(run(adamw, {"state": "8bit"}, torch.float32, e, shape=shape) for e in ("fused", "reference")))


def test_axes_in_another_order_in_memory():
    """Blocks go by memory, so that a matrix and its transpose are stored alike."""
    adamw = named("AdamW")
    grads = [normal(80, 60, seed=t) for t in (1, 2)]
    for engine in ("fused", "reference", "eager", "foreach"):
        plain, [p] = trained(
            adamw.optimizer, [normal(80, 60)], [[g] for g in grads], state="8bit", seed=1, engine=engine
        )
        other, [q] = trained(
            adamw.optimizer, [normal(80, 60).t()], [[g.t()] for g in grads], state="8bit", seed=1, engine=engine
        )
        assert_same_bits(p, q.t().contiguous())
        assert_same_bits(plain.state[p]["exp_avg"], other.state[q]["exp_avg"].t())
        assert_same_bits(plain.state[p]["exp_avg_scale"], other.state[q]["exp_avg_scale"])


def test_channels_last_and_its_reference():
    adamw = named("AdamW")
    start = normal(8, 16, 6, 6).contiguous(memory_format=torch.channels_last)
    grads = [[normal(8, 16, 6, 6, seed=t).contiguous(memory_format=torch.channels_last)] for t in (1, 2, 3)]
    one, two = (
        trained(adamw.optimizer, [start], grads, state="8bit", seed=1, engine=e)[0] for e in ("fused", "reference")
    )
    assert_same(one, two)


def test_the_seed_decides():
    adamw = named("AdamW")
    one, same, other = (run(adamw, {"state": "8bit"}, torch.float32, "fused", seed=s) for s in (1, 1, 2))
    assert_same(one, same)
    [(p, state)], [(q, changed)] = one.state.items(), other.state.items()
    assert not torch.equal(state["exp_avg"], changed["exp_avg"])
    torch.testing.assert_close(p, q, rtol=0, atol=3e-2)


@given(data=st.data())
@settings(max_examples=30)
def test_any_sizes_of_gradients(data):
    """From subnormal to 1e30, and not finite: the kernel is the reference."""
    adamw = named("AdamW")
    exponents = data.draw(st.lists(st.integers(-46, 30), min_size=2, max_size=4))
    odd = data.draw(st.sampled_from([0.0, float("nan"), float("inf"), -1e-45, 3e38]))
    grads = []
    for t, exponent in enumerate(exponents):
        g = normal(64, 65, seed=t) * torch.tensor(10.0**exponent, dtype=torch.float64).float()
        g[3, 5] = odd
        grads.append([g])
    one, two = (
        trained(adamw.optimizer, [normal(64, 65)], grads, state="8bit", seed=9, engine=e)[0]
        for e in ("fused", "reference")
    )
    assert_same(one, two)


def test_float64_parameters_keep_their_state():
    adamw = named("AdamW")
    with pytest.raises(ValueError, match="state='8bit' is for float32"):
        trained(adamw.optimizer, [normal(64, 64, dtype=torch.float64)], gradients(0), state="8bit")
