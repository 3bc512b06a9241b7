"""The arguments of an optimizer's constructor, the rule with a group's settings, and a group's embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import MISSING
from functools import cache, lru_cache
from typing import Any, final

from torch import Tensor, nn

from gradstep.rules import RULES, Rule, settings_of
from gradstep.spelling import suggest
from gradstep.storage.policy import is_embedding
from gradstep.warn import warn_user

ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
"""What an optimizer is made for: tensors, groups, or pairs of a name and a tensor."""

OWN: Mapping[str, Any] = {
    "engine": "auto",
    "state": "float32",
    "rounding": "nearest",
    "seed": None,
    "paged": False,
    "page_budget": None,
    "model": None,
}
"""The settings of every optimizer that do not belong to its rule, with their defaults; see :data:`SETTINGS`."""

TORCH_EXECUTION: Mapping[str, bool | None] = {
    "foreach": None,
    "fused": None,
    "capturable": False,
    "differentiable": False,
}
"""torch.optim's execution settings, with their defaults. Every class accepts them, so that a call written for torch
works; ``engine=`` decides instead, and the numbers do not depend on it. See :data:`SETTINGS`."""

SETTINGS = """
Other Parameters:
    params: what to update: tensors, pairs of name and tensor (``model.named_parameters()``), or groups: dictionaries
        with ``"params"``, settings of their own, and perhaps another ``"rule"``.
    engine: ``"auto"``, the fastest that can update a parameter, or ``"fused"``, ``"foreach"``,
        ``"eager"``, ``"compiled"`` or ``"reference"``.
    state: how slots are stored: ``"float32"``, ``"bfloat16"``, ``"8bit"`` or ``"4bit"``; or a group's own ``"state"``.
    rounding: of bfloat16 and float16 parameters: ``"nearest"``, ``"stochastic"``, ``"24bit"`` (bfloat16 only),
        ``"kahan"`` or ``"master"``.
    seed: the seed of the noise for rounding at random; None is 0, so that all ranks of a
        distributed run draw the same noise however they have seeded torch.
    paged: True, a folder or :class:`gradstep.Pages` keeps state in memory-mapped files; for parameters on a GPU, True
        keeps it in the host's memory.
    page_budget: bytes of paged state that may be in memory, or on the GPU, such as ``"1GB"``; None takes 512 MB.
    model: the module whose parameters are optimized, to find its embeddings: their state stays float32.
        :func:`gradstep.param_groups` finds them too; without either they are guessed from names.
    fused, foreach: torch's; no effect.
    capturable: torch's; True gives one warning per process, since a CUDA graph cannot replay a step.
    differentiable: torch's; True is refused, since autograd does not record a step.

Raises:
    ValueError: a setting out of its bounds, unknown, or impossible with the others or with a parameter.
    TypeError: a setting that the optimizer lacks, or of the wrong type.
"""
"""The part of the docstring that all optimizer classes share."""


_BETAS_ALIKE = {RULES["Adam"], RULES["AdamW"]}
"""The rules for which torch refuses one beta as a number and the other as a tensor."""


def split_arguments(
    kind: str, rule: type[Rule], positional: Sequence[Any], named: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a constructor's arguments into all settings of the rule and those given of :data:`OWN`.

    Args:
        kind: the name of the optimizer class.
        rule: its rule.
        positional, named: the arguments after ``params``.

    Raises:
        TypeError: a setting does not exist, or was given twice.
        ValueError, RuntimeError: an execution setting of torch that is refused here or in torch; for Adam and AdamW, as
            in torch, one beta as a number and the other as a tensor.
    """
    settings = settings_of(rule)
    places = [s.name for s in settings if not s.kw_only]
    if len(positional) > len(places):
        raise TypeError(f"{kind} takes at most {len(places)} settings by position, got {len(positional)}")
    values = dict(zip(places, positional, strict=False))
    names = {s.name for s in settings}
    for name, value in named.items():
        if name in OWN or name in TORCH_EXECUTION:
            continue
        if name in values:
            raise TypeError(f"{kind} got multiple values for argument {name!r}")
        if name not in names:
            raise TypeError(
                f"{kind} has no setting {name!r} (it has {', '.join(s.name for s in settings)}; {', '.join(OWN)})"
            )
        values[name] = value
    check_execution(named)
    betas = values.get("betas")
    if rule in _BETAS_ALIKE and isinstance(betas, (tuple, list)) and len({isinstance(b, Tensor) for b in betas}) > 1:
        raise ValueError("betas must be either both floats or both Tensors")
    return {**default_settings(rule), **values}, {name: value for name, value in named.items() if name in OWN}


_warned: set[str] = set()
"""The settings that this process has warned about."""


def check_execution(named: Mapping[str, Any]) -> None:
    """Check torch's execution settings in the arguments of a constructor or in a group.

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
        warn_user(
            "capturable=True changes nothing: a gradstep step counts on the CPU, and a CUDA graph would replay the "
            "coefficients of one step for ever; capture the forward and backward pass, and call step() outside"
        )


def read_group(rule: type[Rule], defaults: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], Rule]:
    """Return a new group, with a list of parameters and without torch's execution settings, and the group's rule.

    Raises:
        ValueError, TypeError, RuntimeError: see :func:`check_execution`, :func:`build_rule` and :func:`check_params`.
    """
    check_execution(given)
    group = {name: value for name, value in given.items() if name not in TORCH_EXECUTION}
    group_rule = build_rule(rule, group if "rule" in group else {**defaults, **group})
    return {**group, "params": check_params(group["params"])}, group_rule


@final
class GroupRules:
    """The rule classes of an optimizer's groups: its own, and those that groups name under ``"rule"``.

    Args:
        own: the rule of the groups that name none.
    """

    def __init__(self, own: type[Rule]) -> None:
        self.own, self.by_name = own, {own.__name__: own}

    def of(self, group: Mapping[str, Any]) -> type[Rule]:
        """Return the rule class of a group.

        Raises:
            ValueError: it names a rule that does not exist.
            TypeError: it is no group.
        """
        is_mapping = isinstance(group, Mapping)
        if not is_mapping or "params" not in group:
            raise TypeError(f'a group must be one of param_groups, which has "params", but is {group!r}')
        name = group.get("rule")
        if name is None:
            return self.own
        rule = self.by_name.get(name) or RULES.get(name) if isinstance(name, str) else None
        if rule is None:
            raise ValueError(f"Unknown rule in a group: {name!r}.{suggest(str(name), self.by_name | RULES)}")
        return rule

    def in_use(self, groups: Iterable[Mapping[str, Any]]) -> list[type[Rule]]:
        """Return the rule class of each group, without names of rules that do not exist."""
        names = [str(group.get("rule", self.own.__name__)) for group in groups]
        return [{**RULES, **self.by_name}[name] for name in names if name in RULES or name in self.by_name]


def build_rules(rules: GroupRules, groups: Sequence[Mapping[str, Any]]) -> list[Rule]:
    """Return the rule of each group of an optimizer, with its settings; both are checked.

    Raises:
        ValueError, TypeError: see :func:`check_lists`, :meth:`GroupRules.of` and :func:`build_rule`.
    """
    check_lists(groups)
    return [build_rule(rules.of(group), group) for group in groups]


def build_rule(rule: type[Rule], group: Mapping[str, Any]) -> Rule:
    """Return the rule with a group's settings, which are checked.

    Raises:
        ValueError, TypeError, KeyError: a setting is out of bounds or not ``Rule.fixed``, of a wrong type, or missing.
    """
    check_fixed(rule, group)
    group = {**defaults_beyond_torch(rule), **group} if rule.beyond_torch else group
    try:
        values = tuple([group[name] for name in _setting_names(rule)])
    except KeyError as error:
        raise KeyError(f"a group lacks {error}, a setting of its rule, {rule.__name__}") from None
    kinds = tuple(map(type, values))
    cacheable = _CACHEABLE_TYPES.issuperset(kinds) and not _holds_tensor(values)
    return (_cached_rule if cacheable else _cached_rule.__wrapped__)(rule, values, kinds)


def check_fixed(rule: type[Rule], group: Mapping[str, Any]) -> None:
    """Refuse a group with another value for a setting in ``Rule.fixed``, which would make it another optimizer.

    Raises:
        ValueError: naming the setting.

    >>> from gradstep.rules import AdamW
    >>> check_fixed(AdamW, {"decoupled_weight_decay": False})
    Traceback (most recent call last):
    ValueError: decoupled_weight_decay=False is not AdamW, which has decoupled_weight_decay=True
    """
    for name, value in rule.fixed.items():
        if name in group and group[name] != value:
            raise ValueError(f"{name}={group[name]!r} is not {rule.__name__}, which has {name}={value!r}")


@cache
def default_settings(rule: type[Rule]) -> Mapping[str, Any]:
    """Return the settings of a rule that have a default."""
    return {s.name: s.default for s in settings_of(rule) if s.default is not MISSING}


@cache
def defaults_beyond_torch(rule: type[Rule]) -> Mapping[str, Any]:
    """Return the settings that torch's class does not have, with their defaults; a group may omit them."""
    return {s.name: s.default for s in settings_of(rule) if s.name in rule.beyond_torch}


def drop_defaults_beyond_torch(rule: type[Rule], group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group without the settings that torch does not have, where they have their default.

    Groups then have torch's keys. Distributed checkpoints read every key of a group from the file that they load, and
    files of torch or of an earlier version do not have these settings.
    """
    defaults = defaults_beyond_torch(rule)
    return {key: value for key, value in group.items() if key not in defaults or value != defaults[key]}


def keep_settings(rule: type[Rule], defaults: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group without the settings of another rule, of which torch has filled in the ``defaults``."""
    foreign = defaults.keys() - set(_setting_names(rule))
    return drop_defaults_beyond_torch(rule, {key: value for key, value in group.items() if key not in foreign})


@cache
def _setting_names(rule: type[Rule]) -> tuple[str, ...]:
    return tuple(s.name for s in settings_of(rule))


# Other values are checked every time: a tensor may change in place, and a list may have no hash.
_CACHEABLE_TYPES = {float, int, bool, str, tuple, type(None)}


@lru_cache(maxsize=1024)
def _cached_rule(rule: type[Rule], values: tuple[Any, ...], kinds: tuple[type, ...]) -> Rule:
    del kinds  # 1 and True are equal, but only one of them is a learning rate
    return rule(**dict(zip(_setting_names(rule), values, strict=True)))


def _holds_tensor(values: tuple[Any, ...]) -> bool:
    return any(isinstance(x, Tensor) for v in values if type(v) is tuple for x in v)


def check_positive(name: str, value: float | Tensor) -> float:
    """Return a number as a float if it is finite and greater than 0.

    Raises:
        TypeError: the value is not a number.
        ValueError: the number is not finite, or not above 0.
    """
    try:
        number = float(value)
        if isinstance(value, (str, bytes, bool)):  # float() takes them
            raise TypeError(f"it is a {type(value).__name__}")
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, but is {value!r}") from error
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"Invalid {name}: {value} (must be finite and greater than 0)")
    return number


def check_lists(groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse groups whose parameters are not in a list or another sized collection.

    Raises:
        TypeError: an iterator, which is empty after one reading; a tensor, whose rows would count as parameters; a
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
    """Return names for the parameters of a group: their own if the group has them, else by position."""
    count = len(group["params"])  # code that adds or removes parameters by hand may leave param_names unchanged
    own = [str(name) for name in group.get("param_names") or ()][:count]
    return [*own, *(f"parameter {j} of group {index}" for j in range(len(own), count))]


def list_given_parameters(params: ParamsT) -> Any:
    """Return the parameters of a constructor as a list: tensors, pairs of name and tensor, or groups.

    Raises:
        TypeError: a module that is no list of parameters, something that is no collection, or a tuple that is no pair.
    """
    if isinstance(params, nn.Module) and not isinstance(params, nn.ParameterList):
        raise TypeError(
            f"params must be the parameters of the {type(params).__name__}, not itself: give model.named_parameters()"
        )
    if not isinstance(params, Iterable):
        raise TypeError(f"params must be tensors, pairs of name and tensor, or groups, but is {params!r}")
    if isinstance(params, Tensor):
        return params  # torch refuses it
    items = list(params)
    check_pairs(items)
    return items


def check_pairs(params: Iterable[Any]) -> None:
    """Refuse a tuple that is no pair of a name and a tensor.

    Raises:
        TypeError: naming its position.

    >>> check_pairs([("weight",)])
    Traceback (most recent call last):
    TypeError: parameter 0 must be a tensor or a pair of its name and a tensor, not (str)
    """
    for index, p in enumerate(params):
        if isinstance(p, tuple) and not (len(p) == 2 and isinstance(p[1], Tensor)):
            kinds = ", ".join(type(part).__name__ for part in p)
            raise TypeError(f"parameter {index} must be a tensor or a pair of its name and a tensor, not ({kinds})")


def check_params(params: Any) -> list[Any]:
    """Return the parameters of a new group, tensors or pairs of name and tensor, as a list.

    Raises:
        TypeError: a set, which has no order; a tuple that is no pair; a tensor of numbers that are neither
            floating-point nor complex.
        ValueError: a parameter occurs twice.
    """
    if isinstance(params, set):
        raise TypeError("optimizer parameters need to be in an order, and a set has none: pass a list")
    members: list[Any] = [params] if isinstance(params, Tensor) else list(params)
    check_pairs(members)
    tensors = [p[1] if isinstance(p, tuple) else p for p in members]
    for index, p in enumerate(tensors):
        if isinstance(p, Tensor) and not (p.is_floating_point() or p.is_complex()):
            raise TypeError(
                f"optimizer can only optimize floating-point or complex tensors, but parameter {index} is {p.dtype}"
            )
    if len({id(p) for p in tensors}) < len(tensors):
        raise ValueError("a parameter group contains the same parameter more than once")
    return members


@final
class Embeddings:
    """The embeddings among a group's parameters: as marked in the group if it has marks, else guessed from names.

    Args:
        group: a parameter group. :func:`gradstep.param_groups` and an optimizer's ``model=`` write ``"embeddings"``
            into it: for each of its ``"params"``, in order, whether it is an embedding.

    Attributes:
        are_marked: whether the group has these marks.
    """

    def __init__(self, group: Mapping[str, Any]) -> None:
        params, flags = group.get("params", ()), group.get("embeddings")
        self.are_marked = isinstance(flags, (list, tuple)) and len(flags) == len(params)
        tensors = (p[1] if isinstance(p, tuple) else p for p in params)
        self._ids = (
            {id(p) for p, flag in zip(tensors, flags, strict=True) if flag} if self.are_marked and flags else set()
        )

    def holds(self, p: Tensor, name: str) -> bool:
        """Return whether a parameter of the group is an embedding."""
        return id(p) in self._ids if self.are_marked else is_embedding(name)
