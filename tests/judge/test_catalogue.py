"""The catalogue proved by mutation: every mistake and every two are caught, and each is told from the others."""

from itertools import combinations

import numpy as np
import pytest

import gradstep
from gradstep.judge.battery import battery
from gradstep.judge.catalogue import catalogue, variant
from gradstep.judge.compare import distance, tolerance
from gradstep.judge.formula import Formula, true_formula
from gradstep.judge.replay import replay
from gradstep.judge.rewrite import NotFoundError
from gradstep.judge.scenario import Trajectory
from gradstep.rules import RULES
from tests.judge.mutants import optimizer_class

NAMED_IN_THE_ISSUE = {
    "no-bias-correction",
    "step-from-zero",
    "step-from-two",
    "decay-in-gradient",
    "decay-after",
    "decay-without-lr",
    "decay-sign",
    "ascent",
    "eps-inside-root",
    "eps-before-correction",
    "eps-is-1e-06",
    "betas-swapped",
    "v-from-gradient",
    "v-not-rooted",
    "state-shared",
    "steps-of-all",
    "state-not-stored",
    "decay-skipped-at-zero",
}

EQUAL_TO_THE_RULE = {
    # Adagrad's rate is lr / (1 + (t − 1) γ): counted from 0 and taken one step ahead, it is the same number.
    "Adagrad": {"step-from-zero + lr-decay-off-by-one"},
}


def scenarios(rule):
    return [s for s in battery(rule) if not s.defaults]


def silent(formula, rule, precision="float32"):
    """Whether nothing tells the formula from the rule."""
    return all(
        distance(replay(formula, s), true) <= tolerance(precision, s.steps)
        for s, true in zip(scenarios(rule), ways(true_formula(rule), rule))
    )


_WAYS: dict[Formula, list[Trajectory]] = {}


def ways(formula, rule):
    if formula not in _WAYS:
        _WAYS[formula] = [replay(formula, s) for s in scenarios(rule)]
    return _WAYS[formula]


def test_the_mistakes_that_everyone_makes_are_there():
    assert {v.name for v in catalogue(RULES["AdamW"])} >= NAMED_IN_THE_ISSUE
    assert {"gradient-written", "decay-on-weight"} <= {v.name for v in catalogue(RULES["Adam"])}
    assert {"first-buffer-damped", "nesterov-always", "lr-in-buffer"} <= {v.name for v in catalogue(RULES["SGD"])}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_has_a_catalogue_and_a_battery_it_can_be_computed_in(rule):
    assert len(catalogue(rule)) >= 30
    assert all(np.isfinite(way).all() for way in ways(true_formula(rule), rule))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_mistake_shows_even_in_float32(rule):
    assert [v.name for v in catalogue(rule) if silent(v.formula, rule)] == []


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_no_two_mistakes_look_the_same(rule):
    limits = [tolerance("float64", s.steps) for s in scenarios(rule)]
    same = [
        (a.name, b.name)
        for a, b in combinations(catalogue(rule), 2)
        if all(distance(x, y) <= limit for x, y, limit in zip(ways(a.formula, rule), ways(b.formula, rule), limits))
    ]
    assert same == []


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_two_mistakes_are_caught_together(rule):
    made, hidden = 0, set()
    for one, other in combinations(catalogue(rule), 2):
        try:
            both = variant.__wrapped__(rule, (one.mistakes[0], other.mistakes[0]))
        except NotFoundError:
            continue  # the two change the same line: nobody can make both
        made += 1
        if silent(both.formula, rule):
            hidden.add(both.name)
    assert made > 400
    assert hidden == EQUAL_TO_THE_RULE.get(rule.__name__, set())


SOME = ("no-bias-correction", "step-from-zero", "eps-is-1e-06", "steps-of-all", "slots-not-saved", "first-group-only")


@pytest.mark.parametrize("name", SOME)
def test_a_mistake_made_in_torch_is_caught_and_named_first(name):
    (found,) = [v for v in catalogue(RULES["AdamW"]) if v.name == name]
    verdict = gradstep.check(optimizer_class(found), "adamw")
    assert not verdict.passed
    assert verdict.matches[0].mistakes == (name,)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_mistake_made_in_torch_is_caught_and_named_first(rule):
    for found in catalogue(rule):
        verdict = gradstep.check(optimizer_class(found), rule)
        assert not verdict.passed
        assert [m.mistakes for m in verdict.matches] == [(found.name,)]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_mutant_without_mistakes_passes(rule):
    verdict = gradstep.check(optimizer_class(variant(rule, ())), rule)
    assert verdict.passed, str(verdict)
