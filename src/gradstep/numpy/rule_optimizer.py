"""The base of optimizers over NumPy arrays that are made from a rule of :mod:`gradstep.rules`."""

from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import StepTable
from gradstep.engines.step import check_engine, defer_signals, take_step
from gradstep.numpy.base import HasGradient, Optimizer, choose_params
from gradstep.numpy.settings import build_rule, replace_setting, signature_of
from gradstep.numpy.table import (
    ENGINES,
    ArrayBatch,
    Buffers,
    Member,
    Table,
    check_shape,
    choose_array_engine,
    fit_array,
    gather,
)
from gradstep.rules import Rule, settings_of

_RESERVED = frozenset(("params", "parameters", "step_count", "update_counts", "buffers", "scalars"))


class RuleOptimizer(Optimizer, ABC):
    """The base of optimizers that are made from rules.

    Every setting of the rule is an attribute that may be assigned between steps, and is checked then. The state is in
    public attributes that may be assigned too.

    Args:
        params: objects with ``data`` (an array of float32 or float64, changed in place) and ``grad``.
        positional, named: the rule's settings, in its own order.
        parameters: another name for ``params``.
        engine: ``"auto"`` (the fused kernel wherever it can), ``"fused"`` or ``"reference"`` (plain NumPy).

    Attributes:
        update_counts: the number of updates of each parameter; a parameter without gradient gets no update.
        buffers: the slots by name, each a list with one array per parameter, None before its first step.
        scalars: the rule's numbers per parameter (NAdam's ``mu_product``) by name, each a list.

    Raises:
        ValueError: a setting out of its bounds, a parameter twice, an unknown engine; nothing was changed.
        TypeError: a setting of the wrong kind, or something that is no parameter; nothing was changed.

    >>> from gradstep.numpy import Lion, Parameter
    >>> optimizer = Lion([Parameter(np.zeros(2), grad=np.array([3.0, -4.0]))], lr=0.5)
    >>> optimizer.lr = 0.25
    >>> optimizer.step()
    >>> optimizer.params[0].data.tolist(), optimizer.update_counts
    ([-0.25, 0.25], [1])
    """

    rule_class: ClassVar[type[Rule]]
    """The rule, which is the mathematics of this optimizer."""

    def __init_subclass__(cls, rule: type[Rule] | None = None) -> None:
        super().__init_subclass__()
        if rule is None:  # another abstract class
            return
        cls.rule_class = rule
        for setting in settings_of(rule):
            if setting.name in _RESERVED or setting.name in dir(RuleOptimizer):
                raise TypeError(
                    f"{rule.__name__} has a setting {setting.name!r}, a name that optimizers use themselves"
                )
            setattr(cls, setting.name, _Setting(setting.name))

    def __init__(
        self,
        params: Iterable[HasGradient] | None = None,
        *positional: Any,
        parameters: Iterable[HasGradient] | None = None,
        engine: str = "auto",
        **named: Any,
    ) -> None:
        params = choose_params(params, parameters)
        settings = signature_of(self.rule_class).bind(params, *positional, **named).arguments
        settings.pop("params")
        rule = build_rule(self.rule_class, settings)
        check_engine(engine, ENGINES)
        super().__init__(params)
        for i, param in enumerate(self.params):
            if isinstance(param.data, np.ndarray):
                check_shape(rule, param.data, f"parameter {i}")
        self._rule = rule
        self._engine = engine
        self._table: Table | None = None  # of the last step
        self.update_counts = [0] * len(self.params)
        self.buffers: dict[str, Buffers] = {}
        self.scalars = {name: [start] * len(self.params) for name, start in rule.scalars.items()}

    @property
    def rule(self) -> Rule:
        """The rule with its present settings."""
        return self._rule

    def step(self) -> None:
        """Update every parameter that has a gradient, in place; gradients are only read.

        Raises:
            ValueError: an array has another shape or cannot be written to, or an assigned count or scalar is not a
                number that it can be; nothing was changed.
            TypeError: an array does not hold real numbers, or the counts are not a list; nothing was changed.
        """
        if len(self.params) != len(self.update_counts):
            raise ValueError(f"params holds {len(self.params)} parameters, the state {len(self.update_counts)}")
        active = [i for i, param in enumerate(self.params) if param.grad is not None]
        table, new = self._table, list[Member]()
        if table is None or not table.is_up_to_date(active, self.params, self._rule, self.buffers):
            new = gather(active, self.params, self._rule, self.buffers, self._engine)
            table = Table(new, self._rule)
        batches = [part.batch(self.params, self.buffers) for part in table.parts]
        for batch in batches:
            batch.engine.prepare(batch.spec, watched=False)
        state = _StepState(self, new)
        with defer_signals():  # weights, state and counts belong together, also after Ctrl-C
            take_step(state, batches, [self._rule])
            self._table = table
            self.step_count += 1

    def buffers_of(self, slot: str) -> Buffers:
        """Return the ``slot`` of this name of every parameter: the list itself, not a copy."""
        if slot not in self.buffers:
            self.buffers[slot] = [None] * len(self.params)
        return self.buffers[slot]

    def engines(self) -> list[tuple[str, str, str]]:
        """Return the engine that updates each parameter: (parameter, engine, reason).

        >>> import numpy as np
        >>> from gradstep.numpy import Parameter, SGD
        >>> w = np.zeros((4, 6), dtype=np.float32)
        >>> for line in SGD([Parameter(w), Parameter(np.zeros((4, 6))[:, :3])]).engines():
        ...     print(*line, sep=" | ")
        parameter 0 | fused | a dense float32 array
        parameter 1 | reference | not fused because its memory has gaps or overlaps
        """
        rows = []
        for i, param in enumerate(self.params):
            engine, reason = choose_array_engine(self._engine, type(self._rule), [param.data], f"parameter {i}")
            rows.append((f"parameter {i}", engine.name, reason))
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a run needs to continue: rule, settings, counts, scalars, copies of the buffers.

        >>> import numpy as np
        >>> from gradstep.numpy import Parameter, SGD
        >>> p = Parameter(np.ones(2), grad=np.ones(2))
        >>> optimizer = SGD([p], lr=0.5, momentum=0.9)
        >>> optimizer.step()
        >>> state = optimizer.state_dict()
        >>> state["update_counts"], state["buffers"]["momentum_buffer"]
        ([1], [array([1., 1.])])
        """
        return {
            "rule": type(self._rule).__name__,
            "settings": {s.name: getattr(self._rule, s.name) for s in settings_of(self.rule_class)},
            "step_count": self.step_count,
            "update_counts": list(self.update_counts),
            "scalars": {name: list(values) for name, values in self.scalars.items()},
            "buffers": {name: copy_buffers(held) for name, held in self.buffers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load ``state``, a result of :meth:`state_dict`, with the settings; assign ``lr`` afterwards to change it.

        Raises:
            KeyError: a part is missing; nothing was changed.
            ValueError: another rule, other parameters, another shape, or a setting out of its bounds; nothing was
                changed.
        """
        own = type(self._rule).__name__
        if state.get("rule", own) != own:  # states from before there was this entry have none
            raise ValueError(
                f"the loaded state is of {state['rule']}, and this optimizer is {own}: averages of the same names mean "
                f"something else, so load it into {state['rule']}, or begin with fresh state"
            )
        rule = build_rule(type(self._rule), state["settings"])
        step_count = int(state["step_count"])
        update_counts = check_counts(state["update_counts"], len(self.params))
        scalars = {name: check_scalars(state["scalars"][name], len(self.params), name) for name in self.scalars}
        buffers = {name: restore_buffers(held, self.params, rule, name) for name, held in state["buffers"].items()}
        with defer_signals():
            self._rule, self.step_count, self.update_counts = rule, step_count, update_counts
            self.scalars, self.buffers = scalars, buffers

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_table": None}  # a copy's arrays have other addresses

    if TYPE_CHECKING:  # the rule's settings

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


@final
class _StepState(StepTable):
    """An optimizer's state during one step.

    Args:
        optimizer: the optimizer; its update counts, scalars and buffers are written to.
        new: the parameters with new or replaced slots.

    Raises:
        ValueError, TypeError: counts or scalars that were assigned cannot be such numbers.
    """

    def __init__(self, optimizer: RuleOptimizer, new: Sequence[Member]) -> None:
        self._optimizer, self._new = optimizer, new
        self._scalars = list(optimizer.scalars.values())
        self.scalar_names = ("step", *optimizer.scalars)
        self.numbers = _read_numbers(optimizer)
        self.groups = np.zeros(len(optimizer.params), dtype=np.int64)
        self.streams = self.groups.view(np.uint64)  # nothing is rounded at random

    def install(self) -> None:
        for member in self._new:
            for name, slot in member.slots.items():
                self._optimizer.buffers_of(name)[member.index] = slot

    def open_for_update(self) -> AbstractContextManager[None]:
        return nullcontext()

    def update(self, batch: ArrayBatch) -> None:
        batch.engine.update(batch)

    def commit(self, batch: ArrayBatch, numbers: NDArray[np.floating[Any]]) -> None:
        counts, *scalars = numbers.T.tolist()
        _scatter(self._optimizer.update_counts, batch.places, list(map(int, counts)))
        for values, new in zip(self._scalars, scalars):
            _scatter(values, batch.places, new)

    def finish(self) -> None:
        pass


def _read_numbers(optimizer: RuleOptimizer) -> NDArray[np.float64]:
    """Return (parameters, 1 + scalars) the update counts and scalars, which anybody may have assigned.

    Raises:
        ValueError, TypeError: they cannot be such numbers.
    """
    scalars, expected = optimizer.scalars, optimizer.rule.scalars
    if scalars.keys() != expected.keys():
        raise ValueError(f"scalars must have the keys {sorted(expected)}, but has {sorted(scalars)}")
    columns = {"update_counts": optimizer.update_counts, **{f"scalars[{name!r}]": v for name, v in scalars.items()}}
    for name, column in columns.items():
        if not isinstance(column, (list, np.ndarray)):
            raise TypeError(f"{name} must be a list with a number for each parameter, but is {column!r}")
    try:
        numbers: NDArray[np.float64] = np.array(list(columns.values()), dtype=np.float64).T
    except (TypeError, ValueError):
        pass  # said below
    else:
        counts = numbers[:, 0]
        if np.isfinite(numbers).all() and (counts >= 0).all() and (counts == np.floor(counts)).all():
            return numbers
    count = len(optimizer.params)
    check_counts(optimizer.update_counts, count)
    for name, values in scalars.items():
        check_scalars(values, count, name)
    raise ValueError("update_counts and scalars must be numbers, one for each parameter")


def _scatter(values: list[Any], places: Sequence[int], new: Sequence[Any]) -> None:
    """Write the new values at the places, one for each; if there is only one value, write it at all places."""
    if len(new) == 1:
        for i in places:
            values[i] = new[0]
    else:
        for i, value in zip(places, new):
            values[i] = value


@final
class _Setting:
    """A setting of the rule as an attribute of the optimizer: read from the rule, checked when it is assigned."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: RuleOptimizer | None, owner: type[RuleOptimizer]) -> Any:
        return self if optimizer is None else getattr(optimizer._rule, self.name)

    def __set__(self, optimizer: RuleOptimizer, value: Any) -> None:
        optimizer._rule = replace_setting(optimizer._rule, self.name, value)


# -- state of a checkpoint, checked and copied before anything is changed ----------------------------------------------


def copy_buffers(buffers: Buffers) -> Buffers:
    """Return copies of the arrays of one slot."""
    return [None if array is None else array.copy() for array in buffers]


def restore_buffers(buffers: Sequence[Any], params: Sequence[HasGradient], rule: Rule, slot: str) -> Buffers:
    """Return copies of the arrays of one slot, each in its parameter's type of elements.

    Raises:
        ValueError: the number of arrays, or the shape of an array, is wrong.
        TypeError: an array does not hold real numbers.
    """
    check_length(buffers, len(params))
    return [_restore_array(array, param.data, rule, slot, i) for i, (array, param) in enumerate(zip(buffers, params))]


def _restore_array(array: Any, data: Any, rule: Rule, slot: str, i: int) -> Any:
    if array is None:
        return None
    # A slot that a setting has switched off has the parameter's shape when it is switched on again.
    shapes = {s.name: s.shape(data.shape) for s in rule.slots(data.ndim)}
    return np.array(fit_array(array, data, shapes.get(slot, data.shape), f"{slot} of parameter {i}"), order="K")


def check_length(entries: Sequence[Any], count: int) -> None:
    """Raise ValueError for a state of another number of parameters."""
    if len(entries) != count:
        raise ValueError(f"Momentum state length mismatch: it has {len(entries)} entries for {count} parameters")


def check_counts(values: Sequence[Any], count: int) -> list[int]:
    """Return the number of updates of each parameter.

    Raises:
        ValueError: ``values`` does not have ``count`` entries, or an entry is not a whole number of at least 0.
    """
    check_length(values, count)
    for value in values:
        if not (_is_real(value) and 0 <= value < 2**53 and int(value) == value):
            raise ValueError(f"an update count must be a whole number of at least 0, but is {value!r}")
    return [int(value) for value in values]


def check_scalars(values: Sequence[Any], count: int, name: str) -> list[float]:
    """Return a scalar of each parameter.

    Raises:
        ValueError: ``values`` does not have ``count`` entries, or an entry is not finite.
    """
    check_length(values, count)
    if not all(_is_real(value) and np.isfinite(value) for value in values):
        raise ValueError(f"{name} must be finite, but is {list(values)}")
    return [float(value) for value in values]


def _is_real(value: Any) -> bool:
    """Return whether a value is a real number, and no truth value."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


@final
class SlotBuffers:
    """A slot of every parameter as an attribute of the optimizer; assignment takes checked copies."""

    def __init__(self, slot: str) -> None:
        self.slot = slot

    def __get__(self, optimizer: RuleOptimizer | None, owner: type[RuleOptimizer]) -> Any:
        return self if optimizer is None else optimizer.buffers_of(self.slot)

    def __set__(self, optimizer: RuleOptimizer, buffers: Sequence[Any]) -> None:
        optimizer.buffers[self.slot] = restore_buffers(buffers, optimizer.params, optimizer.rule, self.slot)
