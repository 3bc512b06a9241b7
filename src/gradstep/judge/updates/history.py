"""What was seen of a parameter: its values and gradients around the first steps, at a sample of its elements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast, final

import numpy as np
import torch
from torch import Tensor

from gradstep.judge.scenario import Values

SAMPLE = 128
"""Elements that are kept of a parameter: those with the largest gradients, and as many spread over it."""

WHOLE_STEPS = 3
"""Steps of which a matrix is kept whole, for rules that look at more than one element."""

WHOLE = 1 << 16
"""Elements of a matrix that is kept whole; LARGE where its optimizer promises a rule of matrices."""

LARGE = 1 << 22


_CODES = (torch.uint8, torch.int8)


class UnseenError(Exception):
    """A parameter's step cannot be read; the text says why."""


@final
@dataclass(frozen=True, eq=False)
class Moment:
    """One step of a parameter: of the sample in float64, or of the whole matrix in float32 or float64.

    Attributes:
        settings: the group's.
        before: the values before the step.
        gradient: as the rule gets it: unscaled and clipped.
        after: the values after it.
    """

    settings: Mapping[str, Any]
    before: Values
    gradient: Values
    after: Values

    @property
    def update(self) -> Values:
        """How far the values went."""
        return self.after - self.before


_Taken: TypeAlias = "tuple[Values, Values | None]"
"""Values at the sample, and all of them where they are kept."""


@final
@dataclass(eq=False)
class History:
    """What was seen of one parameter.

    Attributes:
        shape: the parameter's.
        eps: the distance between neighbouring values of its dtype, relative to them.
        keeps_whole: its first steps are kept in full, too.
        precision: that of its state, as far as it could be read; 1 where it is kept in codes.
        moments: its steps at the sampled elements.
        whole: its first steps in full, of a matrix of moderate size.
        start: its state before the first of them, by name: arrays at the sample, or numbers.
        start_whole: the same in full.
        closed: nothing more is taken, since a step could not be read.
    """

    shape: tuple[int, ...]
    eps: float
    keeps_whole: bool
    precision: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    whole: list[Moment] = field(default_factory=list)
    start: dict[str, Any] | None = None
    start_whole: dict[str, Any] = field(default_factory=dict)
    closed: bool = False
    _at: Tensor | None = None
    _open: tuple[Mapping[str, Any], _Taken, _Taken | None] | None = None

    def before(self, p: Tensor, gradient: Tensor | None, settings: Mapping[str, Any], state: Any) -> None:
        """Take the values before a step.

        Args:
            p: the parameter.
            gradient: its gradient; None where a closure makes it inside the step.
            settings: the group's; tensors among them are copied.
            state: the optimizer's state of the parameter, read at the first step only.

        Raises:
            UnseenError: the gradient is sparse.
        """
        if self._at is None:
            self._at = _chosen(p if gradient is None else gradient)
        whole = self.keeps_whole and len(self.whole) < WHOLE_STEPS and len(self.whole) == len(self.moments)
        if self.start is None:
            self.start = {k: _value(v, p, self._at) for k, v in state.items() if isinstance(v, (Tensor, int, float))}
            if whole:
                self.start_whole = {k: _value(v, p, None) for k, v in state.items() if isinstance(v, Tensor)}
        self._open = (
            {k: _copied(v) for k, v in settings.items()},
            self._taken(p, whole=whole),
            None if gradient is None else self._taken(gradient, whole=whole),
        )

    def after(self, p: Tensor, gradient: Tensor | None, scale: float, state: Any) -> None:
        """Take the values after the step that :meth:`before` has seen begin.

        Args:
            p: the parameter.
            gradient: its gradient, as it is now: taken where there was none before.
            scale: what the optimizer multiplied it by before the rule saw it.
            state: the optimizer's state of the parameter.

        Raises:
            UnseenError: the gradient is sparse, or not finite.
        """
        if self._open is None:
            return
        settings, before, earlier = self._open
        self._open = None
        if earlier is None and gradient is None:
            return
        whole = before[1] is not None
        found = earlier if earlier is not None else self._taken(cast("Tensor", gradient), whole=whole)
        if not all(np.isfinite(x * scale).all() for x in found if x is not None):
            raise UnseenError("its gradients are not finite")
        after = self._taken(p, whole=whole)
        if not self.moments:
            self.precision = max([0.0, *(_precision(v) for v in state.values() if isinstance(v, Tensor) and v.ndim)])
        self.moments.append(Moment(settings, before[0], found[0] * scale, after[0]))
        if before[1] is not None and found[1] is not None and after[1] is not None:
            self.whole.append(Moment(settings, before[1], found[1] * scale, after[1]))

    def drop(self) -> None:
        """Forget the step that has begun: it was skipped."""
        self._open = None

    def close(self) -> None:
        """Take nothing more: what follows on a step that was not read cannot be judged."""
        self._open, self.closed = None, True

    def _taken(self, x: Tensor, *, whole: bool) -> _Taken:
        assert self._at is not None, "the first step chooses the sample"
        return _numbers(_flat(x)[self._at.to(x.device)]), _full(x) if whole else None


def eps_of(p: Tensor) -> float:
    """The distance between neighbouring values of a parameter's dtype, relative to them."""
    return float(torch.finfo(p.dtype).eps)


def mark_of(p: Tensor) -> tuple[float, float] | None:
    """Two numbers that hardly stay the same when the parameter changes; None where its dtype or kind has none."""
    try:
        values = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
        values = values if values.is_floating_point() else values.double()
        return float(values.sum(dtype=torch.float64)), float(torch.linalg.vector_norm(values, dtype=torch.float64))
    except (RuntimeError, TypeError, ValueError):  # meta, not yet made, sparse, of 8-bit floats
        return None


def _copied(setting: Any) -> Any:
    """A setting that stays as it is: schedulers write into tensors."""
    if isinstance(setting, (tuple, list)):
        return [_copied(s) for s in setting]
    return setting.detach().clone() if isinstance(setting, Tensor) else setting


def _flat(x: Tensor) -> Tensor:
    if x.layout is not torch.strided:
        raise UnseenError("its gradients are sparse")
    x = x.detach()
    return (torch.view_as_real(x) if x.is_complex() else x).reshape(-1)


def _numbers(x: Tensor) -> Values:
    return np.asarray(x.to("cpu", torch.float64).numpy())


def _full(x: Tensor) -> Values:
    """All of it, in no more bytes than it takes to hold its values."""
    x = x.detach()
    return np.array(x.to("cpu", x.dtype if x.dtype == torch.float64 else torch.float32).numpy())


def _chosen(values: Tensor) -> Tensor:
    """Which elements are kept: the largest, and others spread over all."""
    size = _flat(values).abs()
    largest = size.topk(min(SAMPLE // 2, len(size))).indices
    spread = torch.linspace(0, len(size) - 1, min(SAMPLE // 2, len(size)), device=size.device).long()
    chosen: Tensor = torch.cat([largest, spread]).unique()
    return chosen


def _value(value: Any, p: Tensor, at: Tensor | None) -> Any:
    if not isinstance(value, Tensor):
        return float(value)
    if value.dtype.is_floating_point or value.is_complex():
        if at is None and (value.ndim or not p.ndim) and not value.is_complex():
            return _full(value)
        if at is not None and value.shape == p.shape and value.is_complex() == p.is_complex():
            return _numbers(_flat(value)[at.to(value.device)])
    return float(value) if value.numel() == 1 and not value.is_complex() else None


def _precision(value: Tensor) -> float:
    """Of one array of state: masks, counters and the like have none."""
    if value.dtype in _CODES:
        return 1.0
    return float(torch.finfo(value.dtype).eps) if value.dtype.is_floating_point or value.is_complex() else 0.0
