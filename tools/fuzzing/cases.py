"""The cases: an optimizer, its parameters, and the mutations before the step that is compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from fuzzing.mutations import ARRAYS, ENTRIES, GROUPS, IN_PLACE, LOADS, NUMBERS, PARAMETERS
from fuzzing.tensors import BEHIND, GRADIENTS, USUAL
from fuzzing.tensors import PARAMETERS as KINDS
from gradstep.rules import RULES

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.125}, {"maximize": True}],
    "Adam": [{}, {"weight_decay": 0.125}, {"amsgrad": True}, {"weight_decay": 0.125, "decoupled_weight_decay": True}],
    "AdamW": [{}, {"weight_decay": 0.125}, {"amsgrad": True, "maximize": True}, {"betas": (0.5, 0.75)}],
    "NAdam": [{}, {"weight_decay": 0.125}, {"weight_decay": 0.125, "decoupled_weight_decay": True}],
    "RAdam": [{}, {"weight_decay": 0.125}, {"betas": (0.5, 0.75)}],
    "Adamax": [{}, {"weight_decay": 0.125, "maximize": True}],
    "Adagrad": [{}, {"lr_decay": 0.1, "weight_decay": 0.125}, {"initial_accumulator_value": 0.5}],
    "Adadelta": [{}, {"weight_decay": 0.125}],
    "RMSprop": [{}, {"momentum": 0.5}, {"centered": True, "weight_decay": 0.125}],
    "Adafactor": [{}, {"weight_decay": 0.125}],
    "Lion": [{}, {"weight_decay": 0.125}],
}
"""Settings that change the arithmetic or the state; a learning rate is added.

Weight decay is a power of two, so that it multiplies exactly. If gradient and decay cancel, Adam's quotient would
otherwise turn a rounding error in the last place into a part of a step, which no number of roundings bounds.
"""

DTYPES = ("float64", "bfloat16", "float16")
"""Arguments of ``torch.set_default_dtype``."""


@dataclass(frozen=True)
class Case:
    """One case, which its seed and number determine.

    Attributes:
        optimizer, settings, engine, state, rounding: arguments of the optimizer.
        parameters: the kinds of its parameters; with ``twice`` the first parameter is given again, with ``overlapping``
            another parameter is a view of the first one's memory.
        good: number of usual steps before the mutations.
        mutations: the mutations, each with its arguments.
        gradients: the gradients of the compared step, by parameter; ``"stale"`` are those of the step before.
        behind: replacement of ``p.grad.data`` of the first parameter, which bypasses the setter.
        call: arguments of ``step``.
        dtype: torch's default type while gradstep works, or "".
        torch: whether the case is compared with torch.optim, and not with another engine.
    """

    seed: int
    number: int
    optimizer: str
    settings: dict[str, Any]
    engine: str = "auto"
    state: str = "float32"
    rounding: str = "nearest"
    parameters: tuple[str, ...] = ("plain",)
    twice: bool = False
    overlapping: bool = False
    good: int = 1
    mutations: tuple[tuple[str, ...], ...] = ()
    gradients: tuple[str, ...] = ()
    behind: str = ""
    call: dict[str, float] = field(default_factory=dict)
    dtype: str = ""
    torch: bool = True

    @property
    def kind(self) -> str:
        """The unusual parts of the case in one line."""
        parts = [
            *(kind for kind in self.parameters if kind not in USUAL),
            *("a parameter twice" for _ in range(self.twice)),
            *("overlapping parameters" for _ in range(self.overlapping)),
            *(": ".join(mutation) for mutation in self.mutations),
            *(f"gradient {kind}" for kind in self.gradients if kind != "good"),
            *(f"gradient's data {self.behind}" for _ in range(bool(self.behind))),
            *(f"default {self.dtype}" for _ in range(bool(self.dtype))),
        ]
        return "; ".join(parts) or "usual"


def case(seed: int, number: int) -> Case:
    """Return the case of a number."""
    pick = Random(f"{seed}:{number}")
    name = pick.choice([*SETTINGS, "AdamW", "AdamW", "SGD"])
    settings = {"lr": pick.choice([0.01, 0.1, 0.5]), **pick.choice(SETTINGS[name])}
    state = pick.choices(["float32", "bfloat16", "8bit"], [6, 2, 2])[0] if RULES[name].sees == "elements" else "float32"
    if name == "SGD" and not settings.get("momentum"):
        state = "float32"
    usual = ["matrix", "transposed matrix", *USUAL] if state != "float32" else USUAL
    kinds = [pick.choice(usual) for _ in range(pick.choice([1, 2, 2, 3, 4]))]
    what = pick.choices(
        ["parameter", "gradient", "state", "group", "load", "data", "none"], [20, 20, 25, 8, 12, 12, 3]
    )[0]
    if what == "parameter" or pick.random() < 0.1:
        kinds[pick.randrange(len(kinds))] = pick.choice(list(KINDS))
    rounding = "nearest"
    if any("16" in kind for kind in kinds) and pick.random() < 0.6:
        rounding = pick.choice(["stochastic", "kahan", "master"])
    elif pick.random() < 0.05:
        kinds[0], rounding = "bfloat16", pick.choice(["stochastic", "kahan", "master"])
    if state != "float32" and any(kind.startswith(("complex", "float64")) for kind in kinds):
        state = "float32"
    mutations = []
    if what in ("state", "group", "load", "data"):
        mutations += [_mutation(pick, what, name, settings, state, rounding) for _ in range(pick.choice([1, 1, 1, 2]))]
    gradients = ["good"] * (len(kinds) + 2)
    if what == "gradient" or pick.random() < 0.1:
        gradients[pick.randrange(len(kinds))] = pick.choice(list(GRADIENTS))
    elif pick.random() < 0.1:
        gradients = ["stale"] * len(gradients)
    behind = pick.choice(list(BEHIND)) if what == "gradient" and pick.random() < 0.15 else ""
    calls: list[dict[str, float]] = [
        {"max_grad_norm": 0.5},
        {"grad_scale": 4.0},
        {"max_grad_norm": 0.5, "grad_scale": 4.0},
    ]
    call = pick.choice(calls) if pick.random() < 0.1 else {}
    return Case(
        seed,
        number,
        name,
        settings,
        engine=pick.choices(["auto", "eager", "reference"], [6, 2, 2])[0],
        state=state,
        rounding=rounding,
        parameters=tuple(kinds),
        twice=pick.random() < 0.02,
        overlapping=pick.random() < 0.02,
        good=pick.choice([1, 3]) if what in ("state", "load") and pick.random() < 0.9 else pick.choice([0, 1, 3]),
        mutations=tuple(mutations),
        gradients=tuple(gradients),
        behind=behind,
        call=call,
        dtype=pick.choice(DTYPES) if pick.random() < 0.06 else "",
        torch=name != "Lion" and state == "float32" and rounding == "nearest" and not call and pick.random() < 0.85,
    )


def _mutation(
    pick: Random, what: str, name: str, settings: dict[str, Any], state: str, rounding: str
) -> tuple[str, ...]:
    if what == "group":
        return "group", pick.choice(list(GROUPS))
    if what == "data":
        return "parameter", pick.choice(list(PARAMETERS))
    if what == "load" and pick.random() < 0.4:
        return "load", "", pick.choice(list(LOADS))
    if what == "state" and pick.random() < 0.25:
        return "entry", pick.choice(list(ENTRIES))
    rule = RULES[name](**settings)
    slots = [slot.name for slot in rule.slots(2)]
    keys = [*slots, *slots, "step", *rule.scalars]
    if state == "8bit":
        keys += [f"{slot}_scale" for slot in slots] * 2
    keys += {"kahan": ["kahan_comp"] * 3, "master": ["master_param"] * 3}.get(rounding, [])
    key = pick.choice(keys)
    if what == "state" and pick.random() < 0.25:
        return "in place", key, pick.choice(list(IN_PLACE)), pick.choice(["state", "state_dict", "copy"])
    how = pick.choice(["deleted", *(NUMBERS if key == "step" or key in rule.scalars else ARRAYS)])
    return what, key, how
