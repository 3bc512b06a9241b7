"""AdamW with the right mathematics, and one thing wrong around it; which probe must say so stands in EXPECTED."""

import torch
from torch.optim import Optimizer

from tests.judge.submissions.right import InPlace

_ALL_STATE: dict[tuple[int, torch.Size], torch.Tensor] = {}


class KeepsGraph(InPlace):
    """State made of tensors with a graph."""

    def step(self, closure=None):
        loss = None
        if closure is not None:
            loss = closure()
        for group in self.param_groups:
            (b1, b2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                s["t"] = s.get("t", 0) + 1
                s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * p.grad
                s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * p.grad**2
                root = (s["v"] / (1 - b2 ** s["t"])).sqrt() + group["eps"]
                update = (s["m"] / (1 - b1 ** s["t"])) / root
                p.data.mul_(1 - lr * group["weight_decay"]).sub_(lr * update.data)
        return loss


class Rebinds(InPlace):
    """p.data bound to new memory."""

    def one(self, p, *rest):
        p.data = p.data.clone()
        super().one(p, *rest)


class ScalesGradient(InPlace):
    """p.grad scaled and not scaled back."""

    def one(self, p, g, *rest):
        super().one(p, g, *rest)
        g.mul_(0.5)


class ReplacesGradient(InPlace):
    def one(self, p, g, *rest):
        super().one(p, g, *rest)
        p.grad = g.clone()


class ForgetsClosure(InPlace):
    def step(self, closure=None):
        return super().step(None)


class LosesLoss(InPlace):
    def step(self, closure=None):
        super().step(closure)


class ClosureWithoutGradients(InPlace):
    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        super().step(None)
        return loss


class WidensFloat32(InPlace):
    def one(self, p, g, s, *rest):
        p.data = p.data.double()
        s["m"], s["v"] = s["m"].double(), s["v"].double()
        super().one(p, g.double(), s, *rest)


class Random(InPlace):
    def one(self, p, g, *rest):
        super().one(p, g * (1 + 1e-3 * torch.rand(())), *rest)


class MovesWithoutGradient(InPlace):
    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
        return loss


class StateInTheModule(InPlace):
    """State by the parameter's place in its list, in a dictionary that all optimizers share."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                if p.grad is not None:
                    last = _ALL_STATE.get((i, p.shape), torch.zeros_like(p))
                    p.add_((last.to(p.dtype) if last.shape == p.shape else 0.0) * 1e-2)
                    _ALL_STATE[i, p.shape] = p.grad.clone()
        return loss


class ClipsByNorm(InPlace):
    """The update of each tensor clipped: no longer element by element."""

    def one(self, p, g, *rest):
        super().one(p, g / g.norm().clamp(min=1.0), *rest)


class NotAnOptimizer:
    """The generator that model.parameters() is, gone through once."""

    def __init__(self, params, lr=1e-3):
        self.params, self.lr = params, lr

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for p in self.params:
            if p.grad is not None:
                p.sub_(self.lr * p.grad)
        return loss


class TakesAnything(Optimizer):
    """SGD without a look at its settings."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad)
        return loss


EXPECTED = {
    "KeepsGraph": ("adamw", "no graph"),
    "Rebinds": ("adamw", "in place"),
    "ScalesGradient": ("adamw", "gradient untouched"),
    "ReplacesGradient": ("adamw", "gradient untouched"),
    "LosesLoss": ("adamw", "closure"),
    "ClosureWithoutGradients": ("adamw", "closure"),
    "WidensFloat32": ("adamw", "float32 kept"),
    "Random": ("adamw", "determinism"),
    "MovesWithoutGradient": ("adamw", "no gradients at all"),
    "StateInTheModule": ("adamw", "alone"),
    "ClipsByNorm": ("adamw", "split"),
    "NotAnOptimizer": ("sgd", "generator"),
}
