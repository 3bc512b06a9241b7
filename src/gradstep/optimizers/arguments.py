"""What a constructor was given, and the rule that a group's settings make."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence, Sized
from functools import cache, lru_cache
from typing import Any

from torch import Tensor

from gradstep.rules import RULES, Rule, settings_of

OWN: Mapping[str, Any] = {
    "engine": "auto",
    "state": "float32",
    "rounding": "nearest",
    "seed": None,
    "paged": False,
    "page_budget": None,
    "model": None,
}
"""The settings of every optimizer that are not mathematics, with their defaults:

- ``engine``: who executes: ``"auto"``, ``"fused"``, ``"eager"``, ``"compiled"`` or ``"reference"``;
- ``state``: how slots are stored: ``"float32"``, ``"bfloat16"`` or ``"8bit"``;
- ``rounding``: of bfloat16 and float16 parameters: ``"nearest"``, ``"stochastic"``, ``"kahan"`` or ``"master"``;
- ``seed``: of the noise of rounding at random; None stands for torch's own seed, which is not advanced;
- ``paged``: True or a folder (or :class:`Pages`) keeps state in memory-mapped files; True, for parameters on a GPU, in
  the host's memory;
- ``model``: the module whose parameters are optimized, by which its embeddings are known: their state stays float32;
  :func:`gradstep.param_groups` knows them too, and without either they are guessed from names;
- ``page_budget``: bytes of paged state that may be in memory, or on the GPU (``"512MB"``).
"""

TORCH_EXECUTION: Mapping[str, bool | None] = {
    "foreach": None,
    "fused": None,
    "capturable": False,
    "differentiable": False,
}
"""torch.optim's settings of how it executes, with their defaults. Every class takes them, so that a call written for
torch works; ``engine=`` decides instead, and the numbers do not depend on it:

- ``fused``, ``foreach``: nothing changes: ``engine="auto"`` takes the fastest engine that fits each parameter;
- ``capturable=True``: warned of once in a process, since a CUDA graph cannot replay a step;
- ``differentiable=True``: refused, since a step is not recorded by autograd.
"""


_BETAS_ALIKE = {RULES["Adam"], RULES["AdamW"]}
"""The rules of which torch refuses one beta as a number and the other as a tensor."""


def split_arguments(
    kind: str, rule: type[Rule], positional: Sequence[Any], named: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rule's settings that were given, and the optimizer's own.

    Args:
        kind: the name of the optimizer class.
        rule: its rule.
        positional, named: the arguments after ``params``.

    Raises:
        TypeError: a setting that there is not, or that was given twice.
        ValueError, RuntimeError: a way to execute that there is not, here or in torch; for Adam and AdamW, as in
            torch, one beta as a number and the other as a tensor.
    """
    settings = settings_of(rule)
    places = [s.name for s in settings if not s.kw_only]
    if len(positional) > len(places):
        raise TypeError(f"{kind} takes at most {len(places)} settings by position, got {len(positional)}")
    given = dict(zip(places, positional, strict=False))
    names = {s.name for s in settings}
    for name, value in named.items():
        if name in OWN or name in TORCH_EXECUTION:
            continue
        if name in given:
            raise TypeError(f"{kind} got multiple values for argument {name!r}")
        if name not in names:
            raise TypeError(
                f"{kind} has no setting {name!r} (it has {', '.join(s.name for s in settings)}; {', '.join(OWN)})"
            )
        given[name] = value
    check_execution(named)
    betas = given.get("betas")
    if rule in _BETAS_ALIKE and isinstance(betas, (tuple, list)) and len({isinstance(b, Tensor) for b in betas}) > 1:
        raise ValueError("betas must be either both floats or both Tensors")
    return given, {name: value for name, value in named.items() if name in OWN}


_warned: set[str] = set()
"""What this process has been warned of."""


def check_execution(named: Mapping[str, Any]) -> None:
    """Look at torch's settings of how to execute, of a constructor or of a group.

    Raises:
        ValueError: ``differentiable=True``.
        RuntimeError: ``fused`` and ``foreach`` together, as in torch.
    """
    if named.get("differentiable"):
        raise ValueError(
            "differentiable=True is not supported: a gradstep step is not recorded by autograd, so gradients through "
            "it would be missing; take torch.optim's optimizer, or torch.func on the rule's update(), for them"
        )
    if named.get("fused") and named.get("foreach"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    if named.get("capturable") and "capturable" not in _warned:
        _warned.add("capturable")
        warnings.warn(
            "capturable=True changes nothing: a gradstep step counts on the CPU, and a CUDA graph would replay the "
            "coefficients of one step for ever; capture the forward and backward pass, and call step() outside",
            UserWarning,
            stacklevel=4,
        )


def drop_execution(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group without torch's settings of how to execute, which have been checked.

    Raises:
        ValueError, RuntimeError: see :func:`check_execution`.
    """
    check_execution(group)
    return {name: value for name, value in group.items() if name not in TORCH_EXECUTION}


def build_rule(rule: type[Rule], group: Mapping[str, Any]) -> Rule:
    """The rule with a group's settings, checked.

    Raises:
        ValueError, TypeError: a setting out of its bounds, or of the wrong kind, or not the one that makes the rule.
    """
    check_fixed(rule, group)
    if rule.beyond_torch:
        group = {**defaults_beyond_torch(rule), **group}
    values = tuple([group[name] for name in _setting_names(rule)])
    kinds = tuple(map(type, values))
    if _CACHEABLE_TYPES.issuperset(kinds) and not _holds_tensor(values):
        return _cached_rule(rule, values, kinds)
    return _cached_rule.__wrapped__(rule, values, kinds)


def check_fixed(rule: type[Rule], group: Mapping[str, Any]) -> None:
    """Refuse a group with a setting that would make another optimizer of this one, as ``Rule.fixed`` says.

    Raises:
        ValueError: it has one.

    >>> from gradstep.rules import AdamW
    >>> check_fixed(AdamW, {"decoupled_weight_decay": False})
    Traceback (most recent call last):
    ValueError: decoupled_weight_decay=False is not AdamW, which has decoupled_weight_decay=True
    """
    for name, value in rule.fixed.items():
        if name in group and group[name] != value:
            raise ValueError(f"{name}={group[name]!r} is not {rule.__name__}, which has {name}={value!r}")


@cache
def defaults_beyond_torch(rule: type[Rule]) -> Mapping[str, Any]:
    """The settings that torch's class does not have, with their defaults: what a group without them stands for."""
    return {s.name: s.default for s in settings_of(rule) if s.name in rule.beyond_torch}


def drop_defaults_beyond_torch(rule: type[Rule], group: Mapping[str, Any]) -> dict[str, Any]:
    """A group without those of these settings that have their default.

    Groups then have torch's keys. Distributed checkpoints read every key of a group from the file that they load, and
    neither torch nor an earlier version has written these.
    """
    defaults = defaults_beyond_torch(rule)
    return {key: value for key, value in group.items() if key not in defaults or value != defaults[key]}


@cache
def _setting_names(rule: type[Rule]) -> tuple[str, ...]:
    return tuple(s.name for s in settings_of(rule))


# A tensor may change in place, and a list or a wrong kind of setting has no hash: these are looked at every time.
_CACHEABLE_TYPES = {float, int, bool, tuple, type(None)}


@lru_cache(maxsize=1024)
def _cached_rule(rule: type[Rule], values: tuple[Any, ...], kinds: tuple[type, ...]) -> Rule:
    del kinds  # 1 and True are equal, but only one of them is a learning rate
    return rule(**dict(zip(_setting_names(rule), values, strict=True)))


def _holds_tensor(values: tuple[Any, ...]) -> bool:
    return any(isinstance(x, Tensor) for v in values if type(v) is tuple for x in v)


def check_positive(name: str, value: float | Tensor) -> float:
    """A number that is finite and greater than 0, or an error that names it.

    Raises:
        TypeError: no number.
        ValueError: one that is not finite, or not above 0.
    """
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, but is {value!r}") from error
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"Invalid {name}: {value} (must be finite and greater than 0)")
    return number


def check_lists(groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse groups whose parameters are in no list, or nothing like one.

    Raises:
        TypeError: an iterator, which is empty after it was read once; a tensor, of which the rows would be taken; a
            set, which has no order.

    >>> import torch
    >>> check_lists([{"params": iter([torch.zeros(3)])}])
    Traceback (most recent call last):
    TypeError: param_groups[0]["params"] is a list_iterator, but must be a list of tensors: use list(...)
    """
    for index, group in enumerate(groups):
        params = group["params"]
        if type(params) is not list and (not isinstance(params, Sized) or isinstance(params, (Tensor, set, frozenset))):
            remedy = "[...]" if isinstance(params, Tensor) else "list(...)"
            kind = type(params).__name__
            raise TypeError(f'param_groups[{index}]["params"] is a {kind}, but must be a list of tensors: use {remedy}')


def parameter_names(group: Mapping[str, Any], index: int) -> list[str]:
    """What to call the parameters of a group: their own names, where it was given them."""
    count = len(group["params"])  # who appends parameters or removes some by hand may not know of their names
    named = list(group.get("param_names") or ())[:count]
    return [*named, *(f"parameter {j} of group {index}" for j in range(len(named), count))]


def check_params(params: Any) -> list[Any]:
    """The parameters of a new group, tensors or pairs with names, as a list.

    Raises:
        TypeError: a set, which has no order; a tensor whose numbers are neither floating-point nor complex.
        ValueError: a parameter that is there twice.
    """
    if isinstance(params, set):
        raise TypeError("optimizer parameters need to be in an order, and a set has none: pass a list")
    listed: list[Any] = [params] if isinstance(params, Tensor) else list(params)
    tensors = [p[1] if isinstance(p, tuple) else p for p in listed]
    for index, p in enumerate(tensors):
        if isinstance(p, Tensor) and not (p.is_floating_point() or p.is_complex()):
            raise TypeError(
                f"optimizer can only optimize floating-point or complex tensors, but parameter {index} is {p.dtype}"
            )
    if len({id(p) for p in tensors}) < len(tensors):
        raise ValueError("a parameter group contains the same parameter more than once")
    return listed
