"""Training with a learning-rate finder in the middle is training without it: bit for bit."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import gradstep
from gradstep.training.random_state import generator_states
from gradstep.training.snapshot import NestedCopy
from tests.training import assert_same_bits, normal, tensors_of

N = 4


class Noisy(nn.Module):
    """Dropout, running statistics, a buffer that is replaced instead of written to, and random numbers of all kinds."""

    count: Tensor
    late: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 1))
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.register_buffer("count", torch.zeros(()), persistent=False)
        self.register_buffer("late", None)

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        self.late = x.mean()
        jitter = random.random() + float(np.random.rand())  # noqa: NPY002  (the global one)
        out: Tensor = self.frozen(self.body(x)) + 1e-3 * jitter
        return out


def loss_fn(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    (x,) = batch
    return (model(x) - 1).square().mean(), len(x)


class Run:
    """A training in hand: everything that has a state."""

    def __init__(self, kind: Any, precision: Any = "float32", **options: Any) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        self.model = Noisy()
        groups = [{"params": list(self.model.body[0].parameters()), "lr": 1e-3}, *self._rest()]
        self.optimizer = kind(groups, lr=1e-2, **options)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=[1e-3, 1e-2], total_steps=2 * N + 1, cycle_momentum="betas" in options
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3) if precision == "fp16" else None
        self.stepper = gradstep.Stepper(
            self.model,
            self.optimizer,
            schedule=schedule,
            accumulate=2,
            max_grad_norm=0.5,
            precision=precision,
            scaler=scaler,
        )
        data = TensorDataset(normal(39, 6, seed=1))
        generator = torch.Generator().manual_seed(3)
        self.loader = DataLoader(data, batch_size=3, shuffle=True, generator=generator)

    def _rest(self) -> list[dict[str, Any]]:
        return [{"params": [*self.model.body[1].parameters(), *self.model.body[3].parameters()]}]

    def train(self) -> list[str]:
        """N updates; the loader begins a new epoch, so that its generator counts."""
        told: list[str] = []
        for batch in self.loader:
            with self.stepper.autocast():
                loss, weight = loss_fn(self.model, batch)
            outcome = self.stepper.backward(loss, weight)
            told += [repr(outcome)] if outcome else []
            if len(told) == N:
                return told
        raise AssertionError("too few batches")

    def everything(self) -> tuple[list[tuple[str, Tensor]], str]:
        """All tensors by name, and the rest as text."""
        kept = tensors_of(self.optimizer) + [(n, b) for n, b in self.model.named_buffers()]
        kept += [(n, p.detach()) for n, p in self.model.named_parameters()]
        state = self.stepper.state_dict()
        rest = [state["updates"], state["unit"], state["schedule"], state["scaler"], state["optimizer"]["param_groups"]]
        rest += [[p.requires_grad for p in self.model.parameters()], [m.training for m in self.model.modules()]]
        rest += [[p.grad for p in self.model.parameters()], self.model.late is None]
        rest += [self.loader.generator.get_state().tolist() if self.loader.generator else None]
        python, numpy, cpu, _ = generator_states()
        rest += [python, [str(x.tolist() if isinstance(x, np.ndarray) else x) for x in numpy], cpu.tolist()]
        return [(n, t.clone()) for n, t in kept], repr(rest)


def assert_alike(one: Any, two: Any) -> None:
    assert [name for name, _ in one[0]] == [name for name, _ in two[0]]
    for (name, a), (_, b) in zip(one[0], two[0], strict=True):
        assert_same_bits(a, b, name)
    assert one[1] == two[1]


KINDS: list[Any] = [
    (gradstep.AdamW, {}),
    (gradstep.AdamW, {"state": "8bit"}),
    (gradstep.SGD, {"momentum": 0.9}),
    (gradstep.Adafactor, {}),
    (torch.optim.AdamW, {"betas": (0.9, 0.99)}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.NAdam, {}),
]


def story(make: Callable[[], Run], before: int, interlude: Callable[[Run], object] | None = None) -> list[Any]:
    """Train, let something happen, train: the state after each, and what the updates of the second half told."""
    run = make()
    for _ in range(before):
        run.train()
    if interlude is not None:
        interlude(run)
        assert not run.stepper.open
    middle = run.everything()
    told = run.train()
    return [middle, told, run.everything()]


def assert_nothing_happened(make: Callable[[], Run], interlude: Callable[[Run], object], before: int = 1) -> None:
    plain, tried = story(make, before), story(make, before, interlude)
    assert_alike(plain[0], tried[0])
    assert plain[1] == tried[1]
    assert_alike(plain[2], tried[2])


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("before", [0, 1], ids=["fresh", "in the middle"])
def test_n_updates_a_finder_and_n_more_are_2n_updates(kind, options, before):
    def find(run: Run) -> None:
        found = gradstep.lr_find(run.stepper, loss_fn, run.loader, updates=15, sweeps=2)
        assert max(len(sweep.lrs) for sweep in found.sweeps) >= 10

    assert_nothing_happened(lambda: Run(kind, **options), find, before)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_other_precisions_with_a_scaler_of_its_own(precision):
    def find(run: Run) -> None:
        found = gradstep.lr_find(run.stepper, loss_fn, run.loader, updates=15, end=1.0)
        assert len(found.sweeps[0].lrs) >= 10  # the overflows at the first scales did not end it

    assert_nothing_happened(lambda: Run(gradstep.AdamW, precision), find, before=precision == "bf16")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", [gradstep.AdamW, torch.optim.AdamW])
@pytest.mark.parametrize("at", ["loss", "backward", "report"])
def test_also_after_an_exception_and_ctrl_c(kind, error, at):
    calls = 0

    def maybe(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise error("now")

    def breaking(model: nn.Module, batch: Any) -> Any:
        loss, weight = loss_fn(model, batch)
        model.train(calls % 2 == 1)
        model.frozen.requires_grad_(True)
        if at == "backward":
            loss.register_hook(maybe)
        if at == "loss":
            maybe()
        return loss, weight

    def find(run: Run) -> None:
        with pytest.raises(error, match="now"):
            gradstep.lr_find(run.stepper, breaking, run.loader, updates=30, on_update=maybe if at == "report" else None)

    assert_nothing_happened(lambda: Run(kind), find)


def test_whoever_holds_a_tensor_a_group_or_a_state_goes_on_holding_it():
    for kind in (gradstep.AdamW, torch.optim.AdamW):
        run = Run(kind)
        run.optimizer.param_groups[0]["lr"] = torch.tensor(1e-3)
        run.train()
        groups, lr = list(run.optimizer.param_groups), run.optimizer.param_groups[0]["lr"]
        buffers = dict(run.model.named_buffers())
        gradient = torch.ones_like(run.model.frozen.weight)
        run.model.frozen.weight.grad = gradient
        before = float(lr)
        gradstep.lr_find(run.stepper, loss_fn, run.loader, updates=10)
        assert all(a is b for a, b in zip(groups, run.optimizer.param_groups, strict=True))
        assert run.optimizer.param_groups[0]["lr"] is lr
        assert float(lr) == before
        assert all(b is buffers[name] for name, b in run.model.named_buffers())
        assert run.model.frozen.weight.grad is gradient
        assert torch.equal(gradient, torch.ones_like(gradient))


def test_the_snapshot_says_what_it_takes():
    model = nn.Linear(10, 10)
    x = normal(4, 10)
    for kind, later in ((gradstep.AdamW, 12 * 110), (torch.optim.AdamW, 12 * 110)):
        stepper = gradstep.Stepper(model, kind(model.parameters()))

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            squares: Tensor = model(batch).square()
            return squares.mean()

        assert gradstep.lr_find(stepper, loss, [x], updates=10).snapshot_bytes == 4 * 110
        with stepper.autocast():
            value = loss(model, x)
        stepper.backward(value)
        taken = gradstep.lr_find(stepper, loss, [x], updates=10).snapshot_bytes
        assert later <= taken <= later + 2 * 8  # the count of the steps of two parameters


def test_kept_containers_go_back_in_place():
    inner: dict[str, Any] = {"t": torch.ones(2), "n": 1}
    outer: list[Any] = [inner, (torch.zeros(1), [3])]
    kept = NestedCopy(outer)
    for _ in range(2):
        inner["t"].add_(1)
        inner["n"] = 5
        inner["new"] = 7
        outer[1][0].add_(1)
        outer[1][1].append(4)
        outer.append("more")
        kept.restore()
        assert outer[0] is inner
        assert repr(outer) == "[{'t': tensor([1., 1.]), 'n': 1}, (tensor([0.]), [3])]"


# -- data -----------------------------------------------------------------------------------------------------------


def small() -> tuple[gradstep.Stepper, Any]:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        seen.append(float(batch[0, 0]))
        squares: Tensor = model(batch).square()
        return squares.mean()

    seen: list[float] = []
    loss.seen = seen  # type: ignore[attr-defined]
    return gradstep.Stepper(model, gradstep.SGD(model.parameters())), loss


def test_an_iterator_that_cannot_go_back_is_refused_before_it_is_read():
    stepper, loss = small()
    ahead = iter([torch.ones(1, 2)])
    with pytest.raises(TypeError, match="cannot be put back"):
        gradstep.lr_find(stepper, loss, ahead)
    assert len(list(ahead)) == 1
    with pytest.raises(TypeError, match="must be batches"):
        gradstep.lr_find(stepper, loss, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no batch"):
        gradstep.lr_find(stepper, loss, [])
    workers: Any = DataLoader([1], num_workers=1, persistent_workers=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="persistent workers"):
        gradstep.lr_find(stepper, loss, workers)


class Stream:
    """An iterator that knows its place."""

    def __init__(self) -> None:
        self.place = 5

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        self.place += 1
        return torch.full((1, 2), float(self.place))

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


def test_a_stream_that_knows_its_place_is_rewound():
    stepper, loss = small()
    stream = Stream()
    gradstep.lr_find(stepper, loss, stream, updates=10, end=1e-3, sweeps=2)
    assert stream.place == 5
    assert loss.seen == [6.0 + i for i in range(11)] * 2


def test_a_function_gets_the_seed_of_each_sweep_and_lists_begin_again():
    stepper, loss = small()
    asked = []

    def make(seed: int) -> list[Tensor]:
        asked.append(seed)
        return [torch.full((1, 2), float(seed))]

    found = gradstep.lr_find(stepper, loss, make, updates=10, end=1e-3, sweeps=3, seed=7)
    assert asked == [7, 8, 9] == [sweep.seed for sweep in found.sweeps]
    assert loss.seen == [7.0] * 11 + [8.0] * 11 + [9.0] * 11


@pytest.mark.parametrize("where", ["global", "loader", "sampler"])
def test_each_sweep_has_its_own_order_and_the_same_again_another_time(where):
    stepper, loss = small()
    data: Any = [torch.full((2,), float(i)) for i in range(30)]
    generator = torch.Generator().manual_seed(1)
    sampler = RandomSampler(data, generator=generator) if where == "sampler" else None
    loader = DataLoader(
        data, shuffle=sampler is None, sampler=sampler, generator=generator if where == "loader" else None
    )
    before = generator.get_state()
    gradstep.lr_find(stepper, loss, loader, updates=10, end=1e-3, sweeps=2)
    orders = [tuple(loss.seen[:11]), tuple(loss.seen[11:])]
    assert len(set(orders)) == 2
    assert torch.equal(generator.get_state(), before)
    torch.rand(3)
    loss.seen.clear()
    gradstep.lr_find(stepper, loss, loader, updates=10, end=1e-3, sweeps=2)
    assert [tuple(loss.seen[:11]), tuple(loss.seen[11:])] == orders
