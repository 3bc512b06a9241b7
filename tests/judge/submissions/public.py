"""Faulty optimizers as people publish them: in issues, in courses, in frameworks of their own.

Written from descriptions of the fault and without a look at the catalogue; EXPECTED holds the rule that each should
compute and the names under which its fault may go.
"""

import math

import numpy as np
import torch
from torch.optim import Optimizer

from tests.judge.submissions.right import Base

EXPECTED: dict[str, tuple[str, frozenset[str]]] = {}


def faulty(rule, *names):
    """Register a submission with its rule and the names of its mistakes."""

    def register(submission):
        EXPECTED[submission.__name__] = rule, frozenset(names)
        return submission

    return register


# -- AdamW over PyTorch's parameters ----------------------------------------------------------------------------------


class _Moments(Base):
    """The averages, the same in most of what follows."""

    def moments(self, g, s, b1, b2):
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        return s["m"] / (1 - b1 ** s["step"]), s["v"] / (1 - b2 ** s["step"])


@faulty("adamw", "eps-before-correction", "decay-after")
class AdamWOfAnOldLibrary(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        self.moments(g, s, b1, b2)
        denominator = s["v"].sqrt().add_(eps)
        size = lr * math.sqrt(1 - b2 ** s["step"]) / (1 - b1 ** s["step"])
        p.addcdiv_(s["m"], denominator, value=-size)
        if wd > 0:
            p.add_(p, alpha=-lr * wd)


@faulty("adamw", "decay-by-both-corrections", "eps-before-correction")
class DecayTimesTheCorrectedRate(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        self.moments(g, s, b1, b2)
        size = lr * math.sqrt(1 - b2 ** s["step"]) / (1 - b1 ** s["step"])
        p.sub_(size * (s["m"] / (s["v"].sqrt() + eps) + wd * p))


@faulty("adamw", "decay-without-weight")
class DecayIsAConstant(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g, s, b1, b2)
        p.sub_(lr * m / (v.sqrt() + eps) + lr * wd)


@faulty("adamw", "corrected-twice")
class TwoFormsOfCorrection(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g, s, b1, b2)
        p.mul_(1 - lr * wd)
        factor = math.sqrt(1 - b2 ** s["step"]) / (1 - b1 ** s["step"])
        p.sub_(lr * factor * m / (v.sqrt() + eps))


@faulty("adamw", "gradient-clamped-at-1")
class ClampsForSafety(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(torch.clamp(g, -1.0, 1.0), s, b1, b2)
        p.mul_(1 - lr * wd).sub_(lr * m / (v.sqrt() + eps))


@faulty("adamw", "gradient-clipped-by-norm")
class ClipsEachTensor(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        norm = g.norm()
        if norm > 1.0:
            g = g / norm
        m, v = self.moments(g, s, b1, b2)
        p.mul_(1 - lr * wd).sub_(lr * m / (v.sqrt() + eps))


@faulty("adamw", "decay-in-denominator")
class MissingParenthesis(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g, s, b1, b2)
        p.sub_(lr * m / (v.sqrt() + eps + wd * p))


@faulty("adamw", "decay-in-numerator")
class DecayDividedToo(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g, s, b1, b2)
        p.sub_(lr * (m + wd * p) / (v.sqrt() + eps))


@faulty("adamw", "decay-lr-twice")
class RateInDecayTwice(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g, s, b1, b2)
        p.sub_(lr * (m / (v.sqrt() + eps) + lr * wd * p))


@faulty("adamw", "correction-per-step-only")
class CorrectionWithoutPower(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        self.moments(g, s, b1, b2)
        p.mul_(1 - lr * wd).sub_(lr * (s["m"] / (1 - b1)) / ((s["v"] / (1 - b2)).sqrt() + eps))


@faulty("adamw", "no-bias-correction")
class NoCorrection(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        self.moments(g, s, b1, b2)
        p.mul_(1 - lr * wd).addcdiv_(s["m"], s["v"].sqrt() + eps, value=-lr)


@faulty("adamw", "no-v-correction")
class OnlyMIsCorrected(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, _ = self.moments(g, s, b1, b2)
        p.mul_(1 - lr * wd).addcdiv_(m, s["v"].sqrt() + eps, value=-lr)


@faulty("adamw", "decay-in-gradient")
class JustL2(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g + wd * p, s, b1, b2)
        p.sub_(lr * m / (v.sqrt() + eps))


@faulty("adamw", "decay-twice")
class DecayHereAndThere(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g.add(p, alpha=wd), s, b1, b2)
        p.mul_(1 - lr * wd).sub_(lr * m / (v.sqrt() + eps))


@faulty("adamw", "m-from-gradient-first")
class StartsAtTheFirstGradient(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        if s["step"] == 1:
            s["m"] = g.clone()
        m, v = self.moments(g, s, b1, b2)
        p.mul_(1 - lr * wd).sub_(lr * m / (v.sqrt() + eps))


@faulty("adamw", "v-from-one")
class StartsAtOne(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        if s["step"] == 1:
            s["v"] = torch.ones_like(p)
        m, v = self.moments(g, s, b1, b2)
        p.mul_(1 - lr * wd).sub_(lr * m / (v.sqrt() + eps))


@faulty("adamw", "m-never-updated")
class OutOfPlace(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        s["m"].mul(b1).add(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        m, v = s["m"] / (1 - b1 ** s["step"]), s["v"] / (1 - b2 ** s["step"])
        p.mul_(1 - lr * wd).sub_(lr * m / (v.sqrt() + eps))


@faulty("adamw", "v-with-beta1")
class OneBetaForBoth(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        s["m"].lerp_(g, 1 - b1)
        s["v"].mul_(b1).addcmul_(g, g, value=1 - b1)
        m, v = s["m"] / (1 - b1 ** s["step"]), s["v"] / (1 - b2 ** s["step"])
        p.mul_(1 - lr * wd).sub_(lr * m / (v.sqrt() + eps))


@faulty("adamw", "v-rest-of-beta1")
class WrongRest(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        s["m"].lerp_(g, 1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b1)
        m, v = s["m"] / (1 - b1 ** s["step"]), s["v"] / (1 - b2 ** s["step"])
        p.mul_(1 - lr * wd).sub_(lr * m / (v.sqrt() + eps))


@faulty("adamw", "lr-over-root-of-t")
class RateFallsByItself(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g, s, b1, b2)
        p.mul_(1 - lr * wd).sub_(lr / math.sqrt(s["step"]) * m / (v.sqrt() + eps))


@faulty("adamw", "eps-inside-root", "decay-after")
class TwoReadings(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g, s, b1, b2)
        p.sub_(lr * m / torch.sqrt(v + eps))
        p.mul_(1 - lr * wd)


@faulty("adamw", "rate-of-constructor")
class RateOfTheConstructor(_Moments):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(params, lr, betas, eps, weight_decay)
        self.lr = lr

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g, s, b1, b2)
        p.mul_(1 - self.lr * wd).sub_(self.lr * m / (v.sqrt() + eps))


@faulty("adamw", "decay-sign", "decay-without-lr")
class GrowsByLambda(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g, s, b1, b2)
        p.mul_(1 + wd).sub_(lr * m / (v.sqrt() + eps))


@faulty("adamw", "lr-missing")
class NoRate(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        m, v = self.moments(g, s, b1, b2)
        p.mul_(1 - lr * wd).sub_(m / (v.sqrt() + eps))


@faulty("adamw", "m-updated-late")
class UsesTheOldAverage(_Moments):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        old = s["m"] / (1 - b1 ** s["step"])
        _, v = self.moments(g, s, b1, b2)
        p.mul_(1 - lr * wd).sub_(lr * old / (v.sqrt() + eps))


# -- frameworks of their own, in NumPy --------------------------------------------------------------------------------


@faulty("adamw", "decay-without-lr", "steps-of-all")
class SmallFrameworksAdamW:
    def __init__(self, params, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        self.params, self.lr, self.eps, self.weight_decay = params, lr, eps, weight_decay
        self.beta1, self.beta2 = betas
        self.m = [np.zeros_like(p.data) for p in params]
        self.v = [np.zeros_like(p.data) for p in params]
        self.t = 0

    def step(self):
        self.t += 1
        for i, param in enumerate(self.params):
            if param.grad is None:
                continue
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * param.grad
            self.v[i] = self.beta2 * self.v[i] + (1 - self.beta2) * param.grad**2
            m, v = self.m[i] / (1 - self.beta1**self.t), self.v[i] / (1 - self.beta2**self.t)
            change = self.lr * m / (np.sqrt(v) + self.eps)
            if self.weight_decay > 0:
                change += self.weight_decay * param.data
            param.data -= change


@faulty("adamw", "decay-of-gradient", "decay-without-lr")
class DecayOfTheGradient:
    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8, weight_decay=0.01):
        self.learning_rate, self.beta_1, self.beta_2 = learning_rate, beta_1, beta_2
        self.epsilon, self.weight_decay = epsilon, weight_decay
        self.t, self.m, self.v = 0, None, None

    def update(self, w, grad_wrt_w):
        self.t += 1
        if self.m is None:
            self.m, self.v = np.zeros(np.shape(grad_wrt_w)), np.zeros(np.shape(grad_wrt_w))
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * grad_wrt_w
        self.v = self.beta_2 * self.v + (1 - self.beta_2) * np.power(grad_wrt_w, 2)
        m, v = self.m / (1 - self.beta_1**self.t), self.v / (1 - self.beta_2**self.t)
        return w - (self.learning_rate * m / (np.sqrt(v) + self.epsilon) + self.weight_decay * grad_wrt_w)


@faulty("adam", "correction-stored")
class AdamThatKeepsItsHats:
    def __init__(self, lr=1e-3, b1=0.9, b2=0.999, eps=1e-8):
        self.lr, self.b1, self.b2, self.eps, self.m, self.v, self.t = lr, b1, b2, eps, 0, 0, 0

    def update(self, w, dw):
        self.t += 1
        self.m = (self.b1 * self.m + (1 - self.b1) * dw) / (1 - self.b1**self.t)
        self.v = (self.b2 * self.v + (1 - self.b2) * dw**2) / (1 - self.b2**self.t)
        return w - self.lr * self.m / (np.sqrt(self.v) + self.eps)


@faulty("adam", "v-from-gradient")
class AdamNotSquared:
    def __init__(self, lr=1e-3, b1=0.9, b2=0.999, eps=1e-8):
        self.lr, self.b1, self.b2, self.eps, self.m, self.v, self.t = lr, b1, b2, eps, 0, 0, 0

    def update(self, w, dw):
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * dw
        self.v = self.b2 * self.v + (1 - self.b2) * dw
        m, v = self.m / (1 - self.b1**self.t), self.v / (1 - self.b2**self.t)
        return w - self.lr * m / (np.sqrt(v) + self.eps)


@faulty("adam", "step-from-zero")
class AdamThatCountsLate:
    def __init__(self, lr=1e-3, b1=0.9, b2=0.999, eps=1e-8):
        self.lr, self.b1, self.b2, self.eps = lr, b1, b2, eps
        self.m, self.v, self.t = {}, {}, 0

    def update(self, params, grads):
        for key in params.keys():  # noqa: SIM118 -- as the book has it
            if key not in self.m:
                self.m[key], self.v[key] = np.zeros_like(params[key]), np.zeros_like(params[key])
            self.m[key] += (1 - self.b1) * (grads[key] - self.m[key])
            self.v[key] += (1 - self.b2) * (grads[key] ** 2 - self.v[key])
            m, v = self.m[key] / np.float64(1 - self.b1**self.t), self.v[key] / np.float64(1 - self.b2**self.t)
            params[key] = params[key] - self.lr * m / (np.sqrt(v) + self.eps)
        self.t += 1


@faulty("adam", "m-corrected-by-beta2")
def adam_config(w, dw, config=None):
    config = {} if config is None else config
    config.setdefault("learning_rate", 1e-3)
    config.setdefault("beta1", 0.9)
    config.setdefault("beta2", 0.999)
    config.setdefault("epsilon", 1e-8)
    config.setdefault("m", np.zeros_like(w))
    config.setdefault("v", np.zeros_like(w))
    config.setdefault("t", 0)
    config["t"] += 1
    config["m"] = config["beta1"] * config["m"] + (1 - config["beta1"]) * dw
    config["v"] = config["beta2"] * config["v"] + (1 - config["beta2"]) * dw**2
    m = config["m"] / (1 - config["beta2"] ** config["t"])
    v = config["v"] / (1 - config["beta2"] ** config["t"])
    return w - config["learning_rate"] * m / (np.sqrt(v) + config["epsilon"]), config


@faulty("adam", "no-bias-correction", "betas-swapped")
def adam_almost(p, g, state, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
    second, first = betas
    m = first * state.get("m", 0.0) + (1 - first) * g
    v = second * state.get("v", 0.0) + (1 - second) * g * g
    return p - lr * m / (np.sqrt(v) + eps), {"m": m, "v": v}


# -- RMSprop, Adagrad -------------------------------------------------------------------------------------------------


@faulty("rmsprop", "v-updated-late", "state-updated-late")
def rmsprop_config(w, dw, config=None):
    config = {} if config is None else config
    config.setdefault("learning_rate", 1e-2)
    config.setdefault("decay_rate", 0.99)
    config.setdefault("epsilon", 1e-8)
    config.setdefault("cache", np.zeros_like(w))
    w = w - config["learning_rate"] * dw / (np.sqrt(config["cache"]) + config["epsilon"])
    config["cache"] = config["decay_rate"] * config["cache"] + (1 - config["decay_rate"]) * dw**2
    return w, config


@faulty("rmsprop", "v-weights-swapped")
class RMSpropTurnedRound:
    def __init__(self, lr=0.01, rho=0.99, eps=1e-8):
        self.lr, self.rho, self.eps, self.cache = lr, rho, eps, 0

    def update(self, w, grad):
        self.cache = (1 - self.rho) * self.cache + self.rho * grad**2
        return w - self.lr * grad / (np.sqrt(self.cache) + self.eps)


@faulty("rmsprop", "rest2-missing")
def rmsprop_sums(p, g, state, step, lr=1e-2, alpha=0.99, eps=1e-8):
    v = alpha * state.get("v", 0.0) + g * g
    return p - lr * g / (np.sqrt(v) + eps), {"v": v}


@faulty("rmsprop", "v-not-rooted")
def rmsprop_without_root(p, g, state, step, lr=1e-2, alpha=0.99, eps=1e-8):
    v = alpha * state.get("v", 0.0) + (1 - alpha) * g * g
    return p - lr * g / (v + eps), {"v": v}


@faulty("rmsprop", "v-from-one")
def rmsprop_from_ones(p, g, state, step, lr=1e-2, alpha=0.99, eps=1e-8):
    v = alpha * state.get("v", np.ones_like(p)) + (1 - alpha) * g * g
    return p - lr * g / (np.sqrt(v) + eps), {"v": v}


@faulty("rmsprop", "eps-added-to-quotient")
def rmsprop_parentheses(p, g, state, step, lr=1e-2, alpha=0.99, eps=1e-8):
    v = alpha * state.get("v", 0.0) + (1 - alpha) * g * g
    return p - lr * (g / np.sqrt(v) + eps), {"v": v}


@faulty("adagrad", "sum-not-stored")
class AdagradWithoutMemory:
    def __init__(self, lr=0.01, eps=1e-10):
        self.lr, self.eps = lr, eps

    def update(self, w, grad):
        cache = np.zeros_like(w)
        cache += grad**2
        return w - self.lr * grad / (np.sqrt(cache) + self.eps)


@faulty("adagrad", "v-not-rooted")
def adagrad_without_root(p, g, state, step, lr=1e-2, eps=1e-10):
    total = state.get("sum", 0.0) + g * g
    return p - lr * g / (total + eps), {"sum": total}


@faulty("adagrad", "lr-missing")
def adagrad_without_rate(p, g, state, step, lr=1e-2, eps=1e-10):
    total = state.get("sum", 0.0) + g * g
    return p - g / (np.sqrt(total) + eps), {"sum": total}


# -- SGD, Lion --------------------------------------------------------------------------------------------------------


@faulty("sgd", "ascent", "lr-in-buffer")
def sgd_config(w, dw, config=None):
    config = {} if config is None else config
    config.setdefault("learning_rate", 1e-2)
    config.setdefault("momentum", 0.9)
    v = config.get("velocity", np.zeros_like(w))
    v = config["momentum"] * v + config["learning_rate"] * dw
    config["velocity"] = v
    return w + v, config


@faulty("sgd", "momentum-averaged")
class SGDMovingAverage:
    def __init__(self, lr=0.01, momentum=0.9):
        self.lr, self.momentum, self.v = lr, momentum, None

    def update(self, w, grad):
        self.v = np.zeros_like(w) if self.v is None else self.v
        self.v = self.momentum * self.v + (1 - self.momentum) * grad
        return w - self.lr * self.v


@faulty("sgd", "decay-on-weight", "decay-without-lr")
class SGDWithPlainDecay:
    def __init__(self, params, lr=0.01, momentum=0.0, weight_decay=0.0):
        self.params, self.lr, self.momentum, self.weight_decay = list(params), lr, momentum, weight_decay
        self.velocity = [np.zeros_like(p.data) for p in self.params]

    def step(self):
        for v, p in zip(self.velocity, self.params):
            if p.grad is None:
                continue
            v *= self.momentum
            v += p.grad
            p.data = p.data - self.lr * v - self.weight_decay * p.data


@faulty("sgd", "momentum-undecayed")
def sgd_that_never_forgets(p, g, state, step, lr=1e-2, momentum=0.0):
    if momentum:
        g = state["b"] = state.get("b", 0.0) + g
    return p - lr * g, state


@faulty("sgd", "decay-halved")
def sgd_with_half_a_decay(p, g, state, step, lr=1e-2, weight_decay=0.0):
    return p - lr * (g + 0.5 * weight_decay * p), state


class _LionBase(Optimizer):
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    m = self.state[p].setdefault("m", torch.zeros_like(p))
                    b1, b2 = group["betas"]
                    self.one(p, p.grad, m, b1, b2, group["lr"], group["weight_decay"])
        return loss

    def one(self, p, g, m, b1, b2, lr, wd):
        raise NotImplementedError("each class below writes it: what it does to one parameter")


@faulty("lion", "decay-in-gradient")
class LionWithL2(_LionBase):
    def one(self, p, g, m, b1, b2, lr, wd):
        g = g + wd * p
        p.sub_(lr * (b1 * m + (1 - b1) * g).sign())
        m.lerp_(g, 1 - b2)


@faulty("lion", "one-beta")
class LionKeepsItsDirection(_LionBase):
    def one(self, p, g, m, b1, b2, lr, wd):
        m.mul_(b1).add_(g, alpha=1 - b1)
        p.mul_(1 - lr * wd).sub_(lr * m.sign())


@faulty("lion", "decay-after")
class LionDecaysLast(_LionBase):
    def one(self, p, g, m, b1, b2, lr, wd):
        p.sub_(lr * (b1 * m + (1 - b1) * g).sign()).mul_(1 - lr * wd)
        m.lerp_(g, 1 - b2)


@faulty("lion", "no-sign")
class LionWithoutSign(_LionBase):
    def one(self, p, g, m, b1, b2, lr, wd):
        p.mul_(1 - lr * wd).sub_(lr * (b1 * m + (1 - b1) * g))
        m.lerp_(g, 1 - b2)


@faulty("lion", "decay-without-lr")
class LionDecaysByLambda(_LionBase):
    def one(self, p, g, m, b1, b2, lr, wd):
        p.mul_(1 - wd).sub_(lr * (b1 * m + (1 - b1) * g).sign())
        m.lerp_(g, 1 - b2)
