"""Bad input is refused in torch's manner, and leaves parameters, state and step counts as they were."""

import math
from typing import Any

import pytest
import torch

import gradstep
from gradstep.optimizers.memory import conform_gradient
from tests.registry import subjects
from tests.training import assert_same_bits, give, normal, unchanged


def ready(kind=gradstep.AdamW, count=1, **options):
    """An optimizer of three parameters after ``count`` steps, with gradients for the next."""
    params = [normal(n, seed=n).requires_grad_() for n in (5, 3, 20)]
    optimizer = kind(params, **options)
    for t in range(count + 1):
        give(params, [normal(p.numel(), seed=t) for p in params])
        if t < count:
            optimizer.step()
    return optimizer, params


# All bad inputs of a rule are tried in one test: with a test for each there was time for a third of them only.
@pytest.mark.parametrize("subject", subjects())
def test_constructor(subject):
    p = normal(3).requires_grad_()
    for bad in subject.bad:
        with bad.refused():
            subject.optimizer([p], **bad.settings)
        with bad.refused():
            subject.optimizer([{"params": [p], **bad.settings}])


@pytest.mark.parametrize("subject", subjects())
def test_added_group(subject):
    optimizer, _ = ready(subject.optimizer)
    for bad in subject.bad:
        with unchanged(optimizer), bad.refused():
            optimizer.add_param_group({"params": [normal(2).requires_grad_()], **bad.settings})
        assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("subject", subjects())
def test_setting_spoiled_in_mid_run(subject):
    optimizer, _ = ready(subject.optimizer)
    [group] = optimizer.param_groups
    settings = dict(group)
    for bad in subject.bad:
        if bad.settings.get("d") is True:
            continue  # equal to the 1.0 that was checked before
        group.update(bad.settings)
        with unchanged(optimizer), bad.refused():
            optimizer.step()
        group.clear()
        group.update(settings)
    optimizer.step()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, torch.tensor(math.nan)])
def test_learning_rate_spoiled_in_the_second_group(value):
    optimizer, params = ready()
    optimizer.add_param_group({"params": [normal(2).requires_grad_()], "lr": 0.1})
    optimizer.param_groups[1]["lr"] = value
    with unchanged(optimizer), pytest.raises(ValueError, match="Invalid learning rate"):
        optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [1, 1, 1]


def test_a_schedule_that_ends_in_nan():
    optimizer, params = ready()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: math.nan if t == 2 else 1.0)
    optimizer.step()
    scheduler.step()
    optimizer.step()
    scheduler.step()
    with unchanged(optimizer), pytest.raises(ValueError, match="Invalid learning rate: nan"):
        optimizer.step()
    assert int(optimizer.state[params[0]]["step"]) == 3


P = normal(3).requires_grad_()
CONSTRUCTIONS: dict[str, Any] = {
    "empty": ([], ValueError, "empty parameter list"),
    "one tensor": (P, TypeError, "should be an iterable of Tensors or dicts"),
    "duplicate": ([P, P], ValueError, "same parameter more than once"),
    "duplicate over groups": ([{"params": [P]}, {"params": [P]}], ValueError, "more than one parameter group"),
    "integers": ([torch.arange(3)], TypeError, "floating-point or complex tensors.*int64"),
    "truths": ([torch.ones(3, dtype=torch.bool)], TypeError, "floating-point or complex tensors.*bool"),
    "not a tensor": ([1.0], TypeError, "can only optimize Tensors"),
    "not a leaf": ([P * 2], ValueError, "non-leaf Tensor"),
    "a set": ([{"params": {P}}], TypeError, "order"),
    "no params": ([{"lr": 0.1}], KeyError, "params"),
    "half named": ([("a", P), normal(2).requires_grad_()], (TypeError, ValueError), "names"),
}


@pytest.mark.parametrize("form", CONSTRUCTIONS)
def test_parameters(form):
    params, error, words = CONSTRUCTIONS[form]
    before = P.detach().clone()
    with pytest.raises(error, match=words):
        gradstep.AdamW(params)
    assert_same_bits(P, before)


@pytest.mark.parametrize(
    ("intruder", "error", "words"),
    [
        (lambda params: params[0], ValueError, "more than once: parameter 3 of group 0 is parameter 0 of group 0"),
        (lambda params: None, TypeError, "can only optimize Tensors, but parameter 3 of group 0 is a NoneType"),
    ],
)
@pytest.mark.parametrize("count", [0, 2])
def test_param_groups_changed_by_hand(intruder, error, words, count):
    optimizer, params = ready(count=count)
    optimizer.param_groups[0]["params"].append(intruder(params))
    before = [p.detach().clone() for p in params]
    with pytest.raises(error, match=words):
        optimizer.step()
    optimizer.param_groups[0]["params"].pop()
    for p, old in zip(params, before, strict=True):
        assert_same_bits(p, old)
    assert [int(optimizer.state[p]["step"]) for p in params if p in optimizer.state] == [count] * 3 * (count > 0)
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [count + 1] * 3


@pytest.mark.parametrize("call", ["step", "state_dict", "engines", "state_summary", "load_state_dict"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (iter, "a list_iterator, but must be a list of tensors: use list"),
        (lambda params: (p for p in params), "a generator, but must be a list of tensors: use list"),
        (lambda params: params[0], r"a Tensor, but must be a list of tensors: use \[...\]"),
        (set, "a set, but must be a list of tensors"),
        (lambda params: None, "a NoneType, but must be a list of tensors"),
    ],
)
def test_parameters_of_a_group_that_are_in_no_list(wrong, words, call):
    """torch goes on with them, and updates nothing once the iterator is empty."""
    optimizer, params = ready()
    arguments = [optimizer.state_dict()] if call == "load_state_dict" else []
    optimizer.param_groups[0]["params"] = wrong(params)
    before = [p.detach().clone() for p in params]
    with pytest.raises(TypeError, match=rf'param_groups\[0\]\["params"\] is {words}'):
        getattr(optimizer, call)(*arguments)
    optimizer.param_groups[0]["params"] = dict.fromkeys(params).keys()
    for p, old in zip(params, before, strict=True):
        assert_same_bits(p.detach(), old)
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 2, 2]


def test_parameters_appended_by_hand_where_parameters_have_names():
    first, second, new = (normal(3, seed=i).requires_grad_() for i in range(3))
    optimizer = gradstep.AdamW([{"params": [("first", first)]}, {"params": [("second", second)]}])
    optimizer.param_groups[0]["params"].append(new)
    give([first, new, second], [normal(3)] * 3)
    optimizer.state[second] = {"step": "x"}
    with pytest.raises(TypeError, match="the state of second does not fit"):
        optimizer.step()
    optimizer.state[second], optimizer.state[new] = {}, {"step": "x"}
    with pytest.raises(TypeError, match="the state of parameter 1 of group 0 does not fit"):
        optimizer.step()
    optimizer.state[new] = {}
    optimizer.step()
    assert all(int(optimizer.state[p]["step"]) == 1 for p in (first, second, new))


def test_a_group_that_has_a_parameter_of_another():
    optimizer, params = ready()
    with unchanged(optimizer), pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [params[0]]})


@pytest.mark.parametrize(
    ("arguments", "named", "words"),
    [
        ((), {"learning_rate": 0.1}, "AdamW has no setting 'learning_rate'.*lr, betas"),
        ((0.1,), {"lr": 0.1}, "multiple values for argument 'lr'"),
        ((0.1, (0.9, 0.99), 1e-8, 0.0, False, True), {}, "at most 5 settings by position, got 6"),
    ],
)
def test_arguments(arguments, named, words):
    with pytest.raises(TypeError, match=words):
        gradstep.AdamW([P], *arguments, **named)


@pytest.mark.parametrize("subject", subjects())
def test_unknown_engine(subject):
    with pytest.raises(
        ValueError, match=r"Unknown engine: 'cuda' \(choose auto, fused, foreach, eager, compiled, reference\)"
    ):
        subject.optimizer([P], engine="cuda")


@pytest.mark.parametrize(
    ("kind", "p", "words"),
    [
        (
            gradstep.AdamW,
            lambda: normal(4, 6)[:, ::2],
            r"\(4, 3\) because its memory has gaps.*\(eager, reference\)",
        ),
        (gradstep.AdamW, lambda: normal(3) + 0j, r"no codec for complex64.*\(foreach, eager, compiled\)"),
        (gradstep.Adafactor, lambda: normal(3, 3), r"Adafactor looks at whole tensors.*\(eager, reference\)"),
    ],
)
def test_fused_on_what_it_cannot_do(kind, p, words):
    with pytest.raises(ValueError, match=f"engine='fused' cannot serve .*{words}"):
        kind([p().requires_grad_()], engine="fused")


def test_an_engine_that_cannot_serve_what_a_parameter_became():
    p = normal(4, 6).requires_grad_()
    optimizer = gradstep.AdamW([p], engine="fused")
    give([p], [normal(4, 6)])
    optimizer.step()
    p.grad = None
    p.data = normal(4, 12)[:, ::2]
    p.grad = normal(4, 6)
    with unchanged(optimizer), pytest.raises(ValueError, match="engine='fused' cannot serve"):
        optimizer.step()


def sparse(p):
    p.grad = None
    p.grad = torch.ones_like(p).to_sparse()


def other_shape(p):
    p.grad.resize_(p.numel() + 1)


def transposed_shape(p):
    p.grad.resize_(1, p.numel())


def other_type(p):
    p.grad.data = p.grad.double()


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (sparse, "do not support sparse gradients.*SparseAdam"),
        (other_shape, "has shape .*the parameter"),
        (transposed_shape, "has shape .*the parameter"),
    ],
)
def test_gradient(spoil, words, count, which):
    optimizer, params = ready(count=count)
    spoil(params[which])
    with unchanged(optimizer), pytest.raises(RuntimeError, match=words):
        optimizer.step()
    # A step with good gradients goes on from there.
    give(params, [normal(p.numel()) for p in params])
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [count + 1] * 3


def test_gradient_smaller_than_its_parameter_is_not_read_beyond_its_end():
    optimizer, params = ready()
    params[2].grad.resize_(7)
    with unchanged(optimizer), pytest.raises(RuntimeError, match=r"has shape \(7,\), the parameter \(20,\)"):
        optimizer.step()


def test_gradient_on_another_device():
    """Torch does not let one be set; a device that is not there cannot be tested otherwise."""
    with pytest.raises(RuntimeError, match="the gradient of w is on meta, the parameter on cpu"):
        conform_gradient(normal(3), torch.zeros(3, device="meta"), "w")


def test_gradient_of_another_type():
    """Forced upon torch, which refuses it: it is computed as the same numbers in the parameter's type are."""
    optimizer, params = ready()
    try:
        other_type(params[0])
    except RuntimeError:
        return
    _, others = trained = ready()
    optimizer.step()
    trained[0].step()
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)


def test_sparse_embedding():
    model = torch.nn.Embedding(10, 3, sparse=True)
    optimizer = gradstep.AdamW(model.named_parameters())
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"weight has one .*nn.Embedding\(sparse=False\), or torch.optim.SparseAdam"):
        optimizer.step()


def test_state_of_another_shape():
    optimizer, params = ready()
    optimizer.state[params[1]]["exp_avg"] = torch.zeros(4)
    with unchanged(optimizer), pytest.raises(RuntimeError, match=r"of parameter 1 .*exp_avg .*\(4,\).*\(3,\)"):
        optimizer.step()


def test_a_parameter_that_overlaps_itself():
    """Torch cannot write to it either; nothing may have changed when it says so."""
    p = torch.zeros(1).expand(4).requires_grad_()
    other = normal(3).requires_grad_()
    optimizer = gradstep.AdamW([other, p])
    give([other, p], [normal(3), normal(4)])
    with unchanged(optimizer), pytest.raises(RuntimeError, match="parameter 1 of group 0 share memory"):
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "words"),
    [(gradstep.SGD, "SGD keeps no state with these settings"), (gradstep.Adafactor, "only a row and a column")],
)
def test_a_precision_for_state_that_there_is_not(kind, words):
    with pytest.raises(ValueError, match=words):
        kind([torch.ones(2, 2, requires_grad=True)], state="8bit")


def test_a_name_that_is_no_string():
    with pytest.raises(TypeError, match="must be a string such as 'adamw_8bit', but is None"):
        gradstep.create(None, [torch.ones(2, requires_grad=True)])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [gradstep.AdamW, gradstep.Muon])
@pytest.mark.parametrize(
    ("params", "words"),
    [
        (torch.nn.Linear(3, 2), r"the parameters of the Linear, not itself: give model.named_parameters\(\)"),
        (None, "params must be tensors, pairs of name and tensor, or groups, but is None"),
        ([("a",)], r"parameter 0 must be a tensor or a pair of its name and a tensor, not \(str\)"),
        ([normal(2, 2), ("a", normal(2, 2), 1)], r"parameter 1 must be .*, not \(str, Tensor, int\)"),
        ([(normal(2, 2), "a")], r"not \(Tensor, str\)"),
        ([{"params": [("a",)]}], r"parameter 0 must be a tensor or a pair"),
    ],
)
def test_what_is_no_list_of_parameters(kind, params, words):
    for options in ({}, {"model": torch.nn.Linear(2, 2)}):
        with pytest.raises(TypeError, match=words):
            kind(params, **options)


def test_a_list_of_parameters_may_be_a_module():
    optimizer = gradstep.AdamW(torch.nn.ParameterList([normal(2, 2)]))
    assert len(optimizer.param_groups[0]["params"]) == 1


def test_the_rule_of_what_is_no_group():
    optimizer, _ = ready()
    for group in ({}, {"rule": "Lion"}, None):
        with pytest.raises(TypeError, match="a group must be one of param_groups"):
            optimizer.rule_of(group)
