"""The same loop with a Stepper, in float16, on lines of unequal length.

    python examples/stepper_fp16.py

The stepper owns what lies between the loss and the cleared gradients: it weighs the micro-batches by the tokens they
had, unscales, looks for what is not finite, clips, steps, advances the schedule and clears, in this order. Here some
of each batch is masked, as padding would be: ``weight=`` says how many tokens each mean was over. float16 needs its
loss scaled; the first updates are skipped until the scale fits, and the outcome names the parameter that overflowed.
"""

import torch
from recipe import ACCUMULATE, LR, MAX_GRAD_NORM, SCHEDULE, WEIGHT_DECAY, gpt, loader

import gradstep
from gradstep import UpdateOutcome


def train(model: torch.nn.Module) -> list[UpdateOutcome]:
    """Train a model in place; what happened at the end of every window."""
    optimizer = gradstep.AdamW(gradstep.param_groups(model, weight_decay=WEIGHT_DECAY), lr=LR)
    stepper = gradstep.Stepper(
        model,
        optimizer,
        schedule=SCHEDULE,
        accumulate=ACCUMULATE,
        max_grad_norm=MAX_GRAD_NORM,
        precision="float16",
        scaler=torch.amp.GradScaler("cpu", init_scale=2.0**24),  # too large, to show a skipped update
    )
    outcomes = []
    for number, batch in enumerate(loader()):
        labels = batch["labels"].clone()
        labels[:, 8 + number % 25 :] = -100  # what follows is padding
        with stepper.autocast():
            loss = model(batch["input_ids"], labels)["loss"]
        outcome = stepper.backward(loss, weight=int((labels[:, 1:] != -100).sum()))
        if outcome is not None:
            outcomes.append(outcome)
    last = stepper.finish()  # a window that the data did not fill; None here
    return outcomes if last is None else [*outcomes, last]


if __name__ == "__main__":
    for outcome in train(gpt()):
        print(outcome)
