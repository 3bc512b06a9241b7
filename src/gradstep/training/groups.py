"""Parameter groups: assign each parameter its weight decay and learning rate, with the reason.

The second half finds the facts about each parameter: names, modules and layer, and whether it decays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, final

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradstep.storage.policy import is_embedding_class

EXPLICIT = "explicit"
"""The policy that assigns nothing: an override must match every parameter."""

GroupSettingsMap = Mapping[str, Any]


def param_groups(
    model: nn.Module,
    weight_decay: float = 0.1,
    *,
    policy: str = "no_decay_norm_bias",
    embeddings: Literal["decay", "no_decay"] = "decay",
    lr: float | None = None,
    layer_decay: float | None = None,
    overrides: Mapping[str, GroupSettingsMap] | None = None,
) -> ParamGroups:
    """Sort a model's parameters into named groups for any ``torch.optim.Optimizer``, with a reason for each parameter.

    ==========================  =========================================================================
    policy                      decays
    ==========================  =========================================================================
    ``"no_decay_norm_bias"``    all but norms (by type and by name), biases, and tensors of < 2 dimensions
    ``"ndim>=2"``               tensors of two or more dimensions, whatever they are
    ``"all"``                   everything
    ``"explicit"``              nothing is assigned: an override must match every parameter
    ==========================  =========================================================================

    A parameter with several names (tied weights) counts once, under its first name. Parameters that do not
    require a gradient are in no group; the table marks them as frozen.

    With ``layer_decay`` d, a parameter below k levels gets ``lr · dᵏ``. The levels are the embeddings, then each
    numbered layer in the model's order, then the head; see :func:`gradstep.training.groups.levels_of`.

    Args:
        model: the model to train.
        weight_decay: the decay of parameters that decay, ≥ 0; the others get 0.
        policy: a name from the table.
        embeddings: ``"no_decay"`` excludes the weights of embeddings from decay under every policy.
        lr: the learning rate of every group, > 0; None leaves it to the optimizer. ``layer_decay`` needs it.
        layer_decay: the factor from each level to the one below, in (0, 1].
        overrides: settings by pattern (``*`` and ``?`` as in file names) of the full parameter name. They override
            the policy: ``{"head.*": {"lr": 1e-3}, "*.logit_scale": {"weight_decay": 0.0}}``. ``"name"`` names the
            group; its default is the pattern.

    Returns:
        A list of groups, each with ``params``, ``param_names``, ``embeddings`` (for each parameter, whether an
        embedding holds it, tied or not), ``name``, ``weight_decay`` and the other settings.
        ``print(groups.table())`` shows name, shape, group, decay, lr and reason of every parameter. The names stay in
        the optimizer's ``param_groups`` and so in its checkpoints.

    Raises:
        ValueError: a setting out of its bounds, an unknown policy, a pattern that matches nothing, a parameter that
            two patterns match, or that none matches under ``"explicit"``; the message names them all.

    Example:
        >>> import torch, gradstep
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
        >>> groups = gradstep.param_groups(model, weight_decay=0.1)
        >>> print(groups.table())
        parameter  shape   group     decay  lr  reason
        0.weight   10 × 4  decay     0.1    –   2 dimensions
        1.weight   4       no_decay  0      –   of a norm
        1.bias     4       no_decay  0      –   of a norm
        2.weight   2 × 4   decay     0.1    –   2 dimensions
        2.bias     2       no_decay  0      –   a bias
        >>> optimizer = gradstep.AdamW(groups, lr=1e-3)
        >>> [group["name"] for group in optimizer.param_groups]
        ['decay', 'no_decay']

    Source: decay on matrices only is the practice since GPT-2; layer-wise decay of the learning rate is Clark et al.,
    "ELECTRA", arXiv:2003.10555, section 3.1, and Bao et al., "BEiT", arXiv:2106.08254, appendix.
    """
    _check(weight_decay, policy, embeddings, lr, layer_decay)
    overrides = overrides or {}
    params = name_model_parameters(model)
    trained = [p for p in params if p.tensor.requires_grad]
    if not trained:
        raise ValueError("the model has no parameter that requires a gradient: nothing can be trained")
    patterns = _match_overrides(trained, params, overrides)
    if policy == EXPLICIT and len(patterns) < len(trained):
        missing = ", ".join(p.name for p in trained if p not in patterns)
        raise ValueError(f"policy 'explicit': no pattern of overrides matches {missing}")
    levels = dict(zip(params, levels_of(params), strict=True)) if layer_decay is not None else {}
    levels_above = count_levels_above(list(levels.values()))

    groups: dict[str, dict[str, Any]] = {}
    rows = []
    for p in params:
        if not p.tensor.requires_grad:
            rows.append(ParameterRow(p.names, tuple(p.tensor.shape), None, None, None, "frozen: requires no gradient"))
            continue
        decays, reason = _decide(p, policy, embeddings)
        settings: dict[str, Any] = {"weight_decay": weight_decay if decays else 0.0}
        if lr is not None:
            settings["lr"] = lr * layer_decay ** levels_above[levels[p]] if layer_decay is not None else lr
        parts = [levels[p]] if levels else []
        if p in patterns:
            pattern = patterns[p]
            own = dict(overrides[pattern])
            parts.insert(0, str(own.pop("name", pattern)))
            reason = f"override {pattern!r}" + ("" if "weight_decay" in own or policy == EXPLICIT else f", {reason}")
            settings.update(own)
        name = "/".join([*parts, "decay" if settings["weight_decay"] else "no_decay"])
        _add_to_group(groups, name, settings, p)
        rows.append(
            ParameterRow(p.names, tuple(p.tensor.shape), name, settings["weight_decay"], settings.get("lr"), reason)
        )
    return ParamGroups(groups.values(), rows)


def _decide(p: NamedParameter, policy: str, embeddings: str) -> Decision:
    """Return whether a parameter decays, and the reason if it does not."""
    if p.in_embedding and embeddings == "no_decay":
        return False, "an embedding"
    return POLICIES[policy](p) if policy in POLICIES else (True, "")


def _match_overrides(
    trained: list[NamedParameter], params: list[NamedParameter], overrides: Mapping[str, GroupSettingsMap]
) -> dict[NamedParameter, str]:
    """Return the one pattern that matches each parameter; parameters without a match are left out."""
    patterns: dict[NamedParameter, list[str]] = {}
    for pattern, settings in overrides.items():
        if "params" in settings:
            raise ValueError(f"overrides[{pattern!r}] gives 'params', which the pattern itself says")
        hits = [p for p in trained if any(fnmatchcase(name, pattern) for name in p.names)]
        if not hits:
            frozen = any(fnmatchcase(name, pattern) for p in params for name in p.names)
            what = "matches frozen parameters only" if frozen else "matches no parameter"
            raise ValueError(f"overrides: {pattern!r} {what} (the first of the model is {params[0].name!r})")
        for p in hits:
            patterns.setdefault(p, []).append(pattern)
    ambiguous = [
        f"{p.name} by {' and '.join(map(repr, matches))}" for p, matches in patterns.items() if len(matches) > 1
    ]
    if ambiguous:
        raise ValueError("overrides: matched more than once: " + "; ".join(ambiguous))
    return {p: matches[0] for p, matches in patterns.items()}


def _add_to_group(groups: dict[str, dict[str, Any]], name: str, settings: dict[str, Any], p: NamedParameter) -> None:
    group = groups.setdefault(name, {"params": [], "param_names": [], "embeddings": [], "name": name, **settings})
    if {key: group[key] for key in group.keys() - {"params", "param_names", "embeddings", "name"}} != settings:
        raise ValueError(f"overrides: two patterns call their group {name!r} and give it different settings")
    group["params"].append(p.tensor)
    group["param_names"].append(p.name)
    group["embeddings"].append(p.in_embedding)


def _check(weight_decay: float, policy: str, embeddings: str, lr: float | None, layer_decay: float | None) -> None:
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ValueError(f"Invalid weight_decay: {weight_decay} (must be finite and at least 0)")
    policies = [*POLICIES, EXPLICIT]
    if policy not in policies:
        raise ValueError(f"Invalid policy: {policy!r} (choose from {', '.join(map(repr, policies))})")
    if embeddings not in ("decay", "no_decay"):
        raise ValueError(f"Invalid embeddings: {embeddings!r} (choose 'decay' or 'no_decay')")
    if lr is not None and not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"Invalid lr: {lr} (must be finite and greater than 0)")
    if layer_decay is not None:
        if not 0 < layer_decay <= 1:
            raise ValueError(f"Invalid layer_decay: {layer_decay} (must be in (0, 1])")
        if lr is None:
            raise ValueError("layer_decay needs lr=, the learning rate of the topmost level")


_TITLES = ("parameter", "shape", "group", "decay", "lr", "reason")
_NONE = "–"


@final
@dataclass(frozen=True)
class ParameterRow:
    """The group and settings of one parameter: a row of :meth:`ParamGroups.table`.

    Attributes:
        names: its names; more than one if it is tied.
        shape: its shape.
        group: the name of its group; None if it is in none.
        weight_decay: its decay; None if it is in no group.
        lr: its learning rate; None if the optimizer's default applies.
        reason: why it decays or not.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    group: str | None
    weight_decay: float | None
    lr: float | None
    reason: str

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of the table's columns."""
        tied = f"; tied: {', '.join(self.names[1:])}" if len(self.names) > 1 else ""
        decay, lr = (_NONE if value is None else f"{value:.4g}" for value in (self.weight_decay, self.lr))
        shape = " × ".join(map(str, self.shape)) or "scalar"
        return self.names[0], shape, self.group or _NONE, decay, lr, self.reason + tied


@final
class ParamGroups(list[dict[str, Any]]):
    """Groups that any ``torch.optim.Optimizer`` takes as ``params``, made by :func:`gradstep.param_groups`.

    Attributes:
        rows: one for every parameter of the model, in the model's order, frozen parameters included.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], rows: Sequence[ParameterRow]) -> None:
        super().__init__(groups)
        self.rows = tuple(rows)

    def table(self) -> str:
        """Return every parameter's shape, group, decay, learning rate and reason as plain text."""
        lines = [_TITLES, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (map(str.ljust, line, widths) for line in lines)
        return "\n".join("  ".join(cells).rstrip() for cells in padded)


# -- facts about parameters -------------------------------------------------------------------------------------------

_NORM = re.compile(r"Norm(\d[dD])?$")
_BIAS = re.compile(r"^bias(_|$)|_bias$")


@final
@dataclass(frozen=True, eq=False)
class NamedParameter:
    """One parameter of a model with all its names; tied weights have several."""

    tensor: Tensor  # the parameter
    names: tuple[str, ...]  # all its names, in the model's order
    owners: tuple[nn.Module, ...]  # the modules that hold it, in the order of the names

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]

    @property
    def in_norm(self) -> bool:
        """Whether a normalisation layer holds it.

        A layer is one if the name of its class, or of a base class, ends in ``Norm``, ``Norm1d``, ``Norm2d`` or
        ``Norm3d``. This covers all of torch's and the RMSNorms of model libraries (``LlamaRMSNorm``).
        """
        return any(_NORM.search(cls.__name__) for owner in self.owners for cls in type(owner).__mro__)

    @property
    def in_embedding(self) -> bool:
        """Whether an embedding holds it: a module with a class or base class named ``…Embedding(Bag)``."""
        return any(is_embedding_class(type(owner)) for owner in self.owners)

    @property
    def is_bias(self) -> bool:
        """Whether its name is that of a bias: ``bias``, ``bias_k``, ``in_proj_bias``."""
        return any(_BIAS.search(name.rpartition(".")[2]) for name in self.names)


def name_model_parameters(model: nn.Module) -> list[NamedParameter]:
    """Return every parameter of a model, tied ones once, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: a lazy module's parameter, which has no shape before the first forward pass.
    """
    owners_of: dict[Tensor, list[tuple[str, nn.Module]]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
            owners_of.setdefault(p, []).append((f"{prefix}.{name}" if prefix else name, module))
    result = []
    for p, pairs in owners_of.items():
        names, owners = zip(*pairs, strict=True)
        if is_lazy(p):
            raise ValueError(f"{names[0]} has no shape yet: run one forward pass before making parameter groups")
        result.append(NamedParameter(p, names, owners))
    return result


EMBEDDINGS = "embeddings"
HEAD = "head"
_LAYER = re.compile(r"^(?:.*?\.)??\d+(?=\.)")  # up to the first segment of the path that is a number


def levels_of(params: Sequence[NamedParameter]) -> list[str]:
    """Return the level of every parameter: ``"embeddings"``, a layer (``"h.0"``, ``"h.1"``, ...) or ``"head"``.

    Parameters with the same path up to its first number form a layer: ``encoder.layer.3.attention.weight`` belongs to
    ``encoder.layer.3``. Layers are in the model's order, also over several stacks. Of the parameters in no layer,
    embeddings and those registered before the first layer are at the bottom, the others (a final norm, the head) at the
    top. A tied parameter has the level of its first name.

    Raises:
        ValueError: no parameter is in a numbered layer.
    """
    layers = [_LAYER.match(p.name) for p in params]
    if not any(layers):
        raise ValueError(
            "layer_decay needs numbered layers, and no parameter's name has a number in its path "
            f"(the first is {params[0].name!r}): give learning rates by overrides={{pattern: {{'lr': ...}}}} instead"
        )
    first = next(i for i, match in enumerate(layers) if match)
    return [
        match[0] if match else EMBEDDINGS if i < first or p.in_embedding else HEAD
        for i, (p, match) in enumerate(zip(params, layers, strict=True))
    ]


def count_levels_above(levels: Sequence[str]) -> dict[str, int]:
    """Return how many levels lie above each level: 0 for the topmost.

    >>> count_levels_above(["embeddings", "h.0", "h.1", "head", "h.1"])
    {'embeddings': 3, 'h.0': 2, 'h.1': 1, 'head': 0}
    """
    inner = [level for level in dict.fromkeys(levels) if level not in (EMBEDDINGS, HEAD)]
    order = [level for level in (EMBEDDINGS, *inner, HEAD) if level in levels]
    return {level: len(order) - 1 - i for i, level in enumerate(order)}


Decision = tuple[bool, str]
"""Whether a parameter decays, and why."""


def no_decay_norm_bias(p: NamedParameter) -> Decision:
    """Decay everything but norms, biases and tensors with fewer than two dimensions.

    A norm is recognised by the class of its module, so that a gain with two dimensions does not decay, and by its
    dimension, so that a vector in a module of any class does not decay.
    """
    if p.in_norm:
        return False, "of a norm"
    return (False, "a bias") if p.is_bias else by_dimension(p)


def by_dimension(p: NamedParameter) -> Decision:
    """Decay tensors with two or more dimensions; modules and names do not matter (nanoGPT's rule)."""
    return p.tensor.ndim >= 2, f"{p.tensor.ndim} dimension{'' if p.tensor.ndim == 1 else 's'}"


def everything(p: NamedParameter) -> Decision:
    """Decay every parameter, as torch.optim does with ``model.parameters()``."""
    return True, "policy 'all'"


POLICIES: Mapping[str, Callable[[NamedParameter], Decision]] = {
    "no_decay_norm_bias": no_decay_norm_bias,
    "ndim>=2": by_dimension,
    "all": everything,
}
"""The policies by name."""
