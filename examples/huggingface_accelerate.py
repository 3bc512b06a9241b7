"""Hugging Face's Accelerate with a gradstep optimizer and schedule.

    python examples/huggingface_accelerate.py
    accelerate launch --cpu --num_processes 2 examples/huggingface_accelerate.py

The schedule is *not* passed to ``prepare``: Accelerate would advance it once per process at each update, so that with
two processes it ends at half of the run. It is stepped by hand after updates, and ``register_for_checkpointing``
keeps it in ``accelerator.save_state()``.
"""

import torch
from accelerate import Accelerator
from recipe import ACCUMULATE, LR, MAX_GRAD_NORM, SCHEDULE, WEIGHT_DECAY, gpt, loader

import gradstep


def train(model: torch.nn.Module, updates: int | None = None) -> list[float]:
    """Train a model in place, to the end or for so many updates; the loss of each, as this process sees it."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)
    own = gradstep.AdamW(gradstep.param_groups(model, weight_decay=WEIGHT_DECAY), lr=LR)
    scheduler = gradstep.Scheduler(own, lr=SCHEDULE)
    accelerator.register_for_checkpointing(scheduler)
    model, optimizer, batches = accelerator.prepare(model, own, loader())

    losses, loss_of_update = [], 0.0
    for batch in batches:
        with accelerator.accumulate(model):
            loss = model(**batch)["loss"]
            loss_of_update += loss.item() / ACCUMULATE
            accelerator.backward(loss)  # divides by gradient_accumulation_steps
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimizer.step()  # does nothing inside a window
            if accelerator.sync_gradients:
                scheduler.step()
                losses.append(loss_of_update)
                loss_of_update = 0.0
            optimizer.zero_grad()
        if len(losses) == updates:
            break
    return losses


if __name__ == "__main__":
    for update, loss in enumerate(train(gpt())):
        print(f"update {update:2}  loss {loss:.4f}")
