"""SGD, Adam and AdamW with exactly the teaching framework's interface, and optimizers made from any other rule."""

import inspect
import types
from abc import ABC
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, final

from gradstep import rules
from gradstep.numpy.averaging import AveragingRuleOptimizer
from gradstep.numpy.base import HasGradient
from gradstep.numpy.rule_optimizer import RuleOptimizer, SlotBuffers, check_length, copy_buffers, restore_buffers
from gradstep.numpy.settings import NUMPY_SETTINGS, build_rule, signature_of
from gradstep.numpy.table import Buffers
from gradstep.rules import Rule, settings_of
from gradstep.rules.adam import AdamRule
from gradstep.rules.settings import nonnegative


@final
class SGD(RuleOptimizer, rule=rules.SGD):
    """Gradient descent with momentum: ``v ← μ v + (g + λ p)``, ``p ← p − lr · v``; v starts at 0.

    The mathematics is that of :class:`gradstep.rules.SGD`. The signature, its order and its defaults are the
    teaching framework's; further settings can be given by name only.

    Args:
        params: objects with ``data`` (an array of float32 or float64, changed in place) and ``grad``.
        lr: learning rate; finite, at least 0.
        momentum: μ; finite, at least 0; 0 keeps no buffers, and 1 or more gives a warning, since v never fades.
        weight_decay: λ, added to the gradient; finite, at least 0.
        dampening, nesterov, maximize: as in :class:`gradstep.rules.SGD`.
        parameters: another name for ``params``, of the framework's earlier edition.
        engine: ``"auto"``, ``"fused"`` or ``"reference"``.

    Raises:
        ValueError: a setting out of its bounds, a parameter twice, or one that needs no gradient; nothing was changed.
        TypeError: a setting of the wrong kind, or something that is no parameter; nothing was changed.

    Example:
        >>> import numpy as np
        >>> from gradstep.numpy import Parameter
        >>> p = Parameter(np.array([1.0, 2.0]))
        >>> optimizer = SGD([p], lr=0.1, momentum=0.9)
        >>> for _ in range(2):
        ...     p.grad = np.array([0.1, 0.2])
        ...     optimizer.step()
        >>> optimizer.momentum_buffers[0], p.data
        (array([0.19, 0.38]), array([0.971, 1.942]))
    """

    lr: float
    momentum: float
    weight_decay: float
    dampening: float
    nesterov: bool
    maximize: bool

    def __init__(
        self,
        params: Iterable[HasGradient] | None = None,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        dampening: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        parameters: Iterable[HasGradient] | None = None,
        engine: str = "auto",
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            dampening=dampening,
            nesterov=nesterov,
            maximize=maximize,
            parameters=parameters,
            engine=engine,
        )

    momentum_buffers = SlotBuffers("momentum_buffer")
    """The velocity v of every parameter: None before its first step, and while there is no momentum."""

    def has_momentum(self) -> bool:
        """Return whether the optimizer keeps momentum buffers."""
        return self.momentum > 0

    def get_momentum_state(self) -> Buffers | None:
        """Return copies of the buffers, one per parameter; None without momentum."""
        return copy_buffers(self.momentum_buffers) if self.has_momentum() else None

    def set_momentum_state(self, state: Sequence[Any] | None) -> None:
        """Replace the buffers by copies of ``state``; does nothing for None, or without momentum.

        Raises:
            ValueError: the number of buffers, or the shape of a buffer, is wrong; nothing was changed.
        """
        if state is not None and self.has_momentum():
            self.momentum_buffers = state


class _Moments(RuleOptimizer, ABC):
    """The base of Adam and AdamW: two moments under the teaching framework's names."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    amsgrad: bool
    bias_correction: bool
    maximize: bool

    m_buffers = SlotBuffers("exp_avg")
    """The first moment of every parameter, None before its first step."""

    v_buffers = SlotBuffers("exp_avg_sq")
    """The second moment of every parameter, None before its first step."""

    @property
    def beta1(self) -> float:
        """The averaging coefficient of the gradient."""
        return self.betas[0]

    @beta1.setter
    def beta1(self, value: float) -> None:
        self.betas = (value, self.betas[1])

    @property
    def beta2(self) -> float:
        """The averaging coefficient of the squared gradient."""
        return self.betas[1]

    @beta2.setter
    def beta2(self, value: float) -> None:
        self.betas = (self.betas[0], value)

    def has_momentum(self) -> bool:
        """Return whether the optimizer keeps momentum buffers: always True."""
        return True

    def get_momentum_state(self) -> list[tuple[Any, Any]]:
        """Return copies of the moments, a pair (m, v) per parameter; (None, None) before its first step.

        The result lacks ``update_counts``, without which the bias correction starts anew. Save both, or use
        :meth:`state_dict`, which has everything.
        """
        return list(zip(copy_buffers(self.m_buffers), copy_buffers(self.v_buffers)))

    def set_momentum_state(self, state: Sequence[Any] | None) -> None:
        """Replace the moments by copies of ``state``; None changes nothing.

        Raises:
            ValueError: the number of pairs is wrong, a pair is incomplete, or an array has another shape; nothing was
                changed.
        """
        if state is None:
            return
        check_length(state, len(self.params))
        for i, pair in enumerate(state):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(f"the state of parameter {i} must be a pair (m, v), but is {pair!r}")
            if (pair[0] is None) != (pair[1] is None):
                raise ValueError(f"the moments of parameter {i} must both be arrays or both be None")
        m = restore_buffers([m for m, _ in state], self.params, self.rule, "exp_avg")
        v = restore_buffers([v for _, v in state], self.params, self.rule, "exp_avg_sq")
        self.buffers |= {"exp_avg": m, "exp_avg_sq": v}


@final
class Adam(_Moments, rule=rules.Adam):
    """Adam, whose weight decay is added to the gradient; see :class:`gradstep.rules.Adam` for the equations.

    Args:
        params: objects with ``data`` (an array of float32 or float64, changed in place) and ``grad``.
        lr: learning rate; finite, at least 0.
        betas: (β₁, β₂), each in [0, 1); also ``beta1`` and ``beta2``.
        eps: ε, outside the root; finite, at least 0.
        weight_decay: λ; finite, at least 0.
        amsgrad, decoupled_weight_decay, bias_correction, maximize: as in :class:`gradstep.rules.Adam`.
        parameters: another name for ``params``, of the framework's earlier edition.
        engine: ``"auto"``, ``"fused"`` or ``"reference"``.

    Raises:
        ValueError: a setting out of its bounds, a parameter twice, or one that needs no gradient; nothing was changed.
        TypeError: a setting of the wrong kind, or something that is no parameter; nothing was changed.

    Example:
        >>> import numpy as np
        >>> from gradstep.numpy import Parameter
        >>> p = Parameter(np.array([1.0, 2.0]), grad=np.array([0.1, -20.0]))
        >>> Adam([p], lr=0.01).step()
        >>> p.data  # the first step is lr times the sign of the gradient
        array([0.99, 2.01])
    """

    decoupled_weight_decay: bool

    def __init__(
        self,
        params: Iterable[HasGradient] | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = True,
        maximize: bool = False,
        parameters: Iterable[HasGradient] | None = None,
        engine: str = "auto",
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            decoupled_weight_decay=decoupled_weight_decay,
            bias_correction=bias_correction,
            maximize=maximize,
            parameters=parameters,
            engine=engine,
        )


@final
@dataclass(frozen=True)
class _DecayAfter(AdamRule):
    """AdamW that decays the weight after the update, as in the teaching framework's earlier edition.

    (p − u)(1 − ηλ) = (1 − ηλ) p − (1 − ηλ) u, which is AdamW with another step size.
    """

    weight_decay: float = nonnegative(1e-2)

    @property
    def decoupled(self) -> bool:
        return True

    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        c = super().coefficients(step, **scalars)
        return {**c, "step_size": c["step_size"] * c["keep"]}


@final
class AdamW(_Moments, rule=rules.AdamW):
    """AdamW, whose weight decay acts on the weight itself; see :class:`gradstep.rules.AdamW` for the equations.

    The decay acts on the *old* weight, as in the paper, in torch and in the teaching framework's present edition; its
    earlier edition decayed after the update (``decay="after"``), which differs by lr² · λ · (the update).

    Args:
        params: objects with ``data`` (an array of float32 or float64, changed in place) and ``grad``.
        lr: learning rate; finite, at least 0.
        betas: (β₁, β₂), each in [0, 1); also ``beta1`` and ``beta2``.
        eps: ε, outside the root; finite, at least 0.
        weight_decay: λ, scaled by the learning rate; finite, at least 0.
        amsgrad, bias_correction, maximize: as in :class:`gradstep.rules.AdamW`.
        decay: whether the weight decays ``"before"`` the update or ``"after"`` it.
        parameters: another name for ``params``, of the framework's earlier edition.
        engine: ``"auto"``, ``"fused"`` or ``"reference"``.

    Raises:
        ValueError: a setting out of its bounds, a parameter twice, or one that needs no gradient; nothing was changed.
        TypeError: a setting of the wrong kind, or something that is no parameter; nothing was changed.

    Example:
        >>> import numpy as np
        >>> from gradstep.numpy import Parameter
        >>> p = Parameter(np.array([2.0]), grad=np.array([1.0]))
        >>> AdamW([p], lr=0.1, betas=(0.0, 0.0), weight_decay=0.5).step()
        >>> p.data  # 0.1 by the decay of the old weight, 0.1 by the step
        array([1.8])
        >>> p = Parameter(np.array([2.0]), grad=np.array([1.0]))
        >>> AdamW([p], lr=0.1, betas=(0.0, 0.0), weight_decay=0.5, decay="after").step()
        >>> p.data  # 0.1 by the step, then 5% of 1.9
        array([1.805])
    """

    def __init__(
        self,
        params: Iterable[HasGradient] | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        amsgrad: bool = False,
        bias_correction: bool = True,
        maximize: bool = False,
        decay: Literal["before", "after"] = "before",
        parameters: Iterable[HasGradient] | None = None,
        engine: str = "auto",
    ) -> None:
        if decay not in ("before", "after"):
            raise ValueError(f"decay must be 'before' or 'after' the update, but is {decay!r}")
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            bias_correction=bias_correction,
            maximize=maximize,
            parameters=parameters,
            engine=engine,
        )
        if decay == "after":
            self._rule = build_rule(
                _DecayAfter, {s.name: getattr(self._rule, s.name) for s in settings_of(rules.AdamW)}
            )


_CLASSIC: dict[type[Rule], type[RuleOptimizer]] = {kind.rule_class: kind for kind in (SGD, Adam, AdamW)}


@cache
def optimizer(rule: type[Rule]) -> type[RuleOptimizer]:
    """Return an optimizer class over NumPy arrays for a rule, built in or a user's own.

    Args:
        rule: a finished subclass of :class:`gradstep.Rule`, decorated with ``@dataclass(frozen=True)``.

    Returns:
        A class that takes ``(params, ...the rule's settings, engine="auto")``.

    Raises:
        TypeError: ``rule`` is not a class of this kind, or lacks a method.

    >>> import numpy as np
    >>> from gradstep import rules
    >>> from gradstep.numpy import Parameter
    >>> p = Parameter(np.zeros(2), grad=np.array([3.0, -4.0]))
    >>> optimizer(rules.Lion)([p], lr=0.5).step()
    >>> p.data
    array([-0.5,  0.5])
    """
    if not (inspect.isclass(rule) and issubclass(rule, Rule)):  # type: ignore[redundant-expr]  # anything may come
        raise TypeError(f"optimizer() takes a subclass of gradstep.Rule, not {rule!r}")
    if inspect.isabstract(rule):
        raise TypeError(f"{rule.__name__} is not finished: write {', '.join(sorted(rule.__abstractmethods__))}")
    if "__dataclass_fields__" not in vars(rule):
        raise TypeError(f"{rule.__name__} needs @dataclass(frozen=True) above it, so that its settings are found")
    if rule in _CLASSIC:
        return _CLASSIC[rule]
    plain = AveragingRuleOptimizer if rule.averages else RuleOptimizer
    new = types.new_class(rule.__name__, (plain,), {"rule": rule})
    new.__doc__ = inspect.cleandoc(rule.__doc__ or "") + "\n" + NUMPY_SETTINGS
    new.__module__ = "gradstep.numpy"  # pickle finds the classes of built-in rules there by their names
    new.__signature__ = signature_of(rule)  # type: ignore[attr-defined]  # new_class() returns any type
    return new
