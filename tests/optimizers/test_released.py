"""Released gradients: the bits of backward and step, and errors where parameters would be ahead unnoticed."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradstep


class Tied(nn.Module):
    """A tied embedding, a module that is used twice, and a layer that is never used."""

    def __init__(self):
        super().__init__()
        self.embed, self.twice = nn.Embedding(300, 64), nn.Linear(64, 64)
        self.head, self.unused = nn.Linear(64, 300, bias=False), nn.Linear(3, 3)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.twice(torch.relu(self.twice(self.embed(x)))))


def train(released, dtype, make, steps=6):
    torch.manual_seed(0)
    model = Tied().to(dtype)
    optimizer = make(model)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    release = gradstep.release_gradients(model, optimizer) if released else None
    for _ in range(steps):
        x = torch.randint(300, (4, 16))
        nn.functional.cross_entropy(model(x).flatten(0, 1).float(), x.roll(1, 1).flatten()).backward()
        assert (model.twice.weight.grad is None) == (model.embed.weight.grad is None) == released
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    if release is not None:
        release.remove()
    params = list(model.parameters())
    return params, {index: optimizer.state[p] for index, p in enumerate(params) if p in optimizer.state}


@pytest.mark.parametrize(
    ("rule", "dtype", "settings"),
    [
        ("AdamW", torch.float32, {}),
        ("AdamW", torch.float32, {"engine": "eager"}),
        ("AdamW", torch.float32, {"state": "8bit"}),
        ("AdamW", torch.float32, {"state": "4bit"}),
        ("Lion", torch.bfloat16, {"state": "8bit", "rounding": "stochastic"}),
        ("AdamW", torch.bfloat16, {"state": "bfloat16", "rounding": "kahan"}),
        ("SGD", torch.bfloat16, {"rounding": "master"}),
        ("AdamW", torch.bfloat16, {"state": "8bit", "rounding": "24bit"}),
        ("Adafactor", torch.float32, {}),
    ],
)
def test_the_bits_are_those_of_backward_and_step(rule, dtype, settings):
    def make(model):
        return getattr(gradstep, rule)(model.named_parameters(), lr=1e-2, seed=3, **settings)

    (params, state), (others, plain) = train(True, dtype, make), train(False, dtype, make)
    assert all(map(torch.equal, params, others))
    assert state.keys() == plain.keys()  # the unused layer has none
    for index, entry in plain.items():
        for key, value in entry.items():
            assert torch.equal(torch.as_tensor(state[index][key]), torch.as_tensor(value)), (index, key)


def two_layers():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    return model, gradstep.AdamW(model.named_parameters()), torch.ones(2, 8)


def test_a_second_backward_pass_before_the_step_is_refused():
    model, optimizer, x = two_layers()
    gradstep.release_gradients(model, optimizer)
    model(x).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="second gradient since the last"):
        model(x).sum().backward()
    assert all(map(torch.equal, before, model.parameters()))
    optimizer.step()
    model(x).sum().backward()
    assert {int(entry["step"]) for entry in optimizer.state.values()} == {2}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_backward_pass_that_raises_half_way_says_so(error):
    model, optimizer, x = two_layers()
    release = gradstep.release_gradients(model, optimizer)

    def fail(_):
        raise error

    hidden = model[0](x)
    hidden.register_hook(fail)
    with pytest.raises(error):
        model[1](hidden).sum().backward()
    assert [int(optimizer.state[p]["step"]) for p in model[1].parameters()] == [1, 1]
    for act in (optimizer.step, optimizer.state_dict, lambda: model(x).sum().backward()):
        with pytest.raises(RuntimeError, match=r"2 of 4 parameters \(such as 1\.\w+\) are one update ahead"):
            act()
    release.discard()
    model(x).sum().backward()
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in model.parameters()] == [1, 1, 2, 2]


def test_what_needs_all_gradients_at_once_is_refused():
    model, optimizer, x = two_layers()
    with pytest.raises(TypeError, match="for gradstep's optimizers, not for SGD"):
        gradstep.release_gradients(model, torch.optim.SGD(model.parameters()))
    with pytest.raises(ValueError, match="paged state"):
        gradstep.release_gradients(model, gradstep.AdamW(model.parameters(), paged=True))
    optimizer.watch = "groups"
    with pytest.raises(ValueError, match="watch"):
        gradstep.release_gradients(model, optimizer)
    optimizer.watch = None
    model(x).sum().backward()
    with pytest.raises(ValueError, match=r"0\.weight has a gradient from before"):
        gradstep.release_gradients(model, optimizer)
    optimizer.zero_grad()
    with gradstep.release_gradients(model, optimizer):
        with pytest.raises(ValueError, match="released already"):
            gradstep.release_gradients(model, optimizer)
        model(x).sum().backward()
        with pytest.raises(ValueError, match="clipped by their global norm"):
            optimizer.step(max_grad_norm=1.0)
        optimizer.step()
    model(x).sum().backward()
    assert model[0].weight.grad is not None


def test_a_parameter_that_was_added_later_is_not_updated_again_and_again():
    model, optimizer, x = two_layers()
    gradstep.release_gradients(model, optimizer)
    last = nn.Linear(model(x).shape[-1], 1)
    optimizer.add_param_group({"params": list(last.named_parameters("last"))})
    with pytest.raises(RuntimeError, match="was added later, remove"):
        last(model(x)).sum().backward()  # the gradients of the last layer come first
    assert not any(optimizer.state.get(p) for p in last.parameters())


def test_the_model_must_be_the_optimizers():
    model, optimizer, _ = two_layers()
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        gradstep.release_gradients(list(model.parameters()), optimizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no parameter of this model"):
        gradstep.release_gradients(nn.Linear(2, 2), optimizer)


def test_reentrant_checkpointing_is_named_where_it_hides_the_end_of_the_pass():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1))
    optimizer, x = gradstep.AdamW(model.named_parameters()), torch.ones(2, 8)
    gradstep.release_gradients(model, optimizer)
    model[2](checkpoint(model[1], model[0](x), use_reentrant=False)).sum().backward()
    optimizer.step()
    model[2](checkpoint(model[1], model[0](x), use_reentrant=True)).sum().backward()
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        optimizer.step()


def test_a_stepper_refuses_an_optimizer_whose_gradients_are_released():
    model = nn.Linear(2, 1)
    optimizer = gradstep.AdamW(model.parameters())
    with (
        gradstep.release_gradients(model, optimizer),
        pytest.raises(ValueError, match="the gradients of this optimizer are released"),
    ):
        gradstep.Stepper(model, optimizer)
    gradstep.Stepper(model, optimizer)  # they no longer are


def test_a_closure_computes_the_gradients_of_the_update():
    model, optimizer, x = two_layers()

    def closure():
        loss = model(x).square().mean()
        loss.backward()
        return loss

    with gradstep.release_gradients(model, optimizer):
        losses = [float(optimizer.step(closure).detach()) for _ in range(3)]
    assert losses == sorted(losses, reverse=True)
    assert int(optimizer.state[model[0].weight]["step"]) == 3


def test_a_second_release_of_the_same_parameters_ends_the_first():
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    first = gradstep.create("lomo", model.named_parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="weight was updated in the backward pass by another SGD"):
        optimizer = gradstep.create("lomo", model.named_parameters(), lr=0.5)
    assert gradstep.GradientRelease.of(first) is None
    for _ in range(2):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert model.weight.tolist() == [[0.0, 0.0]]


def test_a_release_ends_with_its_optimizer():
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = gradstep.create("lomo", model.named_parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    before = model.weight.tolist()
    optimizer = gradstep.SGD(model.named_parameters(), lr=0.0)  # nothing refers to the first one any more
    for _ in range(2):
        model(torch.ones(1, 2)).sum().backward()
        assert model.weight.grad is not None
        optimizer.step()
    assert model.weight.tolist() == before


@pytest.mark.parametrize("other", [gradstep.SGD, torch.optim.SGD])
def test_a_release_that_goes_on_beside_another_optimizer_says_how_to_end_it(other):
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = gradstep.create("lomo", model.named_parameters(), lr=0.1)
    replacement = other(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    replacement.step()
    with pytest.raises(RuntimeError, match=r"another optimizer steps in place of this SGD.*of\(optimizer\)\.remove"):
        model(torch.ones(1, 2)).sum().backward()
    release = gradstep.GradientRelease.of(optimizer)
    assert release is not None
    release.remove()
    model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad is not None


def test_a_handle_is_of_an_optimizer():
    with pytest.raises(TypeError, match="an optimizer, or a trainer's wrapper of one, is needed here, not None"):
        gradstep.GradientRelease.of(None)  # type: ignore[arg-type]


def test_averaged_weights_are_not_updated_in_the_backward_pass():
    model = nn.Linear(3, 2)
    optimizer = gradstep.ScheduleFreeSGD(model.named_parameters(), lr=0.1)
    with gradstep.release_gradients(model, optimizer):
        model(torch.ones(3)).sum().backward()
        optimizer.step()
        optimizer.eval()
        before = [p.detach().clone() for p in model.parameters()]
        with pytest.raises(RuntimeError, match=r"have their averaged weights: call optimizer.train\(\) before"):
            model(torch.ones(3)).sum().backward()
        assert all(map(torch.equal, model.parameters(), before))
        optimizer.train()
        model(torch.ones(3)).sum().backward()
        optimizer.step()
    assert optimizer.state[model.weight]["step"] == 2


@pytest.mark.parametrize("refused", ["setting", "watch"])
def test_the_gradient_of_a_refused_update_is_not_added_to_the_next(refused):
    model = nn.Linear(3, 1, bias=False)
    optimizer = gradstep.SGD(model.named_parameters(), lr=1.0)
    before = model.weight.detach().clone()
    with gradstep.release_gradients(model, optimizer):
        if refused == "setting":
            optimizer.param_groups[0]["lr"] = -1.0
        else:
            optimizer.watch = "parameters"
        with pytest.raises((ValueError, RuntimeError), match=r"Invalid learning rate|statistics of a step"):
            model(torch.ones(3)).backward()
        optimizer.param_groups[0]["lr"], optimizer.watch = 1.0, None
        model(torch.ones(3)).backward()
        optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - 1)
