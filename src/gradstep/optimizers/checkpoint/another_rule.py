"""Find the rule of a checkpoint that torch.optim wrote, and refuse a checkpoint of another rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from gradstep.rules import MODIFIERS, RULES, Rule, modify, settings_of
from gradstep.rules.modify import ModifiedClass

TORCH_SIGNS = {
    "momentum_decay": "NAdam",
    "amsgrad": "Adam",
    "decoupled_weight_decay": "RAdam",
    "dampening": "SGD",
    "centered": "RMSprop",
    "lr_decay": "Adagrad",
    "beta2_decay": "Adafactor",
    "lambd": "ASGD",
    "etas": "Rprop",
    "ns_coefficients": "Muon",
    "rho": "Adadelta",
}
"""The classes of torch.optim by the setting that tells a group of each from those of the classes below it.

Groups of Adamax have none, but its state has ``exp_inf``.
"""


def find_torch_class(group: Mapping[str, Any]) -> str | None:
    """Return the class of torch.optim whose settings a group of a checkpoint without a header has; None if unknown.

    Optimizers of others may have settings of these names, so torch's ``foreach`` or ``decoupled_weight_decay`` must be
    there too. RAdam needs both: in older versions of torch it has the settings of Adamax, and AdamW converted from
    bitsandbytes has the second.

    >>> find_torch_class({"lr": 0.1, "amsgrad": False, "foreach": None, "decoupled_weight_decay": True})
    'AdamW'
    """
    if not {"foreach", "decoupled_weight_decay"} & group.keys():
        return None
    name = next((name for setting, name in TORCH_SIGNS.items() if setting in group), None)
    if name == "RAdam" and "foreach" not in group:
        return None
    return "AdamW" if name == "Adam" and group.get("decoupled_weight_decay") else name


def refuse_another_of_torch(rules: Sequence[type[Rule]], groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a checkpoint without a header that has a group of a class of torch.optim that is none of the rules.

    Its averages may have the same names and mean something else. Adam and AdamW pass here, since torch decides between
    them by a setting, ``decoupled_weight_decay``.

    Raises:
        ValueError: naming both.
    """
    own = {rule.__name__ for rule in rules}
    own |= {"Adam", "AdamW"} if own & {"Adam", "AdamW"} else set()
    for name in map(find_torch_class, groups):
        if rules and name is not None and name not in own:
            raise ValueError(
                f"the loaded state dict is of {name}, and this optimizer is {rules[0].__name__}. "
                f"{find_remedy(rules[0], name, groups)}"
            )


def resolve_saved_name(name: str) -> type[Rule] | None:
    """Return the rule that a checkpoint names, a built-in one, perhaps with built-in modifiers; None for another.

    >>> resolve_saved_name("CautiousDecayRMSClipLion").__name__
    'CautiousDecayRMSClipLion'
    """
    if name in RULES:
        return RULES[name]
    for outermost, modifier in MODIFIERS.items():
        inner = resolve_saved_name(name.removeprefix(outermost)) if name.startswith(outermost) else None
        if inner is not None:
            # As the class is made by a single call, which a checkpoint's reader has likely made too.
            parts: tuple[Any, ...] = cast("Any", inner).parts if isinstance(inner, ModifiedClass) else (inner,)
            return cast("type[Rule]", modify(*parts, modifier))
    return None


def find_remedy(rule: type[Rule], saved: str, groups: Iterable[Mapping[str, Any]]) -> str:
    """Return what to do with a checkpoint of the rule named ``saved`` in an optimizer of ``rule``."""
    known = resolve_saved_name(saved)
    convert = f"load gradstep.convert_state(state_dict, optimizer, rule={rule.__name__!r}).state_dict"
    if known is None and saved not in TORCH_SIGNS.values():
        return f"If it keeps averages of the same names, and they may be taken over, {convert}"
    if known is not None and all(map(partial(_keep_alike, known, rule), groups)):
        return f"To take its averages over all the same, {convert}"
    return f"They keep other averages: load it into {saved}, or begin with fresh state"


def _keep_alike(one: type[Rule], other: type[Rule], group: Mapping[str, Any]) -> bool:
    """Return whether two rules keep state of the same names for a matrix, with the settings of a group."""
    arrays = []
    for rule in (one, other):
        settings = {s.name: group[s.name] for s in settings_of(rule) if s.name in group}
        try:
            arrays.append({*(slot.name for slot in rule(**settings).slots(2)), *rule.scalars})
        except (TypeError, ValueError):  # a setting of the same name means something else
            return False
    return arrays[0] == arrays[1]
