"""Rules as a user writes them: well-known ones, and ones that strain what an engine must get right."""

from dataclasses import dataclass
from typing import ClassVar

from gradstep import Rule, Slot
from gradstep.rules.newton_schulz import newton_schulz
from gradstep.rules.ops import maximum, sign, sqrt, where
from gradstep.rules.settings import betas, epsilon, learning_rate, nonnegative


@dataclass(frozen=True)
class Signum(Rule):
    """The sign of a momentum (Bernstein et al., arXiv:1802.04434)."""

    lr: float = learning_rate(1e-2)
    momentum: float = nonnegative(0.9)

    def slots(self, ndim):
        return (Slot("momentum_buffer"),)

    def coefficients(self, step, **scalars):
        return {"lr": self.lr, "momentum": self.momentum, "rest": 1 - self.momentum}

    @staticmethod
    def update(p, g, s, c):
        s.momentum_buffer = c.momentum * s.momentum_buffer + c.rest * g
        return p - c.lr * sign(s.momentum_buffer)


@dataclass(frozen=True)
class Belief(Rule):
    """Adam by the variance of the prediction error (Zhuang et al., arXiv:2010.07468)."""

    lr: float = learning_rate(1e-3)
    betas: tuple[float, float] = betas(0.9, 0.999)
    eps: float = epsilon(1e-8)

    def slots(self, ndim):
        return (Slot("exp_avg"), Slot("exp_avg_var", signed=False))

    def coefficients(self, step, **scalars):
        b1, b2 = self.betas
        size, unbias = self.lr / (1 - b1**step), (1 - b2**step) ** -0.5
        return {"b1": b1, "r1": 1 - b1, "b2": b2, "r2": 1 - b2, "size": size, "unbias": unbias, "eps": self.eps}

    @staticmethod
    def update(p, g, s, c):
        s.exp_avg = c.b1 * s.exp_avg + c.r1 * g
        s.exp_avg_var = c.b2 * s.exp_avg_var + c.r2 * (g - s.exp_avg) ** 2 + c.eps
        return p - c.size * s.exp_avg / (sqrt(s.exp_avg_var) * c.unbias + c.eps)


@dataclass(frozen=True)
class Literals(Rule):
    """Numbers written into the update: they are of the arithmetic, not float64."""

    lr: float = learning_rate(0.1)

    def coefficients(self, step, **scalars):
        return {"lr": self.lr}

    @staticmethod
    def update(p, g, s, c):
        half = 0.5 * g + g / 3.0 - 1e-3
        clipped = where(abs(half) > 1.0, sign(half), half)
        return p - c.lr * maximum(clipped, -0.7) + (1.0 - p) * 0.1


@dataclass(frozen=True)
class Remembers(Rule):
    """Keeps the old parameter, the last gradient, and the one before: state that is assigned, not computed."""

    lr: float = learning_rate(0.1)

    def slots(self, ndim):
        return (Slot("last"), Slot("before"), Slot("old"))

    def coefficients(self, step, **scalars):
        return {"lr": self.lr}

    @staticmethod
    def update(p, g, s, c):
        s.before = s.last
        s.last = g
        s.old = p
        return p - c.lr * (g + s.before)


@dataclass(frozen=True)
class Exchanges(Rule):
    """Two slots that change places, and a parameter that is taken from one of them."""

    def slots(self, ndim):
        return (Slot("one", fill=1.0), Slot("two", fill=2.0))

    def coefficients(self, step, **scalars):
        return {}

    @staticmethod
    def update(p, g, s, c):
        s.one, s.two, p = s.two, p, s.one
        return p


@dataclass(frozen=True)
class Twice(Rule):
    """A slot that is assigned twice; the parameter is updated by what it was in between, and the decayed one stays."""

    lr: float = learning_rate(0.1)

    def slots(self, ndim):
        return (Slot("average"), Slot("square", signed=False))

    def coefficients(self, step, **scalars):
        return {"lr": self.lr, "keep": 0.9, "rest": 0.1, "half": 0.5}

    @staticmethod
    def update(p, g, s, c):
        s.average = c.keep * s.average + c.rest * g
        between = s.average
        s.average = c.half * s.average
        s.square = s.square + g * g
        s.square = s.square * c.keep + s.average * s.average
        return p - c.lr * between - c.lr * s.average / (sqrt(s.square) + c.rest)


@dataclass(frozen=True)
class Counts(Rule):
    """A scalar of its own beside the step."""

    scalars: ClassVar = {"total": 3.0}

    def coefficients(self, step, **scalars):
        return {"total": scalars["total"] + step}

    @staticmethod
    def update(p, g, s, c):
        return p - c.total * g


@dataclass(frozen=True)
class Branches(Rule):
    """What a rule must not do."""

    def slots(self, ndim):
        return (Slot("seen"),)

    def coefficients(self, step, **scalars):
        return {}

    @staticmethod
    def update(p, g, s, c):
        s.seen = g
        if g > 0:
            return p - g
        return p


@dataclass(frozen=True)
class Orthogonal(Rule):
    """Momentum made orthogonal; it does not say which shapes it cannot update."""

    lr: float = learning_rate(1e-2)

    sees = "matrix"

    def slots(self, ndim):
        return (Slot("momentum_buffer"),)

    def coefficients(self, step, **scalars):
        return {"lr": self.lr, "momentum": 0.95}

    @staticmethod
    def update(p, g, s, c):
        s.momentum_buffer = c.momentum * s.momentum_buffer + g
        return p - c.lr * newton_schulz(s.momentum_buffer)
