"""Optimizers as the listings of well-known tutorials have them, right by their own reading of the rule."""

import math

import torch


class AdamW(torch.optim.Optimizer):
    """A course's: decay after the update, none by default, and a closure that is taken and never called."""

    inside = False

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(p)
                    state["exp_avg_sq"] = torch.zeros_like(p)
                state["step"] += 1
                state["exp_avg"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                m_hat = state["exp_avg"] / (1 - beta1 ** state["step"])
                v_hat = state["exp_avg_sq"] / (1 - beta2 ** state["step"])
                below = (v_hat + group["eps"]).sqrt() if self.inside else v_hat.sqrt() + group["eps"]
                p.addcdiv_(m_hat, below, value=-group["lr"])
                if group["weight_decay"] != 0:
                    p.mul_(1 - group["lr"] * group["weight_decay"])


class AdamWEpsilonInside(AdamW):
    """The same with ε inside the root, as the course's equation prints it."""

    inside = True


class SGDWithMomentum:
    """A survey's: no base class, no closure, a momentum of 0.9 by default."""

    def __init__(self, params, lr=0.01, momentum=0.9, weight_decay=0.0, nesterov=False):
        self.params, self.lr, self.momentum = list(params), lr, momentum
        self.weight_decay, self.nesterov = weight_decay, nesterov
        self.velocities = [torch.zeros_like(p) for p in self.params]

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self):
        for p, v in zip(self.params, self.velocities):
            if p.grad is None:
                continue
            grad = p.grad + self.weight_decay * p if self.weight_decay else p.grad
            v.mul_(self.momentum).add_(grad)
            p.sub_(self.lr * (grad + self.momentum * v if self.nesterov else v))


class AdamOptimizer:
    """A survey's: decay on the weight and after the update, one step count for all, no closure."""

    def __init__(self, params, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        self.params, self.lr, self.betas, self.eps, self.weight_decay = list(params), lr, betas, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.t = 0

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    def direction(self, m_hat, grad):
        return m_hat

    @torch.no_grad()
    def step(self):
        self.t += 1
        beta1, beta2 = self.betas
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * p.grad
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * p.grad**2
            m_hat = self.m[i] / (1 - beta1**self.t)
            v_hat = self.v[i] / (1 - beta2**self.t)
            p.sub_(self.lr * self.direction(m_hat, p.grad) / (v_hat.sqrt() + self.eps))
            if self.weight_decay > 0:
                p.sub_(self.lr * self.weight_decay * p)


class NAdamOptimizer(AdamOptimizer):
    """A survey's: a constant momentum, corrected by this step's count, without the schedule of the paper and torch."""

    def __init__(self, params, lr=0.002, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr, betas, eps, weight_decay)

    def direction(self, m_hat, grad):
        beta1 = self.betas[0]
        return beta1 * m_hat + (1 - beta1) * grad / (1 - beta1**self.t)


class NAdamOnSize(torch.optim.Optimizer):
    """The same with the corrections in the step size, as a base class of torch: no decay, a closure that is called."""

    def __init__(self, params, lr=2e-3, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"], state["m"], state["v"] = 0, torch.zeros_like(p), torch.zeros_like(p)
                state["step"] += 1
                t = state["step"]
                state["m"].lerp_(p.grad, 1 - beta1)
                state["v"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                ahead = beta1 * state["m"] + (1 - beta1) * p.grad
                size = group["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t)
                p.addcdiv_(ahead, state["v"].sqrt().add_(group["eps"] * math.sqrt(1 - beta2**t)), value=-size)
        return loss
