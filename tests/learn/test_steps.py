"""The worked example: by hand, in fractions, and against torch over many steps."""

from dataclasses import replace
from decimal import Decimal, localcontext

import pytest

from gradstep.learn.steps import EXAMPLE, step_through


def test_the_worked_example_by_hand():
    values = {line.name: line.value for line in step_through()}
    by_hand = {
        "g": 0.02,
        "m": 0.002,
        "v": 4e-7,
        "m̂": 0.02,
        "v̂": 4e-4,
        "step": 1e-4 * 0.02 / (0.02 + 1e-8),
        "decay": 5e-8,
        "p": 0.49989995,
    }
    assert values.keys() == by_hand.keys()
    for name, value in by_hand.items():
        assert values[name] == pytest.approx(value, rel=1e-9 if name != "decay" else 1e-6), name
    assert f"{values['p']:.8f}" == "0.49989995"


def test_in_decimal_numbers_over_three_steps():
    gradients = [0.02, -0.5, 3.0]
    lines = step_through(0.5, gradients, replace(EXAMPLE, lr=0.01, weight_decay=0.1))
    with localcontext() as context:
        context.prec = 40
        p, m, v = Decimal("0.5"), Decimal(0), Decimal(0)
        b1, b2, lr, wd = Decimal("0.9"), Decimal("0.999"), Decimal("0.01"), Decimal("0.1")
        for t, gradient in enumerate(map(Decimal, ("0.02", "-0.5", "3")), 1):
            m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient * gradient
            m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
            step, decay = lr * m_hat / (v_hat.sqrt() + Decimal("1e-8")), lr * wd * p
            p = p - decay - step
            expected = {"m": m, "v": v, "m̂": m_hat, "v̂": v_hat, "step": step, "decay": decay, "p": p}
            shown = {line.name: line.value for line in lines if line.step == t}
            for name, value in expected.items():
                assert shown[name] == pytest.approx(float(value), rel=1e-10), (t, name)


def test_against_torch():
    torch = pytest.importorskip("torch")
    w = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([w], lr=1e-4, weight_decay=1e-3)
    gradients = [0.02, 0.01, -0.03, 0.0, 0.5]
    ours = [line.value for line in step_through(0.5, gradients) if line.name == "p"]
    for gradient, own in zip(gradients, ours):
        w.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert own == pytest.approx(w.item(), rel=1e-12)


def test_a_line_says_what_why_and_how_much():
    first, *_, last = step_through()
    assert str(first) == "g = 0.02"
    assert str(last) == "p = p − decay − step = 0.5 − 5e-08 − 9.999995e-05 = 0.49989995"
    assert all(line.why.endswith(".") for line in step_through())
