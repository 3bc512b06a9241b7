"""Make a record's header: what is trained and how, from the optimizer and, if it is given, the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

import gradstep
from gradstep.monitor.record import Group, Header, Parameter
from gradstep.optimizers.arguments import parameter_names


def header_of(optimizer: Optimizer, model: nn.Module | None, **told: Any) -> Header:
    """The header of a run.

    Args:
        optimizer: what is monitored.
        model: whose names and kinds of modules are used; parameters of it that the optimizer lacks are listed.
        told: further fields of :class:`Header`.
    """
    places = {} if model is None else _places(model)
    groups = [Group(_group_name(group, i), _plain(group)) for i, group in enumerate(optimizer.param_groups)]
    known: set[Tensor] = set()
    parameters = []
    for index, group in enumerate(optimizer.param_groups):
        for name, p in zip(parameter_names(group, index), group["params"], strict=True):
            known.add(p)
            parameters.append(_parameter(p, *places.get(p, (name, "")), index))
    return Header(
        optimizer=type(optimizer).__name__,
        package=type(optimizer).__module__.partition(".")[0],
        rule=optimizer.rule().__name__ if isinstance(optimizer, gradstep.Optimizer) else None,
        groups=tuple(groups),
        parameters=tuple(parameters),
        unregistered=tuple(_parameter(p, *place, None) for p, place in places.items() if p not in known),
        version=gradstep.__version__,
        **told,
    )


def _places(model: nn.Module) -> dict[Tensor, tuple[str, str]]:
    """The first name of every parameter, and the class of the module that holds it there."""
    found: dict[Tensor, tuple[str, str]] = {}
    for prefix, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            found.setdefault(p, (f"{prefix}.{name}" if prefix else name, type(module).__name__))
    return found


def _parameter(p: Tensor, name: str, module: str, group: int | None) -> Parameter:
    shape = () if is_lazy(p) else tuple(p.shape)
    return Parameter(name, shape, str(p.dtype).removeprefix("torch."), group, p.requires_grad, module)


def _group_name(group: Mapping[str, Any], index: int) -> str:
    return str(group.get("name") or f"group {index}")


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a group as JSON has them; what JSON has no form for, in words."""
    return {key: _value(value) for key, value in group.items() if key not in {"params", "param_names", "name"}}


def _value(value: Any) -> Any:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (tuple, list)):
        return [_value(one) for one in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
