"""Faulty optimizers as people publish them: all are caught, and nearly all named."""

import pytest

import gradstep
from gradstep.judge import Status
from tests.judge.submissions import public

UNNAMED = {"adam_almost"}
"""Caught, and their mistake not named first."""


@pytest.mark.parametrize("name", public.EXPECTED)
def test_a_public_mistake_is_caught_and_named(name):
    rule, mistakes = public.EXPECTED[name]
    verdict = gradstep.check(vars(public)[name], rule)
    assert verdict.status in (Status.FAILED, Status.DIFFERS)
    if name not in UNNAMED:
        assert verdict.matches, str(verdict)
        told = set(verdict.matches[0].mistakes)
        assert told == mistakes or (len(told) == 1 and told <= mistakes), str(verdict)
