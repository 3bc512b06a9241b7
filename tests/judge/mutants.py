"""Known mistakes as PyTorch optimizers: the formula of a variant with its habits, written for real tensors.

The step itself is the variant's; counting, state, groups, gradients and `state_dict` are written here once more, since
they are what the habits are about.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gradstep.judge.catalogue import Variant
from gradstep.rules import settings_of


def optimizer_class(variant: Variant, *, raises: bool = False) -> type[torch.optim.Optimizer]:
    """A torch optimizer that makes the variant's mistakes.

    A number divided by zero is infinite, as where tensors are divided, or ``raises``, as between Python's numbers.
    """
    formula, habits = variant.formula, variant.formula.habits
    rule_type = formula.rule
    names = [s.name for s in settings_of(rule_type)]
    defaults = {s.name: s.default for s in settings_of(rule_type)}

    class Mutant(torch.optim.Optimizer):
        def __init__(self, params: Any, **settings: Any) -> None:
            rule_type(**settings)
            super().__init__(params, defaults | settings)
            self.calls = self.visits = 0
            self.common: dict[tuple[int, ...], dict[str, Any]] = {}
            self.outside: dict[torch.Tensor, dict[str, Any]] = {}
            self.rates = [group["lr"] for group in self.param_groups if "lr" in group]

        def rule(self, index: int) -> Any:
            group = self.param_groups[0 if habits.first_group else index]
            settings = {name: group[name] for name in names}
            if habits.latched and "lr" in settings:
                own = self.rates[0 if habits.first_group else index]
                settings["lr"] = self.defaults["lr"] if habits.one_rate else own
            return formula.settings(settings)

        def memory(self, p: torch.Tensor, rule: Any) -> dict[str, Any]:
            home = self.outside.setdefault(p, {}) if habits.forgets != "nothing" else self.state[p]
            if habits.shared:
                home = self.common.setdefault((), {})
            if not home:
                home["step"] = torch.tensor(0.0)
                home.update({k: torch.tensor(v, dtype=torch.float64) for k, v in rule.scalars.items()})
                for slot in rule.slots(p.ndim):
                    shape = slot.shape(tuple(p.shape))
                    home[slot.name] = torch.full(shape, slot.fill, dtype=p.dtype)
            return home

        def state_dict(self) -> Any:
            saved = super().state_dict()
            saved["kept"] = {
                "steps": {} if habits.forgets in ("steps", "all") else self._kept(("step",), only=True),
                "slots": {} if habits.forgets in ("slots", "all") else self._kept(("step",), only=False),
                "calls": 0 if habits.forgets in ("steps", "all") else self.calls,
                "visits": 0 if habits.forgets in ("steps", "all") else self.visits,
                "common": self.common,
                "rates": self.rates,
            }
            return saved

        def _kept(self, keys: tuple[str, ...], *, only: bool) -> dict[int, dict[str, Any]]:
            order = [p for group in self.param_groups for p in group["params"]]
            return {
                i: {k: v for k, v in self.outside.get(p, {}).items() if (k in keys) is only}
                for i, p in enumerate(order)
            }

        def load_state_dict(self, saved: Any) -> None:
            kept = saved.pop("kept")
            super().load_state_dict(saved)
            self.calls, self.visits, self.common, self.rates = (kept[k] for k in ("calls", "visits", "common", "rates"))
            order = [p for group in self.param_groups for p in group["params"]]
            if habits.forgets == "nothing":
                return
            for i, p in enumerate(order):
                rule = self.rule(0)
                self.outside.pop(p, None)
                self.memory(p, rule).update({**kept["steps"].get(i, {}), **kept["slots"].get(i, {})})

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            self.calls += 1
            for index, group in enumerate(self.param_groups):
                rule = self.rule(index)
                for p in group["params"]:
                    if p.grad is None:
                        if habits.missing == "ends":
                            return loss
                        if habits.missing == "left":
                            continue
                    g = torch.zeros_like(p) if p.grad is None else p.grad
                    if habits.skips_zero and not g.any():
                        continue
                    self.update(p, g, rule)
            return loss

        def update(self, p: torch.Tensor, g: torch.Tensor, rule: Any) -> None:
            memory = self.memory(p, rule)
            memory["step"] = memory["step"] + 1
            self.visits += 1
            own = int(memory["step"])
            number = {"own": own, "calls": self.calls, "visits": self.visits}[habits.clock] + habits.offset
            scalars = {name: float(memory[name]) for name in rule.scalars}
            slots = {s.name: memory[s.name].numpy().copy() for s in rule.slots(p.ndim)}
            values = p.detach().numpy().copy()
            given = g.detach().numpy().copy()
            if habits.writes_gradient:
                p.grad.copy_(torch.as_tensor(formula.gradient(rule, values, given, number)))  # type: ignore[union-attr]
            if not values.size:
                return
            signed = -given if rule.maximize else given
            try:
                with np.errstate(all="ignore"):
                    made = formula.stepper(rule, p.ndim).step(number, own, values, signed, slots, scalars)
            except ZeroDivisionError:
                if raises:
                    raise
                p.fill_(np.nan)
                return
            if made.divided and raises:
                raise ZeroDivisionError("a number divided by zero")
            for name, value in made.slots.items():
                memory[name] = torch.as_tensor(np.asarray(value), dtype=p.dtype)
            for name, number_ in made.scalars.items():
                memory[name] = torch.tensor(number_, dtype=torch.float64)
            p.copy_(torch.as_tensor(np.asarray(made.value), dtype=p.dtype))

    Mutant.__name__ = f"{rule_type.__name__}:{variant.name}"
    return Mutant
