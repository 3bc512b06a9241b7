"""Which engine serves which parameter, and why."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, final

from torch import Tensor

from gradstep.engines.base import Engine, Traits
from gradstep.engines.compiled import Compiled
from gradstep.engines.eager import Eager
from gradstep.engines.fused import Fused
from gradstep.engines.reference import Reference
from gradstep.optimizers.memory import is_addressable
from gradstep.optimizers.storage import Embeddings, Storage, Stored
from gradstep.rules import Rule

ENGINES: Mapping[str, Engine] = {e.name: e for e in (Fused(), Eager(), Compiled(), Reference())}
"""Every engine by its name."""


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, each once, in whatever order of axes.

    >>> import torch
    >>> is_dense(torch.zeros(2, 3).t()), is_dense(torch.zeros(2, 3)[:, :2]), is_dense(torch.zeros(1).expand(3))
    (True, False, False)
    """
    return _is_dense(tuple(tensor.shape), tensor.stride())


@cache
def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(strides, shape, strict=True) if si != 1):
        if stride != expected:
            return 0 in shape
        expected *= size
    return True


def traits(p: Tensor, *, noisy: bool) -> Traits:
    """What an engine needs to know of a parameter.

    Args:
        p: the parameter.
        noisy: whether something of it is rounded at random.
    """
    plain = is_addressable(p)
    return Traits(
        dtype=str(p.dtype).removeprefix("torch."),
        device=p.device.type,
        dense=plain and is_dense(p),
        plain=plain,
        noisy=noisy,
    )


def check_engine(name: str) -> None:
    """Refuse an engine that does not exist.

    Raises:
        ValueError: naming those that do.
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"Unknown engine: {name!r} (choose auto, {', '.join(ENGINES)})")


def choose(engine: str, rule: type[Rule], p: Tensor, label: str, *, noisy: bool) -> tuple[Engine, str]:
    """The engine for one parameter, with the reason.

    Args:
        engine: the user's wish, ``"auto"`` or a name.
        rule: the rule class.
        p: the parameter.
        label: what to call it in an error.
        noisy: whether something of it is rounded at random.

    Raises:
        ValueError: the engine wished for cannot serve this parameter.
    """
    known = traits(p, noisy=noisy)
    if engine != "auto":
        refusal = ENGINES[engine].refuse(rule, known)
        if refusal is not None:
            able = [e.name for e in ENGINES.values() if e.refuse(rule, known) is None]
            raise ValueError(
                f"engine={engine!r} cannot serve {label} of shape {tuple(p.shape)} because {refusal}; "
                f"engine='auto' chooses one that can ({', '.join(able)})"
            )
        return ENGINES[engine], f"engine={engine!r} was asked for"
    refusal = ENGINES["fused"].refuse(rule, known)
    if refusal is None:
        return ENGINES["fused"], f"a dense {known.dtype} tensor on the CPU"
    return ENGINES["eager"], f"not fused because {refusal}"


class Choice(NamedTuple):
    """What executes one parameter, why, and how it is stored."""

    engine: Engine
    reason: str
    stored: Stored


@final
class Choices:
    """What executes the parameters of a group, and how they are stored; parameters that are alike are decided once.

    Args:
        engine: the user's wish, ``"auto"`` or a name.
        storage: the user's wish.
        rule: with the settings of the group.
        group: the group.
    """

    def __init__(self, engine: str, storage: Storage, rule: Rule, group: Mapping[str, Any]) -> None:
        self._engine, self._storage, self._rule, self._group = engine, storage, rule, group
        self._embeddings = Embeddings(group)
        self._decided: dict[Any, Choice] = {}

    def of(self, p: Tensor, name: str, *, addressable: bool | None = None) -> Choice:
        """Decide one parameter.

        Args:
            p: the parameter.
            name: what to call it in an error.
            addressable: whether it is, if that is known.

        Raises:
            ValueError: the engine or the storage wished for cannot serve it.
        """
        if not (is_addressable(p) if addressable is None else addressable):
            return self._decide(p, name)
        alike = (p.shape, p.stride(), p.dtype, p.device, self._embeddings.holds(p, name))
        choice = self._decided.get(alike)
        if choice is None:
            choice = self._decided[alike] = self._decide(p, name)
        return choice

    def _decide(self, p: Tensor, name: str) -> Choice:
        stored = self._storage.of(self._rule, self._group, p, name, embeddings=self._embeddings)
        engine, reason = choose(self._engine, type(self._rule), p, name, noisy=stored.noisy)
        return Choice(engine, reason, stored)
