"""The first steps of every rule, worked on paper from the equations of its docstring, with p = 1 where not said."""

from math import sqrt
from typing import Any

import numpy as np
import pytest

from gradstep.rules import (
    ADOPT,
    ASGD,
    SGD,
    AdaBelief,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    AdEMAMix,
    LaProp,
    Lion,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeRAdam,
    ScheduleFreeSGD,
)
from tests.rules.by_hand import steps

# With β = (1/2, 3/4) and gradients 2, 1:
#   m: 1/2·2 = 1, then 1/2·1 + 1/2·1 = 1       corrected by 1/2, then 3/4:  2, 4/3
#   v: 1/4·4 = 1, then 3/4·1 + 1/4·1 = 1       corrected by 1/4, then 7/16: 4, 16/7
HALVES: Any = {"lr": 0.1, "betas": (0.5, 0.75)}

Z1 = 1 - 0.1 * (2 / 3 + 0.5)

WORKED = {
    # 1 − 0.1·2 = 0.8; 0.8 − 0.1·4 = 0.4
    "sgd": (SGD(lr=0.1), (2, 4), (0.8, 0.4)),
    # g = 2 + 0.5·1 = 2.5 → 0.75; g = 4 + 0.5·0.75 = 4.375 → 0.3125
    "sgd, decay": (SGD(lr=0.1, weight_decay=0.5), (2, 4), (0.75, 0.3125)),
    # The first buffer is the gradient, undamped: b = 2 → 0.8 (not 1.5 → 0.85); b = 0.5·2 + 0.75·4 = 4 → 0.4
    "sgd, dampened": (SGD(lr=0.1, momentum=0.5, dampening=0.25), (2, 4), (0.8, 0.4)),
    # b = 2, along 2 + 0.5·2 = 3 → 0.7; b = 1 + 4 = 5, along 4 + 0.5·5 = 6.5 → 0.05
    "sgd, nesterov": (SGD(lr=0.1, momentum=0.5, nesterov=True), (2, 4), (0.7, 0.05)),
    # Climbing: 1 + 0.2 = 1.2. The decay still pulls to 0: g = −2 + 0.5·1 = −1.5 → 1.15
    "sgd, maximize": (SGD(lr=0.1, maximize=True), (2,), (1.2,)),
    "sgd, maximize, decay": (SGD(lr=0.1, weight_decay=0.5, maximize=True), (2,), (1.15,)),
    # G = 9: 0.5·3/3 = 0.5 → 0.5; G = 25, rate 0.5/(1 + 1) = 0.25: 0.25·4/5 = 0.2 → 0.3
    "adagrad": (Adagrad(lr=0.5, lr_decay=1.0, eps=0.0), (3, 4), (0.5, 0.3)),
    # G = 16 + 9 = 25: 0.5·3/5 = 0.3 → 0.7
    "adagrad, filled": (Adagrad(lr=0.5, initial_accumulator_value=16, eps=0.0), (3,), (0.7,)),
    # ε outside the root: 0.5·3/(3 + 1) = 0.375 → 0.625 (inside: 3/√10)
    "adagrad, eps": (Adagrad(lr=0.5, eps=1.0), (3,), (0.625,)),
    # v = 3/4·4 = 3, Δ = √(0+1)/√(3+1)·2 = 1 → 0.9, u = 3/4; v = 1/4·3 + 3 = 15/4, Δ = √(7/4)/√(19/4)·2
    "adadelta": (Adadelta(lr=0.1, rho=0.25, eps=1.0), (2, 2), (0.9, 0.9 - 0.2 * sqrt(7 / 19))),
    # g = 1 + 1·1 = 2, as above
    "adadelta, decay": (Adadelta(lr=0.1, rho=0.25, eps=1.0, weight_decay=1.0), (1,), (0.9,)),
    # v = 1/4·4 = 1: 2/(1+1) = 1 → 0.9; v = 3/4 + 1/4 = 1: 1/2 → 0.85
    "rmsprop": (RMSprop(lr=0.1, alpha=0.75, eps=1.0), (2, 1), (0.9, 0.85)),
    # b = 1 → 0.9; b = 1/2 + 1/2 = 1 → 0.8
    "rmsprop, momentum": (RMSprop(lr=0.1, alpha=0.75, eps=1.0, momentum=0.5), (2, 1), (0.9, 0.8)),
    # ḡ = 1/4·2 = 1/2, v − ḡ² = 3/4: 2/(√(3/4) + 1)
    "rmsprop, centered": (
        RMSprop(lr=0.1, alpha=0.75, eps=1.0, centered=True),
        (2,),
        (1 - 0.2 / (sqrt(0.75) + 1),),
    ),
    # 2/(√4 + 1) = 2/3; (4/3)/(√(16/7) + 1)
    "adam": (
        Adam(**HALVES, eps=1.0),
        (2, 1),
        (1 - 0.1 * 2 / 3, 1 - 0.2 / 3 - 0.1 * (4 / 3) / (4 / sqrt(7) + 1)),
    ),
    # m = v = 1 at both steps: 1/√1 each
    "adam, not corrected": (Adam(**HALVES, eps=0.0, bias_correction=False), (2, 1), (0.9, 0.8)),
    "adamw, not corrected": (
        AdamW(**HALVES, eps=0.0, weight_decay=1.0, bias_correction=False),
        (2, 1),
        (0.8, 0.62),  # 0.9·1 − 0.1, 0.9·0.8 − 0.1
    ),
    # g = 2 + 0.5·1 = 2.5; corrected moments 2.5 and 2.5²
    "adam, decay": (Adam(**HALVES, eps=1.0, weight_decay=0.5), (2,), (1 - 0.1 * 2.5 / 3.5,)),
    # Gradients 2, 0: v = 1, then 3/4, so the largest stays 1 and is corrected by 7/16; m = 1/2, corrected 2/3
    "adam, amsgrad": (
        Adam(**HALVES, eps=1.0, amsgrad=True),
        (2, 0),
        (1 - 0.2 / 3, 1 - 0.2 / 3 - 0.1 * (2 / 3) / (4 / sqrt(7) + 1)),
    ),
    # 0.95·1 − 0.1·2/3
    "adamw": (AdamW(**HALVES, eps=1.0, weight_decay=0.5), (2,), (0.95 - 0.2 / 3,)),
    "adam, decoupled": (
        Adam(**HALVES, eps=1.0, weight_decay=0.5, decoupled_weight_decay=True),
        (2,),
        (0.95 - 0.2 / 3,),
    ),
    # u = |2| + 1 = 3: 0.1/(1/2)·1/3; u = max(3/4·3, 1 + 1) = 9/4: 0.1/(3/4)·1/(9/4)
    "adamax": (Adamax(**HALVES, eps=1.0), (2, 1), (1 - 0.2 / 3, 1 - 0.2 / 3 - 0.1 / (3 / 4 * 9 / 4))),
    # ψ = 0 makes every μ = 1/4: m̂ = 1/4·1/(1 − 1/16) + 3/4·2/(1 − 1/4) = 4/15 + 2; then
    # m̂ = 1/4·1/(1 − 1/64) + 3/4·1/(1 − 1/16) = 16/63 + 4/5
    "nadam": (
        NAdam(**HALVES, eps=1.0, momentum_decay=0.0),
        (2, 1),
        (
            1 - 0.1 * (4 / 15 + 2) / 3,
            1 - 0.1 * (4 / 15 + 2) / 3 - 0.1 * (16 / 63 + 4 / 5) / (4 / sqrt(7) + 1),
        ),
    ),
    # ψ = 1: μ₁ = 1/2·(1 − 0.48) = 0.26, μ₂ = 1/2·(1 − 0.4608) = 0.2696; m̂ = 0.2696·1/(1 − μ₁μ₂) + 2
    "nadam, mu": (
        NAdam(**HALVES, eps=1.0, momentum_decay=1.0),
        (2,),
        (1 - 0.1 * (0.2696 / (1 - 0.26 * 0.2696) + 2) / 3,),
    ),
    # m = 1, s = 1/4·(2 − 1)² + 1 = 5/4, corrected 5: 2/(√5 + 1); m = 1, s = 3/4·5/4 + 0 + 1 = 31/16, corrected 31/7
    "adabelief": (
        AdaBelief(**HALVES, eps=1.0),
        (2, 1),
        (1 - 0.2 / (sqrt(5) + 1), 1 - 0.2 / (sqrt(5) + 1) - 0.1 * (4 / 3) / (sqrt(31 / 7) + 1)),
    ),
    "adabelief, decay": (AdaBelief(**HALVES, eps=1.0, weight_decay=0.5), (2,), (0.95 - 0.2 / (sqrt(5) + 1),)),
    # u = 2/(2 + 1), m = 1/2·2/3 = 1/3, corrected 2/3; u = 1/(4/√7 + 1), m = 1/6 + u/2, corrected by 3/4
    "laprop": (
        LaProp(**HALVES, eps=1.0),
        (2, 1),
        (1 - 0.2 / 3, 1 - 0.2 / 3 - 0.1 * (1 / 6 + 0.5 / (4 / sqrt(7) + 1)) * 4 / 3),
    ),
    "laprop, decay": (LaProp(**HALVES, eps=1.0, weight_decay=0.5), (2,), (0.95 - 0.2 / 3,)),
    # m₁ = 1, m₂ = 1/2, v = 1 of g = 2 with β = 1/2, 3/4, 3/4: (1/(1/2) + 2·1/2)/(√(1/(1/4)) + 1) = 1
    # g = 1: m₁ = 1, m₂ = 5/8, v = 1, (1/(3/4) + 2·5/8)/(√(1/(7/16)) + 1)
    "ademamix": (
        AdEMAMix(lr=0.1, betas=(0.5, 0.75, 0.75), alpha=2.0, eps=1.0, weight_decay=0.5),
        (2, 1),
        (0.85, 0.95 * 0.85 - 0.1 * (4 / 3 + 5 / 4) / (4 / sqrt(7) + 1)),
    ),
    # T = 2: α(1) = 1; 1/ln β₃(1) lies halfway between 1/ln ¼ and 1/ln ½: β₃(1) = 2^(−4/3), m₂ = 2·(1 − 2^(−4/3));
    # m₁/(1 − ¼) = 2, the root 2
    "ademamix, schedules": (
        AdEMAMix(lr=0.1, betas=(0.25, 0.75, 0.5), alpha=2.0, t_alpha=2, t_beta3=2, eps=0.0, weight_decay=0.0),
        (2,),
        (1 - 0.1 * (2 + 2 * (1 - 2 ** (-4 / 3))) / 2,),
    ),
    # z: 1 → 0.8 → 0.4 → 0.1; x: their mean 0.8, 0.6, 13/30; y halfway: 0.8, 0.5, 4/15
    "schedule-free sgd": (ScheduleFreeSGD(lr=0.1, momentum=0.5), (2, 4, 3), (0.8, 0.5, 4 / 15)),
    # γ = 0.1, then 0.2: w = 0.01, 0.04. z = 1 − 0.1·2 = 0.8; z = 0.8 − 0.2·4 = 0, x = 0.2·0.8 + 0.8·0
    "schedule-free sgd, warmup": (ScheduleFreeSGD(lr=0.2, momentum=0.5, warmup_steps=2), (2, 4), (0.8, 0.08)),
    # z = 1 − 0.1·(2/(2 + 1) + 0.5·1); z − 0.1·(1/(4/√7 + 1) + 0.5·y), y halfway to the mean: 3/4 of the second z
    "schedule-free adamw": (
        ScheduleFreeAdamW(**HALVES, eps=1.0, weight_decay=0.5),
        (2, 1),
        (Z1, Z1 - 0.075 * (1 / (4 / sqrt(7) + 1) + 0.5 * Z1)),
    ),
    # β₂ = 3/4: ρ₁ = 7 − 2·(3/4)/(1/4) = 1 ≤ 4, and nothing moves; or along the gradient: z = 0.8
    "schedule-free radam, silent": (ScheduleFreeRAdam(**HALVES), (2,), (1.0,)),
    "schedule-free radam, loud": (ScheduleFreeRAdam(**HALVES, silent_sgd_phase=False), (2,), (0.8,)),
    # v = 4 and no move; 1/2, m = 1/4 → 0.975, v = 3 + 1/4 = 13/4; 8/√(13/4) > ∜2, m = 1/8 + ∜2/2
    "adopt": (ADOPT(**HALVES), (2, 1, 8), (1.0, 0.975, 0.975 - 0.1 * (1 / 8 + 2**0.25 / 2))),
    # The root 2 is less than ε = 4: 1/4, m = 1/8
    "adopt, eps": (ADOPT(**HALVES, eps=4.0), (2, 1), (1.0, 0.9875)),
    # g = 2.5, v = 2.5²; g = 1 + 0.5 = 1.5: 0.6, m = 0.3
    "adopt, decay": (ADOPT(**HALVES, weight_decay=0.5), (2, 1), (1.0, 0.97)),
    # Nothing decays at the first step: 0.95·1 − 0.1/4
    "adopt, decoupled": (ADOPT(**HALVES, weight_decay=0.5, decoupled_weight_decay=True), (2, 1), (1.0, 0.925)),
    # η₁ = 1/2: 3/4·1 − 1/2·2 = −1/4; η₂ = 1/2/(1 + 1/4·1)¹ = 2/5, as 1/(1 + Ληt) with Λη = 1/4: 0.8·(−1/4) − 0.4·1
    "asgd": (ASGD(lr=0.5, lambd=0.5, alpha=1.0), (2, 1), (-0.25, -0.6)),
    "asgd, decay": (ASGD(lr=0.5, lambd=0.0, weight_decay=1.0), (2,), (-0.5,)),
    # 1 − 0.1; the sign stays: 0.2, but at most 0.15; it turns: the weight stays, the step is 0.05; then it is taken
    "rprop": (
        Rprop(lr=0.1, etas=(1 / 3, 2.0), step_sizes=(0.01, 0.15)),
        (2, 1, -3, -1, -5),
        (0.9, 0.75, 0.75, 0.8, 0.9),
    ),
    # c = 1/2·2 > 0 → 0.9, m = 1/4·2 = 1/2; c = 1/4 − 1/4 = 0: no move, m = 3/8 − 1/8 = 1/4;
    # c = 1/8 − 1/4 < 0 → 1.0
    "lion": (Lion(**HALVES), (2, -0.5, -0.5), (0.9, 0.9, 1.0)),
    # 0.95·1 − 0.1
    "lion, decay": (Lion(**HALVES, weight_decay=0.5), (2,), (0.85,)),
}


@pytest.mark.parametrize(("rule", "gradients", "expected"), WORKED.values(), ids=WORKED)
def test_first_steps(rule, gradients, expected):
    assert steps(rule, 1.0, *map(float, gradients)) == pytest.approx(expected, rel=1e-14)


def test_adamw_worked_example():
    # Decay 1e-4·1e-3·0.5 = 5e-8; ratio of the corrected moments 0.02/(0.02 + 1e-8): 0.5 − 5e-8 − 1e-4·0.9999995
    [p] = steps(AdamW(lr=1e-4, weight_decay=1e-3), 0.5, 0.02)
    assert p == pytest.approx(0.49989995 + 5e-11, abs=1e-16)


def test_radam_is_plain_momentum_until_rho_exceeds_5_and_adapts_then():
    # β₂ = 3/4: ρ∞ = 7 and ρ_t > 5 ⇔ (t+1)·(3/4)^t < 1, first at t = 8 (9·0.100 = 0.90; at t = 7 8·0.133 = 1.07).
    # With every gradient 2: m̂ = 2, and v = 4·(1 − (3/4)^t) makes √v = 2·√(1 − (3/4)^t).
    path = steps(RAdam(**HALVES, eps=1.0), 1.0, *[2.0] * 8)
    assert path[:7] == pytest.approx([1 - 0.2 * t for t in range(1, 8)], rel=1e-13)
    bias = 1 - 0.75**8
    rho = 7 - 16 * 0.75**8 / bias
    rectified = sqrt((rho - 4) * (rho - 2) * 7 / ((7 - 4) * (7 - 2) * rho))
    assert path[7] == pytest.approx(-0.4 - 0.2 * rectified * sqrt(bias) / (2 * sqrt(bias) + 1.0), rel=1e-13)


def test_radam_with_eps_0_and_a_zero_gradient_is_finite_while_v_is_not_used():
    assert steps(RAdam(eps=0.0), 1.0, 0.0) == [1.0]


FOUR = np.array([[1.0, 2.0], [3.0, 4.0]])
# Squares 1 4 9 16: R = (5/2, 25/2), C = (5, 10), mean R = 15/2, so V = 5/3 10/3 25/3 50/3
# and U² = g²/V = 0.6 1.2 1.08 0.96, whose mean is 0.96: below 1, so nothing is clipped.
U = np.sqrt([[0.6, 1.2], [1.08, 0.96]])


def test_adafactor_matrix():
    # RMS(p) = 3 and ρ = min(0.01, 1), so α = 0.03.
    [p] = steps(Adafactor(), np.full((2, 2), 3.0), FOUR)
    np.testing.assert_allclose(p, 3 - 0.03 * U, rtol=1e-14)


def test_adafactor_second_step_is_clipped():
    # γ = −1: β̂₂ = 1/2, and gradients twice as large (squares ×4) make R and C 1 + (4−1)/2 = 5/2 times, V 5/2 times.
    # U = 2/√(5/2) times the first, of mean square 0.96·4/2.5 = 1.536, clipped to 1.
    one, two = steps(Adafactor(beta2_decay=-1.0), np.full((2, 2), 3.0), FOUR, 2 * FOUR)
    alpha = 0.01 * sqrt((one**2).mean())
    np.testing.assert_allclose(two, one - alpha * U * 2 / sqrt(2.5) / sqrt(1.536), rtol=1e-14)


def test_adafactor_vector_decay_and_bounds():
    # V = g² makes U the sign, of RMS 1; RMS(p) = 3: 0.95·3 − 3·0.1·sign.
    [p] = steps(Adafactor(lr=0.1, weight_decay=0.5), np.full(2, 3.0), np.array([2.0, -5.0]))
    np.testing.assert_allclose(p, [2.85 - 0.3, 2.85 + 0.3], rtol=1e-14)
    # A parameter of 0 counts as ε₂ = 1/8; the relative step is at most 1/√t = 1 at the first, 1/√2 at the second.
    one, two = steps(Adafactor(lr=10.0, eps=(None, 0.125)), np.zeros(1), np.ones(1), np.zeros(1))
    assert one.tolist() == [-0.125]
    assert two.tolist() == [-0.125]
    rate = [Adafactor(lr=10.0).coefficients(t)["relative_step"] for t in (1, 4, 400)]
    assert rate == [1.0, 0.5, 0.05]


def test_adafactor_bounds_v_below():
    # g = 1e-6 gives V = 1e-12, below ε₁² = 1e-6: U = 1e-6/1e-3 = 1e-3; RMS(p) = 1, α = 0.01.
    [p] = steps(Adafactor(eps=(1e-3, 1e-3)), np.ones(1), np.full(1, 1e-6))
    np.testing.assert_allclose(p, [1 - 0.01 * 1e-3], rtol=1e-14)
