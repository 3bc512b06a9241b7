"""What a seed decides, and the surfaces' numbers against hand-worked ones."""

from itertools import islice

import pytest
import torch

from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.surface import Ravine, Rosenbrock, Surface, relief

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
SURFACES = [task for task in TASKS.values() if isinstance(task, Surface)]


def first_losses(task, seed: int, count: int = 3) -> list[float]:
    torch.manual_seed(seed)
    model = task.model(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for batch in islice(task.batches(seed), count):
        loss = task.loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@every_task
def test_one_seed_gives_the_same_start_bit_for_bit_and_another_seed_another(task):
    assert first_losses(task, 0) == first_losses(task, 0)
    assert first_losses(task, 0) != first_losses(task, 1)


@every_task
def test_a_model_does_not_disturb_the_random_numbers_of_others(task):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    task.model(1)
    next(task.batches(1))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


@every_task
def test_judging_changes_nothing_and_draws_nothing(task):
    model = task.model(0)
    before = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    first, second = task.evaluate(model), task.evaluate(model)
    assert first == second
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters()))


@pytest.mark.parametrize("name", ["digits", "text"])
def test_an_untrained_model_knows_about_as_much_as_chance(name):
    task = TASKS[name]
    judged = task.evaluate(task.model(0))
    classes = {"digits": 10, "text": 256}[name]
    assert judged.loss == pytest.approx(torch.log(torch.tensor(float(classes))).item(), rel=0.1)
    assert judged.accuracy is not None
    assert judged.accuracy < 0.3


def height_and_gradient(task, x: float, y: float) -> tuple[float, list[float]]:
    place = torch.tensor([x, y], requires_grad=True)
    height = task.height(*place)
    height.backward()
    assert place.grad is not None
    return height.item(), place.grad.tolist()


def test_rosenbrock_by_hand():
    # At (-1, 2): 1 - x = 2, y - x² = 1. Height 4 + 100; gradient (-2·2 - 400·(-1)·1, 200·1).
    assert height_and_gradient(Rosenbrock(), -1.0, 2.0) == (104.0, [396.0, 200.0])
    assert height_and_gradient(Rosenbrock(), 1.0, 1.0) == (0.0, [0.0, 0.0])


def test_ravine_by_hand():
    # At (2, -1): ½ (4 + 50); gradient (x, 50 y).
    assert height_and_gradient(Ravine(), 2.0, -1.0) == (27.0, [2.0, -50.0])
    assert height_and_gradient(Ravine(), 0.0, 0.0) == (0.0, [0.0, 0.0])


@pytest.mark.parametrize("task", SURFACES, ids=lambda task: task.name)
def test_start_and_minimum_are_in_view_and_the_relief_is_the_surface(task):
    for x, y in (task.start, task.minimum):
        assert task.view[0][0] < x < task.view[0][1]
        assert task.view[1][0] < y < task.view[1][1]
    grid = relief(task, points=5)
    expected = task.height(torch.tensor(grid.x[3]), torch.tensor(grid.y[1])).item()
    assert grid.z[1, 3] == pytest.approx(expected)
    assert task.evaluate(task.model(0)).place == pytest.approx(task.start)
