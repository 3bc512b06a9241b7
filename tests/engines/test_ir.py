"""What the compiler is given and what it makes of it: single precision stays single, nothing is contracted."""

import re

import pytest
import torch

from gradstep.engines.fused.kernel import build_update
from gradstep.engines.fused.skeleton import optimize
from gradstep.engines.fused.sums import build_squares
from gradstep.optimizers.state.storage import Storage, element_of
from gradstep.storage.elements import ELEMENTS
from tests.registry import cases, in_turns, subjects

FAST = re.compile(r"\b(fast|contract|reassoc|nnan|ninf|nsz|arcp|afn|fmuladd|llvm\.fma)\b")


def spec_of(rule, dtype, storage):
    p = torch.zeros(64, 64, dtype=getattr(torch, dtype))
    return storage.of(rule, {}, p, "weight").spec(rule, element_of(p.dtype))


@pytest.mark.parametrize(("subject", "options"), cases(elementwise=True))
def test_no_double_and_no_fast_math(subject, options):
    check(subject.rule(**options), "float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("subject", subjects(elementwise=True))
def test_none_in_the_kernels_of_half_precision(subject, dtype):
    check(subject.rule(), dtype)


STORAGES = {
    f"{state}-{rounding}": Storage(state, rounding)
    for state in ("bfloat16", "8bit")
    for rounding in ("stochastic", "24bit", "kahan", "master")
}


@pytest.mark.parametrize(("subject", "storage"), in_turns(subjects(elementwise=True), STORAGES, 2))
def test_none_in_the_kernels_of_every_storage(subject, storage):
    check(subject.rule(), "bfloat16", storage)


PLAIN = Storage()


def check(rule, dtype, storage=PLAIN):
    text = str(optimize(build_update(spec_of(rule, dtype, storage))))
    assert "<16 x float>" in text, "the loop over vectors is gone"
    assert "double" not in text
    assert not FAST.search(text)


def test_a_kernel_of_doubles_is_seen():
    """The test above can fail: the kernel of the squares computes in float64."""
    assert "double" in str(optimize(build_squares(ELEMENTS["float32"], columns=1)))


def test_squares_have_no_fast_math():
    assert not FAST.search(str(optimize(build_squares(ELEMENTS["float32"], columns=1))))
