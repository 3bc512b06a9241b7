"""The catalogue proved by mutation: every mistake and every two are caught, and each is told from the others."""

from functools import cache
from itertools import combinations

import numpy as np
import pytest

import gradstep
from gradstep.judge import catalogue as kinds
from gradstep.judge.algebra.program import NotFoundError
from gradstep.judge.catalogue import distinct, variants
from gradstep.judge.catalogue.mistake import FAMILIES, can_be_made
from gradstep.judge.formula import Formula, LazyTrajectory, apply_changes, replay
from gradstep.judge.scenario import ReferenceTrajectory, Trajectory, battery, tolerance
from gradstep.rules import RULES
from tests.judge.mutants import optimizer_class


@cache
def catalogue(rule):
    """The mistakes that differ from each other in this rule."""
    return distinct(kinds.catalogue(rule))


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


def rules(*quick):
    """Every rule; all but the named ones behind ``slow``."""
    return [
        pytest.param(rule, id=name, marks=[] if name in quick else pytest.mark.slow) for name, rule in RULES.items()
    ]


FEW_RULES = rules("SGD", "AdamW", "ASGD")
SOME_RULES = rules("SGD", "AdamW", "Lion", "RAdam", "Adadelta", "Adafactor", "Muon", "LAMB", "ScheduleFreeAdamW")
"""One of each kind: what a rule computes from another's lines has that one's mistakes."""


def scenarios(rule):
    return [s for s in battery(rule) if not s.defaults]


def silent(formula, rule, precision="float32"):
    """Whether nothing tells the formula from the rule."""
    truth = zip(scenarios(rule), ways(Formula(rule), rule))
    return all(_near(LazyTrajectory(formula, s), true, tolerance(precision, s.steps)) for s, true in truth)


def _near(way, true, limit):
    # Most leave at the first steps, and need not be followed further.
    return all(
        ReferenceTrajectory(true[: end + 1]).distance(way.until(end)) <= limit
        for end in (1, 3, len(true) - 1)
        if end < len(true)
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


def test_every_mistake_has_one_change_and_one_row_of_the_table():
    changes = [name for family in FAMILIES for name in family.CHANGES]
    assert sorted(changes) == sorted(mistake.name for mistake in kinds.MISTAKES)
    assert len(set(changes)) == len(changes)
    assert {holder for m in kinds.MISTAKES for holder, _ in m.conventions} <= {*kinds.CONVENTIONS}
    assert {rule for m in kinds.MISTAKES for _, rules in m.conventions for rule in rules} <= RULES.keys()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_without_the_operation_that_a_mistake_needs_cannot_have_it(rule):
    """Such mistakes are not tried: here they are."""
    for mistake in kinds.MISTAKES:
        if mistake.change.needs is not None and not can_be_made(rule, mistake):
            with pytest.raises(NotFoundError):
                apply_changes(rule, [mistake.change])


@pytest.mark.parametrize("rule", SOME_RULES)
def test_every_rule_has_a_catalogue_and_a_battery_it_can_be_computed_in(rule):
    assert len(catalogue(rule)) >= 15
    assert all(np.isfinite(way).all() for way in ways(Formula(rule), rule))


@pytest.mark.parametrize("rule", SOME_RULES)
def test_every_mistake_shows_even_in_float32(rule):
    assert [v.name for v in catalogue(rule) if silent(v.formula, rule)] == []


@pytest.mark.parametrize("rule", FEW_RULES)
def test_no_two_mistakes_look_the_same(rule):
    limits = [tolerance("float64", s.steps) for s in scenarios(rule)]
    same = [
        (a.name, b.name)
        for a, b in combinations(catalogue(rule), 2)
        if all(
            ReferenceTrajectory(y).distance(x) <= limit
            for x, y, limit in zip(ways(a.formula, rule), ways(b.formula, rule), limits)
        )
    ]
    assert same == []


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_two_mistakes_are_caught_together(rule):
    made, hidden = 0, set()
    for one, other in combinations(catalogue(rule), 2):
        # Two of one place cannot both be made, and two may undo each other, as a decay doubled and halved.
        for both in variants.__wrapped__(rule, (one.mistakes[0], other.mistakes[0])):
            made += 1
            if silent(both.formula, rule) and distinct([both]):
                hidden.add(both.name)
    assert made > 100
    assert hidden == set()


SOME = (
    "no-bias-correction",
    "step-from-zero",
    "eps-is-1e-06",
    "steps-of-all",
    "slots-not-saved",
    "first-group-only",
    "weight-decay-missing",
)


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


@pytest.mark.parametrize("rule", ["Adam", "AdamW", "NAdam"])
@pytest.mark.parametrize("name", ["step-from-zero", "v-correction-late"])
def test_where_the_first_step_raises_both_mistakes_that_divide_by_zero_there_are_named(name, rule):
    # Nothing else can be seen of such a submission. Where it goes on with infinity, the test above tells them apart.
    (found,) = [v for v in catalogue(RULES[rule]) if v.name == name]
    verdict = gradstep.check(optimizer_class(found, raises=True), rule)
    assert [m.mistakes for m in verdict.matches] == [("step-from-zero",), ("v-correction-late",)]


@pytest.mark.parametrize("rule", SOME_RULES)
def test_a_mutant_without_mistakes_passes(rule):
    verdict = gradstep.check(optimizer_class(*variants(rule, ())), rule)
    assert verdict.passed, str(verdict)
