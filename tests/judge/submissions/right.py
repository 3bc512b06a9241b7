"""Right optimizers in as many forms as people write them: algebraically equal, rounded differently."""

import math

import numpy as np
import torch
from torch.optim import Optimizer


class Base(Optimizer):
    """AdamW but for the update of one tensor."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"Invalid {name}: {value}")
        if not all(0 <= b < 1 for b in betas):
            raise ValueError(f"Invalid betas: {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
                state["step"] += 1
                b1, b2 = group["betas"]
                self.one(p, p.grad, state, b1, b2, group["lr"], group["eps"], group["weight_decay"])
        return loss

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        raise NotImplementedError("each class below writes it, as a learner's base class has it")


class AsTheBookHasIt(Base):
    """m̂ and v̂, and the decay subtracted together with the update."""

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        s["m"] = b1 * s["m"] + (1 - b1) * g
        s["v"] = b2 * s["v"] + (1 - b2) * g**2
        m_hat = s["m"] / (1 - b1 ** s["step"])
        v_hat = s["v"] / (1 - b2 ** s["step"])
        p.copy_(p - lr * (m_hat / (torch.sqrt(v_hat) + eps) + wd * p))


class InPlace(Base):
    """torch's fused calls, the corrections folded into the step size and the denominator."""

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p.mul_(1 - lr * wd)
        s["m"].lerp_(g, 1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        root = math.sqrt(1 - b2 ** s["step"])
        p.addcdiv_(s["m"], (s["v"].sqrt() / root).add_(eps), value=-lr / (1 - b1 ** s["step"]))


class EpsilonScaled(Base):
    """Numerator and denominator multiplied by the root of the correction, ε too."""

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        s["m"].mul_(b1).add_(g * (1 - b1))
        s["v"].mul_(b2).add_((1 - b2) * g.square())
        root = math.sqrt(1 - b2 ** s["step"])
        update = s["m"] * root / (s["v"].sqrt() + eps * root) / (1 - b1 ** s["step"])
        p.sub_(lr * update + lr * wd * p)


class Debiased(Base):
    """The corrected averages themselves as state, with coefficients that depend on the step."""

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        t = s["step"]
        b1, b2 = ((b**t - b) / (b**t - 1) for b in (b1, b2))
        p.mul_(1 - lr * wd)
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        p.addcdiv_(s["m"], s["v"].sqrt() + eps, value=-lr)


class SumsInsteadOfAverages(Base):
    """(1 − β) taken out of the averages and put into the corrections."""

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        s["m"].mul_(b1).add_(g)
        s["v"].mul_(b2).addcmul_(g, g)
        m_hat = s["m"] * ((1 - b1) / (1 - b1 ** s["step"]))
        v_hat = s["v"] * ((1 - b2) / (1 - b2 ** s["step"]))
        p.mul_(1 - lr * wd).sub_(lr * m_hat / (v_hat.sqrt() + eps))


class RunningProducts(Base):
    """β₁ᵗ and β₂ᵗ multiplied up step by step."""

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        s["b1t"], s["b2t"] = s.get("b1t", 1.0) * b1, s.get("b2t", 1.0) * b2
        s["m"].add_((1 - b1) * (g - s["m"]))
        s["v"].add_((1 - b2) * (g * g - s["v"]))
        p.mul_(1 - lr * wd)
        p.add_(-lr * (s["m"] / (1 - s["b1t"])) / ((s["v"] / (1 - s["b2t"])).sqrt() + eps))


class PlainNumpy:
    """A NumPy class; `.data` is bound anew."""

    def __init__(self, params, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=1e-2):
        if min(learning_rate, epsilon, weight_decay) < 0 or not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError("settings out of bounds")
        self.params, self.learning_rate, self.beta1, self.beta2 = list(params), learning_rate, beta1, beta2
        self.epsilon, self.weight_decay = epsilon, weight_decay
        self.m, self.v, self.t = {}, {}, {}

    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            t = self.t[i] = self.t.get(i, 0) + 1
            self.m[i] = self.beta1 * self.m.get(i, 0.0) + (1 - self.beta1) * p.grad
            self.v[i] = self.beta2 * self.v.get(i, 0.0) + (1 - self.beta2) * p.grad**2
            update = (self.m[i] / (1 - self.beta1**t)) / (np.sqrt(self.v[i] / (1 - self.beta2**t)) + self.epsilon)
            p.data = p.data - self.learning_rate * (update + self.weight_decay * p.data)


def pure(p, g, state, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
    m = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    v = betas[1] * state.get("v", 0) + (1 - betas[1]) * g * g
    update = m / (1 - betas[0] ** step) / (np.sqrt(v / (1 - betas[1] ** step)) + eps)
    return p * (1 - lr * weight_decay) - lr * update, {"m": m, "v": v}


def pure_torch(p, g, state, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
    m, v = state.get("m", torch.zeros_like(p)), state.get("v", torch.zeros_like(p))
    m, v = torch.lerp(m, g, 1 - betas[0]), torch.lerp(v, g * g, 1 - betas[1])
    update = m / (1 - betas[0] ** step) / (torch.sqrt(v / (1 - betas[1] ** step)) + eps)
    return p * (1 - lr * weight_decay) - lr * update, {"m": m, "v": v}


def factory(params, **settings):
    return torch.optim.AdamW(params, **settings)


RIGHT = (
    AsTheBookHasIt,
    InPlace,
    EpsilonScaled,
    Debiased,
    SumsInsteadOfAverages,
    RunningProducts,
    PlainNumpy,
    pure,
    pure_torch,
    factory,
)
