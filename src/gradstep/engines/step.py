"""One optimizer step: the engine of each parameter, coefficients, norm, finiteness, clipping, the update, statistics.

Optimizers for torch and for NumPy both take their steps here. A front passes the parameters that have a gradient, as
batches, and their table; this module imports neither torch nor a front.
"""

from __future__ import annotations

import gc
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import KEY, ROW, Engine, Ranks, StepBatch, StepTable, Traits
from gradstep.engines.statistics import NO_STATISTICS, BatchStatistics, Detail, Statistics, StepReport
from gradstep.rules import Rule
from gradstep.storage.elements import keys
from gradstep.warn import warn_user

try:  # the functions that signal calls; signal also makes enums, which costs 50 microseconds a step
    import _signal  # type: ignore[import-not-found]
except ImportError:
    _signal = signal


# -- the choice of an engine -------------------------------------------------------------------------------------------


def check_engine(name: str, engines: Mapping[str, Engine]) -> None:
    """Refuse an engine that does not exist.

    Args:
        name: ``"auto"``, or the name of an engine.
        engines: all engines by name.

    Raises:
        ValueError: no engine has this name.
    """
    if name != "auto" and name not in engines:
        raise ValueError(f"Unknown engine: {name!r} (choose auto, {', '.join(engines)})")


def choose_engine(
    name: str, engines: Mapping[str, Engine], rule: type[Rule], traits: Traits, label: str, kind: str
) -> tuple[Engine, str]:
    """Return the engine for one parameter, and the reason.

    Args:
        name: the user's choice: ``"auto"`` or an engine's name.
        engines: all engines by name, the fastest first; the last or the last but one accepts everything.
        rule: the rule class.
        traits: the parameter's.
        label: the parameter's name in an error.
        kind: a description for the reason: ``"tensor on the CPU"``.

    Raises:
        ValueError: the chosen engine cannot update this parameter.
    """
    if name == "auto":
        refused: dict[str, list[str]] = {}
        for engine in engines.values():
            refusal = engine.refuse(rule, traits)
            if refusal is None:
                return engine, _describe_refusals(refused) or f"a dense {traits.dtype} {kind}"
            refused.setdefault(refusal, []).append(engine.name)
        raise ValueError(f"no engine can serve {label}: {_describe_refusals(refused)}")
    refusal = engines[name].refuse(rule, traits)
    if refusal is not None:
        able = [e.name for e in engines.values() if e.refuse(rule, traits) is None]
        raise ValueError(
            f"engine={name!r} cannot serve {label} because {refusal}; "
            f"engine='auto' chooses one that can ({', '.join(able)})"
        )
    return engines[name], f"engine={name!r} was asked for"


def _describe_refusals(refused: Mapping[str, Sequence[str]]) -> str:
    """Return why engines were not chosen, from their names by the reason."""
    return ", ".join(f"not {' or '.join(names)} because {reason}" for reason, names in refused.items())


# -- the step ---------------------------------------------------------------------------------------------------------


def take_step(
    table: StepTable,
    batches: Sequence[StepBatch],
    rules: Sequence[Rule],
    ranks: Ranks | None = None,
    *,
    scale: float = 1.0,
    max_grad_norm: float | None = None,
    check: bool = False,
    detail: Detail | None = None,
) -> StepReport:
    """Update the parameters of all batches.

    Args:
        table: the table of all parameters with state.
        batches: the parameters that have a gradient.
        rules: one per group.
        ranks: the processes that have the other parameters or elements; None if this process has them all.
        scale: the factor that the gradients were multiplied by, > 0.
        max_grad_norm: clip to this global 2-norm of the unscaled gradients, > 0.
        check: skip the step if a gradient is not finite; ``max_grad_norm`` implies it.
        detail: collect statistics of every parameter or every group; None collects none.

    Returns:
        The report; a step that is skipped changes nothing.
    """
    # The step counts and scalars after this step; the table gets them once the parameters are updated.
    numbers = [_set_coefficients(batch, table, rules) for batch in batches]
    norm, clip = None, 1.0
    if check or max_grad_norm is not None:
        norm = measure_norm(batches, ranks, (scale, max_grad_norm or 0.0)) / scale
        if not math.isfinite(norm):
            name = _first_nonfinite(batches)
            name = str(name) if ranks is None else ranks.first_name(name)
            return StepReport(stepped=False, grad_norm=norm, reason=f"the gradient of {name} is not finite")
        if max_grad_norm is not None:
            clip = compute_clip_factor(norm, max_grad_norm)
    elif ranks is not None and (ranks.compares or detail is not None or any(rule.sees != "elements" for rule in rules)):
        ranks.agree(batches)
    counting = [b for b, new in zip(batches, numbers, strict=True) if _counts_lost_updates(b, int(new[0, 0]))]
    if counting and detail is not None:
        detail = "parameters"
    for batch in batches:
        if clip != scale:
            batch.coefficients[:, -1] *= clip / scale
        if detail is not None or batch in counting:
            batch.watch(detail or "parameters")
    table.install()
    with table.open_for_update():
        for batch, new in zip(batches, numbers, strict=True):
            table.update(batch)
            table.commit(batch, new)
        table.finish()
    _warn_of_lost_updates(counting)
    statistics = None
    if detail is not None:
        if ranks is not None:
            ranks.combine_statistics(batches)
        parts = [BatchStatistics(batch.labels, batch.tally) for batch in batches] or [NO_STATISTICS]
        statistics = Statistics(parts, detail, clip)
    return StepReport(stepped=True, grad_norm=norm, clip=clip, statistics=statistics, rules=rules)


def _set_coefficients(batch: StepBatch, table: StepTable, rules: Sequence[Rule]) -> NDArray[np.floating[Any]]:
    """Set the batch's coefficients, and each parameter's row of coefficients and key of noise.

    Returns:
        (n, 1 + scalars) the table's numbers of its parameters after the step; (1, 1 + scalars) if all are equal.
    """
    old = table.numbers[batch.members]
    row_of: Any = 0
    if batch.group is not None and (len(old) == 1 or old.tobytes() == old[:1].tobytes() * len(old)):
        distinct = [[batch.group, *old[0].tolist()]]  # all are at the same step
    else:
        each = np.column_stack((table.groups[batch.members], old))
        unique, row_of = np.unique(each, axis=0, return_inverse=True)
        distinct, row_of = unique.tolist(), row_of.reshape(-1)
    names, coefficients, after = batch.spec.coefficients[:-1], [], []
    for group, last, *others in distinct:
        rule, step = rules[int(group)], int(last) + 1
        before = dict(zip(table.scalar_names[1:], others, strict=True))  # of every rule of the optimizer
        row = rule.coefficients(step, **{name: before[name] for name in rule.scalars})
        coefficients.append([*[row[name] for name in names], -1.0 if rule.maximize else 1.0])
        after.append([step, *[row[name] if name in rule.scalars else old for name, old in before.items()]])
    batch.coefficients = np.array(coefficients, dtype=np.float64)
    batch.table[:, ROW] = row_of
    new = np.array(after, dtype=old.dtype)
    if len(after) > 1:
        new = new[row_of]
    if batch.spec.noise:
        steps = np.broadcast_to(new[:, 0].astype(np.int64), len(old))
        batch.table[:, KEY] = keys(table.streams[batch.members], steps)
    return new


# -- the norm ---------------------------------------------------------------------------------------------------------


def measure_norm(batches: Sequence[StepBatch], ranks: Ranks | None = None, settings: Sequence[float] = ()) -> float:
    """Return the global 2-norm of the gradients, before unscaling; not finite if a gradient is not.

    Args:
        batches: the parameters that have a gradient.
        ranks: the processes that have the other parameters or elements, which the norm includes.
        settings: what these processes must have alike; see :meth:`Ranks.combine`.
    """

    def add(values: Sequence[float]) -> float:
        return sum(values) if ranks is None else ranks.combine(batches, values, "sum", settings)

    def largest(values: Sequence[float]) -> float:
        return max(values, default=0.0) if ranks is None else ranks.combine(batches, values, "max")

    def find_largest() -> float:
        if largest([any(True for _ in batch.find_nonfinite()) for batch in batches]):
            return math.inf
        return largest([batch.largest_gradient() for batch in batches])

    return correct_overflow(  # only gradients in float64 can have squares that overflow float64
        math.sqrt(add([batch.engine.sum_squares(batch) for batch in batches])),
        find_largest,
        lambda divisor: add([batch.sum_squares(divisor) for batch in batches]),
    )


def correct_overflow(
    norm: float, find_largest: Callable[[], float], sum_squares: Callable[[float], float], *, least: float = 0.0
) -> float:
    """Return a 2-norm, computed again if its squares have overflowed: from the numbers divided by the largest.

    Args:
        norm: the norm as it was computed: infinite if a number is infinite, or if squares have overflowed.
        find_largest: returns the largest magnitude of the numbers.
        sum_squares: returns the sum of the squares of the numbers divided by its argument, which is finite and not 0.
        least: a norm below it is computed again too, since squares may have been rounded to 0.

    >>> numbers = [3e200, 4e200]
    >>> correct_overflow(math.inf, lambda: max(numbers), lambda divisor: sum((x / divisor) ** 2 for x in numbers))
    5e+200
    """
    if not (norm < least or math.isinf(norm)):
        return norm
    largest = find_largest()
    return largest * math.sqrt(sum_squares(largest)) if 0.0 < largest < math.inf else norm


CLIP_MARGIN = 1e-6
"""What ``torch.nn.utils.clip_grad_norm_`` adds to the norm that it divides by."""


def compute_clip_factor(norm: float, max_grad_norm: float, margin: float = CLIP_MARGIN) -> float:
    """Return the factor, at most 1, that clips gradients of this global norm.

    Args:
        norm: the global 2-norm of the gradients, finite; not 0 if ``margin`` is 0.
        max_grad_norm: the norm to clip to, at least 0.
        margin: a number added to the norm, so that clipped gradients have slightly less than ``max_grad_norm``.

    >>> compute_clip_factor(50.0, 5.0), compute_clip_factor(50.0, 5.0, margin=0.0), compute_clip_factor(3.0, 5.0)
    (0.099999998, 0.1, 1.0)
    """
    return min(1.0, max_grad_norm / (norm + margin))


def _first_nonfinite(batches: Sequence[StepBatch]) -> str | None:
    """Return the name of the first parameter, in the order of the groups, whose gradient is not finite; else None."""
    return min(((b.members[k], b.names[k]) for b in batches for k in b.find_nonfinite()), default=(0, None))[1]


# -- updates that rounding loses --------------------------------------------------------------------------------------
#
# A bfloat16 weight has 8 significant bits: rounded to nearest, an update smaller than 0.2% to 0.4% of the weight leaves
# it unchanged, at this step and every later one.

COUNTED_STEPS = frozenset({10, 100, 1_000, 10_000})
"""The steps at which lost updates are counted: few, and after the moments have settled."""

LOST_SHARE = 0.5
"""A step warns if it loses the updates of more than this share of the elements."""


def _counts_lost_updates(batch: StepBatch, step: int) -> bool:
    """Return whether this step counts the updates that rounding loses in these parameters."""
    return step in COUNTED_STEPS and batch.spec.parameter.loses_small_updates


def _warn_of_lost_updates(batches: Sequence[StepBatch]) -> None:
    """Warn for each batch, which must have per-parameter statistics, in which most elements lost their update."""
    for batch in batches:
        elements = int(batch.lengths.sum())
        unmoved = batch.tally.table[:, 3]
        lost = float(unmoved.sum()) / max(elements, 1)
        if lost > LOST_SHARE:
            worst = int(np.argmax(unmoved / np.maximum(batch.lengths, 1)))
            warn_user(
                f"{lost:.0%} of the {batch.spec.parameter.name} weights were left where they were by this step: "
                f"their update is less than rounding to nearest can show (most of all in {batch.names[worst]}): "
                "give the optimizer rounding='stochastic', '24bit', 'kahan' or 'master', or a larger learning rate"
            )


# -- signals and garbage collection -----------------------------------------------------------------------------------

Handler = Callable[[int, FrameType | None], Any]

_NAMES = """
    SIGINT SIGTERM SIGBREAK SIGHUP SIGQUIT SIGALRM SIGVTALRM SIGPROF SIGUSR1 SIGUSR2 SIGXCPU SIGTSTP SIGCONT SIGCHLD
    SIGWINCH SIGIO
"""
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES.split() if hasattr(signal, name))
"""The signals that are deferred: all that a process can survive, except real-time signals."""


@final
class _DeferredSignals:
    """A signal handler that replaces other handlers: it stores signals until ``is_open``, then passes them on."""

    def __init__(self) -> None:
        self.handlers: dict[int, Handler] = {}
        self.signals: list[tuple[int, FrameType | None]] = []
        self.is_open = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.is_open:
            self.handlers[number](number, frame)
        else:
            self.signals.append((number, frame))


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer the handlers of signals, Ctrl-C's too, until the block ends; does nothing outside the main thread.

    >>> import os
    >>> try:
    ...     with defer_signals():
    ...         os.kill(os.getpid(), signal.SIGINT)
    ...         print("goes on to its end")
    ... except KeyboardInterrupt:
    ...     print("and is interrupted then")
    goes on to its end
    and is interrupted then
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = _DeferredSignals()
    try:
        for number in _SIGNALS:
            handler = _signal.getsignal(number)
            is_deferred = isinstance(handler, _DeferredSignals) and not handler.is_open  # an outer block defers it
            if callable(handler) and not is_deferred:
                waiting.handlers[number] = handler
                _signal.signal(number, waiting)
        yield
    finally:
        # Signals pass through from here on: if a handler raises in the middle, no other handler stays deferred.
        waiting.is_open = True
        for number, handler in waiting.handlers.items():
            _signal.signal(number, handler)
        for number, frame in waiting.signals:
            waiting.handlers[number](number, frame)


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Switch Python's garbage collector off, and on again afterwards if it was on.

    The state of many parameters is many objects that stay. The collector would look through them again and again,
    which takes a third of the time to make them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
