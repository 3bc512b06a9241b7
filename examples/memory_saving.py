"""AdamW in a third of the memory: bfloat16 weights rounded at random, and moments of 8 bits.

    python examples/memory_saving.py

Weights and both moments take 12 bytes for each parameter in float32, and about 4 here (10 for an embedding's, whose
moments stay float32). Rounding at random lets updates add up that are smaller than the last bit of a bfloat16 weight;
rounded to the nearest, they would be lost.
What is stored how, and why, says ``optimizer.state_summary()``.
"""

import torch
from recipe import ACCUMULATE, GPT, LR, MAX_GRAD_NORM, SCHEDULE, WEIGHT_DECAY, loader

import gradstep


def model_bytes(model: torch.nn.Module) -> int:
    """What the weights take."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def train(model: torch.nn.Module) -> tuple[list[float], gradstep.AdamW]:
    """Train a model in place; the loss of every update, and the optimizer."""
    optimizer = gradstep.AdamW(
        gradstep.param_groups(model, weight_decay=WEIGHT_DECAY),
        lr=LR,
        state="8bit",
        rounding="stochastic",
        seed=0,  # of the rounding: the same run gives the same weights
    )
    stepper = gradstep.Stepper(model, optimizer, schedule=SCHEDULE, accumulate=ACCUMULATE, max_grad_norm=MAX_GRAD_NORM)
    losses = []
    for batch in loader():
        with stepper.autocast():
            loss = model(**batch)["loss"]
        outcome = stepper.backward(loss)
        if outcome is not None:
            losses.append(outcome.loss)
    return losses, optimizer


if __name__ == "__main__":
    torch.manual_seed(0)
    model = GPT(width=128, heads=4).to(torch.bfloat16)
    losses, optimizer = train(model)
    for update, loss in enumerate(losses):
        print(f"update {update:2}  loss {loss:.4f}")
    print(optimizer.state_summary())
    count = sum(p.numel() for p in model.parameters())
    taken = model_bytes(model) + optimizer.state_summary().nbytes
    print(f"{count:,} parameters: {taken / count:.2f} bytes each with their state, against 12 in float32")
