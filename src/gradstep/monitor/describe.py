"""Make a record's header: what is trained and how, from the optimizer and, if it is given, the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

import gradstep
from gradstep.monitor.record import Group, Header, Parameter
from gradstep.monitor.statistics import list_parameters
from gradstep.optimizers.arguments import parameter_names


def make_header(
    optimizer: Optimizer, model: nn.Module | None, others: Iterable[Optimizer] = (), **fields: Any
) -> Header:
    """Make the header of a run.

    Args:
        optimizer: the optimizer to monitor.
        model: gives names and module classes; its parameters that no group holds are listed as unregistered.
        others: optimizers that train other parameters of the model, which are then not listed.
        fields: further fields of :class:`Header`.
    """
    names = {} if model is None else _names_and_modules(model)
    groups = [Group(_group_name(group, i), _json_settings(group)) for i, group in enumerate(optimizer.param_groups)]
    registered: set[Tensor] = {p for other in others for p in list_parameters(other)}
    parameters = []
    for index, group in enumerate(optimizer.param_groups):
        for name, p in zip(parameter_names(group, index), group["params"], strict=True):
            registered.add(p)
            parameters.append(_describe_parameter(p, *names.get(p, (name, "")), index))
    return Header(
        optimizer=type(optimizer).__name__,
        package=type(optimizer).__module__.partition(".")[0],
        rule=optimizer.rule().__name__ if isinstance(optimizer, gradstep.Optimizer) else None,
        groups=tuple(groups),
        parameters=tuple(parameters),
        unregistered=tuple(_describe_parameter(p, *name, None) for p, name in names.items() if p not in registered),
        version=gradstep.__version__,
        **fields,
    )


def _names_and_modules(model: nn.Module) -> dict[Tensor, tuple[str, str]]:
    """Return the first name of every parameter, and the class of the module that holds it under this name."""
    names: dict[Tensor, tuple[str, str]] = {}
    for prefix, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            names.setdefault(p, (f"{prefix}.{name}" if prefix else name, type(module).__name__))
    return names


def _describe_parameter(p: Tensor, name: str, module: str, group: int | None) -> Parameter:
    shape = () if is_lazy(p) else tuple(p.shape)
    return Parameter(name, shape, str(p.dtype).removeprefix("torch."), group, p.requires_grad, module)


def _group_name(group: Mapping[str, Any], index: int) -> str:
    return str(group.get("name") or f"group {index}")


def _json_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a group as JSON values; a value of another type becomes text."""
    return {key: _json_value(value) for key, value in group.items() if key not in {"params", "param_names", "name"}}


def _json_value(value: Any) -> Any:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (tuple, list)):
        return [_json_value(one) for one in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
