"""Small real trainings to judge the doctor on, each made sick in one known way or left healthy.

The networks are a perceptron and a convolutional network on scikit-learn's digits, and the lab's transformer on the
text of Python's help. A run depends only on its case and its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradstep
from gradstep.lab.task import MiniBatch, isolate_random
from gradstep.lab.tasks import TASKS
from gradstep.schedules import Schedule, constant, cosine, multi_step, warmup

DIGITS, TEXT = TASKS["digits"], TASKS["text"]


@final
@dataclass(frozen=True)
class Training:
    """One training, ready to run.

    Attributes:
        model: the model.
        optimizer: its optimizer.
        loss: returns the loss of an update, given its number.
        updates: number of updates.
        resumed: the update before which the training is stopped and resumed; None: never.
        forgets: whether the schedule's state is lost on resume.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    updates: int
    schedule: Schedule | None = None
    max_grad_norm: float | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    resumed: int | None = None
    forgets: bool = False
    by_hand: Callable[[Callable[[], Tensor], nn.Module, torch.optim.Optimizer], Tensor] | None = None
    """One update of a loop without a Stepper, given a function for the loss; for mistakes that a Stepper prevents."""
    fine_tuning: bool = False


@final
@dataclass(frozen=True)
class Case:
    """A training, and the cause that the doctor should name.

    Attributes:
        name: of the case.
        cause: the planted cause; None for a healthy run.
        what: what was done, in words.
        make: returns the training of a seed.
    """

    name: str
    cause: str | None
    what: str
    make: Callable[[int], Training]


# -- models and data -----------------------------------------------------------------------------------------------


def perceptron(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return a perceptron for digits: 64 numbers in, ten classes out."""
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
    """A perceptron with a second head that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron(64, 64)
        self.auxiliary = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


def digits(seed: int) -> Iterator[MiniBatch]:
    return DIGITS.batches(seed)


def text(seed: int) -> Iterator[MiniBatch]:
    """Yield the lab's batches of text, the first half of every window: half the cost, and enough here."""
    for x, y in TEXT.batches(seed):
        yield x[:, :32], y[:, :32]


def learn(model: nn.Module, batches: Iterator[MiniBatch]) -> Callable[[int], Tensor]:
    """Return a function that computes the model's cross-entropy on the next batch."""

    def loss(update: int) -> Tensor:
        x, y = next(batches)
        return F.cross_entropy(model(x).flatten(0, -2), y.flatten())

    return loss


def make_seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    with isolate_random(seed):
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
    """Return a training on digits, by default of a perceptron with two hidden layers."""
    model = make_seeded(seed, make or (lambda: perceptron(64, 64)))
    return Training(model, optimizer(model), learn(model, digits(seed)), updates, schedule, max_grad_norm)


def on_text(
    seed: int,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    updates: int = 120,
    schedule: Schedule | None = None,
    max_grad_norm: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Training:
    """Return a training of the transformer on text."""
    model = TEXT.model(seed).to(dtype)
    return Training(model, optimizer(model), learn(model, text(seed)), updates, schedule, max_grad_norm)


def plan(peak: float, updates: int, lead: int = 20) -> Schedule:
    """Return warmup and cosine over exactly ``updates`` updates."""
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
    return on_text(seed, lambda m: gradstep.Lion(tensors(m), lr=1e-3), updates=200)


def growing_lion(seed: int) -> Training:
    """Make half of the labels noise, so that the sign of the gradient never settles and the weights grow."""
    noise = torch.Generator().manual_seed(seed)

    def mislabelled() -> Iterator[MiniBatch]:
        for x, y in digits(seed):
            wrong = torch.rand(len(y), generator=noise) < 0.5
            yield x, torch.where(wrong, torch.randint(10, (len(y),), generator=noise), y)

    def normed() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
        )

    model = make_seeded(seed, normed)
    return Training(model, gradstep.Lion(tensors(model), lr=3e-3), learn(model, mislabelled()), 400)


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
    return on_text(seed, adamw(2e-5), dtype=torch.bfloat16)


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


def dead_digits(seed: int, weight_decay: float) -> Training:
    """Return a training whose second hidden layer is off for every input: its biases start at −50."""
    training = on_digits(seed, adamw(3e-3, weight_decay=weight_decay))
    with torch.no_grad():
        dict(training.model.named_parameters())["3.bias"].fill_(-50.0)
    return training


def frozen_digits(seed: int) -> Training:
    return frozen(seed, "1.weight", on_digits(seed, adamw(3e-3, weight_decay=0.1)))


def frozen_text(seed: int) -> Training:
    return frozen(seed, "token.weight", on_text(seed, adamw(1e-3, weight_decay=0.1)))


def ended_early_text(seed: int) -> Training:
    return on_text(seed, adamw(1e-3), schedule=plan(1e-3, 70))


def ended_early_digits(seed: int) -> Training:
    return on_digits(seed, adamw(3e-3), schedule=constant(3e-3, updates=100).then(cosine(3e-3, updates=60)))


def horizon_text(seed: int) -> Training:
    return on_text(seed, adamw(1e-3), schedule=plan(1e-3, 2000))


def horizon_digits(seed: int) -> Training:
    return on_digits(seed, adamw(3e-3), schedule=plan(3e-3, 3000, lead=150))


def resumed_warmup(seed: int) -> Training:
    return replace(planned_text(seed), resumed=90, forgets=True)


def resumed_peak(seed: int) -> Training:
    training = on_digits(seed, adamw(3e-3), schedule=cosine(3e-3, updates=300))
    return replace(training, resumed=200, forgets=True)


def overflowing(training: Training, module: nn.Module) -> Training:
    """Multiply an activation by a million from update 60 on: beyond the range of fp16 at any loss scale."""
    updates = iter(range(training.updates))
    module.register_forward_hook(lambda _module, _inputs, out: out * (1e6 if next(updates) >= 60 else 1.0))
    return replace(training, precision="float16")


def collapse_digits(seed: int) -> Training:
    training = on_digits(seed, adamw(3e-3), updates=160)
    return overflowing(training, training.model[1])  # type: ignore[index]


def collapse_text(seed: int) -> Training:
    training = on_text(seed, adamw(1e-3))
    return overflowing(training, training.model.blocks[0].feed[0])  # type: ignore[union-attr, index]


def spiked(seed: int, training: Training, model: nn.Module, batches: Iterator[MiniBatch], at: int) -> Training:
    """Break one batch: thirty times too bright, with other labels (brightness alone makes right answers surer)."""

    def loss(update: int) -> Tensor:
        x, y = next(batches)
        if update == at:
            x, y = 30 * x, (y + 1) % 10
        return F.cross_entropy(model(x), y)

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
    """Take the logarithm of zero in the loss from one update on."""
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


# -- common mistakes that make the loss flat, NaN or jumping --------------------------------------------------------


Loop = Callable[[Callable[[], Tensor], nn.Module, torch.optim.Optimizer], Tensor]


def never_cleared(loss: Callable[[], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    value = loss()
    value.backward()
    optimizer.step()
    return value


def never_cleared_and_clipped(loss: Callable[[], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    value = loss()
    value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    return value


def cleared_late(loss: Callable[[], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    value = loss()
    value.backward()
    optimizer.zero_grad()
    optimizer.step()
    return value


def step_first(loss: Callable[[], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    value = loss()
    optimizer.zero_grad()
    optimizer.step()
    value.backward()
    return value


def no_backward(loss: Callable[[], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    value = loss()
    optimizer.zero_grad()
    optimizer.step()
    return value


def usual_loop(loss: Callable[[], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    value = loss()
    value.backward()
    optimizer.step()
    return value


def zeroed_in_place(loss: Callable[[], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    value = loss()
    value.backward()
    optimizer.step()
    model.zero_grad(set_to_none=False)
    return value


def accumulated(loss: Callable[[], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    (loss() / 2).backward()
    value = loss()
    (value / 2).backward()
    optimizer.step()
    return value


def looped(loop: Loop, optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> Callable[[int], Training]:
    """Return a function that makes a training on digits with the given loop."""
    return lambda seed: replace(on_digits(seed, optimizer), by_hand=loop)


def torch_sgd(lr: float, momentum: float = 0.9) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def two_optimizers(seed: int) -> Training:
    training = on_digits(seed, adamw(3e-3))
    second = torch.optim.SGD(training.model.parameters(), lr=0.05)

    def both(loss: Callable[[], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        value = usual_loop(loss, model, optimizer)
        second.step()
        return value

    return replace(training, by_hand=both)


def replaced_model(seed: int) -> Training:
    """Make a new model after the optimizer was made."""
    training = on_digits(seed, adamw(3e-3))
    other = make_seeded(seed + 1, lambda: perceptron(64, 64))
    return replace(training, loss=learn(other, digits(seed)), by_hand=usual_loop)


def step_per_batch(seed: int) -> Training:
    """Advance a schedule made for epochs in every batch, by a factor of 0.9 each."""
    schedule = multi_step(3e-3, at_updates=list(range(1, 299)), factor=0.9)
    return on_digits(seed, adamw(3e-3), schedule=schedule)


def raw_pixels(seed: int) -> Training:
    """Use inputs that are not normalised, and a loss that is a sum."""
    training = on_digits(seed, adamw(1e-4))
    batches = digits(seed)

    def loss(update: int) -> Tensor:
        x, y = next(batches)
        return F.cross_entropy(training.model(255 * x), y, reduction="sum")

    return replace(training, loss=loss)


def root_of_zero(seed: int) -> Training:
    """Take the root of 0 in the loss: the loss is finite, its gradient is not."""
    training = on_digits(seed, adamw(3e-3))
    batches = digits(seed)

    def loss(update: int) -> Tensor:
        x, y = next(batches)
        out = training.model(x)
        return F.cross_entropy(out, y) + (out * (update < 150 + seed)).square().sum().sqrt() * 1e-3

    return replace(training, loss=loss, by_hand=usual_loop)


def fine_tuned_fast(seed: int) -> Training:
    return replace(on_text(seed, adamw(1e-2, betas=(0.9, 0.99))), fine_tuning=True)


SICK = (
    Case("learning rate a hundred times too high, text", "lr_too_high", "AdamW, lr 0.1", lr_too_high_adamw),
    Case("learning rate too high, CNN", "lr_too_high", "SGD with momentum 0.9, lr 2", lr_too_high_sgd),
    Case("learning rate too low, text", "lr_too_low", "AdamW, lr 1e-6", lr_too_low_adamw),
    Case("learning rate too low, digits", "lr_too_low", "SGD with momentum 0.9, lr 1e-5", lr_too_low_sgd),
    Case(
        "exploding gradients, RNN",
        "gradients_exploding",
        "recurrent matrix 1.5 times too large, 64 pixels",
        exploding_rnn,
    ),
    Case("exploding gradients, deep", "gradients_exploding", "8 layers, weights 6 times too large", exploding_deep),
    Case("vanishing gradients, sigmoid", "gradients_vanished", "8 sigmoid layers", vanishing_sigmoid),
    Case("vanishing gradients, small weights", "gradients_vanished", "8 tanh layers, weights a tenth", vanishing_small),
    Case("growing weights, text", "weights_growing", "Lion at AdamW's learning rate, 1e-3, without decay", growing),
    Case("growing weights, digits", "weights_growing", "Lion without decay, half of the labels noise", growing_lion),
    Case("shrinking weights, text", "weights_shrinking", "AdamW, weight_decay 10", shrinking_adamw),
    Case("shrinking weights, digits", "weights_shrinking", "SGD, weight_decay 0.1", shrinking_sgd),
    Case("coupled decay, text", "coupled_decay", "Adam, weight_decay 0.01", coupled_text),
    Case("coupled decay, torch's Adam", "coupled_decay", "torch.optim.Adam, weight_decay 1e-3", coupled_digits),
    Case("no decay, text", "no_decay", "AdamW, weight_decay 0", no_decay_text),
    Case("betas exchanged, text", "unusual_betas", "betas (0.999, 0.9)", betas_swapped),
    Case("beta2 too small, digits", "unusual_betas", "betas (0.9, 0.5)", betas_short),
    Case("bf16 weights, text", "lost_to_rounding", "bfloat16, rounded to nearest, lr 2e-5", rounding_text),
    Case("bf16 weights, digits", "lost_to_rounding", "bfloat16, rounded to nearest, lr 1e-4", rounding_digits),
    Case("unused head", "no_gradient", "a layer that forward() does not use", unused),
    Case("detached body", "no_gradient", "detach() before the last layers", detached),
    Case("head forgotten", "not_registered", "the last layer is not in the optimizer", unregistered_head),
    Case(
        "only blocks registered, text",
        "not_registered",
        "embeddings and head are not in the optimizer",
        unregistered_text,
    ),
    Case("dead layer", "dead_layer", "biases of a hidden layer at −50", lambda seed: dead_digits(seed, 0.0)),
    Case("dead layer that decays", "dead_layer", "the same with weight_decay 0.1", lambda seed: dead_digits(seed, 0.1)),
    Case("frozen layer decays, digits", "frozen_but_decayed", "gradient masked to 0, weight_decay 0.1", frozen_digits),
    Case("frozen embedding decays, text", "frozen_but_decayed", "gradient masked to 0, weight_decay 0.1", frozen_text),
    Case("schedule ended early, text", "schedule_ended_early", "planned for 70 of 120 updates", ended_early_text),
    Case("schedule ended early, digits", "schedule_ended_early", "planned for 160 of 300 updates", ended_early_digits),
    Case("schedule too long, text", "schedule_too_long", "planned for 2,000 updates, not 120", horizon_text),
    Case("schedule too long, digits", "schedule_too_long", "planned for 3,000 updates, not 300", horizon_digits),
    Case("schedule lost on resume, text", "lr_jumped", "warmup and cosine, resumed at update 90", resumed_warmup),
    Case("schedule lost on resume, digits", "lr_jumped", "cosine, resumed at update 200", resumed_peak),
    Case(
        "fp16 overflow, digits", "loss_scale_collapse", "an activation beyond fp16 from update 60 on", collapse_digits
    ),
    Case("fp16 overflow, text", "loss_scale_collapse", "an activation beyond fp16 from update 60 on", collapse_text),
    Case("broken batch, digits", "spike", "one batch 30 times too bright, with other labels", spike_digits),
    Case("broken batch, CNN", "spike", "one batch 30 times too bright, with other labels", spike_cnn),
    Case("logarithm of zero", "not_finite", "the loss is infinite from update 150 on", nan_digits),
    Case("root of zero", "not_finite", "the gradient is not finite from update 150 on", root_of_zero),
    Case("never cleared, AdamW", "gradients_not_cleared", "no zero_grad()", looped(never_cleared, adamw(3e-3))),
    Case("never cleared, SGD", "gradients_not_cleared", "no zero_grad()", looped(never_cleared, torch_sgd(0.05))),
    Case(
        "never cleared, clipped, AdamW",
        "gradients_not_cleared",
        "no zero_grad(), clipped to 0.1",
        looped(never_cleared_and_clipped, adamw(3e-3)),
    ),
    Case(
        "never cleared, clipped, SGD",
        "gradients_not_cleared",
        "no zero_grad(), clipped to 0.1",
        looped(never_cleared_and_clipped, torch_sgd(0.05)),
    ),
    Case(
        "cleared before the step",
        "step_without_gradient",
        "backward, zero_grad, step",
        looped(cleared_late, adamw(3e-3)),
    ),
    Case(
        "step before backward",
        "step_without_gradient",
        "zero_grad, step, backward",
        looped(step_first, torch_sgd(0.05)),
    ),
    Case("backward missing", "step_without_gradient", "zero_grad, step", looped(no_backward, adamw(3e-3))),
    Case("model made anew", "step_without_gradient", "the optimizer holds the old one's tensors", replaced_model),
    Case("two optimizers", "stepped_twice", "AdamW and SGD on the same weights", two_optimizers),
    Case("momentum 1.2", "momentum_too_high", "SGD", looped(usual_loop, torch_sgd(0.01, 1.2))),
    Case("momentum 1", "momentum_too_high", "SGD", looped(usual_loop, torch_sgd(0.01, 1.0))),
    Case("schedule of epochs per batch", "schedule_ended_early", "times 0.9 in every batch", step_per_batch),
    Case("raw inputs, loss summed", "gradients_exploding", "pixels times 255, reduction='sum'", raw_pixels),
    Case("fine-tuning at 1e-2", "fine_tuning_settings", "AdamW, lr 1e-2, beta2 0.99", fine_tuned_fast),
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
        learn(model, text(seed)),
        150,
        plan(1e-3, 150),
        max_grad_norm=1.0,
    )


def resumed_text(seed: int) -> Training:
    return replace(planned_text(seed), resumed=90)


def resumed_step(seed: int) -> Training:
    """Resume at the update where the schedule takes a step."""
    schedule = multi_step(3e-3, at_updates=[200], factor=0.1)
    return replace(on_digits(seed, adamw(3e-3), schedule=schedule), resumed=200)


def sgd_cnn(seed: int) -> Training:
    return on_digits(
        seed,
        lambda m: gradstep.SGD(tensors(m), lr=0.05, momentum=0.9, weight_decay=5e-4),
        updates=500,
        make=lambda: DIGITS.model(seed),
    )


def lion_text(seed: int) -> Training:
    return on_text(seed, lambda m: gradstep.Lion(tensors(m), lr=3e-4, weight_decay=0.1), updates=150)


def eight_bit(seed: int) -> Training:
    return on_text(seed, adamw(1e-3, state="8bit"), updates=150)


def clipped(seed: int) -> Training:
    return on_text(seed, adamw(1e-3), updates=150, max_grad_norm=0.5)


def fine_tuned(seed: int) -> Training:
    """Train on from a trained model, with 2e-5 instead of 1e-3."""
    model = TEXT.model(seed)
    batches = text(seed)
    loss, optimizer = learn(model, batches), gradstep.AdamW(tensors(model), lr=1e-3)
    for update in range(120):
        loss(update).backward()
        optimizer.step()
        optimizer.zero_grad()
    return Training(
        model, gradstep.AdamW(tensors(model), lr=2e-5, weight_decay=0.01), loss, 150, plan(2e-5, 150), max_grad_norm=1.0
    )


def plateau(seed: int) -> Training:
    """Train long after the loss is flat."""
    return on_digits(seed, adamw(1e-3), updates=1500)


def careful_half(seed: int) -> Training:
    return on_text(
        seed,
        adamw(3e-4, rounding="stochastic", seed=seed),
        dtype=torch.bfloat16,
    )


def sixteen_bit(seed: int) -> Training:
    training = on_digits(seed, adamw(3e-3))
    return Training(training.model, training.optimizer, training.loss, training.updates, precision="float16")


def adafactor_text(seed: int) -> Training:
    return on_text(seed, lambda m: gradstep.Adafactor(tensors(m), lr=0.03))


HEALTHY = (
    Case("AdamW, digits", None, "lr 3e-3", plain_digits),
    Case("warmup, cosine, groups, clipping, text", None, "betas (0.9, 0.95), decay 0.1 on matrices", planned_text),
    Case("resumed, text", None, "the same, stopped and resumed at update 90", resumed_text),
    Case("resumed, digits", None, "at update 200, where the learning rate falls to a tenth", resumed_step),
    Case("SGD with momentum, CNN", None, "lr 0.05, weight_decay 5e-4", sgd_cnn),
    Case("Lion, text", None, "lr 3e-4, weight_decay 0.1", lion_text),
    Case("8-bit state, text", None, "AdamW, state='8bit'", eight_bit),
    Case("clipping in nearly every update, text", None, "max_grad_norm 0.5", clipped),
    Case("fine-tuning, text", None, "from a trained model, lr 2e-5", fine_tuned),
    Case("plateau, digits", None, "1,500 updates, long after the loss is flat", plateau),
    Case("bf16 weights rounded at random, text", None, "rounding='stochastic'", careful_half),
    Case("fp16, digits", None, "with loss scaling", sixteen_bit),
    Case("Adafactor, text", None, "lr 0.03", adafactor_text),
    Case("loop by hand, AdamW", None, "zero_grad, backward, step", looped(usual_loop, adamw(3e-3))),
    Case("gradients set to zero", None, "set_to_none=False, after the step", looped(zeroed_in_place, torch_sgd(0.05))),
    Case("accumulated by hand", None, "two backward passes per update", looped(accumulated, torch_sgd(0.05))),
)
