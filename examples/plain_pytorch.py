"""The plain loop: parameter groups, a schedule, accumulation and clipping, with nothing but PyTorch around them.

    python examples/plain_pytorch.py

Clipping is part of the step: ``step(max_grad_norm=...)`` takes the norm and applies the clipping while it updates,
where ``clip_grad_norm_`` goes over the gradients twice more. See ``stepper_fp16.py`` for the loop in which nothing
can be out of order.
"""

import torch
from recipe import ACCUMULATE, LR, MAX_GRAD_NORM, SCHEDULE, UPDATES, WEIGHT_DECAY, gpt, loader

import gradstep


def train(model: torch.nn.Module) -> list[float]:
    """Train a model in place; the loss of every update."""
    groups = gradstep.param_groups(model, weight_decay=WEIGHT_DECAY)  # neither norms nor biases decay
    optimizer = gradstep.AdamW(groups, lr=LR)
    scheduler = gradstep.Scheduler(optimizer, lr=SCHEDULE, planned_updates=UPDATES)

    losses, loss_of_update = [], 0.0
    for number, batch in enumerate(loader(), start=1):
        loss = model(**batch)["loss"] / ACCUMULATE
        loss.backward()
        loss_of_update += loss.item()
        if number % ACCUMULATE == 0:
            optimizer.step(max_grad_norm=MAX_GRAD_NORM)
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss_of_update)
            loss_of_update = 0.0
    return losses


if __name__ == "__main__":
    for update, loss in enumerate(train(gpt())):
        print(f"update {update:2}  loss {loss:.4f}")
