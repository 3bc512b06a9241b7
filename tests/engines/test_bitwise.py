"""The fused kernel computes what the reference computes, bit for bit, for every elementwise rule and option set."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradstep.engines.fused.job import CHUNK
from gradstep.engines.fused.skeleton import LANES
from tests.registry import cases, in_turns
from tests.training import assert_same, normal, trained

DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}
SPECIAL = (0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45, -1e-40, 1.2e-38, 1e-20, 1e19, 1e30, -3e38)


def both(subject, options, start, grads):
    """The same steps with either engine."""
    return [trained(subject.optimizer, start, grads, **options, engine=e)[0] for e in ("fused", "reference")]


def lengths_agree(subject, options, dtype, lengths):
    start = [normal(n, seed=n, dtype=dtype) for n in lengths]
    grads = [[normal(n, seed=n + t, dtype=dtype) * 10.0 ** (t - 2) for n in lengths] for t in (1, 2, 3)]
    assert_same(*both(subject, options, start, grads))


@pytest.mark.parametrize(("subject", "options", "dtype"), in_turns(cases(elementwise=True), DTYPES, 2))
def test_every_length_around_the_vector(subject, options, dtype):
    lengths_agree(subject, options, dtype, [0, 1, LANES - 1, LANES, LANES + 1, 2 * LANES + 3, 70])


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(("subject", "options"), cases(elementwise=True)[::12])
def test_every_length_around_the_chunk(subject, options, dtype):
    """Every kernel walks the chunks in the same way, so that a few rules do for all."""
    lengths_agree(subject, options, dtype, [CHUNK - 1, CHUNK, 0, CHUNK + 1, 3 * CHUNK + LANES + 1, 5])


def numbers(dtype):
    """Numbers of every size that the type has, and the special ones, as a tensor drawn for a length."""
    width: Any = {"float32": 32, "bfloat16": 32, "float16": 16, "float64": 64}[dtype]
    kind = np.dtype(f"float{width}")
    some = torch.tensor(SPECIAL, dtype=DTYPES[dtype]).double().tolist()  # as the type rounds them
    elements = st.one_of(st.floats(width=width), st.floats(-2, 2, width=width), st.sampled_from(some))
    return lambda n: arrays(kind, n, elements=elements).map(lambda a: torch.from_numpy(a).to(DTYPES[dtype]))


def steps_of(dtype, count=3, longest=70):
    """A start and ``count`` gradients of one length, or of no dimension."""
    draw = numbers(dtype)
    shape = st.one_of(st.just(()), st.integers(0, longest).map(lambda n: (n,)))
    return shape.flatmap(lambda s: st.tuples(*[draw(s) for _ in range(count)]))


def check(subject, options, run):
    start, *grads = run
    assert_same(*both(subject, options, [start], [[g] for g in grads]))


@pytest.mark.parametrize(("subject", "options"), cases(elementwise=True))
@given(run=steps_of("float32"))
@settings(max_examples=15)
def test_any_float32(subject, options, run):
    check(subject, options, run)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize(("subject", "options"), cases(elementwise=True)[::3])
@given(data=st.data())
@settings(max_examples=8)
def test_any_number_of_another_type(subject, options, dtype, data):
    check(subject, options, data.draw(steps_of(dtype)))


@pytest.mark.parametrize(("subject", "options"), cases(elementwise=True))
def test_special_numbers_in_every_pair_of_weight_and_gradient(subject, options):
    pairs = torch.tensor([(p, g) for p in (*SPECIAL, 1.0, 0.3) for g in (*SPECIAL, -1.0, 0.7)])
    grads = [pairs[:, 1].clone(), pairs[:, 1].flip(0).contiguous(), torch.zeros(len(pairs))]
    assert_same(*both(subject, options, [pairs[:, 0].clone()], [[g] for g in grads]))


@pytest.mark.parametrize(("subject", "options"), cases(elementwise=True))
def test_fused_agrees_with_the_float64_reference(subject, options):
    """The same numbers in float64: what float32 loses in ten steps is rounding, and nothing else."""
    start = [normal(70)]
    grads = [[normal(70, seed=t)] for t in range(1, 11)]
    _, [ours] = trained(subject.optimizer, start, grads, **options, engine="fused")
    _, [exact] = trained(
        subject.optimizer,
        [t.double() for t in start],
        [[g.double() for g in gs] for gs in grads],
        **options,
        engine="reference",
    )
    torch.testing.assert_close(ours.double(), exact, rtol=2e-5, atol=2e-6)
