"""The record of one parameter: its values and gradients around the first steps, at a sample of its elements."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast, final

import numpy as np
import torch
from torch import Tensor

from gradstep.judge.scenario import Values

SAMPLE = 128
"""Elements that are kept of a parameter: those with the largest gradients, and as many spread over it."""

FULL_STEPS = 3
"""Steps of which a matrix is kept in full, for rules that look at more than one element."""

MATRIX = 1 << 16
"""Most elements of a matrix that is kept in full; LARGE_MATRIX where its optimizer promises a rule of matrices."""

LARGE_MATRIX = 1 << 22


COMPENSATION = "kahan_comp"
"""Name of the state that holds what rounding took from a parameter; the sum of both is the exact value."""

MASTER = "master_param"
"""Name of the state that holds a float32 copy of a parameter."""

LOW_BYTE = "low_byte"
"""Name of the state that holds 8 further bits of a bfloat16 parameter: a signed byte, in 256ths of its last place."""

_NOTHING: Mapping[str, Tensor] = {}


class UnreadableStepError(Exception):
    """A parameter's step cannot be read; the text gives the reason."""


@final
@dataclass(frozen=True)
class NumberFormat:
    """The resolution and the range of a number format."""

    eps: float  # distance of neighbouring numbers, relative to them
    smallest: float  # the least positive number
    largest: float  # the largest number
    name: str  # the dtype's

    @classmethod
    def of(cls, dtype: torch.dtype) -> NumberFormat:
        """Return the format of a floating-point dtype.

        >>> import torch
        >>> NumberFormat.of(torch.bfloat16).eps
        0.0078125
        """
        info = torch.finfo(dtype)
        smallest = float(info.smallest_normal) * float(info.eps)
        return cls(float(info.eps), smallest, float(info.max), str(dtype).removeprefix("torch."))


EIGHT_BIT = NumberFormat(0.0, 0.0, float(np.finfo(np.float32).max), "8-bit codes")
"""State in 8-bit codes, whose resolution depends on the largest element of a block."""


@final
@dataclass(frozen=True, eq=False)
class ObservedStep:
    """One step of a parameter: its sampled elements in float64, or the full matrix in float32 or float64."""

    settings: Mapping[str, Any]  # the group's; one object for all parameters of the group
    before: Values  # the values before the step
    gradient: Values  # as the rule gets it: unscaled and clipped
    after: Values  # the values after it

    @property
    def update(self) -> Values:
        """The values after the step minus those before it."""
        return self.after - self.before


class _Reading(NamedTuple):
    """A tensor's sampled values, and all of its values where the matrix is kept in full."""

    sample: Values
    full: Values | None


@final
@dataclass(eq=False)
class History:
    """The record of one parameter.

    The value of a parameter in 16 bits is the exact one where its state holds the rest: the rounded value and its
    compensation, its further bits, or the float32 master copy (gradstep's ``kahan_comp``, ``low_byte`` and
    ``master_param``).
    """

    shape: tuple[int, ...]  # the parameter's
    dtype: NumberFormat  # the format of the parameter itself
    keeps_matrix: bool  # its first steps are kept in full, too
    values: NumberFormat = field(init=False)  # the format of its values, together with what its state holds of them
    # the coarsest format of its state; that of its values until state has been seen
    state: NumberFormat = field(init=False)
    steps: list[ObservedStep] = field(default_factory=list)  # its steps at the sampled elements
    full_steps: list[ObservedStep] = field(default_factory=list)  # its first steps in full
    # its state before the first of them, by name: arrays at the sample, or numbers
    initial_state: dict[str, Any] | None = None
    initial_matrices: dict[str, Any] = field(default_factory=dict)  # the arrays of the same in full
    skipped: int = 0  # steps that its optimizer left out
    closed: bool = False  # whether recording has ended, because a step could not be read
    _sample: Tensor | None = None
    _pending: tuple[Mapping[str, Any], _Reading, _Reading | None] | None = None

    def __post_init__(self) -> None:
        self.values = self.state = self.dtype

    def begin_step(self, p: Tensor, gradient: Tensor | None, settings: Mapping[str, Any], state: Any) -> None:
        """Record the values before a step of the parameter; its optimizer's state is read before the first one only.

        Args:
            p: the parameter.
            gradient: its gradient; None where a closure computes it inside the step.
            settings: the settings of its group, from :func:`copy_settings`.
            state: its state in the optimizer.

        Raises:
            UnreadableStepError: the gradient is sparse.
        """
        if self._sample is None:
            self._sample = _choose_sample(p if gradient is None else gradient)
        full = self.keeps_matrix and len(self.full_steps) < FULL_STEPS and len(self.full_steps) == len(self.steps)
        if self.initial_state is None:
            readable = {k: v for k, v in state.items() if isinstance(v, (Tensor, int, float))}
            self.initial_state = {k: _read_state(v, p, self._sample) for k, v in readable.items()}
            if full:
                self.initial_matrices = {
                    k: _read_state(v, p, None) for k, v in readable.items() if isinstance(v, Tensor)
                }
        self._pending = (
            settings,
            self._read(p, _rest_of(p, state), full=full),
            None if gradient is None else self._read(gradient, full=full),
        )

    def end_step(self, p: Tensor, gradient: Tensor | None, scale: float, state: Any) -> None:
        """Record the values after the step whose beginning :meth:`begin_step` has recorded.

        Args:
            p, gradient, state: as they are now; the gradient is recorded if there was none before the step.
            scale: the factor by which the optimizer multiplied the gradient before it applied its rule.

        Raises:
            UnreadableStepError: the gradient is sparse, or numbers are not finite.
        """
        if self._pending is None:
            return
        settings, before, early_gradient = self._pending
        self._pending = None
        if early_gradient is None and gradient is None:
            return
        full = before.full is not None
        g = early_gradient if early_gradient is not None else self._read(cast("Tensor", gradient), full=full)
        if not all(np.isfinite(x * scale).all() for x in g if x is not None):
            raise UnreadableStepError("its gradients are not finite")
        rest = _rest_of(p, state)
        after = self._read(p, rest, full=full)
        if not all(np.isfinite(x).all() for x in (*before, *after) if x is not None):
            raise UnreadableStepError("its values are not finite")
        if not self.steps:
            self.values = _format_with(rest, self.dtype)
            arrays = (v for k, v in state.items() if isinstance(v, Tensor) and v.ndim and k not in rest)
            formats = [_format_of(v) for v in arrays]
            self.state = max((f for f in formats if f), key=lambda f: (f is EIGHT_BIT, f.eps), default=self.values)
        self.steps.append(ObservedStep(settings, before.sample, g.sample * scale, after.sample))
        if before.full is not None and g.full is not None and after.full is not None:
            self.full_steps.append(ObservedStep(settings, before.full, g.full * scale, after.full))

    def skip_step(self) -> None:
        """Drop the step that has begun, because the optimizer skipped it."""
        self.skipped += self._pending is not None
        self._pending = None

    def close(self) -> None:
        """Record no further steps, because those after a step that could not be read cannot be judged."""
        self._pending, self.closed = None, True

    def _read(self, x: Tensor, rest: Mapping[str, Tensor] = _NOTHING, *, full: bool) -> _Reading:
        assert self._sample is not None, "the first step chooses the sample"
        sample = self._sample
        some, *of_rest = (_flatten(y)[sample.to(y.device)] for y in (x, *rest.values()))
        return _Reading(
            _as_float64(_join(some, dict(zip(rest, of_rest)))), _as_matrix(_join(x, rest)) if full else None
        )


def join_histories(histories: Sequence[History], count: int) -> History:
    """Return the first ``count`` steps of several parameters as one record of all their sampled elements.

    The records must have the same settings, formats, names of state and age of state (:func:`group_histories`).
    """
    first = histories[0]
    joint = History((sum(h.steps[0].before.size for h in histories),), first.dtype, keeps_matrix=False)
    joint.values, joint.state = first.values, first.state
    for steps in zip(*(h.steps[:count] for h in histories)):
        before, gradient, after = (
            np.concatenate(arrays) for arrays in zip(*((s.before, s.gradient, s.after) for s in steps))
        )
        joint.steps.append(ObservedStep(steps[0].settings, before, gradient, after))
    states = [h.initial_state or {} for h in histories]
    joint.initial_state = {
        name: np.concatenate([s[name] for s in states]) if isinstance(value, np.ndarray) else value
        for name, value in states[0].items()
    }
    return joint


def group_histories(histories: Iterable[History], count: int) -> list[list[History]]:
    """Group the records that :func:`join_histories` can join over ``count`` steps."""
    groups: dict[Any, list[History]] = {}
    keys: dict[int, Any] = {}
    for h in histories:
        for step in h.steps[:count]:
            if id(step.settings) not in keys:
                keys[id(step.settings)] = id(step.settings)
                with contextlib.suppress(Exception):  # a foreign optimizer's settings may be of any kind
                    keys[id(step.settings)] = sorted((str(k), _key_of(v)) for k, v in step.settings.items())
        settings = [keys[id(step.settings)] for step in h.steps[:count]]
        state = [(k, "array" if isinstance(v, np.ndarray) else v) for k, v in (h.initial_state or {}).items()]
        groups.setdefault((h.dtype, h.values, h.state, repr(settings), tuple(state)), []).append(h)
    return list(groups.values())


def _key_of(setting: Any) -> str:
    """Return a key that is equal for settings that make equal updates; texts, such as a group's name, do not count."""
    if isinstance(setting, (tuple, list)):
        return repr([_key_of(s) for s in setting])
    return "" if isinstance(setting, str) else repr(setting.tolist() if isinstance(setting, Tensor) else setting)


def _rest_of(p: Tensor, state: Any) -> dict[str, Tensor]:
    """Return the entries of the state that make the parameter more precise: a compensation, bits or a master copy."""
    if p.dtype not in (torch.bfloat16, torch.float16) or not isinstance(state, Mapping):
        return {}
    named = {name: state.get(name) for name in (COMPENSATION, MASTER, LOW_BYTE)}
    return {
        name: v
        for name, v in named.items()
        if isinstance(v, Tensor)
        and v.shape == p.shape
        and (v.dtype is torch.uint8 if name == LOW_BYTE else v.is_floating_point())
    }


def _join(x: Tensor, rest: Mapping[str, Tensor]) -> Tensor:
    """Return the exact values; a master copy counts only where the parameter equals that copy, rounded."""
    if COMPENSATION in rest:
        return x.detach().float() + rest[COMPENSATION].detach().float()
    if MASTER in rest:
        master = rest[MASTER].detach()
        return torch.where(master.to(x.dtype) == x, master, x.detach().to(master.dtype))
    if LOW_BYTE in rest:
        numbers = x.detach().float()
        number_bits, byte = numbers.view(torch.int32), rest[LOW_BYTE].detach().view(torch.int8).int()
        exact = (number_bits + (byte << 8)).view(torch.float32)
        return torch.where(numbers.isfinite() & (numbers != 0), exact, numbers)
    return x


def _format_with(rest: Mapping[str, Tensor], dtype: NumberFormat) -> NumberFormat:
    """Return the format of a parameter's exact values, which ``rest`` completes."""
    single = NumberFormat.of(torch.float32)
    if MASTER in rest:
        return single
    if LOW_BYTE in rest:
        return replace(dtype, eps=dtype.eps / 256)
    return replace(dtype, eps=max(dtype.eps**2 / 2, single.eps)) if COMPENSATION in rest else dtype


def fingerprint(p: Tensor) -> tuple[float, float] | None:
    """Return the sum and the norm, which hardly stay the same when the parameter changes; None if it has neither."""
    try:
        values = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
        values = values if values.is_floating_point() else values.double()
        return float(values.sum(dtype=torch.float64)), float(torch.linalg.vector_norm(values, dtype=torch.float64))
    except (RuntimeError, TypeError, ValueError):  # meta, not yet made, sparse, of 8-bit floats
        return None


def copy_settings(group: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a copy of a parameter group's settings."""
    return {k: _copy_setting(v) for k, v in group.items() if k not in ("params", "param_names")}


def _copy_setting(setting: Any) -> Any:
    """Copy a setting, since schedulers write into tensors."""
    if isinstance(setting, (tuple, list)):
        return [_copy_setting(s) for s in setting]
    return setting.detach().clone() if isinstance(setting, Tensor) else setting


def _flatten(x: Tensor) -> Tensor:
    if x.layout is not torch.strided:
        raise UnreadableStepError("its gradients are sparse")
    x = x.detach()
    return (torch.view_as_real(x) if x.is_complex() else x).reshape(-1)


def _as_float64(x: Tensor) -> Values:
    return np.asarray(x.to("cpu", torch.float64).numpy())


def _as_matrix(x: Tensor) -> Values:
    """Return all values, as float64 if the tensor is float64, else as float32."""
    x = x.detach()
    return np.array(x.to("cpu", x.dtype if x.dtype == torch.float64 else torch.float32).numpy())


def _choose_sample(values: Tensor) -> Tensor:
    """Return the indices of the elements to keep: the largest, and others spread evenly over all."""
    size = _flatten(values).abs()
    largest = size.topk(min(SAMPLE // 2, len(size))).indices
    spread = torch.linspace(0, len(size) - 1, min(SAMPLE // 2, len(size)), device=size.device).long()
    sample: Tensor = torch.cat([largest, spread]).unique()
    return sample


def _read_state(value: Any, p: Tensor, sample: Tensor | None) -> Any:
    """Return an array of state at the sample (in full if that is None), or a number; None for other values."""
    if not isinstance(value, Tensor):
        return float(value)
    if value.dtype.is_floating_point or value.is_complex():
        if sample is None and (value.ndim or not p.ndim) and not value.is_complex():
            return _as_matrix(value)
        if sample is not None and value.shape == p.shape and value.is_complex() == p.is_complex():
            return _as_float64(_flatten(value)[sample.to(value.device)])
    return float(value) if value.numel() == 1 and not value.is_complex() else None


def _format_of(value: Tensor) -> NumberFormat | None:
    """Return the format of one array of state; None for masks, counters and the like."""
    if value.dtype in (torch.uint8, torch.int8):
        return EIGHT_BIT
    return NumberFormat.of(value.dtype) if value.dtype.is_floating_point or value.is_complex() else None
