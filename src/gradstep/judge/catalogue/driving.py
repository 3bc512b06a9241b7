"""Mistakes around the mathematics: counting, state, groups, missing gradients, settings without effect."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from gradstep.judge.algebra.anatomy import coupled_decay
from gradstep.judge.algebra.expression import STEP
from gradstep.judge.algebra.program import NAMES, Program
from gradstep.judge.catalogue.corrections import debias_averages, uses_step
from gradstep.judge.catalogue.epsilons import set_eps
from gradstep.judge.catalogue.mistake import Mistake, habit
from gradstep.judge.catalogue.state import lose
from gradstep.judge.formula import Change, Edit, examples
from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of


def _counts_and_keeps(program: Program) -> bool:
    first = program.rewrite(lambda n: program.first_value(n.args[0]) if n.op == "memo" else n)
    # Whether the first step ignores the old state: its weight depends on the step, or is 0 then.
    forgets = any(a.old_weight.contains(STEP) for a in program.averages) or len(first.averages) < len(program.averages)
    counted = any(STEP in n.args and n.op != "eq" for n in program.nodes())  # more than a test for the first step
    return bool(program.slots) and counted and not forgets


def _reads_rate(program: Program) -> bool:
    """Whether steps use the learning rate; Rprop's only fills its state."""
    return any(n.op == "setting" and n.args[0] == "lr" for n in program.nodes())


_SLOTS = {
    "exp_avg": "the average of the gradient",
    "exp_avg_sq": "the average square",
    "exp_inf": "the running maximum",
    "square_avg": "the average square",
    "acc_delta": "the average squared step",
    "grad_avg": "the average gradient",
    "momentum_buffer": "the momentum",
    "sum": "the sum of squares",
}
"""Words for the slots of gradstep's own rules; other slots are called by their names."""


_EPSILONS = ("1e-08", "1e-06", "1e-07", "1e-05", "1e-10", "1e-12", "1e-04", "1e-03")
"""Values that people write for ε."""


def mistakes_of_settings(rule: type[Rule]) -> Iterator[Mistake]:
    """Yield a mistake for each slot not kept, each setting without effect, each flag always on and each constant ε."""
    for slot in dict.fromkeys(s.name for example, ndim in examples(rule) for s in example.slots(ndim)):
        yield Mistake(
            f"{slot.replace('_', '-')}-not-stored",
            f"{_SLOTS.get(slot, f'the state {slot}')} computed but not kept",
            f"the state `{slot}` after the step: write it back, or update it in place (`mul_`, `add_`)",
            Change(lose(slot)),
            "the tensor methods that end in an underscore work in place; the others return a new tensor",
        )
    settings = shared_settings_of(rule)
    for name, default in ((s.name, s.default) for s in settings):
        yield Mistake(
            f"{name.replace('_', '-')}-ignored",
            f"the setting {name} ignored ({default} is used)",
            f"where `{name}` is used",
            habit(ignores=(name,)),
        )
    for name in (s.name for s in settings if s.default is False):
        yield Mistake(
            f"{name.replace('_', '-')}-always",
            "Nesterov's step always" if name == "nesterov" else f"{name} always on",
            f"where `{name}` is not set",
            habit(always=(name,)),
        )
    eps = next((s.default for s in settings if s.name in NAMES["eps"]), None)
    for value in (v for v in _EPSILONS if eps != float(v)):
        yield Mistake(
            f"eps-is-{value}",
            f"ε = {value} whatever is set",
            f"`{value}` written into the formula; use the setting eps",
            Change(partial(set_eps, float(value))),
            "Kingma and Ba, arXiv:1412.6980, Algorithm 1; the rule's docstring in gradstep.rules says where ε stands "
            "in this rule",
        )


CHANGES: dict[str, Edit | Change] = {
    "steps-of-all": habit(clock="calls", when=uses_step),
    "steps-of-all-debiased": habit(debias_averages, clock="calls"),
    "steps-per-visit": habit(clock="visits", when=uses_step),
    "state-shared": habit(shared=True),
    "missing-as-zero": habit(missing="zero"),
    "stops-at-missing": habit(missing="ends"),
    "gradient-written": habit(writes_gradient=True, when=coupled_decay),
    "settings-latched": habit(latched=True, when=_reads_rate),
    "rate-of-constructor": habit(latched=True, one_rate=True, when=_reads_rate),
    "first-group-only": habit(first_group=True),
    "state-not-saved": habit(forgets="all", when=_counts_and_keeps),
    "slots-not-saved": habit(forgets="slots"),
    "steps-not-saved": habit(forgets="steps", when=uses_step),
}
