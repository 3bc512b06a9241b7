"""Small real trainings, each made sick in one known way or left healthy: what the doctor is judged on.

The networks are a perceptron and a convolutional network on scikit-learn's digits, and the lab's transformer on the
text of Python's help. A run is a pure function of its case and its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradstep
from gradstep.lab.task import Batch, seeded
from gradstep.lab.tasks import TASKS
from gradstep.lab.tasks.digits import images
from gradstep.schedules import Schedule, constant, cosine, warmup

DIGITS, TEXT = TASKS["digits"], TASKS["text"]


@final
@dataclass(frozen=True)
class Training:
    """One training, ready to run.

    Attributes:
        model: what is trained.
        optimizer: what trains it.
        loss: the loss of an update, by its number.
        updates: how many there are.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    updates: int
    schedule: Schedule | None = None
    max_grad_norm: float | None = None
    precision: Literal["float32", "bf16", "fp16"] = "float32"


@final
@dataclass(frozen=True)
class Case:
    """A way to train, and what the doctor should say about it.

    Attributes:
        name: of the case.
        cause: the cause that was put in; None where the run is healthy.
        told: what was done, in words.
        make: the training of a seed.
    """

    name: str
    cause: str | None
    told: str
    make: Callable[[int], Training]


# -- models and data -----------------------------------------------------------------------------------------------


def perceptron(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Digits as 64 numbers in, ten classes out."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip((64, *widths), widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


@final
class PixelReader(nn.Module):
    """A recurrent network that reads a digit pixel by pixel; `gain` is the size of its recurrent matrix."""

    def __init__(self, gain: float, width: int = 48) -> None:
        super().__init__()
        self.read = nn.Linear(1, width)
        self.recur = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, 10)
        with torch.no_grad():
            nn.init.orthogonal_(self.recur.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(1).unsqueeze(-1)
        state = pixels.new_zeros(len(x), self.recur.in_features)
        for t in range(pixels.shape[1]):
            state = F.relu(self.read(pixels[:, t]) + self.recur(state))
        out: Tensor = self.head(state)
        return out


@final
class TwoHeads(nn.Module):
    """A perceptron with a second head that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron(64, 64)
        self.auxiliary = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


def digits(seed: int) -> Iterator[Batch]:
    return DIGITS.batches(seed)


def learn(model: nn.Module, batches: Iterator[Batch]) -> Callable[[int], Tensor]:
    """The cross-entropy of the model on the next batch."""

    def loss(update: int) -> Tensor:
        x, y = next(batches)
        return F.cross_entropy(model(x).flatten(0, -2), y.flatten())

    return loss


def made(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    with seeded(seed):
        return make()


def tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return model.named_parameters()


# -- the trainings -------------------------------------------------------------------------------------------------


def on_digits(
    seed: int,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    updates: int = 300,
    make: Callable[[], nn.Module] | None = None,
    schedule: Schedule | None = None,
    max_grad_norm: float | None = None,
) -> Training:
    """A perceptron of two hidden layers on digits, unless another model is given."""
    model = made(seed, make or (lambda: perceptron(64, 64)))
    return Training(model, optimizer(model), learn(model, digits(seed)), updates, schedule, max_grad_norm)


def on_text(
    seed: int,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    updates: int = 160,
    schedule: Schedule | None = None,
    max_grad_norm: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Training:
    """The transformer on text."""
    model = TEXT.model(seed).to(dtype)
    return Training(model, optimizer(model), learn(model, TEXT.batches(seed)), updates, schedule, max_grad_norm)


def plan(peak: float, updates: int, lead: int = 20) -> Schedule:
    """Warmup and cosine over exactly so many updates."""
    return warmup(updates=lead, to=peak).then(cosine(peak, updates=updates - lead))


def adamw(lr: float, **settings: object) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: gradstep.AdamW(tensors(model), lr=lr, **settings)  # type: ignore[arg-type]


# -- sick ----------------------------------------------------------------------------------------------------------


def lr_too_high_adamw(seed: int) -> Training:
    return on_text(seed, adamw(0.1))


def lr_too_high_sgd(seed: int) -> Training:
    return on_digits(seed, lambda m: gradstep.SGD(tensors(m), lr=2.0, momentum=0.9), make=lambda: DIGITS.model(seed))


def lr_too_low_adamw(seed: int) -> Training:
    return on_text(seed, adamw(1e-6))


def lr_too_low_sgd(seed: int) -> Training:
    return on_digits(seed, lambda m: gradstep.SGD(tensors(m), lr=1e-5, momentum=0.9))


def exploding_rnn(seed: int) -> Training:
    return on_digits(seed, adamw(1e-4), updates=150, make=lambda: PixelReader(gain=1.5))


def exploding_deep(seed: int) -> Training:
    def wide() -> nn.Module:
        model = perceptron(*[64] * 8)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(6)
        return model

    return on_digits(seed, adamw(1e-3), make=wide)


def vanishing_sigmoid(seed: int) -> Training:
    return on_digits(seed, adamw(1e-3), make=lambda: perceptron(*[64] * 8, activation=nn.Sigmoid))


def vanishing_small(seed: int) -> Training:
    def faint() -> nn.Module:
        model = perceptron(*[64] * 8, activation=nn.Tanh)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.1)
        return model

    return on_digits(seed, lambda m: gradstep.SGD(tensors(m), lr=0.05, momentum=0.9), make=faint)


def growing(seed: int) -> Training:
    return on_text(seed, adamw(0.01, weight_decay=0.0), updates=400)


def growing_sgd(seed: int) -> Training:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))

    return on_digits(seed, lambda m: gradstep.SGD(tensors(m), lr=0.5, momentum=0.9), updates=600, make=normed)


def shrinking_adamw(seed: int) -> Training:
    return on_text(seed, adamw(1e-3, weight_decay=10.0))


def shrinking_sgd(seed: int) -> Training:
    return on_digits(seed, lambda m: gradstep.SGD(tensors(m), lr=0.05, momentum=0.9, weight_decay=0.1))


def coupled_text(seed: int) -> Training:
    return on_text(seed, lambda m: gradstep.Adam(tensors(m), lr=1e-3, weight_decay=0.01))


def coupled_digits(seed: int) -> Training:
    return on_digits(seed, lambda m: torch.optim.Adam(m.parameters(), lr=3e-3, weight_decay=1e-3))


def betas_swapped(seed: int) -> Training:
    return on_text(seed, adamw(1e-3, betas=(0.999, 0.9)))


def betas_short(seed: int) -> Training:
    return on_digits(seed, adamw(3e-3, betas=(0.9, 0.5)))


def rounding_text(seed: int) -> Training:
    return on_text(seed, adamw(3e-5), dtype=torch.bfloat16)


def rounding_digits(seed: int) -> Training:
    return on_digits(seed, adamw(1e-4), make=lambda: Halved(perceptron(64, 64)))


def unused(seed: int) -> Training:
    return on_digits(seed, adamw(3e-3), make=TwoHeads)


def detached(seed: int) -> Training:
    training = on_digits(seed, adamw(3e-3))
    body, head = training.model[:3], training.model[3:]  # type: ignore[index]
    batches = digits(seed)

    def loss(update: int) -> Tensor:
        x, y = next(batches)
        return F.cross_entropy(head(body(x).detach()), y)

    return Training(training.model, training.optimizer, loss, training.updates)


def unregistered_head(seed: int) -> Training:
    def all_but_last(model: nn.Module) -> torch.optim.Optimizer:
        return gradstep.AdamW(list(tensors(model))[:-2], lr=3e-3)

    return on_digits(seed, all_but_last)


def unregistered_text(seed: int) -> Training:
    def blocks(model: nn.Module) -> torch.optim.Optimizer:
        return gradstep.AdamW([(n, p) for n, p in tensors(model) if n.startswith("blocks")], lr=1e-3)

    return on_text(seed, blocks)


def frozen(seed: int, name: str, training: Training) -> Training:
    dict(training.model.named_parameters())[name].register_hook(lambda g: g * 0)
    return training


def frozen_digits(seed: int) -> Training:
    return frozen(seed, "1.weight", on_digits(seed, adamw(3e-3, weight_decay=0.1)))


def frozen_text(seed: int) -> Training:
    return frozen(seed, "token.weight", on_text(seed, adamw(1e-3, weight_decay=0.1)))


def ended_early_text(seed: int) -> Training:
    return on_text(seed, adamw(1e-3), schedule=plan(1e-3, 90))


def ended_early_digits(seed: int) -> Training:
    return on_digits(seed, adamw(3e-3), schedule=constant(3e-3, updates=100).then(cosine(3e-3, updates=60)))


def horizon_text(seed: int) -> Training:
    return on_text(seed, adamw(1e-3), schedule=plan(1e-3, 2000))


def horizon_digits(seed: int) -> Training:
    return on_digits(seed, adamw(3e-3), schedule=plan(3e-3, 3000, lead=150))


def overflowing(training: Training, module: nn.Module) -> Training:
    """From update 60 on, an activation is a million times larger: beyond the range of fp16, whatever the loss scale."""
    updates = iter(range(training.updates))
    module.register_forward_hook(lambda _module, _inputs, out: out * (1e6 if next(updates) >= 60 else 1.0))
    return replace(training, precision="fp16")


def collapse_digits(seed: int) -> Training:
    training = on_digits(seed, adamw(3e-3), updates=160)
    return overflowing(training, training.model[1])  # type: ignore[index]


def collapse_text(seed: int) -> Training:
    training = on_text(seed, adamw(1e-3), updates=120)
    return overflowing(training, training.model.blocks[0].feed[0])  # type: ignore[union-attr, index]


def spiked(seed: int, training: Training, model: nn.Module, batches: Iterator[Batch], at: int) -> Training:
    """One batch is broken: a thousand times too bright."""

    def loss(update: int) -> Tensor:
        x, y = next(batches)
        return F.cross_entropy(model(x * 30 if update == at else x), y)

    return Training(model, training.optimizer, loss, training.updates)


def spike_digits(seed: int) -> Training:
    training = on_digits(seed, adamw(3e-3))
    return spiked(seed, training, training.model, digits(seed), at=180 + seed)


def spike_cnn(seed: int) -> Training:
    training = on_digits(
        seed, lambda m: gradstep.SGD(tensors(m), lr=0.05, momentum=0.9), make=lambda: DIGITS.model(seed)
    )
    return spiked(seed, training, training.model, digits(seed), at=200 + seed)


def nan_digits(seed: int) -> Training:
    """From one update on, the loss takes the logarithm of zero."""
    training = on_digits(seed, adamw(3e-3))
    batches = digits(seed)

    def loss(update: int) -> Tensor:
        x, y = next(batches)
        chosen = training.model(x).softmax(-1)[torch.arange(len(y)), y]
        return -(chosen * (update < 150 + seed)).log().mean()

    return Training(training.model, training.optimizer, loss, training.updates)


def no_decay_text(seed: int) -> Training:
    return on_text(seed, adamw(1e-3, weight_decay=0.0))


@final
class Halved(nn.Module):
    """A model in bfloat16 whose inputs come in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x.to(torch.bfloat16)).float()
        return out


SICK = (
    Case("lr 100 times too high, AdamW", "lr_too_high", "", lr_too_high_adamw),
    Case("lr too high, SGD", "lr_too_high", "", lr_too_high_sgd),
    Case("lr too low, AdamW", "lr_too_low", "", lr_too_low_adamw),
    Case("lr too low, SGD", "lr_too_low", "", lr_too_low_sgd),
    Case("exploding, RNN", "gradients_exploding", "", exploding_rnn),
    Case("exploding, deep", "gradients_exploding", "", exploding_deep),
    Case("vanishing, sigmoid", "gradients_vanished", "", vanishing_sigmoid),
    Case("vanishing, small", "gradients_vanished", "", vanishing_small),
    Case("growing, text", "weights_growing", "", growing),
    Case("growing, SGD", "weights_growing", "", growing_sgd),
    Case("shrinking, AdamW", "weights_shrinking", "", shrinking_adamw),
    Case("shrinking, SGD", "weights_shrinking", "", shrinking_sgd),
    Case("coupled, text", "coupled_decay", "", coupled_text),
    Case("coupled, torch", "coupled_decay", "", coupled_digits),
    Case("betas swapped", "unusual_betas", "", betas_swapped),
    Case("beta2 0.5", "unusual_betas", "", betas_short),
    Case("rounding, text", "lost_to_rounding", "", rounding_text),
    Case("rounding, digits", "lost_to_rounding", "", rounding_digits),
    Case("unused head", "no_gradient", "", unused),
    Case("detached body", "no_gradient", "", detached),
    Case("head not registered", "not_registered", "", unregistered_head),
    Case("only blocks registered", "not_registered", "", unregistered_text),
    Case("frozen decays, digits", "frozen_but_decayed", "", frozen_digits),
    Case("frozen decays, text", "frozen_but_decayed", "", frozen_text),
    Case("schedule ended, text", "schedule_ended_early", "", ended_early_text),
    Case("schedule ended, digits", "schedule_ended_early", "", ended_early_digits),
    Case("schedule too long, text", "schedule_too_long", "", horizon_text),
    Case("schedule too long, digits", "schedule_too_long", "", horizon_digits),
    Case("loss scale, digits", "loss_scale_collapse", "", collapse_digits),
    Case("loss scale, text", "loss_scale_collapse", "", collapse_text),
    Case("spike, digits", "spike", "", spike_digits),
    Case("spike, CNN", "spike", "", spike_cnn),
    Case("nan", "not_finite", "", nan_digits),
    Case("no decay", "no_decay", "", no_decay_text),
)


# -- healthy -------------------------------------------------------------------------------------------------------


def plain_digits(seed: int) -> Training:
    return on_digits(seed, adamw(3e-3))


def planned_text(seed: int) -> Training:
    model = TEXT.model(seed)
    groups = gradstep.param_groups(model, weight_decay=0.1)
    return Training(
        model,
        gradstep.AdamW(groups, lr=1e-3, betas=(0.9, 0.95)),
        learn(model, TEXT.batches(seed)),
        200,
        plan(1e-3, 200),
        max_grad_norm=1.0,
    )


def sgd_cnn(seed: int) -> Training:
    return on_digits(
        seed,
        lambda m: gradstep.SGD(tensors(m), lr=0.05, momentum=0.9, weight_decay=5e-4),
        updates=500,
        make=lambda: DIGITS.model(seed),
    )


def lion_text(seed: int) -> Training:
    return on_text(seed, lambda m: gradstep.Lion(tensors(m), lr=3e-4, weight_decay=0.1), updates=200)


def eight_bit(seed: int) -> Training:
    return on_text(seed, adamw(1e-3, state="8bit"), updates=200)


def clipped(seed: int) -> Training:
    return on_text(seed, adamw(1e-3), updates=200, max_grad_norm=0.5)


def fine_tuned(seed: int) -> Training:
    """From a trained model, at a hundredth of the rate."""
    model = TEXT.model(seed)
    batches = TEXT.batches(seed)
    loss, optimizer = learn(model, batches), gradstep.AdamW(tensors(model), lr=1e-3)
    for update in range(150):
        loss(update).backward()
        optimizer.step()
        optimizer.zero_grad()
    return Training(
        model, gradstep.AdamW(tensors(model), lr=2e-5, weight_decay=0.01), loss, 200, plan(2e-5, 200), max_grad_norm=1.0
    )


def plateau(seed: int) -> Training:
    """Long after there is nothing left to learn."""
    return on_digits(seed, adamw(1e-3), updates=1500)


def careful_half(seed: int) -> Training:
    return on_text(
        seed,
        adamw(3e-4, rounding="stochastic", seed=seed),
        dtype=torch.bfloat16,
    )


def sixteen_bit(seed: int) -> Training:
    training = on_digits(seed, adamw(3e-3))
    return Training(training.model, training.optimizer, training.loss, training.updates, precision="fp16")


def adafactor_text(seed: int) -> Training:
    return on_text(seed, lambda m: gradstep.Adafactor(tensors(m), lr=0.03))


HEALTHY = (
    Case("AdamW on digits", None, "", plain_digits),
    Case("text with warmup, cosine, groups", None, "", planned_text),
    Case("SGD with momentum, CNN", None, "", sgd_cnn),
    Case("Lion on text", None, "", lion_text),
    Case("8-bit state", None, "", eight_bit),
    Case("clipping nearly always active", None, "", clipped),
    Case("fine-tuning", None, "", fine_tuned),
    Case("plateau", None, "", plateau),
    Case("bf16 with stochastic rounding", None, "", careful_half),
    Case("fp16", None, "", sixteen_bit),
    Case("Adafactor on text", None, "", adafactor_text),
)
