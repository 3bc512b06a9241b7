"""gradstep.Scheduler: what it sets, that torch takes it for its own, and that a run resumes without a jump."""

import json
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

import gradstep
from gradstep.schedules import constant, cosine, exponential, linear, one_cycle, warmup

PLAN = warmup(updates=3, to=0.1).then(cosine(0.1, updates=7, floor=0.01))
RISING = linear(0.1, 0.9, updates=8)
WRONG: Any = 0.1


def parameters(count: int = 1) -> list[torch.Tensor]:
    return [torch.ones(3, requires_grad=True) for _ in range(count)]


def two_groups(kind: Any = torch.optim.AdamW, **settings: Any) -> torch.optim.Optimizer:
    a, b = parameters(2)
    groups = [
        {"params": [a], "name": "decay", "lr": 0.5, "weight_decay": 0.2},
        {"params": [b], "name": "rest", "lr": 0.25, "weight_decay": 0.0},
    ]
    result: torch.optim.Optimizer = kind(groups, **settings)
    return result


def run(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, updates: int, setting: str = "lr") -> list[list[Any]]:
    """The setting of every group in each update."""
    used = []
    for _ in range(updates):
        used.append([group[setting] for group in optimizer.param_groups])
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        scheduler.step()
    return used


KINDS = [torch.optim.SGD, torch.optim.AdamW, gradstep.SGD, gradstep.AdamW]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__.split('.')[0]} {kind.__name__}")
def test_each_update_uses_its_value_and_torch_warns_of_nothing(kind):
    optimizer = kind(parameters(), lr=0.3)
    scheduler = gradstep.Scheduler(optimizer, lr=PLAN, planned_updates=10)
    assert run(optimizer, scheduler, 13) == [[PLAN(update)] for update in range(13)]


def test_it_is_an_lr_scheduler_of_torch():
    optimizer = torch.optim.SGD(parameters(), lr=0.3)
    scheduler = gradstep.Scheduler(optimizer, PLAN)
    assert isinstance(scheduler, LRScheduler)
    assert scheduler.optimizer is optimizer
    assert scheduler.base_lrs == [0.3]
    run(optimizer, scheduler, 5)
    assert scheduler.get_last_lr() == [PLAN(5)]
    assert scheduler.last_epoch == 5
    with pytest.warns(UserWarning, match="epoch parameter"):  # torch's deprecated jump works as well
        scheduler.step(2)
    assert optimizer.param_groups[0]["lr"] == PLAN(2)


def test_torch_still_warns_when_the_order_is_wrong():
    scheduler = gradstep.Scheduler(torch.optim.SGD(parameters(), lr=0.3), PLAN)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_a_factor_is_of_the_initial_value_as_in_lambda_lr():
    ours, theirs = two_groups(), two_groups()
    driver = gradstep.Scheduler(ours, lr_factor=PLAN, weight_decay_factor=RISING)
    reference = LambdaLR(theirs, PLAN)
    assert driver.base_lrs == reference.base_lrs == [0.5, 0.25]
    used = run(ours, driver, 12)
    assert used == run(theirs, reference, 12)
    assert used[4] == [0.5 * PLAN(4), 0.25 * PLAN(4)]
    assert driver.get_last_lr() == reference.get_last_lr()
    assert [group["weight_decay"] for group in ours.param_groups] == [0.2 * RISING(12), 0.0]


@pytest.mark.parametrize(
    "given",
    [[PLAN, RISING], (PLAN, RISING), {"rest": RISING, "decay": PLAN}],
    ids=["list", "tuple", "names"],
)
def test_each_group_has_its_own(given):
    optimizer = two_groups()
    scheduler = gradstep.Scheduler(optimizer, lr=given, weight_decay=given)
    assert run(optimizer, scheduler, 6) == [[PLAN(update), RISING(update)] for update in range(6)]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [PLAN(6), RISING(6)]


def test_none_leaves_a_group_as_it_is():
    optimizer = two_groups()
    scheduler = gradstep.Scheduler(optimizer, lr=[None, PLAN], momentum={"decay": RISING, "rest": None})
    assert run(optimizer, scheduler, 6) == [[0.5, PLAN(update)] for update in range(6)]
    assert [group["betas"] for group in optimizer.param_groups] == [(RISING(6), 0.999), (0.9, 0.999)]


@pytest.mark.parametrize("kind", [torch.optim.SGD, gradstep.SGD, torch.optim.RMSprop])
def test_momentum(kind):
    optimizer = kind(parameters(), lr=0.3, momentum=0.5)
    scheduler = gradstep.Scheduler(optimizer, momentum=RISING)
    assert run(optimizer, scheduler, 9, "momentum") == [[RISING(update)] for update in range(9)]
    assert scheduler.get_last_lr() == [0.3]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, gradstep.AdamW])
def test_the_first_of_the_betas(kind):
    optimizer = kind(parameters(), betas=(0.9, 0.95))
    scheduler = gradstep.Scheduler(optimizer, momentum=RISING)
    assert run(optimizer, scheduler, 9, "betas") == [[(RISING(update), 0.95)] for update in range(9)]


def test_one_cycle_trains_as_torch_one_cycle():
    ours, theirs = (torch.optim.AdamW(parameters()) for _ in range(2))
    lr, momentum = one_cycle(0.1, updates=40)
    run(ours, gradstep.Scheduler(ours, lr, momentum=momentum), 40)
    run(theirs, OneCycleLR(theirs, 0.1, 40), 40)
    for a, b in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"]):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def test_a_tensor_is_filled_in_place():
    rate, beta = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.9)
    optimizer = torch.optim.AdamW(parameters(), lr=rate, betas=(beta, torch.tensor(0.999)), capturable=True)
    scheduler = gradstep.Scheduler(optimizer, lr_factor=PLAN, momentum=RISING)
    group = optimizer.param_groups[0]
    assert group["lr"] is rate
    assert group["betas"][0] is beta
    for update in range(1, 5):
        optimizer.step()
        scheduler.step()
        assert group["lr"] is rate
        assert rate.item() == 0.3 * PLAN(update)
        assert beta.item() == pytest.approx(RISING(update), rel=1e-7)
        last = scheduler.get_last_lr()[0]
        assert last == rate
        assert last is not rate
    scheduler.load_state_dict({"last_epoch": 2})
    assert group["lr"] is rate
    assert rate.item() == 0.3 * PLAN(2)


def test_an_update_that_was_skipped_does_not_count_unless_step_is_called():
    optimizer = gradstep.SGD(parameters(), lr=0.3)
    scheduler = gradstep.Scheduler(optimizer, PLAN)
    run(optimizer, scheduler, 4)
    optimizer.step()  # and no scheduler.step()
    assert scheduler.last_epoch == 4
    assert optimizer.param_groups[0]["lr"] == PLAN(4)


def test_its_state_is_one_integer():
    optimizer = torch.optim.SGD(parameters(), lr=0.3)
    scheduler = gradstep.Scheduler(optimizer, PLAN)
    run(optimizer, scheduler, 6)
    assert json.loads(json.dumps(scheduler.state_dict())) == {"last_epoch": 6}


ORDERS = ["optimizer, scheduler", "scheduler, optimizer", "optimizer first of all", "scheduler only"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("done", [0, 1, 4, 9, 30])
def test_a_run_resumes_without_a_jump(order, done):
    def fresh(
        state: dict[str, Any] | None = None,
    ) -> tuple[torch.optim.Optimizer, gradstep.Scheduler]:
        optimizer = two_groups(betas=(0.5, 0.9))
        if state is not None:
            optimizer.load_state_dict(state)
        return optimizer, gradstep.Scheduler(
            optimizer, lr_factor=PLAN, momentum=[RISING, None], weight_decay_factor=RISING
        )

    def settings(optimizer: torch.optim.Optimizer) -> list[tuple[Any, ...]]:
        return [(g["lr"], g["betas"], g["weight_decay"], g["initial_lr"]) for g in optimizer.param_groups]

    optimizer, scheduler = fresh()
    run(optimizer, scheduler, done)
    saved, count = optimizer.state_dict(), scheduler.state_dict()
    there = settings(optimizer)

    resumed, driver = fresh(saved if order == "optimizer first of all" else None)
    if order == "optimizer, scheduler":
        resumed.load_state_dict(saved)
    driver.load_state_dict(count)
    if order == "scheduler, optimizer":
        resumed.load_state_dict(saved)
    assert settings(resumed) == there
    assert driver.get_last_lr() == scheduler.get_last_lr()
    assert driver.base_lrs == [0.5, 0.25]
    for _ in range(5):
        run(optimizer, scheduler, 1)
        run(resumed, driver, 1)
        assert settings(resumed) == settings(optimizer)
        assert driver.state_dict() == scheduler.state_dict()


def test_the_first_update_after_a_resume_may_be_skipped_without_a_warning():
    scheduler = gradstep.Scheduler(torch.optim.SGD(parameters(), lr=0.3), PLAN)
    scheduler.load_state_dict({"last_epoch": 4})
    scheduler.step()  # as torch's, which warns of this order before the very first update only
    assert scheduler.get_last_lr() == [PLAN(5)]


def test_another_initial_lr_in_the_code_does_not_make_a_resumed_lr_jump():
    optimizer = torch.optim.SGD(parameters(), lr=0.3)
    scheduler = gradstep.Scheduler(optimizer, lr_factor=PLAN)
    run(optimizer, scheduler, 4)
    edited = torch.optim.SGD(parameters(), lr=99.0)
    driver = gradstep.Scheduler(edited, lr_factor=PLAN)
    edited.load_state_dict(optimizer.state_dict())
    driver.load_state_dict(scheduler.state_dict())
    assert run(edited, driver, 5) == run(optimizer, scheduler, 5)


SCRIPT = """
import sys, torch, gradstep
from gradstep.schedules import cosine, warmup

path, begin, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
p = torch.randn(7, requires_grad=True)
optimizer = torch.optim.AdamW([p], lr=1.0)
lr = warmup(updates=5, to=0.1).then(cosine(0.1, updates=15))
scheduler = gradstep.Scheduler(optimizer, lr, planned_updates=20)
if begin:
    state = torch.load(path)
    with torch.no_grad():
        p.copy_(state["p"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
for update in range(begin, end):
    p.grad = (p * update).detach().sin()
    optimizer.step()
    scheduler.step()
torch.save({"p": p.detach(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, path)
"""


@pytest.mark.slow
def test_a_fresh_process_goes_on_bit_for_bit(tmp_path):
    def train(name: str, begin: int, end: int) -> Any:
        command = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / name), str(begin), str(end)]
        subprocess.run(command, check=True, timeout=120)
        return torch.load(tmp_path / name)

    whole = train("whole", 0, 20)
    train("halves", 0, 9)
    halves = train("halves", 9, 20)
    assert torch.equal(whole["p"], halves["p"])
    assert whole["scheduler"] == halves["scheduler"] == {"last_epoch": 20}
    assert whole["optimizer"]["param_groups"] == halves["optimizer"]["param_groups"]


def test_the_state_of_torchs_schedulers_can_be_taken_over():
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    theirs = CosineAnnealingLR(optimizer, 10)
    run(optimizer, theirs, 4)
    schedule = cosine(0.1, updates=10)
    resumed = torch.optim.SGD(parameters(), lr=0.1)
    driver = gradstep.Scheduler(resumed, schedule)
    driver.load_state_dict(theirs.state_dict())
    assert run(resumed, driver, 3) == [[schedule(update)] for update in (4, 5, 6)]


@pytest.mark.parametrize("state", [{}, {"last_epoch": -1}, {"updates": 3}])
def test_a_state_that_is_none_changes_nothing(state):
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    scheduler = gradstep.Scheduler(optimizer, PLAN)
    run(optimizer, scheduler, 4)
    with pytest.raises(ValueError, match="last_epoch"):
        scheduler.load_state_dict(state)
    assert scheduler.last_epoch == 4
    assert optimizer.param_groups[0]["lr"] == PLAN(4)


@pytest.mark.parametrize(
    ("planned", "words"),
    [
        (8, "schedule of lr is 10 updates long, but 8 updates are planned: the run ends at 0.04499, not yet at 0.01"),
        (1200, "schedule of lr is 10 updates long, but 1,200 updates are planned: from update 10 on, 0.01 is used"),
    ],
)
def test_a_schedule_of_another_length_than_the_run_is_warned_of_once(planned, words):
    with pytest.warns(UserWarning, match=words) as caught:
        gradstep.Scheduler(two_groups(), PLAN, planned_updates=planned)
    assert [warning.filename for warning in caught] == [__file__]


def test_what_has_no_end_or_the_right_one_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for schedule in (constant(0.1), exponential(0.1, factor=0.9), cosine(0.1, updates=12)):
            gradstep.Scheduler(two_groups(), schedule, planned_updates=12)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({}, ValueError, "nothing to drive"),
        ({"lr": WRONG}, TypeError, r"lr= takes a schedule.*got 0.1.*constant"),
        ({"lr": "cosine"}, TypeError, r"lr= takes a schedule.*got 'cosine'"),
        ({"lr": [PLAN, WRONG]}, TypeError, "lr= takes schedules.*got 0.1"),
        ({"lr": [PLAN]}, ValueError, "lr= has 1 schedules, but the optimizer has 2"),
        ({"lr": {"decay": PLAN}}, ValueError, r"\['decay'\].*\['decay', 'rest'\]"),
        ({"lr": {"decay": PLAN, "rset": PLAN}}, ValueError, "rset"),
        ({"lr": PLAN, "lr_factor": PLAN}, ValueError, "lr= or lr_factor=, not both"),
        ({"weight_decay": PLAN, "weight_decay_factor": PLAN}, ValueError, "not both"),
        ({"lr": PLAN, "planned_updates": 0}, ValueError, "planned_updates: 0"),
        ({"lr": PLAN, "momentum": RISING}, ValueError, "Adagrad has no momentum or betas"),
    ],
)
def test_what_is_refused_leaves_the_optimizer_as_it_was(arguments, kind, words):
    optimizer = two_groups(torch.optim.Adagrad)
    before = [dict(group) for group in optimizer.param_groups]
    with pytest.raises(kind, match=words):
        gradstep.Scheduler(optimizer, **arguments)
    assert [dict(group) for group in optimizer.param_groups] == before
    assert "step" not in vars(optimizer)


def test_only_an_optimizer_is_driven():
    with pytest.raises(TypeError, match=r"drives a torch.optim.Optimizer, but got Linear"):
        gradstep.Scheduler(torch.nn.Linear(1, 1), PLAN)  # type: ignore[arg-type]


def test_a_group_that_came_later_follows_one_schedule():
    """By hand: PLAN's own values from the next update on, and the ratio to the group's own rate for a factor."""
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    scheduler = gradstep.Scheduler(optimizer, PLAN)
    optimizer.step()
    optimizer.add_param_group({"params": parameters()})
    scheduler.cover_new_groups()
    assert [group["lr"] for group in optimizer.param_groups] == [PLAN(0)] * 2
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [PLAN(1)] * 2 == scheduler.get_last_lr()
    scheduler.load_state_dict({"last_epoch": 4})
    assert [group["lr"] for group in optimizer.param_groups] == [PLAN(4)] * 2

    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    scheduler = gradstep.Scheduler(optimizer, lr_factor=constant(0.5))
    optimizer.step()
    optimizer.add_param_group({"params": parameters(), "lr": 0.25})
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.125]


@pytest.mark.parametrize(
    ("given", "added", "words"),
    [
        ([PLAN], {}, "has 2 parameter groups, but lr has a schedule for each of 1"),
        (PLAN, {"lr": 0.25}, r"group 1 was added with lr=0.25, .* add it without 'lr'"),
    ],
)
def test_a_group_that_came_later_and_cannot_follow_changes_nothing(given, added, words):
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    scheduler = gradstep.Scheduler(optimizer, given)
    optimizer.step()
    optimizer.add_param_group({"params": parameters(), **added})
    before = [dict(group) for group in optimizer.param_groups]
    with pytest.raises(ValueError, match=words):
        scheduler.step()
    assert [dict(group) for group in optimizer.param_groups] == before
    assert scheduler.state_dict() == {"last_epoch": 0}


def test_a_value_that_the_optimizer_forbids_is_refused_by_the_optimizer():
    optimizer = gradstep.AdamW(parameters())
    scheduler = gradstep.Scheduler(optimizer, momentum=constant(0.5).then(constant(1.5), at=1))
    run(optimizer, scheduler, 1)
    with pytest.raises(ValueError, match=r"beta parameter at index 0: 1\.5"):
        run(optimizer, scheduler, 1)
