"""NumPy arrays as the engines take them: the one file that knows what an engine asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.base import Batch, Engine, Int64s, Traits, UpdateSpec
from gradstep.engines.fused import Fused
from gradstep.engines.fused.threads import available
from gradstep.engines.reference import Reference
from gradstep.numpy.base import Floats
from gradstep.rules import Rule
from gradstep.storage.codecs import Nearest
from gradstep.storage.elements import ELEMENTS

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (Fused(), Reference())}
"""The engines that need no torch, the fastest first."""

_threads = cache(available)


def check_engine(name: str) -> None:
    """Refuse an engine that does not exist.

    Raises:
        ValueError: naming those that do.
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"Unknown engine: {name!r} (choose auto, {', '.join(ENGINES)})")


def is_dense(arrays: Sequence[Floats]) -> bool:
    """Whether all fill one stretch of memory in the same order of axes, so that an element is found by its number.

    >>> x = np.zeros((2, 3))
    >>> is_dense([x, x]), is_dense([x.T, x.T]), is_dense([x, np.asfortranarray(x)]), is_dense([x[:, :2]])
    (True, True, False, False)
    """
    flags = [a.flags for a in arrays]
    in_order = all(f.c_contiguous for f in flags) or all(f.f_contiguous for f in flags)
    return in_order and all(f.aligned for f in flags)


@cache
def choose(wish: str, rule: type[Rule], dtype: str, dense: bool) -> tuple[Engine, str]:
    """The engine for a parameter, with the reason.

    Args:
        wish: ``"auto"``, or an engine by its name.
        rule: the rule class.
        dtype: the parameter's type of elements.
        dense: whether :func:`is_dense` holds of its arrays.

    Raises:
        ValueError: the engine wished for cannot serve it.
    """
    traits = Traits(dtype=dtype, device="cpu", dense=dense, plain=True)
    refusals = {name: engine.refuse(rule, traits) for name, engine in ENGINES.items()}
    if wish == "auto":
        name = next(name for name, refusal in refusals.items() if refusal is None)
        reasons = [f"not {other} because {refusal}" for other, refusal in refusals.items() if refusal is not None]
        return ENGINES[name], ", ".join(reasons) or f"a dense {dtype} array"
    if refusals[wish] is not None:
        raise ValueError(f"engine={wish!r} cannot serve a parameter because {refusals[wish]}; engine='auto' can")
    return ENGINES[wish], f"engine={wish!r} was asked for"


@cache
def spec_of(rule: type[Rule], slots: tuple[str, ...], coefficients: tuple[str, ...], dtype: str) -> UpdateSpec:
    """What is computed for parameters with these slots and coefficients, all of one type of elements."""
    plain = Nearest(ELEMENTS[dtype])
    return UpdateSpec(
        rule=rule,
        slots=slots,
        coefficients=(*coefficients, "gradient"),
        gradient=plain,
        parameter=plain,
        state=(plain,) * len(slots),
    )


@final
class ArrayBatch(Batch):
    """Arrays that one engine updates with one spec.

    Args:
        spec: what is computed.
        columns: the gradients, the parameters, and each slot.
        table: where they begin, and what else the engine needs to know of each parameter.
        coefficients: (rows, names) in float64.
    """

    def __init__(
        self,
        spec: UpdateSpec,
        columns: Sequence[Sequence[Floats]],
        table: Int64s,
        coefficients: Sequence[Sequence[float]],
    ) -> None:
        self.spec = spec
        self.table = table
        self.coefficients = np.array(coefficients, dtype=np.float64)
        self.threads = _threads()
        self._columns = columns

    @property
    def columns(self) -> Sequence[Sequence[Floats]]:
        return self._columns

    def arrays(self) -> Sequence[Sequence[NDArray[Any]]]:
        return self._columns
