"""Where the memory of many tensors lies, and what is in it, asked anew at every step.

An optimizer that writes to addresses must know that they still hold: a parameter's data may have been moved, resized
or cast since the last step (``model.half()``, pruning, ``p.data = ...``). Asked one attribute and one tensor at a time,
Python needs longer for this than the update of a small tensor takes. torch's C interface (its ``aoti_torch_get_*``
functions, stable across releases) answers in nanoseconds, so the questions are put by a small compiled loop. Where
that interface is missing, or a tensor's C++ side is not found in its Python object, Python asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from gradstep.engines.base import Int64s
from gradstep.optimizers.survey_loops import MIX, Loops, compiled

POINTER, NUMEL, GEOMETRY, DTYPE, DEVICE = range(5)
"""The columns of :func:`facts`. GEOMETRY is equal for equal shapes with equal strides; all but POINTER and NUMEL are
only to be compared with other facts. A tensor without strides (a sparse one) has DTYPE -1."""


def handles(tensors: Iterable[Tensor]) -> Int64s:
    """The Python object behind each tensor, good for as long as it lives."""
    return np.array(list(map(id, tensors)), dtype=np.int64)


def facts(columns: Sequence[Sequence[Tensor]], known_handles: Int64s | None = None) -> Int64s:
    """(n, 5) the present facts of the tensors of all columns, one column after the other.

    Args:
        columns: whom to ask about.
        known_handles: their :func:`handles`, if they are known.

    >>> x = torch.zeros(2, 3)
    >>> known = facts([[x, x.t(), x[:0]]])
    >>> known[:, NUMEL].tolist(), bool(known[0, POINTER] == x.data_ptr())
    ([6, 6, 0], True)
    >>> bool(known[0, GEOMETRY] == known[1, GEOMETRY])
    False
    """
    loops = _loops()
    if loops is None:
        return np.array([_asked(t) for column in columns for t in column], dtype=np.int64).reshape(-1, 5)
    return _read(loops.read, handles(chain.from_iterable(columns)) if known_handles is None else known_handles)


MOVED, ODD = 1, 2
"""What a :class:`Look` finds: a parameter that is not what it was (of gradients nothing is known then); else a gradient
that is missing, or not as wanted."""


@final
class Held:
    """Tensors that live at least as long as this, whoever else lets go of them.

    Python's lock does not keep them: it may change hands between any two lines, and it is given away while a kernel
    runs. So they are laid hold of in the same native call that asks where they are.

    Args:
        loops: what releases them.
        count: how many.
    """

    def __init__(self, loops: Loops, count: int) -> None:
        self._loops, self._handles = loops, np.zeros(count, dtype=np.int64)

    @property
    def address(self) -> int:
        """Where the handles are to be written; 0 holds nothing."""
        return self._handles.ctypes.data

    def __del__(self) -> None:
        self._loops.drop(len(self._handles), self.address, None)


@final
class Look:
    """The questions of a step, put to all parameters and gradients at once.

    Args:
        positions: (n,) where each parameter stands in the lists that will be looked at.
        params: the parameters.
        known: (n, 5) their facts.
        wanted: (n, 5) what a gradient must be, in all but the POINTER.
        table: (n, …) in whose first column the addresses of the gradients are written.
    """

    held: Held | list[Tensor] | None = None
    """Keeps the gradients whose addresses were written last, for whoever takes it over."""

    def __init__(
        self, positions: Int64s, params: Sequence[Tensor], known: Int64s, wanted: Int64s, table: Int64s
    ) -> None:
        self._arrays = [np.ascontiguousarray(a) for a in (positions, handles(params), known, wanted)] + [table]
        self._hints = _hints(params)
        addresses = [a.ctypes.data for a in (*self._arrays[:-1], self._hints, table)]
        self._job = np.array([len(positions), *addresses, table.shape[1]], dtype=np.int64)
        self._address = self._job.ctypes.data
        self._plain = all(type(p).grad is Tensor.grad for p in params)

    def __call__(self, params: list[Tensor]) -> int:
        """What has changed: 0, or some of MOVED and ODD.

        Args:
            params: of the whole optimizer.
        """
        loops = _loops()
        if loops is not None and loops.look is not None and self._plain:
            self.held = Held(loops, len(self._arrays[0]))
            found: int = loops.look(self._address, id(params), self.held.address)
            return found
        positions, objects, known, wanted, table = self._arrays
        mine = [params[i] for i in positions.tolist()]
        gradients = [g for p in mine if (g := p.grad) is not None]
        if not (np.array_equal(handles(mine), objects) and np.array_equal(facts([mine]), known)):
            return MOVED
        present = facts([gradients])
        if len(gradients) < len(mine) or not np.array_equal(present[:, NUMEL:], wanted[:, NUMEL:]):
            return ODD
        table[:, 0] = present[:, POINTER]
        self.held = gradients
        return 0


def _hints(params: Sequence[Tensor]) -> Int64s:
    """(n, 5) addresses that a look at each parameter reads from: its Python object, its C++ side, the place of its
    gradient, its storage, and the C++ side of the gradient that was there last. They are never followed.
    """
    hints, loops = np.zeros((len(params), 5), dtype=np.int64), _loops()
    if loops is not None and loops.grad is not None:
        for row, p in zip(hints, params, strict=True):
            if type(p) in (Tensor, torch.nn.Parameter) and p.layout == torch.strided:
                row[:4] = id(p), p._cdata, loops.grad(p._cdata), p.untyped_storage()._cdata
    return hints


def count_written(params: Sequence[Tensor], known_handles: Int64s | None) -> None:
    """Raise the version of tensors that were written to behind torch's back.

    This is how a backward pass over values that are no more is noticed.

    Args:
        params: the tensors.
        known_handles: theirs, unless one was made in inference mode and has no version.
    """
    loops = _loops()
    if loops is None or loops.bump is None or known_handles is None:
        torch.autograd.graph.increment_version(params)
    else:
        loops.bump(len(known_handles), known_handles.ctypes.data, None)


def _asked(t: Tensor) -> tuple[int, int, int, int, int]:
    if t.layout != torch.strided:
        return 0, 0, 0, -1, 0
    geometry = t.dim()
    for size, stride in zip(t.shape, t.stride(), strict=True):
        geometry = _mixed(_mixed(geometry, size), 0 if size == 1 else stride)
    return t.data_ptr(), t.numel(), geometry, _code(t.dtype), _code(t.device.type)


def _mixed(seed: int, number: int) -> int:
    value = ((seed ^ number) * MIX) % 2**64
    value ^= value >> 29
    return value - 2**64 if value >= 2**63 else value


@cache
def _code(thing: Any) -> int:
    return hash(thing) % 2**31


@cache
def _loops() -> Loops | None:
    """The compiled loops, or None where they are not to be had."""
    examples = [torch.zeros(2, 3).t(), torch.zeros(0), torch.nn.Parameter(torch.zeros(()))]
    loops = compiled(examples)
    if loops is None:
        return None
    answers = _read(loops.read, handles(examples))[:, : GEOMETRY + 1].tolist()
    return loops if answers == [list(_asked(t)[: GEOMETRY + 1]) for t in examples] else None


def _read(read: Any, objects: Int64s) -> Int64s:
    result = np.empty((len(objects), 5), dtype=np.int64)
    read(len(objects), objects.ctypes.data, result.ctypes.data)
    return result
