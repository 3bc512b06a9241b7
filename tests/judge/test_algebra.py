"""Rules as expression graphs: one form for every spelling, and the same numbers as the rule itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradstep
from gradstep.judge import catalogue as kinds
from gradstep.judge.algebra.expression import ONE, STEP, ZERO, Node, number
from gradstep.judge.algebra.trace import key_of, trace, values_of
from gradstep.judge.formula import examples
from gradstep.rules import RULES, Rule, State

X, Y = Node("old", "x", False), Node("old", "y", True)
LR, BETA = Node("setting", "lr"), Node("setting", "beta")
CORRECTION = 1 - BETA**STEP
KINDS = json.loads(Path(__file__).with_name("kinds.json").read_text("utf-8"))
"""Which kinds of mistake can be made in which rule."""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (X + Y, Y + X),
        (X + X, 2 * X),
        (X - X, ZERO),
        (LR / LR, ONE),
        (X * (Y * LR), LR * X * Y),
        (
            (Y / (1 - BETA**STEP)) ** 0.5,
            Y**0.5 * (1 - BETA**STEP) ** number(-0.5),
        ),
        ((X**2) ** 0.5, Node("abs", X)),
        (2 * (X + 1) - 2, 2 * X),
    ],
)
def test_equal_formulas_are_one_and_the_same(one, other):
    assert one is other


def test_what_may_be_0_over_0_stays():
    assert X / X is not ONE


def test_a_formula_is_taken_apart_along_one_of_its_leaves():
    a, b = (BETA * X + (1 - BETA) * Y).linear(X)
    assert a is BETA
    assert b is (1 - BETA) * Y
    assert (X**0.5).linear(X) == (ZERO, X**0.5)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_traced_rule_computes_what_the_rule_does(rule):
    rng = np.random.default_rng(3)
    for made, ndim in examples(rule):
        program = trace(made, ndim)
        shape = (4, 3, 2)[:ndim]
        p, g = rng.normal(size=shape), rng.normal(size=shape)
        slots = {s.name: rng.uniform(0.1, 2, s.shape(shape)) for s in made.slots(ndim)}
        scalars = dict.fromkeys(made.scalars, 0.8)
        for step in (1, 2, 9):
            numbers = made.coefficients(step, **scalars)
            state = State(**slots)
            new = made.update(p, g, state, type("C", (), numbers))
            values: dict[tuple[str, str], Any] = {("setting", n): v for n, v in values_of(made).items()}
            values |= {("old", n): v for n, v in slots.items()} | {("memo", n): v for n, v in scalars.items()}
            got, _ = program.run({**values, ("step", ""): float(step), ("count", ""): step, ("p", ""): p, ("g", ""): g})
            np.testing.assert_allclose(got["p"], new, rtol=1e-12)
            for name in slots:
                np.testing.assert_allclose(got[f"new {name}"], vars(state)[name], rtol=1e-12)
            for name in scalars:  # a number in two parts is rounded to 24 bits in the first; symbols do not round
                names = [n for n in (name.removesuffix("_rest"), f"{name.removesuffix('_rest')}_rest") if n in scalars]
                sums = sum(got[f"memo {n}"] for n in names), sum(numbers[n] for n in names)
                np.testing.assert_allclose(*sums, rtol=1e-12)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_kind_is_made_in_every_rule_that_has_a_place_for_it(rule):
    assert [v.name for v in kinds.catalogue(rule)] == KINDS[rule.__name__]


OWN = '''
import math
from dataclasses import dataclass
from gradstep.rules import Rule, Slot
from gradstep.rules.settings import betas, epsilon, learning_rate, nonnegative

@dataclass(frozen=True)
class Own(Rule):
    """AdamW in other words."""
    lr: float = learning_rate(1e-3)
    betas: tuple = betas(0.9, 0.999)
    eps: float = epsilon(1e-8)
    weight_decay: float = nonnegative(1e-2)

    def slots(self, ndim):
        return (Slot("second", signed=False), Slot("first"))

    def coefficients(self, step, **scalars):
        one, two = self.betas
        return {
            "b1": one, "b2": two, "eps": self.eps * math.sqrt(1 - two**step), "shrink": self.lr * self.weight_decay,
            "size": self.lr * math.sqrt(1 - math.pow(two, step)) / (1 - one**step),
        }

    @staticmethod
    def update(p, g, s, c):
        s.second = s.second + (1 - c.b2) * (g**2 - s.second)
        s.first = g + c.b1 * (s.first - g)
        return p - c.shrink * p - c.size * (s.first / (s.second**0.5 + c.eps))
'''


@pytest.fixture(scope="module")
def own():
    """A rule without source at hand, which says what AdamW says in other words."""
    scope = {"__name__": "nowhere"}
    exec(OWN, scope)
    return scope["Own"]


def test_a_rule_without_source_gets_the_kinds_too(own):
    names = {v.name for v in kinds.catalogue(own)}
    assert {"no-bias-correction", "decay-in-gradient", "decay-after", "ascent", "first-not-stored"} <= names
    assert {"betas-swapped", "v-not-rooted", "step-along-gradient", "gradient-clamped-at-1"} <= names
    verdict = gradstep.check(_without_correction, own)
    assert verdict.matches[0].mistakes == ("no-bias-correction",)
    assert gradstep.check(_right, own).passed


def _right(p, g, state, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
    m = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
    v = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g * g
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return p - lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * p), {"m": m, "v": v}


def _without_correction(p, g, state, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
    m = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
    v = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g * g
    return p - lr * (m / (np.sqrt(v) + eps) + weight_decay * p), {"m": m, "v": v}


def test_a_rule_that_cannot_be_traced_is_judged_all_the_same():
    from dataclasses import dataclass

    from gradstep.rules.settings import learning_rate

    @dataclass(frozen=True)
    class Odd(Rule):
        """Looks at its elements one by one."""

        lr: float = learning_rate(1e-3)

        def coefficients(self, step, **scalars):
            return {"lr": float(np.float32(self.lr))}

        @staticmethod
        def update(p, g, s, c):
            return np.reshape([x - c.lr * y for x, y in zip(np.ravel(p), np.ravel(g))], np.shape(p))

    assert kinds.catalogue(Odd)
    assert gradstep.check(lambda p, g, s, t, lr=1e-3: (p - float(np.float32(lr)) * g, s), Odd).passed
    assert not gradstep.check(lambda p, g, s, t, lr=1e-3: (p + lr * g, s), Odd).passed


def test_rules_of_one_form_share_a_graph():
    sgd: Any = RULES["SGD"]
    plain, other = sgd(lr=0.1), sgd(lr=0.2, weight_decay=0.5)
    assert key_of(plain, 2) == key_of(other, 2)
    assert key_of(plain, 2) != key_of(sgd(momentum=0.9), 2)
