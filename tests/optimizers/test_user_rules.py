"""A rule of a user's own is an optimizer on every engine."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import gradstep
from gradstep import Rule
from tests.optimizers import user_rules
from tests.optimizers.user_rules import Belief, Branches, Counts, Exchanges, Literals, Remembers, Signum, Twice
from tests.training import (
    assert_near,
    assert_same,
    assert_same_bits,
    give,
    gradients,
    normal,
    starts,
    trained,
    unchanged,
)

SHAPES = [(5,), (3, 4), (), (33,)]
STEPS = gradients(6, SHAPES)
GOOD = [Signum, Belief, Literals, Remembers, Exchanges, Twice, Counts]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("rule", GOOD)
def test_every_engine_gives_the_same(rule, maximize):
    kind = gradstep.optimizer(rule)
    fused, reference, *others = (
        trained(kind, starts(SHAPES), STEPS, maximize=maximize, engine=e)[0]
        for e in ("fused", "reference", "eager", "foreach")
    )
    assert_same(fused, reference)
    for other in others:
        for a, b in zip(fused.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
            assert_near(a, b, ulps=2)
            for slot in rule().slots(1):
                assert_near(fused.state[a][slot.name], other.state[b][slot.name], ulps=2)


@pytest.mark.parametrize("rule", [rule for rule in GOOD if rule().slots(2)])
def test_8_bit_state_gives_the_same_on_the_kernel_and_the_reference(rule):
    shape = (67, 70)  # whole blocks, and a part of one
    start, grads = [normal(*shape)], gradients(4, [shape])
    options = {"state": "8bit", "seed": 3}
    kind = gradstep.optimizer(rule)
    fused, reference = (trained(kind, start, grads, **options, engine=e)[0] for e in ("fused", "reference"))
    assert_same(fused, reference)


def test_a_rule_of_matrices_refuses_a_vector_when_the_optimizer_is_made():
    """Its first step updated the matrix, and raised at the vector."""
    params = [(name, torch.ones(shape, requires_grad=True)) for name, shape in (("weight", (3, 4)), ("bias", (4,)))]
    kind = gradstep.optimizer(user_rules.Orthogonal)
    with pytest.raises(ValueError, match=r'Orthogonal cannot update bias of shape \(4,\): .*"rule": "AdamW"'):
        kind(params)
    kind(params[:1])


@pytest.mark.parametrize("rule", [Exchanges, Twice])  # without a learning rate; with a slot that is assigned twice
def test_a_rule_of_one_s_own_passes_its_own_check(rule):
    verdict = gradstep.check(gradstep.optimizer(rule), rule)
    assert verdict.passed, str(verdict)


def test_signum_by_hand():
    # m = 0.1·2 > 0: 1 − 0.01; then 0.9·0.2 − 0.1·9 < 0: back up
    _, [p] = trained(gradstep.optimizer(Signum), [torch.ones(1)], [[torch.tensor([2.0])], [torch.tensor([-9.0])]])
    assert_near(p, torch.ones(1), ulps=1)


def test_state_that_is_assigned_holds_what_was_assigned():
    start = starts(SHAPES)
    for engine in ("fused", "reference", "eager", "foreach"):
        optimizer, params = trained(gradstep.optimizer(Remembers), start, STEPS[:3], engine=engine)
        _, earlier = trained(gradstep.optimizer(Remembers), start, STEPS[:2], engine=engine)
        for i, p in enumerate(params):
            assert_same_bits(optimizer.state[p]["last"], STEPS[2][i])
            assert_same_bits(optimizer.state[p]["before"], STEPS[1][i])
            assert_same_bits(optimizer.state[p]["old"], earlier[i].detach())


def test_slots_that_change_places():
    for engine in ("fused", "reference", "eager", "foreach"):
        optimizer, [p] = trained(gradstep.optimizer(Exchanges), [torch.zeros(20)], [[torch.ones(20)]], engine=engine)
        values = [float(t.detach()[0]) for t in (p, optimizer.state[p]["one"], optimizer.state[p]["two"])]
        assert values == [1.0, 2.0, 0.0]


def test_a_scalar_of_the_rule_s_own():
    # total: 3 + 1 = 4, then 4 + 2 = 6, kept per parameter
    optimizer, [p, q] = trained(
        gradstep.optimizer(Counts),
        [torch.zeros(1), torch.zeros(1)],
        [[torch.ones(1), None], [torch.ones(1), torch.ones(1)]],
    )
    assert [float(optimizer.state[x]["total"]) for x in (p, q)] == [6.0, 4.0]
    assert (float(p.detach()), float(q.detach())) == (-10.0, -4.0)


def test_a_branch_on_the_data_is_refused_before_anything_changes():
    p = normal(5).requires_grad_()
    optimizer = gradstep.optimizer(Branches)([p])
    give([p], [normal(5)])
    with unchanged(optimizer), pytest.raises(TypeError, match=r"cannot branch on their values: use .*where"):
        optimizer.step()
    assert not optimizer.state.get(p)


@pytest.mark.parametrize(
    ("compute", "error", "words"),
    [
        (lambda g: g.sum(), AttributeError, r"have no 'sum': .*gradstep\.rules\.ops; .* sees = 'tensor'"),
        (math.sqrt, TypeError, r"use sqrt, .* of gradstep\.rules\.ops, not those of math"),
        (float, TypeError, "not known while its update is compiled"),
        (lambda g: g[0], TypeError, r"no single elements, .*gradstep\.rules\.ops"),
        (sum, TypeError, r"no single elements, .*gradstep\.rules\.ops"),
    ],
    ids=["a sum", "math", "float", "an element", "iteration"],
)
def test_what_is_not_elementwise_says_what_is_allowed(compute, error, words):
    @dataclass(frozen=True)
    class Odd(Signum):
        @staticmethod
        def update(p, g, s, c):
            return p - compute(g)

    p = normal(5).requires_grad_()
    optimizer = gradstep.optimizer(Odd)([p])
    give([p], [normal(5)])
    with unchanged(optimizer), pytest.raises(error, match=words):
        optimizer.step()


def test_what_a_rule_sees_is_one_of_four_words():
    with pytest.raises(
        ValueError, match=r"Invalid sees of Odd: 'rows' \(choose 'elements', 'means', 'tensor', 'matrix'\)"
    ):
        type("Odd", (Signum,), {"sees": "rows"})


def test_a_failing_rule_leaves_an_optimizer_that_works_alone():
    """A trace that failed must not leave LLVM or the table in a bad state."""
    p = normal(5).requires_grad_()
    give([p], [normal(5)])
    for _ in range(2):
        with pytest.raises(TypeError, match="cannot branch"):
            gradstep.optimizer(Branches)([p]).step()
    before = p.detach().clone()
    gradstep.SGD([p], lr=1.0).step()
    assert_same_bits(p, before - normal(5))


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        (lambda p, g: p - g**3, "other powers in coefficients"),
        (lambda p, g: p - g * torch.ones(1), "not with Tensor"),
        (lambda p, g: p - g * None, "not with NoneType"),
    ],
)
def test_what_a_kernel_cannot_do_is_a_type_error(expression, words):
    @dataclass(frozen=True)
    class Odd(Rule):
        def coefficients(self, step, **scalars):
            return {}

        @staticmethod
        def update(p, g, s, c):
            return expression(p, g)

    p = normal(5).requires_grad_()
    optimizer = gradstep.optimizer(Odd)([p])
    give([p], [normal(5)])
    with unchanged(optimizer), pytest.raises(TypeError, match=words):
        optimizer.step()


def test_what_is_no_rule():
    class Unfinished(Rule):
        pass

    class Bare(Rule):
        def coefficients(self, step, **scalars):
            return {}

        @staticmethod
        def update(p, g, s, c):
            return p

    things: Any = (
        (torch.optim.SGD, "takes a subclass of gradstep.Rule"),
        (Signum(), "takes a subclass of gradstep.Rule"),
        (Unfinished, "Unfinished is not finished: write coefficients, update"),
        (Bare, r"Bare needs @dataclass\(frozen=True\)"),
    )
    for thing, words in things:
        with pytest.raises(TypeError, match=words):
            gradstep.optimizer(thing)


def test_the_class_is_made_once_and_knows_its_rule():
    assert gradstep.optimizer(Signum) is gradstep.optimizer(Signum)
    assert gradstep.optimizer(Signum).rule() is user_rules.Signum
    assert gradstep.optimizer(Signum).__name__ == "Signum"


@pytest.mark.parametrize(("elementwise", "sees"), [(True, "elements"), (False, "tensor")])
def test_the_old_word_for_what_a_rule_sees(elementwise, sees):
    words = rf"Old: write sees = '{sees}' in place of elementwise = {elementwise}"
    with pytest.warns(DeprecationWarning, match=words) as caught:
        old: Any = type("Old", (Signum,), {"elementwise": elementwise})
    assert caught[0].filename == __file__
    assert old.sees == sees
    later: Any = type("Later", (old,), {})  # without another warning
    assert later.sees == sees
