"""Typical wrong solutions: the right one with one line as learners write it, and what the hints then say."""

from typing import NamedTuple

from gradstep.learn.checking import CHALLENGES
from gradstep.learn.lesson import Framework


class Wrong(NamedTuple):
    challenge: str
    framework: Framework
    right: str
    wrong: str
    told: str

    @property
    def source(self):
        solution = CHALLENGES[self.challenge].lesson.code[self.framework].solution
        assert solution.count(self.right) == 1, self
        return solution.replace(self.right, self.wrong)


WRONG = [
    Wrong("sgd", "numpy", "p.data -= self.lr", "p.data += self.lr", "sign flipped: it climbs"),
    Wrong(
        "sgd",
        "numpy",
        "p.data -= self.lr * p.grad",
        "p.grad *= self.lr; p.data -= p.grad",
        "p.grad belongs to the caller",
    ),
    Wrong(
        "sgd", "numpy", "p.data -= self.lr * p.grad", "new = p.data - self.lr * p.grad", "not written to the parameter"
    ),
    Wrong(
        "sgd",
        "numpy",
        "                continue",
        "                return",
        "ended by the first parameter without gradient",
    ),
    Wrong("sgd", "torch", "alpha=-group", "alpha=group", "sign flipped: it climbs"),
    Wrong("sgd", "torch", "p.add_(p.grad", "p.add(p.grad", "not written to the parameter"),
    Wrong("sgd", "torch", 'group["lr"])', 'self.param_groups[0]["lr"])', "settings of the first group used for all"),
    Wrong(
        "momentum",
        "numpy",
        "+ p.grad\n",
        "+ (1 - self.momentum) * p.grad\n",
        "the gradient multiplied by (1 − momentum)",
    ),
    Wrong("momentum", "numpy", "p.data -= self.lr", "p.data += self.lr", "it climbs"),
    Wrong(
        "momentum", "numpy", "p.grad + self.momentum * self.buffers[i] if", "p.grad + self.buffers[i] if", "Nesterov"
    ),
    Wrong(
        "momentum",
        "torch",
        "buffer.mul_(momentum).add_(p.grad)",
        "buffer = buffer.mul(momentum).add(p.grad)",
        "not kept",
    ),
    Wrong("momentum", "torch", ".add_(p.grad)", ".add_(p.grad, alpha=1 - momentum)", "multiplied by (1 − momentum)"),
    Wrong("momentum", "torch", 'if group["nesterov"] else buffer', "", "Nesterov's step always"),
    Wrong(
        "rmsprop",
        "numpy",
        "(np.sqrt(self.v[i]) + self.eps)",
        "np.sqrt(self.v[i] + self.eps)",
        "ε inside the square root",
    ),
    Wrong("rmsprop", "numpy", "(np.sqrt(self.v[i]) + self.eps)", "(self.v[i] + self.eps)", "not square-rooted"),
    Wrong("rmsprop", "numpy", "(1 - self.alpha) * g * g", "(1 - self.alpha) * g", "v averaged from the gradient"),
    Wrong("rmsprop", "torch", "v.sqrt().add_(eps)", "(v + eps).sqrt()", "ε inside the square root"),
    Wrong("rmsprop", "torch", "v.mul_(alpha).addcmul_", "v = v.mul(alpha).addcmul_", "not kept"),
    Wrong("rmsprop", "torch", ", value=1 - alpha", "", "missing from the second average"),
    Wrong("adam", "numpy", " / (1 - beta1 ** self.t[i])", "", "no bias correction of the average gradient"),
    Wrong("adam", "numpy", "self.t[i] += 1", "self.t[i] = 1", "first step at every step"),
    Wrong(
        "adam",
        "numpy",
        "m_hat = self.m[i]",
        "m_hat = self.m[i] = self.m[i]",
        "corrected average gradient kept as the state",
    ),
    Wrong("adam", "torch", "v_hat.sqrt().add_", "v.sqrt().add_", "no bias correction of the average square"),
    Wrong("adam", "torch", 'group["weight_decay"] * p', '2 * group["weight_decay"] * p', "decay doubled"),
    Wrong(
        "adam", "torch", 'v_hat.sqrt().add_(group["eps"])', '(v_hat + group["eps"]).sqrt()', "ε inside the square root"
    ),
    Wrong("adamw", "numpy", "g = p.grad\n", "g = p.grad + self.weight_decay * p.data\n", "both"),
    Wrong(
        "adamw",
        "numpy",
        "1 - self.lr * self.weight_decay",
        "1 - self.weight_decay",
        "not multiplied by the learning rate",
    ),
    Wrong(
        "adamw",
        "numpy",
        "1 - self.lr * self.weight_decay",
        "1 + self.lr * self.weight_decay",
        "sign flipped: weights grow",
    ),
    Wrong("adamw", "torch", "p.mul_(1 - lr * weight_decay)", "g = g + weight_decay * p", "decay added to the gradient"),
    Wrong("adamw", "torch", "beta1, beta2 = group", "beta2, beta1 = group", "swapped"),
    Wrong("adamw", "torch", 'add_(group["eps"])', "add_(1e-6)", "ε = 1e-06"),
    Wrong(
        "lion",
        "numpy",
        "direction = beta1 * self.m[i] + (1 - beta1) * g",
        "direction = g",
        "the sign of the gradient alone",
    ),
    Wrong("lion", "numpy", "np.sign(direction)", "direction", "no sign"),
    Wrong("lion", "numpy", "beta2 * self.m[i] + (1 - beta2) * g", "direction", "β₁ for the average too"),
    Wrong("lion", "torch", "direction.sign()", "m.sign()", "the average before the gradient"),
    Wrong("lion", "torch", "m.mul_(beta2).add_", "m.mul(beta2).add_", "not kept"),
    Wrong("lion", "torch", "alpha=-lr", "alpha=lr", "it climbs"),
    Wrong("schedule", "numpy", "peak * update / warmup", "peak * (update + 1) / warmup", "counts from 1"),
    Wrong(
        "schedule",
        "numpy",
        "(update - warmup) / (total - warmup)",
        "update / total",
        "from update 0 instead of the end",
    ),
    Wrong("schedule", "numpy", "floor + (peak - floor) *", "peak *", "the floor"),
    Wrong("schedule", "numpy", "math.pi * share", "2 * math.pi * share", "a whole wave"),
    Wrong("schedule", "torch", "update >= total", "False", "rises again"),
    Wrong("schedule", "torch", "(1 + math.cos(math.pi * share)) / 2", "(1 - share)", "a straight line"),
    Wrong("schedule", "torch", "(total - warmup)", "total", "stretched over all updates"),
    Wrong("clipping", "numpy", "    if norm > max_norm:\n", "    if True:\n", "if norm > max_norm"),
    Wrong(
        "clipping",
        "numpy",
        "math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in grads))",
        "sum(float(np.sum(np.square(g, dtype=np.float64))) for g in grads)",
        "without its root",
    ),
    Wrong(
        "clipping",
        "numpy",
        "g *= max_norm / norm",
        "np.clip(g, -max_norm, max_norm, out=g)",
        "each element by its value",
    ),
    Wrong("clipping", "numpy", ", dtype=np.float64", "", "overflow"),
    Wrong(
        "clipping", "torch", "g.mul_(max_norm / norm)", "g.mul_(min(1, max_norm / g.norm()))", "each tensor by itself"
    ),
    Wrong("clipping", "torch", "g.mul_", "g.mul", "not clipped"),
    Wrong("clipping", "torch", "g.double().square()", "g.square()", "overflow"),
    Wrong("clipping", "torch", "    return norm", "    return min(norm, max_norm)", "returns the norm after"),
]
