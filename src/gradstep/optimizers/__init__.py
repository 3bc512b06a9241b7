"""Every rule as a PyTorch optimizer, with every engine."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gradstep.engines.statistics import StepReport
from gradstep.optimizers.arguments import OWN, SETTINGS, TORCH_EXECUTION, ParamsT
from gradstep.optimizers.averaging import AveragingOptimizer
from gradstep.optimizers.front import Optimizer
from gradstep.optimizers.named_rules import check_rule_class
from gradstep.optimizers.wrapped import innermost
from gradstep.rules import RULES, Rule, settings_of
from gradstep.storage.policy import STATES, Pages, check_precision
from gradstep.variants import PROMISES, VARIANTS, Promise, parse_name, rename_settings


def optimizer(rule: type[Rule], *, state: str = "float32", paged: bool | str | Path | Pages = False) -> type[Optimizer]:
    """Make a ``torch.optim.Optimizer`` class from a rule, with every engine and storage.

    Args:
        rule: a final subclass of :class:`gradstep.Rule`, decorated with ``@dataclass(frozen=True)``.
        state, paged: the class's own defaults of these settings.

    Returns:
        A class that takes ``(params, ...the rule's settings, engine="auto", ...)``; its docstring explains the
        settings that are not mathematics.

    Raises:
        TypeError: ``rule`` is not a class of this kind, or lacks a method; ``paged`` is of another type.
        ValueError: an unknown precision of state.

    >>> import torch, gradstep
    >>> AdamW = gradstep.optimizer(gradstep.rules.AdamW)
    >>> w = torch.tensor([0.5], requires_grad=True)
    >>> w.grad = torch.tensor([0.02])
    >>> AdamW([w], lr=1e-4, weight_decay=1e-3).step()
    >>> f"{w.item():.8f}"
    '0.49989995'
    """
    check_rule_class(rule, "optimizer() takes")
    Pages.of(paged, None)
    return _class(rule, check_precision("state", state, STATES), paged)


@cache
def _class(rule: type[Rule], state: str, paged: bool | str | Path | Pages) -> type[Optimizer]:
    """Return the one class for these arguments, cached, since ``isinstance`` and pickles need the same class."""
    preset = {name: value for name, value in (("state", state), ("paged", paged)) if value != OWN[name]}
    name = ("Paged" if paged else "") + rule.__name__ + ("" if state == "float32" else state)
    own = f":class:`{rule.__name__}` with other defaults: {', '.join(f'{k}={v!r}' for k, v in preset.items())}.\n\n"
    doc = (own if preset else "") + inspect.cleandoc(rule.__doc__ or "") + "\n" + SETTINGS
    body = {"_rule": rule, "preset": preset, "__doc__": doc, "__reduce_ex__": _reduce}
    plain = AveragingOptimizer if rule.averages else Optimizer
    new = type(name, (_class(rule, "float32", False) if preset else plain,), body)
    new.__module__ = __name__
    new.__signature__ = _signature(rule, preset)  # type: ignore[attr-defined]
    return new


def _reduce(self: Optimizer, protocol: Any) -> Any:
    """Return what pickle and copy need to make the optimizer again."""
    if "_rule" not in vars(type(self)):  # a user's subclass, which pickle finds by its name
        return object.__reduce_ex__(self, protocol)
    # Pickle cannot find this class by name, since a function made it; it can find the rule.
    return _blank, (self.rule(), dict(self.preset)), self.__getstate__()


def _blank(rule: type[Rule], preset: dict[str, Any]) -> Optimizer:
    """Return an optimizer without contents, for unpickling; pickles contain this function's name."""
    kind = optimizer(rule, **preset)
    return kind.__new__(kind)


def _signature(rule: type[Rule], preset: Mapping[str, Any]) -> inspect.Signature:
    position, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    settings = [
        inspect.Parameter(s.name, keyword if s.kw_only else position, default=s.default, annotation=s.type)
        for s in settings_of(rule)
    ]
    own = [
        inspect.Parameter(name, keyword, default=value) for name, value in {**OWN, **preset, **TORCH_EXECUTION}.items()
    ]
    return inspect.Signature([inspect.Parameter("params", position), *settings, *own])


OPTIMIZERS: Mapping[str, type[Optimizer]] = {name.lower(): optimizer(rule) for name, rule in RULES.items()}
"""Every built-in optimizer by its name in lower case."""


def create(name: str, params: ParamsT, **settings: Any) -> Optimizer:
    """Make an optimizer by its name, such as the names of Hugging Face's ``TrainingArguments(optim=...)``.

    Args:
        name: ``[paged_]RULE[_8bit]``, as in ``"paged_adamw_8bit"``, ``"lion_8bit"`` or ``"sgd"``, in upper or lower
            case; or the name of a class, such as ``"PagedAdamW8bit"``. Words that name an
            implementation are accepted and change nothing: ``adamw_torch``, ``adamw_torch_fused``, ``adamw_bnb_8bit``,
            ``paged_adamw_32bit``, ``adamw_hf``, ``adamw_apex_fused``, ``adamw_torch_xla``, ``adamw_torch_npu_fused``.
            ``adamw_anyprecision`` has ``rounding="kahan"``. ``lomo`` and ``adalomo`` are SGD and Adafactor whose
            gradients are released (:func:`gradstep.release_gradients`) as long as the optimizer exists;
            :meth:`gradstep.GradientRelease.of` returns the handle, whose ``remove()`` ends that before.
        params: the parameters, as for every optimizer.
        settings: the optimizer's settings, also under the names of ``TrainingArguments``: ``learning_rate``,
            ``adam_beta1``, ``adam_beta2`` (the other keeps its default) and ``adam_epsilon``.

    Raises:
        ValueError: an unknown name; the message has the names nearest to it. Gradients that cannot be released.
        TypeError: the optimizer does not have a setting, or a setting is given under two names.

    >>> import torch, gradstep
    >>> model = torch.nn.Linear(100, 100)
    >>> optimizer = gradstep.create("adamw_bnb_8bit", model.named_parameters(), lr=1e-4)
    >>> type(optimizer).__name__, optimizer.state_summary().rows[0].state
    ('AdamW8bit', 'exp_avg: 8bit, exp_avg_sq: 8bit')
    """
    promise = PROMISES.get(str(name).lower(), Promise(name))
    rule, state, paged = parse_name(promise.name)
    settings = {**promise.settings, **rename_settings(RULES[rule], settings)}
    new = optimizer(RULES[rule], state=state, paged=paged)(params, **settings)
    if promise.releases:
        from gradstep.optimizers.released import start_release

        start_release(new)
    return new


def __getattr__(name: str) -> Any:
    if name in RULES:
        return optimizer(RULES[name])
    if name in VARIANTS:
        rule, state, paged = VARIANTS[name]
        return optimizer(RULES[rule], state=state, paged=paged)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "OPTIMIZERS",
    "AveragingOptimizer",
    "Optimizer",
    "Pages",
    "StepReport",
    "create",
    "innermost",
    "optimizer",
    *RULES,
    *VARIANTS,
]
