"""The teaching framework's interface, to the letter: what its own tests ask of SGD, Adam and AdamW, and more."""

import inspect
import math
import pickle
import signal
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import gradstep.numpy as gn
from gradstep import RULES, Rule, rules
from gradstep.engines.fused import Fused
from gradstep.engines.reference import Reference
from gradstep.rules.settings import learning_rate, settings_of

THREE = (gn.SGD, gn.Adam, gn.AdamW)


class Foreign:
    """A tensor whose gradient exists only after the first backward pass."""

    def __init__(self, data):
        self.data = np.asarray(data, dtype=np.float32)
        self.requires_grad = False


def parameter(*values):
    return gn.Parameter(np.array(values, dtype=np.float32))


NUMBER: Any = parameter(1.0)
NUMBER.data = NUMBER.data[0]  # what ``p.data = p.data - 0.1 * g`` makes of an array without axes


# -- the list of parameters ---------------------------------------------------------------------------------------


def test_base():
    first, second = parameter(1.0, 2.0), parameter(3.0)
    first.grad = np.ones(2)
    optimizer = gn.Optimizer([first, second])
    assert optimizer.params[0] is first
    assert optimizer.params[1] is second
    assert optimizer.step_count == 0
    assert first.grad is not None  # what a backward pass before has left is not thrown away
    optimizer.zero_grad()
    assert first.grad is None
    assert second.grad is None
    with pytest.raises(NotImplementedError, match=r"Optimizer must write step\(\)"):
        optimizer.step()


@pytest.mark.parametrize("kind", [gn.Optimizer, *THREE])
def test_the_list_is_its_own(kind):
    p = parameter(1.0)
    given = [p]
    optimizer = kind(given)
    given.clear()
    assert optimizer.params == [p]
    assert kind(iter([p])).params == [p]
    assert kind([]).params == []


def test_parameter_without_grad_gets_one():
    p: Any = Foreign([1.0])
    optimizer = gn.SGD([p])
    assert p.grad is None
    assert p.requires_grad is False
    optimizer.step()
    assert p.data[0] == 1


@pytest.mark.parametrize("kind", THREE)
def test_duplicates(kind):
    p, w = parameter(1.0), np.ones(3)
    with pytest.raises(ValueError, match="must not contain duplicates: parameters 0 and 2"):
        kind([p, parameter(1.0), p])
    with pytest.raises(ValueError, match="must not contain duplicates: parameters 0 and 1"):
        kind([gn.Parameter(w), gn.Parameter(w)])
    kind([gn.Parameter(w[:0]), gn.Parameter(w[:0])])  # of nothing there is nothing to share


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ([np.ones(2)], "parameter 0 is a plain array"),
        (np.ones(2), "must be a list of parameters, not one ndarray"),
        (gn.Tensor([1.0, 2.0], requires_grad=True), "must be a list of parameters, not one Tensor"),
        ([parameter(1.0), None], "parameter 1 must have data and grad, but is None"),
        ([NUMBER], "must be a NumPy array, but is float32"),
    ],
)
def test_what_is_no_parameter(params, words):
    with pytest.raises(TypeError, match=words):
        gn.SGD(params)


def test_params_may_be_assigned():
    p, q = parameter(1.0), parameter(1.0)
    optimizer = gn.SGD([p], lr=0.5)
    optimizer.params = [q]
    q.grad = np.ones(1)
    optimizer.step()
    assert q.data[0] == 0.5
    optimizer.params = [p, q]
    with pytest.raises(ValueError, match="params holds 2 parameters, the state 1"):
        optimizer.step()


# -- settings -----------------------------------------------------------------------------------------------------


def test_signatures():
    def positional(kind):
        found = inspect.signature(kind).parameters.values()
        return [(p.name, p.default) for p in found if p.kind is p.POSITIONAL_OR_KEYWORD][1:]

    moments = [("lr", 0.001), ("betas", (0.9, 0.999)), ("eps", 1e-8)]
    assert positional(gn.SGD) == [("lr", 0.01), ("momentum", 0.0), ("weight_decay", 0.0)]
    assert positional(gn.Adam) == [*moments, ("weight_decay", 0.0)]
    assert positional(gn.AdamW) == [*moments, ("weight_decay", 0.01)]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_there(name):
    kind = getattr(gn, name)
    assert kind.rule_class is RULES[name]
    assert name in dir(gn)
    optimizer = kind([parameter([1.0])])
    parameters = inspect.signature(kind).parameters
    for setting in settings_of(RULES[name]):
        assert parameters[setting.name].default == getattr(optimizer, setting.name)
    with pytest.raises(TypeError, match="nonsense"):
        kind([parameter([1.0])], nonsense=1)


@pytest.mark.parametrize("name", RULES)
def test_parameters_is_another_name_for_params(name):
    kind = getattr(gn, name)
    p = parameter([1.0])
    assert kind(parameters=[p], lr=0.5).params == [p]
    with pytest.raises(TypeError, match="params and parameters are the same argument"):
        kind([p], parameters=[p])
    for nothing in ({}, {"parameters": None}, {"params": None}):
        with pytest.raises(TypeError, match="the parameters are missing"):
            kind(**nothing)


def test_parameters_of_a_learner_s_own():
    class Mine(gn.Optimizer):
        pass

    p = parameter(1.0)
    assert Mine(parameters=[p]).params == Mine([p]).params == [p]


@pytest.mark.parametrize("kind", THREE)
def test_a_tensor_that_never_gets_a_gradient_is_refused(kind):
    w = gn.Tensor([1.0], requires_grad=True)
    with pytest.raises(ValueError, match="parameter 1 has requires_grad=False"):
        kind([w, gn.Tensor([1.0])])
    with pytest.raises(ValueError, match="parameter 0 is the result of an operation"):
        kind([2 * w])
    (w * 3).sum().backward()
    kind([w], lr=0.5).step()
    assert w.data[0] < 1


def test_momentum_that_never_fades_is_warned_of():
    for momentum in (1.0, 1.2):
        with pytest.warns(UserWarning, match="never lets an old gradient fade") as said:
            optimizer = gn.SGD([parameter(1.0)], momentum=momentum)
        assert said[0].filename == __file__
        assert optimizer.momentum == momentum
    optimizer = gn.SGD([parameter(1.0)], momentum=0.999)
    with pytest.warns(UserWarning, match="momentum=2"):
        optimizer.momentum = 2


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'AdamZ'"):
        gn.AdamZ  # noqa: B018


@pytest.mark.parametrize("kind", THREE)
@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_bad_setting_changes_nothing(kind, name, value):
    p = Foreign([1.0])
    with pytest.raises(ValueError, match=f"^{name} must be finite and nonnegative, but is {value}$"):
        kind([p], **{name: value})
    assert vars(p).keys() == {"data", "requires_grad"}


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_bad_momentum(value):
    with pytest.raises(ValueError, match="momentum must be finite and nonnegative"):
        gn.SGD([parameter(1.0)], momentum=value)


@pytest.mark.parametrize("kind", [gn.Adam, gn.AdamW])
@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"betas": (1.0, 0.999)}, ValueError, "betas must contain two finite values in"),
        ({"betas": (0.9, -0.1)}, ValueError, "betas must contain two finite values in"),
        ({"betas": (math.nan, 0.999)}, ValueError, "betas must contain two finite values in"),
        ({"betas": (0.9, math.inf)}, ValueError, "betas must contain two finite values in"),
        ({"betas": (0.9,)}, ValueError, "betas must contain two finite values in"),
        ({"betas": 0.9}, TypeError, "betas must be a pair"),
        ({"eps": -1.0}, ValueError, "eps must be finite and nonnegative"),
        ({"eps": math.nan}, ValueError, "eps must be finite and nonnegative"),
        ({"lr": "big"}, TypeError, "lr must be a number"),
        ({"engine": "warp"}, ValueError, "Unknown engine: 'warp'"),
    ],
)
def test_bad_settings_of_adam(kind, settings, error, words):
    with pytest.raises(error, match=words):
        kind([parameter(1.0)], **settings)


def test_other_rules_use_their_own_words():
    with pytest.raises(ValueError, match="alpha: Invalid alpha value: -1"):
        gn.RMSprop([parameter(1.0)], alpha=-1)
    with pytest.raises(ValueError, match="eps: Invalid eps value at index 0: -1"):
        gn.Adafactor([parameter(1.0)], eps=(-1.0, 1e-3))


def test_settings_are_assigned_and_checked():
    p = parameter(1.0)
    optimizer = gn.SGD([p], lr=0.5)
    p.grad = np.ones(1)
    optimizer.step()
    optimizer.lr = 0.125
    optimizer.step()
    assert p.data[0] == 0.375
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="lr must be finite and nonnegative"):
            optimizer.lr = bad
    with pytest.raises(ValueError, match="Nesterov momentum requires a momentum"):
        optimizer.nesterov = True
    assert (optimizer.lr, optimizer.nesterov) == (0.125, False)
    optimizer.momentum = 0.9
    optimizer.step()
    assert optimizer.momentum_buffers[0] is not None


def test_betas_by_name():
    optimizer = gn.Adam([parameter(1.0)])
    optimizer.beta1, optimizer.beta2 = 0.5, 0.75
    assert optimizer.betas == (0.5, 0.75)
    assert (optimizer.beta1, optimizer.beta2) == (0.5, 0.75)
    with pytest.raises(ValueError, match="betas must contain two finite values"):
        optimizer.beta2 = 1.0


# -- state --------------------------------------------------------------------------------------------------------


def test_buffers_are_made_at_the_first_step():
    p, q = parameter(1.0, 2.0), parameter(1.0)
    optimizer = gn.Adam([p, q])
    assert optimizer.m_buffers == optimizer.v_buffers == [None, None]
    p.grad = np.array([0.1, 0.2])
    optimizer.step()
    np.testing.assert_allclose(optimizer.m_buffers[0], [0.01, 0.02], rtol=1e-6)
    np.testing.assert_allclose(optimizer.v_buffers[0], [1e-5, 4e-5], rtol=1e-6)
    assert optimizer.m_buffers[1] is None
    assert optimizer.has_momentum()
    plain = gn.SGD([parameter(1.0)])
    assert plain.momentum_buffers == [None]
    assert plain.has_momentum() is False
    assert plain.get_momentum_state() is None
    assert gn.SGD([parameter(1.0)], momentum=0.5).has_momentum() is True


def test_buffers_may_be_assigned():
    p = parameter(1.0)
    optimizer = gn.SGD([p], lr=1.0, momentum=0.5)
    optimizer.momentum_buffers[0] = np.array([2.0])  # float64: brought into the parameter's type
    p.grad = np.zeros(1)
    optimizer.step()
    assert p.data[0] == 0
    assert optimizer.momentum_buffers[0].dtype == np.float32
    frozen = np.array([2.0], np.float32)
    frozen.flags.writeable = False
    optimizer.momentum_buffers[0] = frozen
    optimizer.step()
    assert frozen[0] == 2
    held = np.array([2.0])
    optimizer.momentum_buffers = [held]
    optimizer.step()
    assert held[0] == 2
    optimizer.momentum_buffers[0] = np.ones(3)
    with pytest.raises(ValueError, match=r"momentum_buffer of parameter 0 must be an array of shape \(1,\)"):
        optimizer.step()


@dataclass(frozen=True)
class Leap(Rule):
    """A user's rule."""

    lr: float = learning_rate(0.5)

    def coefficients(self, step, **scalars):
        return {"lr": self.lr}

    @staticmethod
    def update(p, g, s, c):
        return p - c.lr * g


@dataclass(frozen=True)
class Clash(Leap):
    """A user's rule with a name that is taken."""

    params: float = learning_rate(0.5)


def test_rule_of_ones_own():
    p = parameter(1.0)
    p.grad = np.ones(1)
    optimizer = gn.optimizer(Leap)([p])
    optimizer.lr = 0.25
    optimizer.step()
    assert p.data[0] == 0.75
    assert gn.optimizer(Leap) is gn.optimizer(Leap)
    assert gn.optimizer(rules.AdamW) is gn.AdamW
    with pytest.raises(TypeError, match="'params', a name that optimizers use"):
        gn.optimizer(Clash)
    for wrong in (int, Rule, 3):
        with pytest.raises(TypeError):
            gn.optimizer(wrong)


@pytest.mark.parametrize("kind", [*THREE, gn.Lion])
def test_pickle(kind):
    p = parameter(1.0, 2.0)
    p.grad = np.ones(2)
    optimizer = kind([p], lr=0.1)
    optimizer.step()
    again = pickle.loads(pickle.dumps(optimizer))
    for each in (optimizer, again):
        each.params[0].grad = np.array([1.0, -1.0])
        each.step()
    np.testing.assert_array_equal(p.data, again.params[0].data)


def interrupt_after_update(monkeypatch, engine):
    """Ctrl-C comes when the engine has updated the arrays."""
    update = engine.update

    def update_and_signal(self, batch):
        update(self, batch)
        signal.raise_signal(signal.SIGINT)
        sum(range(1000))  # Python runs handlers between instructions

    monkeypatch.setattr(engine, "update", update_and_signal)


@pytest.mark.parametrize("engine", [Fused, Reference])
def test_a_step_that_is_interrupted_is_whole(monkeypatch, engine):
    params = [gn.Parameter(np.ones(4, dtype), grad=np.ones(4, dtype)) for dtype in (np.float32, np.float64)]
    optimizer = gn.AdamW(params, lr=0.1, weight_decay=0.0, engine=engine.name)
    interrupt_after_update(monkeypatch, engine)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert optimizer.step_count == 1
    assert optimizer.update_counts == [1, 1]
    assert all(np.allclose(p.data, 0.9) for p in params)


COUNTS = r"an update count must be a whole number of at least 0, but is "


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("update_counts", ["x", 1], ValueError, COUNTS + "'x'"),
        ("update_counts", [math.nan, 1], ValueError, COUNTS + "nan"),
        ("update_counts", [-5, 1], ValueError, COUNTS + "-5"),
        ("update_counts", [1.5, 1], ValueError, COUNTS + "1.5"),
        ("update_counts", [None, 1], ValueError, COUNTS + "None"),
        ("update_counts", [math.inf, 1], ValueError, COUNTS + "inf"),
        ("update_counts", (1, 1), TypeError, r"update_counts must be a list .* but is \(1, 1\)"),
        ("scalars", {}, ValueError, r"scalars must have the keys \['mu_product'\], but has \[\]"),
        ("scalars", {"mu_product": [0.5]}, ValueError, "it has 1 entries for 2 parameters"),
        ("scalars", {"mu_product": [math.nan, 0.5]}, ValueError, "mu_product must be finite"),
        ("scalars", {"mu_product": ["a", 0.5]}, ValueError, "mu_product must be finite"),
        ("scalars", {"mu_product": None}, TypeError, r"scalars\['mu_product'\] must be a list"),
    ],
)
def test_numbers_that_were_assigned_are_checked_before_anything_moves(name, value, error, words):
    params = [gn.Parameter(np.ones(4), grad=np.ones(4)) for _ in range(2)]
    optimizer = gn.NAdam(params, lr=0.1)
    optimizer.step()
    before = [p.data.copy() for p in params]
    setattr(optimizer, name, value)
    with pytest.raises(error, match=words):
        optimizer.step()
    assert all((p.data == b).all() for p, b in zip(params, before, strict=True))
    assert optimizer.step_count == 1
