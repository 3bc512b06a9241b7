"""What an optimizer's constructor makes of its parameters and ``model=``: marks of embeddings, a whole model's groups.

A rule of matrices that is given a whole model gets groups in which AdamW updates what is no hidden matrix.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

from torch import Tensor, nn

from gradstep.optimizers.arguments import ParamsT, check_pairs
from gradstep.optimizers.policies import (
    NamedParameter,
    choose_rule,
    find_output_layers,
    has_output_name,
    name_model_parameters,
    no_decay_norm_bias,
)
from gradstep.rules import Rule
from gradstep.storage.policy import is_embedding_class
from gradstep.warn import warn_user

_TITLES = ("parameter", "shape", "group", "decay", "lr", "reason")
_NONE = "–"
_NUMBERED = re.compile(r"(^|\.)\d+\.weight$")


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


@runtime_checkable
class MatrixRule(Protocol):
    """A rule that can be given a whole model, of which AdamW updates what is no hidden matrix."""

    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def matrices(self) -> str | int | None: ...
    def adamw_lr(self) -> float:
        """Return the learning rate of AdamW beside this rule."""


def group_and_mark(params: Any, model: Any, rule: Rule) -> tuple[ParamsT, ParamGroups | None]:
    """Return an optimizer's parameters, their embeddings marked, and the groups if they were made of a whole model.

    Args:
        params: tensors, pairs of name and tensor, or groups.
        model: the module whose parameters are optimized; None without it.
        rule: the optimizer's rule with its settings.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: the model has none of the parameters.
    """
    grouped, grouping = group_whole_model(params, model, rule)
    return grouped if model is None else mark_embeddings(grouped, model), grouping


def group_whole_model(params: Sequence[Any], model: Any, rule: Rule) -> tuple[ParamsT, ParamGroups | None]:
    """Return an optimizer's parameters, and the groups if they are a whole model's, with vectors beside its matrices.

    Without names and without the model an embedding or an output layer could not be told from a hidden matrix; such
    parameters, groups, and matrices alone are returned as they are.

    Args:
        params: tensors, pairs of name and tensor, or groups.
        model: the module whose parameters are optimized; None without it.
        rule: the optimizer's rule with its settings.
    """
    if not isinstance(rule, MatrixRule):
        return params, None
    named = {p[1]: p[0] for p in params if isinstance(p, tuple)}
    tensors = [p[1] if isinstance(p, tuple) else p for p in params]
    known = {p.tensor: p for p in name_model_parameters(model)} if isinstance(model, nn.Module) else {}
    are_named = all(isinstance(p, Tensor) and (p in named or p in known) for p in tensors)
    if not are_named or all(p.dim() >= 2 for p in tensors):
        return params, None
    members = [known[p] if p in known else NamedParameter(p, (str(named[p]),), ()) for p in tensors]
    heads = find_output_layers(members)
    groups: dict[str, dict[str, Any]] = {}
    rows = []
    for p in members:
        decays, reason = no_decay_norm_bias(p)
        chosen, reason = choose_rule(p, heads, reason, rule.matrices)
        if chosen:
            own = type(rule).__name__
            name = f"{own.lower()}/kernels" if "matrices" in chosen else own.lower()
            lr, decay, settings = rule.lr, rule.weight_decay, {**chosen, "rule": own}
        else:
            name, lr, decay = f"adamw/{'decay' if decays else 'no_decay'}", rule.adamw_lr(), decays * rule.weight_decay
            settings = {"rule": "AdamW", "lr": lr, "weight_decay": decay}
        group = groups.setdefault(name, {"params": [], "param_names": [], "name": name, **settings})
        group["params"].append(p.tensor)
        group["param_names"].append(p.name)
        rows.append(ParameterRow(p.names, tuple(p.tensor.shape), name, decay, lr, reason))
    made = ParamGroups(groups.values(), rows)
    _warn_of_guesses(type(rule).__name__, made, members, heads)
    return made, made


def _warn_of_guesses(
    rule: str, made: ParamGroups, members: Sequence[NamedParameter], heads: Collection[NamedParameter]
) -> None:
    """Warn if the rule is left no matrix, or if names, without modules, leave open what a matrix is."""
    remedy = "" if all(p.owners for p in members) else ": give model=model, which has the layers' classes"
    if not any(group["rule"] == rule for group in made):
        why = ", ".join(f"{row.names[0]} ({row.reason})" for row in made.rows if len(row.shape) >= 2) or "no matrix"
        warn_user(f"{rule} is left no matrix of the model, and AdamW updates everything: there is {why}{remedy}")
        return
    open_names = []
    matrices = [p for p in members if not p.owners and p.tensor.ndim >= 2]
    if any(p.in_embedding for p in matrices) and any(not p.owners and not has_output_name(p) for p in heads):
        (head,) = heads
        open_names.append(f"{head.name} is taken for the output layer, unless that is tied to the embedding")
    if matrices and matrices[0] not in heads and _NUMBERED.search(matrices[0].name):
        open_names.append(f"{matrices[0].name} is taken for a hidden matrix, unless it is an embedding")
    if open_names:
        warn_user(f"{rule} knows the model's parameters by their names only; {' and '.join(open_names)}{remedy}")


def mark_embeddings(params: ParamsT, model: Any) -> ParamsT:
    """Return parameter groups that mark which parameters belong to an embedding of the model.

    Args:
        params: tensors, pairs of name and tensor, or groups, as an optimizer takes them.
        model: a ``torch.nn.Module``.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: the model has none of the parameters.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be the torch.nn.Module whose parameters are optimized, not {model!r}")
    embeddings = {id(p) for m in model.modules() if is_embedding_class(type(m)) for p in m.parameters(recurse=False)}
    own = {id(p) for p in model.parameters()}
    items: list[Any] = list(params)
    groups = items if items and isinstance(items[0], dict) else [{"params": items}]
    marked_groups, has_any = [], False
    for group in groups:
        members = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        check_pairs(members)
        ids = [id(p[1]) if isinstance(p, tuple) else id(p) for p in members]
        has_any = has_any or not own.isdisjoint(ids)
        marked_groups.append({**group, "params": members, "embeddings": [one in embeddings for one in ids]})
    if not has_any:
        raise ValueError("model has none of the parameters that are optimized: give the module that has them")
    return marked_groups
