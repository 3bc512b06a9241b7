"""The state of NumPy optimizers by a teaching framework's interface: saved, restored, counted."""

from typing import Any

import numpy as np
import pytest

import gradstep
import gradstep.numpy as gn
from gradstep.judge import Outcome


class Right:
    """SGD with momentum as the teaching framework has it."""

    def __init__(self, params, lr=0.01, momentum=0.0):
        self.params, self.lr, self.momentum = list(params), lr, momentum
        self.buffers: list[Any] = [None] * len(self.params)
        self.step_count = 0

    def has_momentum(self):
        return self.momentum > 0

    def get_momentum_state(self):
        return [None if b is None else b.copy() for b in self.buffers] if self.has_momentum() else None

    def set_momentum_state(self, state):
        if state is None or not self.has_momentum():
            return
        if len(state) != len(self.params):
            raise ValueError("Momentum state length mismatch")
        self.buffers = [None if b is None else b.copy() for b in state]

    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            if self.buffers[i] is None:
                self.buffers[i] = np.zeros_like(p.data)
            self.buffers[i] *= self.momentum
            self.buffers[i] += p.grad.data
            p.data = p.data - self.lr * self.buffers[i]
        self.step_count += 1


class GivesItsOwn(Right):
    def get_momentum_state(self):
        return self.buffers if self.has_momentum() else None


class TakesOneForTwo(Right):
    def set_momentum_state(self, state):
        if state is not None and self.has_momentum():
            self.buffers = [None if b is None else b.copy() for b in state]


class CountsParameters(Right):
    def step(self):
        super().step()
        self.step_count += len(self.params) - 1


class RestoresNothing(Right):
    """A condition without its `not`, as a learner was seen to write it."""

    def set_momentum_state(self, state):
        if state is None or self.has_momentum():
            return
        self.buffers = state


class Counted:
    """Adam whose state is its two averages and, unless it is lost, the count of its steps."""

    counter = "update_counts"

    def __init__(self, params, lr=0.01, betas=(0.9, 0.999), eps=1e-8):
        self.params, self.lr, self.betas, self.eps = list(params), lr, betas, eps
        self.averages = [(np.zeros_like(p.data), np.zeros_like(p.data)) for p in self.params]
        setattr(self, self.counter, [0] * len(self.params))

    def get_momentum_state(self):
        return [(m.copy(), v.copy()) for m, v in self.averages]

    def set_momentum_state(self, state):
        if len(state) != len(self.params):
            raise ValueError("another model")
        self.averages = [(m.copy(), v.copy()) for m, v in state]

    def step(self):
        (b1, b2), counts = self.betas, getattr(self, self.counter)
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            counts[i] += 1
            m, v = self.averages[i]
            m, v = b1 * m + (1 - b1) * p.grad, b2 * v + (1 - b2) * p.grad**2
            self.averages[i] = m, v
            p.data = p.data - self.lr * m / (1 - b1 ** counts[i]) / (np.sqrt(v / (1 - b2 ** counts[i])) + self.eps)


class LosesItsCount(Counted):
    counter = "t"


def outcomes(verdict):
    return {p.name: p.outcome for p in verdict.probes}


def test_a_round_trip_in_mid_run_is_judged():
    verdict = gradstep.check(Right, "sgd", strict=True)
    assert outcomes(verdict)["saved"] is Outcome.PASS
    assert {p.name for p in verdict.failed()} == {"bad settings"}
    verdict = gradstep.check(RestoresNothing, "sgd")
    assert verdict.matches[0].mistakes == ("slots-not-saved",)
    assert gradstep.check(Counted, "adam").passed
    assert gradstep.check(LosesItsCount, "adam").matches[0].mistakes == ("steps-not-saved",)


@pytest.mark.parametrize(
    ("submission", "probe", "outcome"),
    [
        (GivesItsOwn, "state copied", Outcome.FAIL),
        (TakesOneForTwo, "state refused", Outcome.ADVICE),
        (CountsParameters, "step count", Outcome.ADVICE),
    ],
)
def test_what_is_wrong_with_the_state_is_told(submission, probe, outcome):
    verdict = gradstep.check(submission, "sgd")
    assert outcomes(verdict)[probe] is outcome
    assert outcomes(gradstep.check(Right, "sgd"))[probe] is Outcome.PASS


@pytest.mark.parametrize("name", gradstep.RULES)
def test_our_own_pass(name):
    verdict = gradstep.check(getattr(gn, name), name, strict=True)
    assert verdict.passed, str(verdict)
    assert outcomes(verdict)["saved"] is Outcome.PASS
