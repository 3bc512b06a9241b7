"""The base of all rules: hyperparameters, slots of state, coefficients of one step, the update, and its functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final, get_args

import numpy as np

from gradstep.rules.settings import Settings, flag
from gradstep.warn import warn_user

Array = Any
"""A Python float, a NumPy array, a torch tensor or a traced value; rules treat all alike."""

Sight = Literal["elements", "means", "tensor", "matrix"]

SIGHTS: tuple[Sight, ...] = get_args(Sight)
"""The values of :attr:`Rule.sees`, from the narrowest."""

Coefficients = Any
"""The scalars of one step by name (``c.beta1``), in the arithmetic of the engine."""


@final
@dataclass(frozen=True)
class Slot:
    """One value of state per parameter element.

    Attributes:
        name: its key in ``optimizer.state[p]``; torch's own where torch has the optimizer.
        signed: False when the value is never negative (a second moment), which storage may exploit.
        fill: its value before the first step.
        collapsed: the axis or axes, counted from the end, along which only a mean is kept (their length is 1), or None
            for the parameter's own shape.
        exact: True for a copy of weights: it stays in float32 whatever the precision of state, since a weight changes
            by less than 8 bits hold.

    >>> from gradstep.rules import Adam
    >>> Adam().slots(2) == (Slot("exp_avg"), Slot("exp_avg_sq", signed=False))
    True
    """

    name: str
    signed: bool = True
    fill: float = 0.0
    collapsed: int | tuple[int, ...] | None = None
    exact: bool = False

    def shape(self, of: tuple[int, ...]) -> tuple[int, ...]:
        """Return the slot's shape for a parameter of shape ``of``.

        >>> Slot("row_var", collapsed=-1).shape((8, 3))
        (8, 1)
        """
        if self.collapsed is None:
            return of
        axes = (self.collapsed,) if isinstance(self.collapsed, int) else self.collapsed
        ones = {axis % len(of) for axis in axes}
        return tuple(1 if axis in ones else length for axis, length in enumerate(of))


@final
class State:
    """The ``slots`` of one parameter inside :meth:`Rule.update`, by name: read ``s.exp_avg``, assign ``s.exp_avg``.

    >>> "exp_avg" in State(exp_avg=0.0)
    True
    """

    def __init__(self, **slots: Array) -> None:
        # setattr in a loop: torch.compile can trace this, but not a SimpleNamespace.
        for name, value in slots.items():
            setattr(self, name, value)

    def __contains__(self, name: str) -> bool:
        return hasattr(self, name)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Array: ...
        def __setattr__(self, name: str, value: Array) -> None: ...


@dataclass(frozen=True)
class Rule(Settings, ABC):
    """The mathematics of one optimizer; an instance is one checked set of hyperparameters.

    Subclass it as a frozen dataclass and make its fields with :mod:`gradstep.rules.settings`. Write
    :meth:`slots`, :meth:`coefficients` and :meth:`update`; then every engine and every storage works.

    Args:
        maximize: climb instead of descend: the gradient's sign is turned before the rule sees it.

    Raises:
        ValueError: a hyperparameter out of its bounds, or not finite.
        TypeError: a hyperparameter of the wrong kind.

    >>> from gradstep.rules import AdamW
    >>> AdamW(lr=0.1).betas
    (0.9, 0.999)
    >>> AdamW(lr=-1)
    Traceback (most recent call last):
    ValueError: Invalid learning rate: -1 (must be at least 0)
    """

    maximize: bool = flag(False, kw_only=True)

    scalars: ClassVar[Mapping[str, float]] = {}
    """State that is one number per parameter, beside ``step``, with its value before the first step."""

    fixed: ClassVar[Mapping[str, Any]] = {}
    """Settings of a related optimizer that have one fixed value here; a group with another value is refused."""

    beyond_torch: ClassVar[frozenset[str]] = frozenset()
    """Settings that torch's class of the same name does not have.

    A group without them, as torch writes it, means their defaults; so groups contain them only where they differ.
    """

    sees: ClassVar[Sight] = "elements"
    """The numbers that one new number is computed from: those of the same element (``"elements"``), and means over the
    whole parameter (``"means"``, by :func:`gradstep.rules.ops.mean` without an axis); anything of the whole parameter
    (``"tensor"``), or of a matrix, by products too (``"matrix"``). The fused kernel has the first two."""

    averages: ClassVar[bool] = False
    """Whether a model is evaluated at other weights than those that the rule steps: then it has :meth:`averaged`."""

    def __init_subclass__(cls) -> None:
        if "elementwise" in vars(cls):  # the name of 0.1.0
            cls.sees = "elements" if cls.__dict__["elementwise"] else "tensor"
            new = f"sees = {cls.sees!r} in place of elementwise = {cls.__dict__['elementwise']}"
            warn_user(f"{cls.__name__}: write {new}", DeprecationWarning)
        if cls.sees not in SIGHTS:
            raise ValueError(f"Invalid sees of {cls.__name__}: {cls.sees!r} (choose {', '.join(map(repr, SIGHTS))})")

    def slots(self, ndim: int) -> tuple[Slot, ...]:
        """Return the slots of a parameter with ``ndim`` dimensions; an elementwise rule ignores ``ndim``."""
        del ndim
        return ()

    @property
    def structure(self) -> tuple[Any, ...]:
        """The class, the slots of vectors and of matrices, and the settings that are no numbers.

        Rules with equal structures take the same parameters, with the same state.
        """
        words = tuple(value for value in vars(self).values() if not isinstance(value, (float, tuple)))
        return (type(self), self.slots(1), self.slots(2), words)

    def explain_refusal(self, shape: tuple[int, ...]) -> str | None:
        """Return why the rule cannot update a parameter of shape ``shape``, and the remedy; None if it can.

        Only rules that see matrices are asked; these refuse fewer than two dimensions, unless they say otherwise.
        """
        if self.sees == "matrix" and len(shape) < 2:
            return 'it has no rows and columns: give it a group with "rule": "AdamW"'
        return None

    def averaged(self, p: Array, s: State) -> Array:
        """Return the weights that the model is evaluated at, of a rule that :attr:`averages`.

        Args:
            p: the parameter after its last update.
            s: its slots.
        """
        del s
        return p

    @abstractmethod
    def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
        """Return the numbers of one step, by name; computed once per group and step, in float64.

        Args:
            step: the number of this update of the parameter; the first is 1.
            scalars: the values of :attr:`scalars` before this step. A coefficient of the same name is the value
                after it.
        """

    @staticmethod
    @abstractmethod
    def update(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        """Take one step: assign the new slots to ``s`` and return the new parameter.

        Use plain arithmetic, the functions of :mod:`gradstep.rules.ops` and the numbers in ``c``. Test for an optional
        slot by ``"name" in s``. No branch may depend on the data: use ``where``.

        Args:
            p: the parameter, any shape.
            g: its gradient of the same shape (already unscaled, clipped and, for ``maximize``, negated).
            s: its slots.
            c: the coefficients of this step.
        """


@dataclass(frozen=True)
class StepRule(Rule):
    """A rule whose update is a decay and a step, p ← keep · p − step; such a rule can be modified.

    Write :meth:`step` in place of :meth:`Rule.update`, and a coefficient ``keep``, or ``decays = False`` if there is no
    decay of the weight itself. Then :func:`gradstep.modify` makes other rules from it.

    Args:
        maximize: as of :class:`Rule`.

    >>> from dataclasses import dataclass
    >>> from gradstep import StepRule, modify, rules
    >>> from gradstep.rules.settings import learning_rate
    >>> @dataclass(frozen=True)
    ... class Descent(StepRule):
    ...     lr: float = learning_rate(0.1)
    ...     decays = False
    ...
    ...     def coefficients(self, step, **scalars):
    ...         return {"lr": self.lr}
    ...
    ...     @staticmethod
    ...     def step(p, g, s, c):
    ...         return c.lr * g
    >>> Descent.update(1.0, 2.0, None, State(**Descent().coefficients(1)))
    0.8
    >>> modify(Descent, rules.RMSClip).__name__
    'RMSClipDescent'
    """

    decays: ClassVar[bool] = True
    """Whether the weight itself decays, by the coefficient ``keep``."""

    @staticmethod
    @abstractmethod
    def step(p: Array, g: Array, s: State, c: Coefficients) -> Array:
        """Assign the new slots to ``s``, and return what the update subtracts from the decayed parameter.

        Args:
            p, g, s, c: as of :meth:`Rule.update`.
        """

    @classmethod
    def update(cls, p: Array, g: Array, s: State, c: Coefficients) -> Array:
        """Take one step: decay the parameter, and subtract :meth:`step`.

        Args:
            p, g, s, c: as of :meth:`Rule.update`.
        """
        step = cls.step(p, g, s, c)
        return cls.decay(p, step, c) - step

    @classmethod
    def decay(cls, p: Array, step: Array, c: Coefficients) -> Array:
        """Return the decayed parameter.

        Args:
            p, c: as of :meth:`Rule.update`.
            step: what will be subtracted from it.
        """
        del step
        return c.keep * p if cls.decays else p


# -- functions ---------------------------------------------------------------------------------------------------------
# Users find these in gradstep.rules.ops, with those that only rules of whole tensors need. Torch's tensors and traced
# values have methods of the same names.
#
# The functions test `type(x) is float`: NumPy's float64 is a subclass of float, and a Python number in its place would
# lack the methods that `mean` and `rms` need for a tensor of one element.

NUMPY_VALUES = (float, np.ndarray, np.generic)
"""The types that NumPy's functions are called for."""


def sqrt(x: Array) -> Array:
    """Square root of every element, correctly rounded (NaN below zero).

    >>> sqrt(9.0)
    3.0
    """
    if type(x) is float:
        return float(np.sqrt(x))
    return np.sqrt(x) if isinstance(x, NUMPY_VALUES) else x.sqrt()


def sign(x: Array) -> Array:
    """Sign of every element: -1, 0 or 1; NaN stays NaN.

    >>> sign(-0.25)
    -1.0
    """
    if type(x) is float:
        return float(np.sign(x))
    # torch's sign of NaN is 0, which would hide it.
    return np.sign(x) if isinstance(x, NUMPY_VALUES) else x.sign().where(x == x, x)


def maximum(x: Array, y: Array) -> Array:
    """The larger of each pair; NaN if either is. ``y`` may be a Python number.

    >>> maximum(1.0, 2.0)
    2.0
    """
    if type(x) is float:
        return float(np.maximum(x, y))
    if isinstance(x, NUMPY_VALUES):
        # A Python number stays weak, so that a float32 array stays float32.
        return np.maximum(x, y)
    return x.clamp(min=y) if isinstance(y, float) else x.maximum(y)


def where(condition: Array, x: Array, y: Array) -> Array:
    """``x`` where the condition holds, else ``y``; ``x`` is an array of the condition's shape, ``y`` may be a number.

    >>> where(True, 1.0, 2.0)
    1.0
    """
    if type(x) is float:
        return float(np.where(condition, x, y))
    return np.where(condition, x, y) if isinstance(x, NUMPY_VALUES) else x.where(condition, y)
