"""The monitor around real loops: what it writes, and that it changes nothing."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import gradstep
from gradstep.monitor import Header, JsonLines, Sink, Update, read_run
from gradstep.rules import Rule
from gradstep.rules.settings import learning_rate
from gradstep.schedules import constant, linear
from tests.trainers import WRAPPERS

KINDS: list[Any] = [torch.optim.AdamW, gradstep.AdamW]
both = pytest.mark.parametrize("kind", KINDS, ids=["torch", "gradstep"])


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Records are written as they come; how they wait for each other, test_outbox.py tests."""
    monkeypatch.setattr("gradstep.monitor.outbox.INTERVAL", 0.0)


class Memory(Sink):
    """Keeps what it is told."""

    def __init__(self):
        self.headers: list[Header] = []
        self.updates: list[Update] = []
        self.closed = 0

    def open(self, header):
        self.headers.append(header)

    def write(self, update):
        self.updates.append(update)

    def close(self):
        self.closed += 1


def monitored(target, **options) -> tuple[gradstep.Monitor, Memory]:
    memory = Memory()
    return gradstep.Monitor(target, sinks=[memory], **options), memory


def vector(values=(3.0, 4.0)):
    return torch.tensor(values, requires_grad=True)


def push(optimizer, p, gradient, **how):
    p.grad = torch.tensor(gradient)
    optimizer.step(**how)


def norm(p):
    """Of the weights themselves, in float64."""
    return float(p.detach().double().norm())


# -- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [torch.optim, gradstep], ids=["torch", "gradstep"])
def test_two_updates_worked_by_hand(library):
    """SGD with decay 0.1: (3, 4) − 0.5·((6, 8) + 0.1·(3, 4)) = (−0.15, −0.2), then 0.95 of it."""
    p = vector()
    optimizer = library.SGD([p], lr=0.5, weight_decay=0.1)
    monitor, memory = monitored(optimizer)
    push(optimizer, p, [6.0, 8.0])
    monitor.log(loss=torch.tensor(2.0), accuracy=0.5)
    push(optimizer, p, [0.0, 0.0])
    monitor.log(loss=1.0)
    first, second = memory.updates
    assert (first.update, first.loss, first.lr, first.extra) == (0, 2.0, 0.5, {"accuracy": 0.5})
    assert first.grad_norm == pytest.approx(10)
    assert first.weight_norm == pytest.approx(0.25)
    assert first.update_norm == pytest.approx(5.25)
    assert first.update_ratio == pytest.approx(21)
    assert first.groups[0].weight_decay == 0.1
    assert first.root_min is None
    assert (first.elements, first.non_finite, first.unmoved_share) == (2, 0, 0.0)
    assert first.seconds is not None
    assert first.seconds > 0
    assert (second.update, second.grad_norm) == (1, 0.0)
    assert second.weight_norm == pytest.approx(0.2375)
    assert second.unmoved_share == 0.0  # decay moved them, and nothing asks an element without gradient to move


@both
def test_groups_have_rows_of_their_own(kind):
    a, b, idle = vector((3.0,)), vector((4.0,)), vector((1.0,))
    groups: Any = [
        {"params": [a], "name": "slow", "lr": 1e-5},
        {"params": [b]},
        {"params": [idle], "betas": (0.8, 0.9)},
    ]
    optimizer = kind(groups, lr=1e-3, betas=(0.5, 0.75), weight_decay=0.0)
    monitor, memory = monitored(optimizer)
    a.grad, b.grad = torch.tensor([5.0]), torch.tensor([12.0])
    optimizer.step()
    monitor.close()
    slow, other, none = memory.updates[0].groups
    assert [group.name for group in memory.headers[0].groups] == ["slow", "group 1", "group 2"]
    assert (slow.lr, other.lr, none.lr) == (1e-5, 1e-3, 1e-3)
    assert (other.betas, none.betas) == ((0.5, 0.75), (0.8, 0.9))
    assert (slow.grad_norm, other.grad_norm, none.grad_norm) == (5.0, 12.0, None)
    assert slow.update_norm == pytest.approx(1e-5, rel=0.02)  # Adam's first step is lr long; 3 has a coarse last place
    assert other.update_norm == pytest.approx(1e-3, rel=1e-3)
    assert (slow.root_max, other.root_max) == pytest.approx((5 * 0.5, 12 * 0.5))
    assert memory.updates[0].grad_norm == pytest.approx(13)
    assert none.elements == 0


@both
def test_single_parameters_on_request(kind):
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    optimizer = kind(model.parameters(), lr=0.01)
    monitor, memory = monitored(optimizer, model=model, per_parameter=True)
    model(torch.randn(4, 2)).square().sum().backward()
    next(model.parameters()).grad = None
    gradients = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
    optimizer.step()
    monitor.close()
    columns = memory.updates[0].parameters
    assert columns is not None
    assert [memory.headers[0].parameters[i].name for i in columns.index] == ["0.bias", "1.weight", "1.bias"]
    assert columns.grad_norm.tolist() == pytest.approx(gradients, rel=1e-6)
    assert columns.weight_norm.tolist() == pytest.approx([norm(p) for p in list(model.parameters())[1:]], rel=1e-6)


def test_the_header_tells_who_is_trained():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    model[0].weight.requires_grad_(False)
    optimizer = gradstep.AdamW([*model[0].parameters(), *model[1].parameters()], lr=0.25)
    monitor, memory = monitored(optimizer, model=model, planned_updates=7, schedule=linear(1.0, 0.0, updates=5))
    push(optimizer, model[0].bias, [1.0, 1.0, 1.0])
    header = memory.headers[0]
    assert (header.optimizer, header.package, header.rule) == ("AdamW", "gradstep", "AdamW")
    first, _, third, _ = header.parameters
    assert (first.name, first.shape, first.dtype, first.requires_grad) == ("0.weight", (3, 2), "float32", False)
    assert (third.name, third.module, third.group) == ("1.weight", "LayerNorm", 0)
    assert [(p.name, p.group) for p in header.unregistered] == [("2.weight", None), ("2.bias", None)]
    assert (header.planned_updates, header.schedule_updates) == (7, 5)
    assert header.groups[0].settings["lr"] == 0.25
    monitor.close()


def test_two_rules_in_one_record():
    """Only Adamax's second moment is no square."""
    p, q = vector(), vector()
    groups = [{"params": [p], "rule": "Adamax", "lr": 0.1}, {"params": [q], "rule": "Adam", "lr": 0.1}]
    optimizer = gradstep.SGD(groups, lr=0.1)
    monitor, memory = monitored(optimizer, per_parameter=True)
    p.grad = torch.tensor([3.0, 4.0])
    push(optimizer, q, [3.0, 4.0])
    monitor.close()
    assert [group.settings.get("rule") for group in memory.headers[0].groups] == ["Adamax", "Adam"]
    columns = memory.updates[0].parameters
    assert columns is not None
    assert columns.root_max.tolist() == pytest.approx([4.0, 4.0 * 0.001**0.5], rel=1e-5)


# -- clipping and scales -------------------------------------------------------------------------------------------


def test_a_gradstep_step_that_clips_tells_the_norm_before():
    p = vector()
    optimizer = gradstep.SGD([p], lr=1.0)
    monitor, memory = monitored(optimizer, per_parameter=True)
    push(optimizer, p, [30.0, 40.0], max_grad_norm=1.0, grad_scale=2.0)
    monitor.close()
    (update,) = memory.updates
    assert update.grad_norm == pytest.approx(25)
    assert update.clip == pytest.approx(1 / 25)
    assert update.update_norm == pytest.approx(1, rel=1e-5)
    assert update.parameters is not None
    assert update.parameters.grad_norm.tolist() == pytest.approx([25])


@pytest.mark.parametrize("library", [torch.optim, gradstep], ids=["torch", "gradstep"])
def test_clipping_by_hand_is_undone_in_the_record(library):
    p = vector()
    optimizer = library.SGD([p], lr=1.0)
    monitor, memory = monitored(optimizer, per_parameter=True)
    for gradient in ([30.0, 40.0], [0.3, 0.4]):
        p.grad = torch.tensor(gradient)
        before = torch.nn.utils.clip_grad_norm_([p], 1.0)
        optimizer.step()
        monitor.log(grad_norm=before)
    clipped, free = memory.updates
    assert clipped.grad_norm == pytest.approx(50, rel=1e-6)
    assert clipped.clip == pytest.approx(1 / 50, rel=1e-5)
    assert clipped.parameters is not None
    assert clipped.parameters.grad_norm.tolist() == pytest.approx([50])
    assert free.grad_norm == pytest.approx(0.5)
    assert free.clip == 1.0


@dataclass(frozen=True)
class Knotted(Rule):
    """Gradient descent with a setting that has no hash."""

    lr: float = learning_rate(0.1)
    knots: Any = field(default=(), metadata={"check": lambda name, value: list(value)})

    def coefficients(self, step, **scalars):
        return {"lr": self.lr}

    @staticmethod
    def update(p, g, s, c):
        return p - c.lr * g


def test_a_rule_of_the_user_s_with_any_settings():
    p = vector()
    optimizer = gradstep.optimizer(Knotted)([p], lr=0.25, knots=[1, 2])
    monitor, memory = monitored(optimizer)
    push(optimizer, p, [3.0, 4.0])
    optimizer.param_groups[0]["lr"] = 0.5
    monitor.close()
    assert [update.lr for update in memory.updates] == [0.25]


@both
@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_that_skips(kind, fused):
    """Two loops: torch's fused step looks for infinities itself, the others are not called at all."""
    p = vector((1.0,))
    optimizer = kind([p], lr=0.5, **({"fused": True} if fused and kind is torch.optim.AdamW else {}))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    monitor, memory = monitored(optimizer, scaler=scaler)
    for factor in (math.inf, 2.0, math.inf, 3.0):
        optimizer.zero_grad()
        loss = (p * factor).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        monitor.log(loss=loss)
    assert [u.update for u in memory.updates] == [0, 0, 1, 1]
    assert [bool(u.skipped) for u in memory.updates] == [True, False, True, False]
    assert [u.loss_scale for u in memory.updates] == [8.0, 4.0, 4.0, 2.0]
    assert [u.grad_norm for u in memory.updates] == [None, 2.0, None, 3.0]
    assert monitor.updates == 2


# -- the stepper ---------------------------------------------------------------------------------------------------


def trained(kind, sink, *, clip=0.05, updates=4, sick=()):
    """A small training with windows of two unequal micro-batches; the model."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1).double()
    optimizer = kind(model.parameters(), lr=0.1)
    schedule = linear(0.1, 0.0, updates=updates)
    stepper = gradstep.Stepper(model, optimizer, schedule=schedule, accumulate=2, max_grad_norm=clip)
    monitor = None if sink is None else gradstep.Monitor(stepper, sinks=[sink], accumulate=2)
    data = torch.randn(updates + len(sick), 5, 3, dtype=torch.float64)
    norms = []
    for number, batch in enumerate(data):
        if number in sick:
            batch = batch * math.nan
        else:
            twin = nn.Linear(3, 1).double()
            twin.load_state_dict(model.state_dict())
            twin(batch).square().mean().backward()
            norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in twin.parameters() if p.grad is not None)))
        for part in batch.split([4, 1]):
            with stepper.autocast():
                loss = model(part).square().mean()
            outcome = stepper.backward(loss, weight=len(part))
            if monitor is not None:
                monitor.log(outcome)
    if monitor is not None:
        monitor.close()
    return model, norms


@both
def test_windows_of_a_stepper(kind):
    """The gradient norm is that of one large batch, computed by another model."""
    memory = Memory()
    _, norms = trained(kind, memory, sick=(1,))
    made = [u for u in memory.updates if not u.skipped]
    (sick,) = [u for u in memory.updates if u.skipped]
    assert [u.update for u in memory.updates] == [0, 1, 1, 2, 3]
    assert [u.micro_batches for u in memory.updates] == [2] * 5
    assert [u.grad_norm for u in made] == pytest.approx(norms, rel=1e-9)
    assert [u.clip for u in made] == pytest.approx([min(1, 0.05 / (n + 1e-6)) for n in norms])
    assert [u.lr for u in made] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert sick.culprit == "weight"
    assert sick.skipped == "the gradient of weight is not finite"
    assert (sick.grad_norm, sick.clip) == (None, None)
    assert sick.lr == pytest.approx(0.075)
    assert sick.loss is not None
    assert math.isnan(sick.loss)
    assert memory.headers[0].parameters[1].name == "bias"
    assert memory.headers[0].schedule


def header_of(target, optimizer, **options):
    monitor, memory = monitored(target, **options)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    monitor.close()
    return memory.headers[0]


def test_a_stepper_tells_what_it_is():
    """Its schedule with its length, its window and its precision need not be told once more."""
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    header = header_of(
        gradstep.Stepper(model, optimizer, schedule=linear(0.1, 0.0, updates=5), accumulate=3), optimizer
    )
    assert (header.schedule_updates, header.accumulate, header.precision) == (5, 3, "float32")
    assert "(5, 0.0)" in header.schedule, "its end, in words"


def test_a_scheduler_tells_its_length():
    p, q = vector(), vector()
    groups: list[dict[str, Any]] = [{"params": [p]}, {"params": [q], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    factor = linear(1.0, 0.0, updates=8)
    for given, told in (
        ({"lr_factor": factor}, 8),
        ({"lr": [factor, linear(1.0, 0.5, updates=11)]}, 11),
        ({"lr": [None, factor]}, 8),
        ({"lr": [constant(0.1), factor]}, None),
        ({"weight_decay": factor}, None),
    ):
        header = header_of(optimizer, optimizer, schedule=gradstep.Scheduler(optimizer, **given))
        assert header.schedule_updates == told, given
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    model = nn.Linear(2, 1)
    header = header_of(gradstep.Stepper(model, optimizer, schedule=theirs), optimizer)
    assert (header.schedule, header.schedule_updates) == ("CosineAnnealingLR", None)


@both
def test_nothing_that_is_trained_changes(kind):
    with_it, _ = trained(kind, Memory())
    without, _ = trained(kind, None)
    for p, q in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(p, q)


# -- when ----------------------------------------------------------------------------------------------------------


@both
def test_every_third_update_and_every_skipped_one(kind):
    p = vector()
    optimizer = kind([p], lr=0.1)
    monitor, memory = monitored(optimizer, every=3)
    for number in range(7):
        push(optimizer, p, [1.0, 1.0])
        monitor.log(loss=float(number))
    assert [u.update for u in memory.updates] == [0, 3, 6]
    assert [u.loss for u in memory.updates] == [0.0, 3.0, 6.0]
    push(optimizer, p, [1.0, 1.0])
    monitor.log(loss=7.0, held_out=0.5)  # what was logged by name is not lost
    assert (memory.updates[-1].update, memory.updates[-1].extra, memory.updates[-1].groups) == (
        7,
        {"held_out": 0.5},
        (),
    )
    if kind is gradstep.AdamW:
        push(optimizer, p, [math.nan, 1.0], max_grad_norm=1.0)
        monitor.log()
        assert (memory.updates[-1].update, bool(memory.updates[-1].skipped)) == (8, True)
        push(optimizer, p, [1.0, 1.0])
        assert optimizer.last_step.statistics is None  # the ninth is not to be recorded


@both
def test_without_log_records_come_one_step_later(kind):
    p = vector()
    optimizer = kind([p], lr=0.1)
    with gradstep.Monitor(optimizer, sinks=[memory := Memory()]):
        push(optimizer, p, [1.0, 1.0])
        assert memory.updates == []
        push(optimizer, p, [1.0, 1.0])
        assert [u.update for u in memory.updates] == [0]
    assert [u.update for u in memory.updates] == [0, 1]
    assert memory.updates[0].loss is None


def test_what_is_logged_later_is_a_note():
    p = vector()
    optimizer = torch.optim.SGD([p], lr=0.1)
    monitor, memory = monitored(optimizer)
    push(optimizer, p, [1.0, 1.0])
    monitor.log(accuracy=0.5)
    monitor.log(loss=0.25)
    note = memory.updates[1]
    assert (note.update, note.loss, note.groups) == (0, 0.25, ())


def test_a_group_that_is_added_is_announced(tmp_path):
    p, late = vector(), vector((5.0, 12.0))
    optimizer = gradstep.SGD([p], lr=0.1)
    with gradstep.Monitor(optimizer, sinks=[JsonLines(tmp_path)]):
        push(optimizer, p, [1.0, 1.0])
        optimizer.add_param_group({"params": [late]})
        late.grad = torch.tensor([5.0, 12.0])
        push(optimizer, p, [1.0, 1.0])
    run = read_run(tmp_path)
    assert [len(header.groups) for header in run.headers] == [1, 2]
    assert [len(update.groups) for update in run.updates] == [1, 2]
    assert run.updates[1].groups[1].grad_norm == pytest.approx(13)


# -- the end, and going on -------------------------------------------------------------------------------------------


@both
def test_closing_lets_go(kind):
    p = vector()
    optimizer = kind([p], lr=0.1)
    monitor, memory = monitored(optimizer)
    push(optimizer, p, [1.0, 1.0])
    monitor.close()
    monitor.close()
    push(optimizer, p, [1.0, 1.0])
    assert len(memory.updates) == 1
    assert memory.closed == 1
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not getattr(optimizer, "_observers", None)
    with pytest.raises(RuntimeError, match="closed"):
        monitor.log(loss=1.0)


@both
@pytest.mark.parametrize("wrapped", WRAPPERS)
def test_what_a_trainer_puts_around_an_optimizer(kind, wrapped):
    p = vector()
    optimizer = kind([p], lr=0.1)
    monitor, memory = monitored(wrapped(optimizer))
    assert monitor.optimizer is optimizer
    push(optimizer, p, [3.0, 4.0])
    monitor.log(loss=1.0)
    monitor.close()
    assert [update.grad_norm for update in memory.updates] == [pytest.approx(5)]


def test_an_optimizer_around_another_that_moves_weights_itself():
    """Lookahead, in short: after the inner step the weight goes half the way back."""

    class Half(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})
            self.optimizer = torch.optim.SGD(params, lr=1.0)

        @torch.no_grad()
        def step(self, closure=None):
            before = p.clone()
            self.optimizer.step()
            p.lerp_(before, 0.5)

    p = vector()
    optimizer = Half([p])
    monitor, memory = monitored(optimizer)
    assert monitor.optimizer is optimizer
    push(optimizer, p, [3.0, 4.0])
    monitor.close()
    assert [update.update_norm for update in memory.updates] == [pytest.approx(2.5)]


def test_ctrl_c_leaves_a_whole_record(tmp_path):
    p = vector()
    optimizer = gradstep.AdamW([p], lr=0.1)

    def interrupted() -> float:
        raise KeyboardInterrupt

    def train():
        with gradstep.Monitor(optimizer, sinks=[JsonLines(tmp_path)]):
            push(optimizer, p, [1.0, 1.0])
            push(optimizer, p, [1.0, 1.0])
            optimizer.step(interrupted)

    with pytest.raises(KeyboardInterrupt):
        train()
    assert [u.update for u in read_run(tmp_path).updates] == [0, 1]
    optimizer.step()
    assert optimizer.last_step is not None
    assert optimizer.last_step.statistics is None


@pytest.mark.parametrize("watch", [None, "groups", "parameters"])
def test_everybody_gets_what_they_want(watch):
    """Two monitors of different detail, and what the user has set, which stays."""
    params = [vector(), vector(), vector()]
    optimizer = gradstep.AdamW([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    optimizer.watch = watch
    each, both_groups = Memory(), Memory()
    with (
        gradstep.Monitor(optimizer, sinks=[both_groups]),
        gradstep.Monitor(optimizer, sinks=[each], every=2, per_parameter=True),
    ):
        for number in range(3):
            for i, p in enumerate(params):
                p.grad = torch.tensor([3.0 * i, 4.0 * i])
            optimizer.step()
            detail = optimizer.last_step and optimizer.last_step.statistics and optimizer.last_step.statistics.detail
            assert detail == ("groups" if number == 1 and watch != "parameters" else "parameters")
    assert optimizer.watch == watch
    assert [[g.grad_norm for g in u.groups] for u in both_groups.updates] == [[5.0, 10.0]] * 3
    assert [u.parameters.grad_norm.tolist() for u in each.updates if u.parameters] == [[0.0, 5.0, 10.0]] * 2


def test_what_is_not_finite_is_counted_by_group():
    params = [vector(), vector(), vector()]
    optimizer = gradstep.AdamW([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    with gradstep.Monitor(optimizer, sinks=[memory := Memory()]):
        for p, g in zip(params, ([math.nan, 1.0], [math.inf, -math.inf], [1.0, 1.0]), strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
    assert [g.non_finite for g in memory.updates[0].groups] == [3, 0]


def test_a_resumed_run_goes_on_in_its_file(tmp_path):
    """Three updates, a checkpoint after two, a crash in mid-line, and on from the checkpoint."""
    p = vector()
    optimizer = gradstep.SGD([p], lr=0.1)
    monitor = gradstep.Monitor(optimizer, sinks=[JsonLines(tmp_path / "a.jsonl")])
    saved = {}
    for number in range(3):
        push(optimizer, p, [1.0, 1.0])
        monitor.log(loss=float(number))
        if number == 1:
            saved = monitor.state_dict()
    monitor.close()
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"update":3,"ti')
    again = gradstep.Monitor(optimizer, sinks=[JsonLines(tmp_path / "a.jsonl")])
    again.load_state_dict(saved)
    push(optimizer, p, [1.0, 1.0])
    again.log(loss=20.0)
    with pytest.raises(RuntimeError, match="before the first step"):
        again.load_state_dict(saved)
    again.close()
    run = read_run(tmp_path / "a.jsonl")
    assert [(u.update, u.loss) for u in run.updates] == [(0, 0.0), (1, 1.0), (2, 20.0)]
    assert [header.first_update for header in run.headers] == [0, 2]


def test_a_record_is_not_overwritten_by_chance(tmp_path):
    p = vector()
    optimizer = gradstep.SGD([p], lr=0.1)
    (tmp_path / "monitor.jsonl").write_text("mine\n")
    with gradstep.Monitor(optimizer, sinks=[JsonLines(tmp_path)]):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            push(optimizer, p, [1.0, 1.0])
        assert p.tolist() == [3.0, 4.0]  # refused before anything changed
    with gradstep.Monitor(optimizer, sinks=[JsonLines(tmp_path, overwrite=True)]):
        push(optimizer, p, [1.0, 1.0])
    assert len(read_run(tmp_path).updates) == 1
    resumed = gradstep.Monitor(optimizer, sinks=[JsonLines(tmp_path / "other.jsonl")])
    (tmp_path / "other.jsonl").write_text("mine\n")
    resumed.load_state_dict({"updates": 5})
    with pytest.raises(ValueError, match="other"):
        push(optimizer, p, [1.0, 1.0])
    resumed.close()
    assert (tmp_path / "other.jsonl").read_text() == "mine\n"


def test_a_full_disk_ends_the_record_and_not_the_training():
    class Full(Memory):
        def write(self, update):
            raise OSError("No space left on device")

    p = vector()
    optimizer = torch.optim.SGD([p], lr=0.1)
    memory = Memory()
    monitor = gradstep.Monitor(optimizer, sinks=[Full(), memory])
    push(optimizer, p, [1.0, 1.0])
    with pytest.warns(UserWarning, match="Full gets no more records: No space left"):
        monitor.log(loss=1.0)
    push(optimizer, p, [1.0, 1.0])
    monitor.log(loss=1.0)
    assert len(memory.updates) == 2
    monitor.close()


def test_the_default_record_is_in_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    p = vector()
    optimizer = torch.optim.SGD([p], lr=0.1)
    with gradstep.Monitor(optimizer, name="mine"):
        push(optimizer, p, [1.0, 1.0])
    assert len(read_run("runs/mine").updates) == 1


# -- refused -------------------------------------------------------------------------------------------------------


def test_log_before_the_first_step():
    monitor, _ = monitored(torch.optim.SGD([vector()], lr=0.1))
    with pytest.raises(RuntimeError, match=r"call it after optimizer.step\(\)"):
        monitor.log(loss=1.0)


@pytest.mark.parametrize("name", ["lr", "update", "seconds", "grad_norm/x", "weight_norm"])
def test_names_that_are_taken(name):
    extra: dict[str, Any] = {name: 1.0}
    p = vector()
    optimizer = torch.optim.SGD([p], lr=0.1)
    monitor, _ = monitored(optimizer)
    push(optimizer, p, [1.0, 1.0])
    if "/" in name:
        monitor.log(**extra)
    else:
        with pytest.raises(ValueError, match=f"has {name} already"):
            monitor.log(**extra)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, ValueError, "Invalid every: 0"),
        ({"every": 1.5}, ValueError, "Invalid every: 1.5"),
        ({"planned_updates": 0}, ValueError, "Invalid planned_updates: 0"),
    ],
)
def test_bad_settings(options, error, message):
    with pytest.raises(error, match=message):
        gradstep.Monitor(torch.optim.SGD([vector()], lr=0.1), sinks=[], **options)


def test_something_that_is_no_optimizer():
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer or a gradstep\.Stepper"):
        gradstep.Monitor(object())  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="not the state_dict"):
        gradstep.Monitor(torch.optim.SGD([vector()], lr=0.1), sinks=[]).load_state_dict({})
