"""What storage costs in training, in small: benchmarks/precision.py is the large one."""

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import gradstep
from gradstep.optimizers.state.arrays import decode_slot
from gradstep.rules import Slot
from gradstep.storage.policy import RoundingName

RELATIVE = 1e-3
STEPS = 500


@pytest.fixture(autouse=True)
def one_thread():
    """The networks are too small for more, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- updates far smaller than what bfloat16 can hold ------------------------------------------------------------------


def moved(rounding: RoundingName, count: int = 4096, steps: int = STEPS, **options: Any) -> torch.Tensor:
    """Weights of 1 after so many steps of −0.001, where bfloat16's next numbers are 0.0039 below and 0.0078 above."""
    p = torch.ones(count, 1, dtype=torch.bfloat16, requires_grad=True)
    p.grad = torch.ones_like(p)
    optimizer = gradstep.SGD([p], lr=RELATIVE, rounding=rounding, seed=1, **options)
    for _ in range(steps):
        optimizer.step()
    return p.detach().double()


@pytest.mark.filterwarnings("ignore:.*were left where they were")
def test_nearest_never_moves():
    assert (moved("nearest") == 1.0).all()


def test_stochastic_moves_as_far_as_expected():
    """On average by 500 · 0.001, each weight by chance a little more or less."""
    found = moved("stochastic")
    assert found.mean().item() == pytest.approx(0.5, abs=5 * 0.03 / 64)
    assert 0.005 < found.std().item() < 0.05


@pytest.mark.parametrize("rounding", ["kahan", "master"])
def test_kahan_and_master_move_exactly(rounding):
    """To the bfloat16 number nearest to 0.5, every one of them; kahan's 17 places by one step of it at most."""
    found = moved(rounding)
    assert found.unique().numel() == 1
    assert found[0, 0].item() == pytest.approx(0.5, abs={"kahan": 2.0**-8, "master": 2.0**-9}[rounding])


@pytest.mark.filterwarnings("ignore:.*were left where they were")
def test_weights_of_24_bits_follow_those_of_float64():
    """After 2,000 updates of AdamW: the mean error of the value, as a share of what the weights moved."""
    generator = torch.Generator().manual_seed(0)
    start = (torch.randn(4096, generator=generator) * 0.02).bfloat16()
    drift = 0.3 * torch.randn(4096, generator=generator)
    exact = torch.nn.Parameter(start.double())
    roundings: tuple[RoundingName, ...] = ("nearest", "stochastic", "24bit")
    weights = {r: torch.nn.Parameter(start.clone()) for r in roundings}
    optimizers: dict[str, Any] = {r: gradstep.AdamW([p], lr=1e-5, rounding=r) for r, p in weights.items()}
    reference = gradstep.AdamW([exact], lr=1e-5)
    for _ in range(2000):
        g = (drift + torch.randn(4096, generator=generator)).bfloat16()
        exact.grad = g.double()
        reference.step()
        for rounding, p in weights.items():
            p.grad = g
            optimizers[rounding].step()
    found = {r: p.detach().double() for r, p in weights.items()}
    p = weights["24bit"]
    byte = optimizers["24bit"].state[p]["low_byte"].view(torch.int8).int()
    found["24bit"] = (p.detach().float().view(torch.int32) + (byte << 8)).view(torch.float32).double()
    moved = (exact.detach() - start.double()).norm()
    error = {r: ((value - exact.detach()).norm() / moved).item() for r, value in found.items()}
    assert error["24bit"] < 0.003
    assert 0.05 < error["stochastic"] < 0.3
    assert error["nearest"] > 0.9


def test_bfloat16_moments_follow_what_nearest_would_lose():
    """β₂ = 0.999 moves the second moment by a thousandth a step; with noise its mean still comes to where it should."""
    p = torch.zeros(4096, 1, requires_grad=True)
    for state in ("bfloat16", "8bit"):
        optimizer = gradstep.AdamW([p], lr=0.0, state=state, seed=2)
        for g in [1.0] * 50 + [2.0] * 200:
            p.grad = torch.full_like(p, g)
            optimizer.step()
        exact = (1 - 0.999**50) * 0.999**200 + 4 * (1 - 0.999**200)
        assert values(optimizer, p, "exp_avg_sq").mean().item() == pytest.approx(exact, rel=0.01), state


def values(optimizer: Any, p: torch.Tensor, slot: str) -> torch.Tensor:
    state = optimizer.state[p]
    return decode_slot(Slot(slot, signed=slot == "exp_avg"), state, p).double()


# -- a network --------------------------------------------------------------------------------------------------------


def digits_loss(
    dtype: torch.dtype = torch.float32, steps: int = 300, lr: float = 1e-3, seed: int = 0, **options: Any
) -> tuple[float, Any]:
    """Held-out loss of a two-layer perceptron on 8×8 digits, judged in float32, and its optimizer."""
    data = load_digits()
    x, y = torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1400], order[1400:]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    model.to(dtype)
    optimizer = gradstep.AdamW(model.named_parameters(), lr=lr, seed=seed, **options)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = train[torch.randint(len(train), (128,), generator=draw)]
        F.cross_entropy(model(x[batch].to(dtype)).float(), y[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return F.cross_entropy(model.float()(x[test]), y[test]).item(), optimizer


@cache
def float32_loss() -> float:
    return sum(digits_loss(seed=seed)[0] for seed in range(3))


@pytest.mark.parametrize("state", ["bfloat16", "8bit"])
def test_state_in_fewer_bits_trains_as_well(state):
    found, optimizer = zip(*(digits_loss(seed=seed, state=state) for seed in range(3)), strict=True)
    assert sum(found) == pytest.approx(float32_loss(), rel=0.05)
    rows = optimizer[0].state_summary().rows
    assert [state in row.state for row in rows] == [True, False, True, False, False, False]


@pytest.mark.filterwarnings("ignore:.*were left where they were")
@pytest.mark.slow
def test_bfloat16_parameters_train_as_well_unless_rounded_to_nearest():
    plain = digits_loss(lr=1e-4)[0]
    found = {
        rounding: digits_loss(torch.bfloat16, lr=1e-4, rounding=rounding)[0]
        for rounding in ("nearest", "stochastic", "24bit", "kahan", "master")
    }
    for rounding in ("stochastic", "24bit", "kahan", "master"):
        assert found[rounding] == pytest.approx(plain, rel=0.05), rounding
    assert found["nearest"] > 1.1 * plain
