"""Parameter groups: assign each parameter its weight decay and learning rate, with the reason.

:mod:`gradstep.optimizers.policies` finds the facts about each parameter, and decides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from gradstep.optimizers.policies import (
    DEFAULT,
    MUON,
    POLICIES,
    Decision,
    NamedParameter,
    choose_rule,
    find_output_layers,
    name_model_parameters,
)
from gradstep.optimizers.whole_model import ParameterRow, ParamGroups

EXPLICIT = "explicit"
"""The policy that assigns nothing: an override must match every parameter."""

GroupSettingsMap = Mapping[str, Any]


def param_groups(
    model: nn.Module,
    weight_decay: float = 0.1,
    *,
    policy: str = DEFAULT,
    embeddings: Literal["decay", "no_decay"] = "decay",
    lr: float | None = None,
    matrix_lr: float | None = None,
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
    ``"muon"``                  as the first; hidden matrices are updated by :class:`gradstep.Muon`, all others by
                                the optimizer's own rule
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
        matrix_lr: the learning rate of Muon's groups, > 0, which the policy ``"muon"`` needs: its scale is its own.
        layer_decay: the factor from each level to the one below, in (0, 1].
        overrides: settings by pattern (``*`` and ``?`` as in file names) of the full parameter name. They override
            the policy: ``{"head.*": {"lr": 1e-3}, "*.logit_scale": {"weight_decay": 0.0}}``. ``"name"`` names the
            group; its default is the pattern. ``"rule": None`` takes a matrix from Muon.

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
    _check_arguments(weight_decay, policy, embeddings, lr, layer_decay)
    _check_matrix_lr(policy, matrix_lr)
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
    heads = find_output_layers(params) if policy == MUON else frozenset()

    groups: dict[str, dict[str, Any]] = {}
    rows = []
    for p in params:
        if not p.tensor.requires_grad:
            rows.append(ParameterRow(p.names, tuple(p.tensor.shape), None, None, None, "frozen: requires no gradient"))
            continue
        decays, reason = _decide(p, policy, embeddings)
        settings: dict[str, Any] = {"weight_decay": weight_decay if decays else 0.0}
        own = dict(overrides[patterns[p]]) if p in patterns else {}
        rule: Mapping[str, Any] = {}
        if policy == MUON:
            rule, reason = choose_rule(p, heads, reason)
            rule = rule if own.get("rule", MUON) is not None else {}
        settings |= rule
        rate = matrix_lr if rule else lr
        if rate is not None:
            settings["lr"] = rate * layer_decay ** levels_above[levels[p]] if layer_decay is not None else rate
        parts = [levels[p]] if levels else []
        if p in patterns:
            pattern = patterns[p]
            parts.insert(0, str(own.pop("name", pattern)))
            reason = f"override {pattern!r}" + ("" if "weight_decay" in own or policy == EXPLICIT else f", {reason}")
            settings.update({key: value for key, value in own.items() if (key, value) != ("rule", None)})
        parts[:0] = ["muon"] * ("rule" in rule) + ["kernels"] * ("matrices" in rule)
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
    policy = DEFAULT if policy == MUON else policy
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


def _check_arguments(
    weight_decay: float, policy: str, embeddings: str, lr: float | None, layer_decay: float | None
) -> None:
    """Raise ValueError for an argument of :func:`param_groups` out of its bounds."""
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ValueError(f"Invalid weight_decay: {weight_decay} (must be finite and at least 0)")
    policies = [*POLICIES, MUON, EXPLICIT]
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


def _check_matrix_lr(policy: str, matrix_lr: float | None) -> None:
    if (matrix_lr is None) != (policy != MUON):
        raise ValueError(
            "policy 'muon' needs matrix_lr=, Muon's learning rate: 0.02 is usual, or with Muon's adjust_lr_fn="
            "'match_rms_adamw' AdamW's own"
            if matrix_lr is None
            else f"matrix_lr is the learning rate of policy 'muon', and the policy is {policy!r}: leave it out"
        )
    if matrix_lr is not None and not (matrix_lr > 0 and math.isfinite(matrix_lr)):
        raise ValueError(f"Invalid matrix_lr: {matrix_lr} (must be finite and greater than 0)")


# -- levels ---------------------------------------------------------------------------------------------------------

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
