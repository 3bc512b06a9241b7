"""Bad settings are refused with torch's words, and good ones arrive as what the rule computes with."""

import re

import numpy as np
import pytest
import torch

import gradstep
from gradstep.rules import AdamW, settings_of
from tests.registry import SUBJECTS, cases, subjects


@pytest.mark.parametrize("subject", subjects(matrices=True))
def test_refused(subject):
    """One test for each rule: a test of its own costs a hundred times as much as one refusal."""
    for bad in subject.bad:
        with bad.refused():
            subject.rule(**bad.settings)


def test_in_torch_s_words():
    """Where torch refuses a setting by its own words, ours begin with the same."""
    compared = 0
    for subject in SUBJECTS:
        for bad in subject.bad:
            if subject.torch is None or subject.name == "Adafactor" or bad.error is TypeError:
                continue  # torch words Adafactor's differently, and does not look at types
            try:
                subject.torch([torch.zeros(1, requires_grad=True)], **bad.settings)
            except Exception as error:
                if str(error).startswith(("Invalid", "Nesterov")):
                    with pytest.raises(ValueError, match=re.escape(str(error))):
                        subject.rule(**bad.settings)
                    compared += 1
    assert compared > 80


def test_every_built_in_rule_is_registered():
    assert {s.name for s in SUBJECTS} == set(gradstep.RULES)


@pytest.mark.parametrize(("subject", "options"), cases(matrices=True))
def test_accepted(subject, options):
    rule = subject.rule(**options)
    assert {name: getattr(rule, name) for name in options} == options


def test_every_setting_that_is_a_number_has_a_bad_input():
    for subject in SUBJECTS:
        tried = {name for bad in subject.bad for name in bad.settings}
        assert tried >= {s.name for s in settings_of(subject.rule)}, subject.name


@pytest.mark.parametrize("one", [1, np.float32(1), np.float64(1), np.int64(1), torch.tensor(1.0), torch.ones(1)])
def test_numbers_of_any_kind_become_floats(one):
    rule = AdamW(lr=one, betas=(one * 0.5, 0.75))
    assert type(rule.lr) is float
    assert rule.lr == 1.0
    assert rule.betas == (0.5, 0.75)


def test_a_rule_is_frozen():
    with pytest.raises(AttributeError):
        AdamW().__setattr__("lr", 1.0)
