"""Rules made from others by modifiers: steps worked by hand, copies and checkpoints, engines, and what is refused."""

import copy
import pickle
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch

import gradstep
import gradstep.numpy as gn
from gradstep import modify, rules
from gradstep.rules import (
    EMA,
    LAMB,
    LARS,
    MARS,
    SGD,
    Adafactor,
    Adam,
    AdamW,
    Cautious,
    CautiousDecay,
    Lion,
    Lookahead,
    Modifier,
    Muon,
    RMSClip,
    StableAdamW,
    TrustRatio,
    VarianceReduction,
)
from gradstep.rules.ops import mean
from tests.optimizers import user_rules
from tests.rules.by_hand import steps
from tests.training import assert_near, assert_same, give, gradients, leaves, normal, starts, trained, unchanged, walk

ONES, LONG = np.ones(4), np.array([3.0, 4.0])
FIRST, SECOND = np.array([2.0, 2.0, -2.0, 0.0]), np.array([2.0, -1.0, -2.0, 0.0])

WORKED = {
    # Momentum 1/2: b = g at first. Three of four agree: 4/(3 + 1) = 1.
    # Then b = 3, 0, −3, 0: of the second 0 · −1 is not above 0; two agree: 4/3. 0.8 − 0.1·3·4/3 = 0.4
    "cautious": (
        modify(SGD, Cautious)(lr=0.1, momentum=0.5),
        (ONES, FIRST, SECOND),
        ([0.8, 0.8, 1.2, 1.0], [0.4, 0.8, 1.6, 1.0]),
    ),
    # Nothing agrees with a gradient of 0, and nothing moves: no 0/0
    "cautious, nothing": (modify(SGD, Cautious)(lr=0.1), (ONES, 0 * ONES), ([1.0] * 4,)),
    # Decay 0.5·0.1 = 0.05; steps 0.1 of each sign: 1 decays where the step makes it smaller, or is 0
    "cautious decay": (
        modify(Lion, CautiousDecay)(lr=0.1, weight_decay=0.5),
        (np.array([1.0, -1.0, 1.0, 1.0]), FIRST),
        ([0.95 - 0.1, -1.0 - 0.1, 1.0 + 0.1, 0.95],),
    ),
    # RMS of g: √(12/4) = √3, at most 1: each is divided by √3. Then √(9/4) = 3/2
    "rms clip": (
        modify(SGD, RMSClip)(lr=0.1),
        (ONES, FIRST, SECOND),
        (1 - 0.1 * FIRST / sqrt(3), 1 - 0.1 * FIRST / sqrt(3) - 0.1 * SECOND / 1.5),
    ),
    "rms clip, 2": (modify(SGD, RMSClip)(lr=0.1, max_rms=2.0), (ONES, FIRST), (1 - 0.1 * FIRST,)),
    # ‖p‖ = 5. The first r is the sign of g, √2 long
    "lamb": (
        LAMB(lr=0.1, eps=0.0, weight_decay=0.0),
        (LONG, np.array([2.0, -7.0])),
        ([3 - 0.5 / sqrt(2), 4 + 0.5 / sqrt(2)],),
    ),
    # r = (1 + 0.5·3, −1 + 0.5·4) = (2.5, 1)
    "lamb, decay": (
        LAMB(lr=0.1, eps=0.0, weight_decay=0.5),
        (LONG, np.array([2.0, -7.0])),
        ([3 - 1.25 / sqrt(7.25), 4 - 0.5 / sqrt(7.25)],),
    ),
    # Weights of 0 have no length to go by: r itself
    "lamb, zeros": (LAMB(lr=0.1, eps=0.0), (0 * LONG, np.array([2.0, -7.0])), ([-0.1, 0.1],)),
    # Lion's sign is √2 long too
    "trust ratio": (modify(Lion, TrustRatio)(lr=0.1), (LONG, LONG), ([3 - 0.5 / sqrt(2), 4 - 0.5 / sqrt(2)],)),
    # λ = 0.1·5/10, b = 0.05·(6, 8); then the gradient is 0, and b halves
    "lars": (
        LARS(lr=1.0, trust_coefficient=0.1, momentum=0.5),
        (LONG, 2 * LONG, 0 * LONG),
        ([2.7, 3.6], [2.55, 3.4]),
    ),
    # λ = 0.1·5/(10 + 5), b = (6 + 3, 8 + 4)/30
    "lars, decay": (LARS(lr=1.0, trust_coefficient=0.1, weight_decay=1.0), (LONG, 2 * LONG), ([2.7, 3.6],)),
    # γβ/(1 − β) = 1: c = (0.1, 0 + 0.1). m̂ = (0.025 + 0.05, −0.025 + 0.05)/0.75, v̂ = (0.0025 + 0.005)/0.75 = 0.1²
    "mars": (
        MARS(lr=0.1, betas=(0.5, 0.5), eps=0.0, gamma=1.0),
        (np.ones(2), np.array([0.1, -0.1]), np.array([0.1, 0.0])),
        ([0.9, 1.1], [0.8, 1.1 - 0.1 / 3]),
    ),
    # g is 5 long: c = (0.6, 0.8); 0.6/(0.6 + 1), 0.8/(0.8 + 1)
    "mars, long": (MARS(lr=0.1, eps=1.0), (np.ones(2), LONG), ([1 - 0.06 / 1.6, 1 - 0.08 / 1.8],)),
    # g²/v̂ = 1, then 8²/v̂ with v = 3/4·1 + 1/4·64 and v̂ = v/(7/16): u/RMS = m̂/8 = (0.5 + 4)/0.75/8 = 3/4
    "stable": (
        StableAdamW(lr=0.1, betas=(0.5, 0.75), eps=0.0, weight_decay=0.0),
        (np.ones(1), np.array([2.0]), np.array([8.0])),
        ([0.9], [0.825]),
    ),
    # The decay of 0.05·p is divided by RMS = √(64·7/268) too
    "stable, decay": (
        StableAdamW(lr=0.1, betas=(0.5, 0.75), eps=0.0, weight_decay=0.5),
        (np.ones(1), np.array([2.0]), np.array([8.0])),
        ([0.85], [0.775 - 0.0425 / sqrt(448 / 268)]),
    ),
    # 0.9, 0.8, and from 1 half of the way: 0.9 at k = 2; then 0.8, and from 0.9 half of the way to 0.7: 0.8
    "lookahead": (
        modify(SGD, Lookahead)(lr=0.1, lookahead_steps=2, lookahead_rate=0.5),
        (np.ones(1), *[np.ones(1)] * 4),
        ([0.9], [0.9], [0.8], [0.8]),
    ),
    # The average does not change the steps
    "ema": (modify(SGD, EMA)(lr=0.1), (np.ones(1), np.ones(1), np.ones(1)), ([0.9], [0.8])),
    # Lion's second steps, cautious and clipped: c = 0.9·0.02·(1, 1, −1, 0) + 0.1·(2, −1, −2, 0): + − − 0; three agree
    "two": (
        modify(Lion, Cautious, RMSClip)(lr=0.1),
        (ONES, FIRST, SECOND),
        ([0.9, 0.9, 1.1, 1.0], [0.8, 1.0, 1.2, 1.0]),
    ),
}


@pytest.mark.parametrize(("rule", "inputs", "expected"), WORKED.values(), ids=WORKED)
def test_steps_by_hand(rule, inputs, expected):
    np.testing.assert_allclose(steps(rule, *inputs), expected, rtol=1e-12)


KINDS = [modify(AdamW, Cautious), modify(AdamW, RMSClip), modify(Lion, CautiousDecay, Cautious), modify(SGD, RMSClip)]
SHAPES = [(), (7,), (33, 5), (3, 2, 5)]


@pytest.mark.parametrize("kind", KINDS)
def test_engines_agree(kind):
    start, steps = starts(SHAPES), gradients(4, SHAPES)
    _, exact = trained(gradstep.optimizer(kind), [t.double() for t in start], [[g.double() for g in s] for s in steps])
    for engine in ("auto", "eager", "reference"):
        _, params = trained(gradstep.optimizer(kind), start, steps, engine=engine)
        for p, q in zip(params, exact, strict=True):
            torch.testing.assert_close(p.double(), q, rtol=1e-5, atol=1e-6)


LARGE = [(), (70, 67), (301, 277), (16384,)]  # parts of blocks, several blocks, one


@pytest.mark.parametrize(
    ("dtype", "options"),
    [(torch.float32, {}), (torch.float64, {}), (torch.bfloat16, {"state": "8bit", "rounding": "stochastic"})],
    ids=["float32", "float64", "8bit"],
)
@pytest.mark.parametrize(
    "kind",
    [
        modify(AdamW, RMSClip, Cautious),
        modify(Lion, CautiousDecay, Cautious),
        modify(AdamW, Lookahead, EMA),
        *(LAMB, LARS, MARS, StableAdamW),
    ],
)
def test_the_kernel_has_the_reference_s_bits(kind, dtype, options):
    start, steps = starts(LARGE, dtype), gradients(3, LARGE, dtype)
    start.append(normal(4, 25, 20, 30, dtype=dtype).to(memory_format=torch.channels_last))
    steps = [
        [*grads, torch.empty_like(start[-1]).copy_(normal(4, 25, 20, 30, seed=t))] for t, grads in enumerate(steps)
    ]
    fused, reference = (
        trained(gradstep.optimizer(kind), start, steps, engine=engine, lr=0.01, seed=3, **options)[0]
        for engine in ("fused", "reference")
    )
    assert_same(fused, reference)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert_same(trained(gradstep.optimizer(kind), start, steps, lr=0.01, seed=3, **options)[0], reference)
    finally:
        torch.set_num_threads(threads)


def test_statistics_and_clipping_are_those_of_other_engines():
    tables = []
    for engine in ("fused", "eager"):
        params = leaves(starts(SHAPES))
        optimizer = gradstep.optimizer(modify(AdamW, Cautious))(params, engine=engine)
        optimizer.watch = "parameters"
        give(params, gradients(1, SHAPES)[0])
        optimizer.step(max_grad_norm=0.5)
        report: Any = optimizer.last_step
        tables.append(report.statistics.table)
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-4)


def test_an_elementwise_rule_that_asks_for_a_mean_says_what_to_set():
    @dataclass(frozen=True)
    class Odd(user_rules.Signum):
        @staticmethod
        def update(p, g, s, c):
            return p - mean(g)

    p = normal(5).requires_grad_()
    give([p], [normal(5)])
    optimizer = gradstep.optimizer(Odd)([p])
    with unchanged(optimizer), pytest.raises(TypeError, match="sets sees = 'means'"):
        optimizer.step()


def test_the_mean_of_one_tensor_does_not_see_another():
    start, steps = starts([(9,), (5,)]), gradients(3, [(9,), (5,)])
    kind = gradstep.optimizer(modify(AdamW, RMSClip, Cautious))
    _, both = trained(kind, start, steps)
    for i in range(2):
        _, [alone] = trained(kind, start[i : i + 1], [s[i : i + 1] for s in steps])
        assert torch.equal(alone, both[i])


def test_a_modified_rule_is_an_ordinary_one(tmp_path):
    kind = modify(AdamW, Cautious, RMSClip)
    assert kind is modify(AdamW, Cautious, RMSClip)
    assert kind is not modify(AdamW, RMSClip, Cautious)
    assert kind.__name__ == "RMSClipCautiousAdamW"
    assert pickle.loads(pickle.dumps(kind)) is kind
    rule = kind(lr=0.5)
    assert pickle.loads(pickle.dumps(rule)) == copy.deepcopy(rule) == rule

    start, steps = starts(SHAPES), gradients(6, SHAPES)
    optimizer, params = trained(gradstep.optimizer(kind), start, steps[:3], max_rms=2.0)
    unpickled = pickle.loads(pickle.dumps(optimizer))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    loaded = gradstep.optimizer(kind)(leaves(params))
    loaded.load_state_dict(torch.load(tmp_path / "state.pt"))
    for other in (unpickled, copy.deepcopy(optimizer), loaded):
        assert_same(other, optimizer)
    for other in (unpickled, loaded):
        walk(other, other.param_groups[0]["params"], steps[3:])
    walk(optimizer, params, steps[3:])
    assert_same(unpickled, optimizer)
    assert_same(loaded, optimizer)
    with pytest.raises(ValueError, match="RMSClipCautiousAdamW"):
        gradstep.AdamW(leaves(params)).load_state_dict(optimizer.state_dict())


def test_a_group_s_rule_may_be_modified():
    start, steps = starts([(5,), (7,)]), gradients(3, [(5,), (7,)])
    kind = modify(Lion, Cautious)
    params = leaves(start)
    groups: list[dict[str, Any]] = [{"params": params[:1]}, {"params": params[1:], "rule": kind, "lr": 1e-3}]
    both = gradstep.AdamW(groups)
    walk(both, params, steps)
    _, [one] = trained(gradstep.AdamW, start[:1], [s[:1] for s in steps])
    _, [two] = trained(gradstep.optimizer(kind), start[1:], [s[1:] for s in steps], lr=1e-3)
    assert torch.equal(params[0], one)
    assert torch.equal(params[1], two)
    others: list[dict[str, Any]] = [
        {"params": leaves(start[:1])},
        {"params": leaves(start[1:]), "rule": kind, "lr": 1.0},
    ]
    again = gradstep.AdamW(others)
    again.load_state_dict(both.state_dict())
    assert again.param_groups[1]["rule"] == "CautiousLion"


def test_numpy_has_the_same_bits():
    start, steps = starts([(33,)]), gradients(3, [(33,)])
    kind = modify(AdamW, Cautious, RMSClip)
    _, [p] = trained(gradstep.optimizer(kind), start, steps, engine="reference")
    q = gn.Parameter(start[0].numpy().copy())
    optimizer = gn.optimizer(kind)([q], engine="reference")
    for [g] in steps:
        q.grad = g.numpy()
        optimizer.step()
    np.testing.assert_array_equal(p.detach().numpy(), q.data)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_mean_is_added_up_in_the_order_of_memory(order):
    """The reference's own sum of 40,000 numbers, in blocks, against one in more than float64."""
    x = normal(4, 25, 20, 20).to(memory_format=order).numpy()
    exact = float(np.mean(x.astype(np.longdouble)))
    assert abs(float(gradstep.rules.ops.mean(x)) - exact) <= 2**-24 * abs(exact)


def test_the_check_judges_a_modified_rule():
    kind = modify(AdamW, Cautious)
    verdict = gradstep.check(gradstep.optimizer(kind), kind)
    assert verdict.passed, str(verdict)
    assert not gradstep.check(gradstep.AdamW, kind).passed


@dataclass(frozen=True)
class _MoreCautious(Cautious):
    """A modifier that is derived from another."""


@dataclass(frozen=True)
class _MoreEMA(EMA):
    """A modifier that is derived from one of the update."""


class _NoDataclass(Modifier):
    """A modifier whose settings nobody finds."""


def test_what_cannot_be_modified():
    things: list[tuple[Any, ...]] = [
        ((user_rules.Signum, Cautious), "Signum cannot be modified, .* has update"),
        ((Adafactor, Cautious), "Adafactor cannot be modified"),
        ((gradstep.AdamW, Cautious), "takes the class of a rule"),
        ((AdamW(), Cautious), "takes the class of a rule"),
        ((AdamW,), "needs a modifier"),
        ((AdamW, Lion), "takes classes of modifiers, .*Cautious"),
        ((Cautious, RMSClip), "Cautious is a modifier: give the rule"),
        ((AdamW, Cautious, Cautious), "would have Cautious twice"),
        ((modify(AdamW, Cautious), Cautious), "CautiousAdamW would have Cautious twice"),
        ((gradstep.rules.ASGD, RMSClip), "ASGD cannot be modified"),
        ((SGD, VarianceReduction), "VarianceReduction cannot modify SGD, which has no betas"),
        ((LAMB, TrustRatio), "LAMB would have TrustRatio twice"),
        ((AdamW, Cautious, _MoreCautious), r"AdamW would have Cautious twice \(once through _MoreCautious\)"),
        ((AdamW, _MoreCautious, Cautious), "AdamW would have Cautious twice: give it once"),
        ((modify(AdamW, Cautious, RMSClip), _MoreCautious), "RMSClipCautiousAdamW would have Cautious twice"),
        ((AdamW, EMA, EMA), "AdamW would have EMA twice: give it once"),
        ((AdamW, EMA, _MoreEMA), r"AdamW would have EMA twice \(once through _MoreEMA\)"),
        ((modify(AdamW, Lookahead), Lookahead), "LookaheadAdamW would have Lookahead twice"),
        ((AdamW, Modifier), "Modifier is the base of modifiers and changes nothing"),
        ((AdamW, _NoDataclass), r"_NoDataclass needs @dataclass\(frozen=True\) above it"),
    ]
    for parts, words in things:
        with pytest.raises(TypeError, match=words):
            modify(*parts)
    with pytest.raises(TypeError, match="Cautious is not finished"):
        gradstep.optimizer(Cautious)  # type: ignore[type-abstract]
    with pytest.raises(ValueError, match="has no decay of the weight itself, but in the gradient or the step"):
        modify(Adam, CautiousDecay)(weight_decay=0.1)
    assert modify(Adam, CautiousDecay)(weight_decay=0.1, decoupled_weight_decay=True).sees == "elements"
    assert modify(Muon, Cautious).sees == "matrix"
    with pytest.raises(ValueError, match=r"Invalid max_rms value: 0\.5"):
        modify(AdamW, RMSClip)(max_rms=0.5)


def test_a_rate_of_zero_leaves_the_weights():
    for modifier in (Cautious, RMSClip):
        _, [p] = trained(gradstep.optimizer(modify(SGD, modifier)), [torch.ones(3)], [[torch.ones(3)]], lr=0.0)
        assert_near(p, torch.ones(3), ulps=0)


@pytest.mark.parametrize("lr", [0.0, 1e-46])
def test_a_rate_that_float32_has_not_leaves_the_weights(lr):
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    gradstep.optimizer(modify(rules.AdamW, rules.RMSClip))([p], lr=lr, weight_decay=0.0).step()
    assert p.tolist() == [1.0] * 3


def test_a_trust_ratio_adds_no_decay_to_a_step_that_contains_it():
    """Where every gradient is 1 long, StableAdamW shortens no first step and equals AdamW."""
    found = []
    for kind in (rules.LAMB, modify(rules.AdamW, rules.TrustRatio), modify(rules.StableAdamW, rules.TrustRatio)):
        p = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        p.grad = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
        gradstep.optimizer(kind)([p], lr=0.1, weight_decay=1.0, eps=1e-6).step()
        found.append(p.detach())
    assert torch.allclose(found[0], found[1], rtol=1e-12)
    assert torch.allclose(found[0], found[2], rtol=1e-12)


def test_the_average_is_that_of_torch_and_eval_shows_it():
    start, steps = starts([(7,), (33, 5)], torch.float64), gradients(20, [(7,), (33, 5)], torch.float64)
    optimizer, params = trained(gradstep.optimizer(modify(AdamW, EMA)), start, [], lr=0.01, ema_decay=0.9)
    other, targets = trained(gradstep.AdamW, start, [], lr=0.01)
    averages = torch.optim.swa_utils.AveragedModel(
        torch.nn.ParameterList(targets), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    for step in steps:
        walk(optimizer, params, [step])
        walk(other, targets, [step])
        averages.update_parameters(torch.nn.ParameterList(targets))
    assert all(map(torch.equal, params, targets))
    optimizer.eval()
    for p, q in zip(params, averages.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)
    optimizer.train()
    assert all(map(torch.equal, params, targets))


def test_copies_of_weights_stay_in_float32_beside_8_bit_state():
    kind = gradstep.optimizer(modify(AdamW, Lookahead, EMA))
    row = kind(leaves([normal(70, 67)]), state="8bit").state_summary().rows[0]
    assert row.state == "exp_avg: 8bit, exp_avg_sq: 8bit, slow: float32, ema: float32"
    with pytest.raises(ValueError, match="EMASGD keeps only copies of weights; leave state='float32'"):
        gradstep.optimizer(modify(SGD, EMA))(leaves([normal(70, 67)]), state="8bit")
