"""Wrong PyTorch optimizers, written by hand as learners write them; what is wrong stands in EXPECTED."""

import math

import torch
from torch.optim import Optimizer


class Adamish(Optimizer):
    """A plain, right AdamW to make mistakes in: each of the classes below overrides how one tensor is updated."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
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
                    state["step"] = 0
                    state["m"] = torch.zeros_like(p)
                    state["v"] = torch.zeros_like(p)
                state["step"] += 1
                b1, b2 = group["betas"]
                self.one(p, p.grad, state, b1, b2, group["lr"], group["eps"], group["weight_decay"])
        return loss

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        raise NotImplementedError("each class below writes it, as a learner's base class has it")


class ForgotBiasCorrection(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p.mul_(1 - lr * wd)
        s["m"].lerp_(g, 1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        p.addcdiv_(s["m"], s["v"].sqrt() + eps, value=-lr)


class L2InsteadOfDecay(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        g = g.add(p, alpha=wd)
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        mh = s["m"] / (1 - b1 ** s["step"])
        vh = s["v"] / (1 - b2 ** s["step"])
        p -= lr * mh / (torch.sqrt(vh) + eps)


class EpsilonUnderTheRoot(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p -= lr * wd * p
        s["m"] = b1 * s["m"] + (1 - b1) * g
        s["v"] = b2 * s["v"] + (1 - b2) * g**2
        mh = s["m"] / (1 - b1 ** s["step"])
        vh = s["v"] / (1 - b2 ** s["step"])
        p -= lr * mh / torch.sqrt(vh + eps)


class DecayLast(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        mh = s["m"] / (1 - b1 ** s["step"])
        vh = s["v"] / (1 - b2 ** s["step"])
        p.addcdiv_(mh, vh.sqrt().add_(eps), value=-lr)
        p.add_(p, alpha=-lr * wd)


class DecayByLambdaAlone(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p.mul_(1 - wd)
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        p.addcdiv_(s["m"] / (1 - b1 ** s["step"]), (s["v"] / (1 - b2 ** s["step"])).sqrt() + eps, value=-lr)


class GrowingWeights(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p.mul_(1 + lr * wd)
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        p.addcdiv_(s["m"] / (1 - b1 ** s["step"]), (s["v"] / (1 - b2 ** s["step"])).sqrt() + eps, value=-lr)


class AveragesNotInPlace(Adamish):
    """The classic: `mul` where `mul_` was meant."""

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p.mul_(1 - lr * wd)
        m = s["m"].mul(b1).add(g, alpha=1 - b1)
        v = s["v"].mul(b2).addcmul(g, g, value=1 - b2)
        mh = m / (1 - b1 ** s["step"])
        vh = v / (1 - b2 ** s["step"])
        p.sub_(lr * mh / (vh.sqrt() + eps))


class EpsilonBeforeCorrection(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p.mul_(1 - lr * wd)
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        alpha = lr * math.sqrt(1 - b2 ** s["step"]) / (1 - b1 ** s["step"])
        p.addcdiv_(s["m"], s["v"].sqrt().add_(eps), value=-alpha)


class EpsilonOneInAMillion(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p.mul_(1 - lr * wd)
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        p.addcdiv_(s["m"] / (1 - b1 ** s["step"]), (s["v"] / (1 - b2 ** s["step"])).sqrt() + 1e-6, value=-lr)


class GradientNotSquared(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p.mul_(1 - lr * wd)
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).add_(g.abs(), alpha=1 - b2)
        p.addcdiv_(s["m"] / (1 - b1 ** s["step"]), (s["v"] / (1 - b2 ** s["step"])).sqrt() + eps, value=-lr)


class ForgotTheRoot(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p.mul_(1 - lr * wd)
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        # "the root" of v_hat, written as if the correction had one of its own
        p.addcdiv_(s["m"] / (1 - b1 ** s["step"]), s["v"] / math.sqrt(1 - b2 ** s["step"]) ** 2 + eps, value=-lr)


class BetasSwapped(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p.mul_(1 - lr * wd)
        b2, b1 = b1, b2
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        p.addcdiv_(s["m"] / (1 - b1 ** s["step"]), (s["v"] / (1 - b2 ** s["step"])).sqrt() + eps, value=-lr)


class CorrectedStateKept(Adamish):
    def one(self, p, g, s, b1, b2, lr, eps, wd):
        p.mul_(1 - lr * wd)
        s["m"] = (b1 * s["m"] + (1 - b1) * g) / (1 - b1 ** s["step"])
        s["v"] = (b2 * s["v"] + (1 - b2) * g * g) / (1 - b2 ** s["step"])
        p -= lr * s["m"] / (s["v"].sqrt() + eps)


class TwoThingsAtOnce(Adamish):
    """No correction, and decay in the gradient."""

    def one(self, p, g, s, b1, b2, lr, eps, wd):
        g = g + wd * p
        s["m"].mul_(b1).add_(g, alpha=1 - b1)
        s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
        p.addcdiv_(s["m"], s["v"].sqrt() + eps, value=-lr)


class OneCounterForAll(Optimizer):
    """A counter on self, raised once per parameter."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.t = 0

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                self.t += 1
                s = self.state[p]
                s.setdefault("m", torch.zeros_like(p))
                s.setdefault("v", torch.zeros_like(p))
                s["m"].mul_(b1).add_(p.grad, alpha=1 - b1)
                s["v"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                root = (s["v"] / (1 - b2**self.t)).sqrt() + group["eps"]
                p.addcdiv_(s["m"] / (1 - b1**self.t), root, value=-group["lr"])
        return loss


class WritesIntoTheGradient(Optimizer):
    """Adam; its decay is added to p.grad itself."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                if len(s) == 0:
                    s["t"], s["m"], s["v"] = 0, torch.zeros_like(p), torch.zeros_like(p)
                s["t"] += 1
                g = p.grad
                g += group["weight_decay"] * p
                s["m"].mul_(b1).add_(g, alpha=1 - b1)
                s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
                root = (s["v"] / (1 - b2 ** s["t"])).sqrt() + group["eps"]
                p.addcdiv_(s["m"] / (1 - b1 ** s["t"]), root, value=-group["lr"])
        return loss


class MovesNothing(Optimizer):
    """`p = p - ...` names a new tensor."""

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
                    p = p - group["lr"] * p.grad
        return loss


class HeavyBallOfKeras(Optimizer):
    """The learning rate inside the buffer."""

    def __init__(self, params, lr=1e-3, momentum=0.0, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

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
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                g = p.grad + group["weight_decay"] * p
                velocity.mul_(group["momentum"]).sub_(group["lr"] * g)
                p.add_(velocity)
        return loss


class AveragedMomentum(Optimizer):
    """(1 − momentum) in front of the gradient."""

    def __init__(self, params, lr=1e-3, momentum=0.0, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            mu = group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                b = self.state[p].setdefault("b", torch.zeros_like(p))
                b.mul_(mu).add_(p.grad + group["weight_decay"] * p, alpha=1 - mu)
                p.sub_(group["lr"] * b)
        return loss


class NesterovEverywhere(Optimizer):
    """It takes no flag, and always looks ahead."""

    def __init__(self, params, lr=1e-3, momentum=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum})

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
                b = self.state[p].setdefault("b", torch.zeros_like(p))
                b.mul_(group["momentum"]).add_(p.grad)
                p.sub_(group["lr"] * (p.grad + group["momentum"] * b))
        return loss


class LionByTheAverage(Optimizer):
    """The sign of the average that was just updated."""

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
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["betas"][1])
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(m.sign(), alpha=-group["lr"])
        return loss


EXPECTED = {
    "ForgotBiasCorrection": ("adamw", ("no-bias-correction",)),
    "L2InsteadOfDecay": ("adamw", ("decay-in-gradient",)),
    "EpsilonUnderTheRoot": ("adamw", ("eps-inside-root",)),
    "DecayLast": ("adamw", ("decay-after",)),
    "DecayByLambdaAlone": ("adamw", ("decay-without-lr",)),
    "GrowingWeights": ("adamw", ("decay-sign",)),
    "AveragesNotInPlace": ("adamw", ("state-not-stored",)),
    "EpsilonBeforeCorrection": ("adamw", ("eps-before-correction",)),
    "EpsilonOneInAMillion": ("adamw", ("eps-is-1e-06",)),
    "GradientNotSquared": ("adamw", ("v-from-magnitude",)),
    "ForgotTheRoot": ("adamw", ("v-not-rooted",)),
    "BetasSwapped": ("adamw", ("betas-swapped",)),
    "CorrectedStateKept": ("adamw", ("correction-stored",)),
    "TwoThingsAtOnce": ("adamw", ("no-bias-correction", "decay-in-gradient")),
    "OneCounterForAll": ("adamw", ("steps-per-visit", "steps-not-saved")),
    "WritesIntoTheGradient": ("adam", ("gradient-written",)),
    "MovesNothing": ("sgd", ("parameter-not-moved",)),
    "HeavyBallOfKeras": ("sgd", ("lr-in-buffer",)),
    "AveragedMomentum": ("sgd", ("momentum-averaged",)),
    "NesterovEverywhere": ("sgd", ("nesterov-always",)),
    "LionByTheAverage": ("lion", ("sign-of-average",)),
}
