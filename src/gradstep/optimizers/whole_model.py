"""The groups of a whole model that a rule of matrices is given: AdamW updates what is no hidden matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

from torch import Tensor, nn

from gradstep.optimizers.arguments import ParamsT
from gradstep.optimizers.policies import (
    NamedParameter,
    choose_rule,
    find_output_layers,
    name_model_parameters,
    no_decay_norm_bias,
)
from gradstep.rules import Rule

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


def group_whole_model(params: ParamsT, model: Any, rule: Rule) -> tuple[ParamsT, ParamGroups | None]:
    """Return an optimizer's parameters, and the groups if they are a whole model's, with vectors beside its matrices.

    Without names and without the model an embedding or an output layer could not be told from a hidden matrix; such
    parameters, groups, and matrices alone are returned as they are.

    Args:
        params: tensors, pairs of name and tensor, or groups.
        model: the module whose parameters are optimized; None without it.
        rule: the optimizer's rule with its settings.
    """
    if not isinstance(rule, MatrixRule) or isinstance(params, Tensor):
        return params, None
    items: list[Any] = list(params)
    named = {p[1]: p[0] for p in items if isinstance(p, tuple)}
    tensors = [p[1] if isinstance(p, tuple) else p for p in items]
    known = {p.tensor: p for p in name_model_parameters(model)} if isinstance(model, nn.Module) else {}
    are_named = all(isinstance(p, Tensor) and (p in named or p in known) for p in tensors)
    if not are_named or all(p.dim() >= 2 for p in tensors):
        return items, None
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
    return made, made
