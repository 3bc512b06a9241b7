"""``eval()`` and ``train()`` of NumPy's optimizers of rules that average the weights."""

import copy

import numpy as np
import pytest

import gradstep
import gradstep.numpy as gn

RULES = [
    (gradstep.rules.ScheduleFreeAdamW, {"lr": 0.1}),
    (gradstep.modify(gradstep.rules.SGD, gradstep.rules.EMA), {"lr": 0.1, "ema_decay": 0.5}),
]


def walk(optimizer, seeds):
    for seed in seeds:
        for p in optimizer.params[:2]:  # the last one never has a gradient
            p.grad = np.random.default_rng(seed).standard_normal(p.data.shape)
        optimizer.step()


def build(rule, options, arrays=((3, 4), (5,), (2,)), dtype=np.float32):
    return gn.optimizer(rule)([gn.Parameter(np.ones(shape, dtype)) for shape in arrays], **options)


def weights(optimizer):
    return [p.data.copy() for p in optimizer.params]


def same(ours, theirs):
    return all(map(np.array_equal, ours, theirs))


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_eval_changes_the_weights_and_train_brings_the_same_bits_back(rule, options):
    optimizer = build(rule, options)
    walk(optimizer, range(4))
    before = weights(optimizer)
    for _ in range(2):
        optimizer.eval()
    assert not same(weights(optimizer), before)
    for _ in range(2):
        optimizer.train()
    assert same(weights(optimizer), before)


def test_what_would_mislead_in_between_is_refused():
    optimizer = build(*RULES[0])
    walk(optimizer, range(2))
    saved = optimizer.state_dict()
    optimizer.eval()
    before = weights(optimizer)
    for attempt in (optimizer.step, lambda: optimizer.load_state_dict(saved)):
        with pytest.raises(RuntimeError, match=r"have their averaged weights: call optimizer.train\(\) before"):
            attempt()
    assert same(weights(optimizer), before)


@pytest.mark.parametrize("how", ["checkpoint", "copy"])
def test_training_goes_on_from_what_was_saved_in_eval_mode(how):
    rule, options = RULES[0]
    optimizer = build(rule, options)
    walk(optimizer, range(2))
    optimizer.eval()
    if how == "copy":
        other = copy.deepcopy(optimizer)
    else:
        other = build(rule, options)
        other.load_state_dict(optimizer.state_dict())
    for one in (optimizer, other):
        one.train()
        walk(one, range(2, 4))
    assert same(weights(optimizer), weights(other))


def test_an_eval_that_fails_changes_no_weights():
    optimizer = build(*RULES[0])
    walk(optimizer, range(2))
    optimizer.params[1].data.flags.writeable = False
    before = weights(optimizer)
    with pytest.raises(ValueError, match="read-only"):
        optimizer.eval()
    assert same(weights(optimizer), before)
    optimizer.params[1].data.flags.writeable = True
    optimizer.step()


def test_other_rules_have_no_modes():
    assert not hasattr(gn.AdamW, "eval")
