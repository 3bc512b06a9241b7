"""Wrong NumPy optimizers and functions, written by hand; what is wrong stands in EXPECTED."""

import numpy as np


class DampedSGD:
    def __init__(self, params, lr=0.01, momentum=0.0, weight_decay=0.0):
        self.params, self.lr, self.momentum, self.weight_decay = params, lr, momentum, weight_decay
        self.buffers = [None] * len(params)

    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            g = p.grad + self.weight_decay * p.data
            if self.buffers[i] is None:
                self.buffers[i] = np.zeros_like(p.data)
            self.buffers[i] = self.momentum * self.buffers[i] + (1 - self.momentum) * g
            p.data = p.data - self.lr * self.buffers[i]


class SharedMomentum:
    """One buffer for all parameters."""

    def __init__(self, params, lr=0.01, momentum=0.0):
        self.params, self.lr, self.momentum = params, lr, momentum
        self.buffer = 0.0

    def step(self):
        for p in self.params:
            if p.grad is None:
                continue
            if np.shape(self.buffer) != p.data.shape:
                self.buffer = np.zeros_like(p.data)
            self.buffer = self.momentum * self.buffer + p.grad
            p.data = p.data - self.lr * self.buffer


class ClimbingSGD:
    def __init__(self, params, lr=0.01, weight_decay=0.0):
        self.params, self.lr, self.weight_decay = list(params), lr, weight_decay

    def step(self):
        for p in self.params:
            if p.grad is not None:
                p.data += self.lr * (p.grad + self.weight_decay * p.data)


class OldTinyAdamW:
    """One step count for all parameters, and decay after the update."""

    def __init__(self, params, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        self.params, self.lr, (self.beta1, self.beta2) = params, lr, betas
        self.eps, self.weight_decay, self.step_count = eps, weight_decay, 0
        self.m = [np.zeros_like(p.data) for p in params]
        self.v = [np.zeros_like(p.data) for p in params]

    def step(self):
        self.step_count += 1
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            g = p.grad.data
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * g
            self.v[i] = self.beta2 * self.v[i] + (1 - self.beta2) * (g**2)
            m_hat = self.m[i] / (1 - self.beta1**self.step_count)
            v_hat = self.v[i] / (1 - self.beta2**self.step_count)
            p.data = p.data - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)
            if self.weight_decay != 0:
                p.data = p.data * (1 - self.lr * self.weight_decay)


class ZeroBasedAdam:
    """Raises its step count after the update."""

    def __init__(self, params, lr=0.001, beta1=0.9, beta2=0.999, epsilon=1e-8):
        self.params, self.lr, self.beta1, self.beta2, self.epsilon = params, lr, beta1, beta2, epsilon
        self.m = [np.zeros_like(p.data) for p in params]
        self.v = [np.zeros_like(p.data) for p in params]
        self.t = [0] * len(params)

    def step(self):
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * p.grad
            self.v[i] = self.beta2 * self.v[i] + (1 - self.beta2) * p.grad**2
            m_hat = self.m[i] / (1 - self.beta1 ** self.t[i])
            v_hat = self.v[i] / (1 - self.beta2 ** self.t[i])
            p.data = p.data - self.lr * m_hat / (np.sqrt(v_hat) + self.epsilon)
            self.t[i] += 1


def rmsprop_without_memory(p, g, state, step, lr=1e-2, alpha=0.99, eps=1e-8):
    """Its state is never returned."""
    v = alpha * state.get("v", 0.0) + (1 - alpha) * g**2
    return p - lr * g / (np.sqrt(v) + eps), {}


def rmsprop_of_tensorflow(p, g, state, step, lr=1e-2, alpha=0.99, eps=1e-8):
    v = alpha * state.get("v", 0.0) + (1 - alpha) * g**2
    return p - lr * g / np.sqrt(v + eps), {"v": v}


def adagrad_averaging(p, g, state, step, lr=1e-2, eps=1e-10):
    total = state.get("sum", 0.0) + g * g
    return p - lr * g / (np.sqrt(total / step) + eps), {"sum": total}


def adadelta_of_gradients(p, g, state, step, lr=1.0, rho=0.9, eps=1e-6):
    """The second average takes g where the step belongs."""
    v, u = state.get("v", 0.0), state.get("u", 0.0)
    v = rho * v + (1 - rho) * g**2
    step_ = np.sqrt(u + eps) / np.sqrt(v + eps) * g
    u = rho * u + (1 - rho) * g**2
    return p - lr * step_, {"v": v, "u": u}


def adamax_summing(p, g, state, step, lr=2e-3, betas=(0.9, 0.999), eps=1e-8):
    m, u = state.get("m", 0.0), state.get("u", 0.0)
    m = betas[0] * m + (1 - betas[0]) * g
    u = betas[1] * u + (np.abs(g) + eps)
    return p - lr / (1 - betas[0] ** step) * m / u, {"m": m, "u": u}


def nadam_without_schedule(p, g, state, step, lr=2e-3, betas=(0.9, 0.999), eps=1e-8):
    b1, b2 = betas
    m = b1 * state.get("m", 0.0) + (1 - b1) * g
    v = b2 * state.get("v", 0.0) + (1 - b2) * g * g
    ahead = b1 * m / (1 - b1 ** (step + 1)) + (1 - b1) * g / (1 - b1**step)
    return p - lr * ahead / (np.sqrt(v / (1 - b2**step)) + eps), {"m": m, "v": v}


def radam_of_the_paper(p, g, state, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
    b1, b2 = betas
    m = b1 * state.get("m", 0.0) + (1 - b1) * g
    v = b2 * state.get("v", 0.0) + (1 - b2) * g * g
    most = 2 / (1 - b2) - 1
    rho = most - 2 * step * b2**step / (1 - b2**step)
    mhat = m / (1 - b1**step)
    if rho > 4:
        r = np.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
        p = p - lr * mhat * r * np.sqrt(1 - b2**step) / (np.sqrt(v) + eps)
    else:
        p = p - lr * mhat
    return p, {"m": m, "v": v}


EXPECTED = {
    "DampedSGD": ("sgd", ("momentum-averaged",)),
    "SharedMomentum": ("sgd", ("state-shared",)),
    "ClimbingSGD": ("sgd", ("ascent",)),
    "OldTinyAdamW": ("adamw", ("decay-after", "steps-of-all")),
    "ZeroBasedAdam": ("adam", ("step-from-zero",)),
    "rmsprop_without_memory": ("rmsprop", ("square-avg-not-stored",)),
    "rmsprop_of_tensorflow": ("rmsprop", ("eps-inside-root",)),
    "adagrad_averaging": ("adagrad", ("sum-as-average",)),
    "adadelta_of_gradients": ("adadelta", ("steps-from-gradient",)),
    "adamax_summing": ("adamax", ("no-maximum",)),
    "nadam_without_schedule": ("nadam", ("mu-constant",)),
    "radam_of_the_paper": ("radam", ("threshold-4",)),
}
