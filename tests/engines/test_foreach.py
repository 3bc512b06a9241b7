"""The foreach engine: bit for bit the eager engine, however parameters are divided or taken together."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, final

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradstep
from gradstep.engines import foreach
from gradstep.engines.arrays import apply_rule
from gradstep.engines.foreach import divide
from gradstep.engines.program import LineRecord, RuleProgram, record_program
from gradstep.rules import AdamW, Rule, Slot, State
from gradstep.rules.ops import Array, where
from gradstep.rules.settings import learning_rate
from tests.devices import spec_of
from tests.registry import subjects

SHAPES = ((64, 64), (3,), (20, 512), (5, 7, 3), (300, 64), (64, 64), (0, 4), (), (1, 4_097))


def make_parameters(dtype: torch.dtype) -> list[Tensor]:
    """Return parameters of many sizes, one of them with its channels last in memory."""
    params = [torch.randn(shape) for shape in SHAPES]
    params.append(torch.randn(8, 16, 6, 6).contiguous(memory_format=torch.channels_last))
    return [p.to(dtype).requires_grad_() for p in params]


def run(engine: str, dtype: torch.dtype = torch.float32, kind: Any = gradstep.AdamW, **settings: Any) -> list[Tensor]:
    """Return parameters and state after four steps, in which parameters lack a gradient at different times."""
    torch.manual_seed(0)
    params = make_parameters(dtype)
    optimizer = kind([{"params": params[:4]}, {"params": params[4:], "lr": 0.01}], engine=engine, **settings)
    for step in range(4):
        for i, p in enumerate(params):
            p.grad = None if (step + i) % 5 == 0 else torch.randn_like(p)
        optimizer.step(max_grad_norm=1.0 if step % 2 else None)
    assert {name for _, name, _ in optimizer.engines()} == {engine}
    return [p.detach() for p in params] + [a for entry in optimizer.state.values() for a in entry.values()]


@pytest.mark.parametrize("limit", [512, 2**16])
@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (torch.float32, {}),
        (torch.float32, {"state": "8bit"}),
        (torch.float32, {"kind": gradstep.NAdam, "state": "bfloat16"}),
        (torch.bfloat16, {"rounding": "stochastic", "state": "8bit"}),
        (torch.bfloat16, {"rounding": "kahan"}),
        (torch.bfloat16, {"kind": gradstep.Lion, "rounding": "master", "state": "8bit"}),
        (torch.complex64, {}),
        (torch.float64, {"kind": gradstep.SGD, "momentum": 0.9}),
    ],
    ids=str,
)
def test_bits_of_the_eager_engine(
    dtype: torch.dtype, settings: dict[str, Any], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreach, "ON_CPU", limit)
    for ours, eager in zip(run("foreach", dtype, **settings), run("eager", dtype, **settings), strict=True):
        torch.testing.assert_close(ours, eager, rtol=0, atol=0, equal_nan=True)


@given(
    lengths=st.lists(st.integers(1, 3_000), max_size=12),
    block=st.sampled_from([1, 256]),
    alone=st.booleans(),
)
def test_every_element_is_in_one_piece(lengths: list[int], block: int, *, alone: bool) -> None:
    parts = list(divide(enumerate(lengths), 1_024, block, alone=alone))
    covered: dict[int, list[tuple[int, int]]] = {}
    for pieces in parts:
        assert sum(piece.stop - piece.start for piece in pieces) <= 1_024
        assert len(pieces) == 1 or not alone
        for k, start, stop in pieces:
            assert start % block == 0
            assert len(pieces) == 1 or (stop - start) % block == 0
            covered.setdefault(k, []).append((start, stop))
    for k, length in enumerate(lengths):
        ends = sorted(covered[k])
        assert [start for start, _ in ends] == [0, *[stop for _, stop in ends[:-1]]]
        assert ends[-1][1] == length


def test_auto_takes_it_where_the_kernel_cannot_run() -> None:
    p = torch.randn(8, dtype=torch.complex64, requires_grad=True)
    ((_, engine, reason),) = gradstep.AdamW([p]).engines()
    assert engine == "foreach"
    assert reason.startswith("not fused because")


@pytest.mark.parametrize(
    ("kind", "p", "why"),
    [
        (gradstep.Adafactor, torch.zeros(4, 4), "Adafactor looks at whole tensors"),
        (gradstep.AdamW, torch.zeros(4, 8)[:, ::2], "its memory has gaps"),
    ],
)
def test_refusals(kind: Any, p: Tensor, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        kind([p.requires_grad_()], engine="foreach")


# -- the recorded lines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", subjects(elementwise=True))
def test_the_recorded_lines_of_every_rule(subject: Any) -> None:
    """With every set of options, on memory of their own for all values; every bit as NumPy computes the lines."""
    for options in subject.options:
        rule = subject.rule(**options)
        spec = spec_of(rule, "float32", "float32", "nearest")
        row = rule.coefficients(2, **type(rule).scalars) | {"gradient": 1.0}
        program = record_program(spec, frozenset(name for name, x in row.items() if x == 1.0))
        assert program is not None
        torch.manual_seed(0)
        arrays = [torch.randn(1_000).abs() for _ in spec.codecs]
        arrays[0] = torch.randn(1_000)
        g, p, *slots = arrays
        expected = apply_rule(spec, SimpleNamespace(**row), [a.numpy().copy() for a in (p, g, *slots)])
        before = g.clone()
        new = program.run(program.fill(row), arrays, [torch.empty(1_000) for _ in range(program.scratch)])
        for ours, theirs in zip(new, expected, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs)
        assert torch.equal(g, before)


def test_memory_is_used_again() -> None:
    rule = AdamW()
    program = record_program(spec_of(rule, "float32", "float32", "nearest"), frozenset({"gradient"}))
    assert program is not None
    g, p, m, v = (torch.ones(4) for _ in range(4))
    scratch = [torch.empty(4) for _ in range(program.scratch)]
    new = program.run(program.fill(rule.coefficients(1)), [g, p, m, v], scratch)
    assert [a is b for a, b in zip(new, [p, m, v], strict=True)] == [True] * 3
    assert program.scratch == 2


@final
@dataclass(frozen=True)
class Exchange(Rule):
    """Slots that take each other's values; arithmetic of coefficients; a value that nobody reads."""

    lr: float = learning_rate(0.1)

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        del ndim
        return (Slot("a"), Slot("b"), Slot("same"))

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        del scalars
        return {"lr": 0.1, "one": 1.0 if step > 1 else 0.5}

    @staticmethod
    def update(p: Array, g: Array, s: State, c: Any) -> Array:
        s.a, s.b = s.b, s.a + c.one * g
        unread = p / 3.0
        del unread
        return (1.0 - c.lr * (2.0 - c.one)) * p - where(s.a > c.lr, 0.5 * s.b, -c.lr * g)


@final
@dataclass(frozen=True)
class Exponential(Rule):
    """A method of tensors that is not recorded."""

    lr: float = learning_rate(0.1)

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        del step, scalars
        return {"lr": 0.1}

    @staticmethod
    def update(p: Array, g: Array, s: State, c: Any) -> Array:
        del s
        return p - c.lr * g.tanh()


@pytest.mark.parametrize("rule", [Exchange, Exponential])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rules_of_ones_own(rule: Any, dtype: torch.dtype) -> None:
    kind = gradstep.optimizer(rule)
    for ours, eager in zip(run("foreach", dtype, kind), run("eager", dtype, kind), strict=True):
        torch.testing.assert_close(ours, eager, rtol=0, atol=0, equal_nan=True)


def test_a_line_that_branches_is_not_recorded() -> None:
    with pytest.raises(TypeError, match="cannot branch"):
        bool(LineRecord().add("array") > 0.0)
    spec = spec_of(Exponential(), "float32", "float32", "nearest")
    assert record_program(spec, frozenset()) is None


def test_a_fault_in_making_a_program_is_not_taken_for_a_line_that_is_not_recorded(monkeypatch: Any) -> None:
    def fail(*_: Any) -> int:
        raise TypeError("a fault of ours")

    monkeypatch.setattr(RuleProgram, "_allocate", fail)
    with pytest.raises(TypeError, match="a fault of ours"):
        record_program(spec_of(AdamW(), "float32", "float32", "nearest"), frozenset({"a name that no other test has"}))
