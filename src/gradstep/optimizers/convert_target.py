"""From what to what state is converted: whose rule it is of, and the layout that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gradstep.optimizers.front import Optimizer
from gradstep.rules import RULES, Rule
from gradstep.storage.policy import STATES

BITS = {"bitsandbytes": 32, "bitsandbytes-8bit": 8}
"""bitsandbytes' layouts, and the bits of their large tensors."""


def rule_between(
    state_dict: Mapping[str, Any], to: str | torch.optim.Optimizer, declared: str | type[Rule] | None
) -> type[Rule]:
    """What the state is of.

    Raises:
        ValueError: nobody says, or the optimizer is of another rule.
    """
    if isinstance(declared, type):
        kind, name = declared, declared.__name__
    else:
        name = declared or state_dict.get("gradstep", {}).get("rule")
        if name is None and isinstance(to, torch.optim.Optimizer):
            name = to.rule().__name__ if isinstance(to, Optimizer) else _plain_class(to)
        if name is None:
            raise ValueError("the state dict does not say what optimizer it is of: give rule='AdamW', or whichever")
        own = {to.rule().__name__: to.rule()} if isinstance(to, Optimizer) else {}
        found = {**RULES, **own}.get(name)
        if found is None:
            raise ValueError(f"no rule is called {name!r} (there are {', '.join(RULES)}): give rule=, its class")
        kind = found
    if isinstance(to, Optimizer) and kind is not to.rule():
        raise ValueError(
            f"the state dict is of {name}, and the optimizer is {to.rule().__name__}; to take averages over that have "
            f"the same names, declare them its own: rule={to.rule().__name__!r}"
        )
    return kind


def _plain_class(optimizer: torch.optim.Optimizer) -> str:
    """The name of an optimizer's rule: bitsandbytes' ``PagedAdamW8bit`` is an AdamW."""
    name = type(optimizer).__name__.removeprefix("Paged")
    return name.removesuffix("32bit").removesuffix("8bit")


def layout_of(to: str | torch.optim.Optimizer) -> str:
    """The name of what is to be written.

    Raises:
        ValueError: there is no such layout.
    """
    if isinstance(to, Optimizer):
        return "gradstep"
    if isinstance(to, torch.optim.Optimizer):
        if type(to).__module__.partition(".")[0] == "bitsandbytes":
            bits: Any = to
            return "bitsandbytes-8bit" if bits.args.optim_bits == 8 else "bitsandbytes"
        return "torch"
    if to not in (*STATES, "torch", *BITS):
        raise ValueError(f"Unknown layout: {to!r} (choose {', '.join((*STATES, 'torch', *BITS))}, or an optimizer)")
    return to
