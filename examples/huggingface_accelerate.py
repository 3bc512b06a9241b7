"""Hugging Face's Accelerate with a gradstep optimizer and schedule.

    python examples/huggingface_accelerate.py
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 examples/huggingface_accelerate.py

The schedule is *not* passed to ``prepare``: Accelerate would advance it once per process at each update, so that with
two processes it ends at half of the run. It is stepped by hand after updates, and ``register_for_checkpointing``
keeps it in ``accelerator.save_state()``.
"""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from recipe import ACCUMULATE, LR, MAX_GRAD_NORM, SCHEDULE, WEIGHT_DECAY, gpt, loader

import gradstep


def train(
    model: torch.nn.Module,
    updates: int | None = None,
    *,
    data: Iterable[Any] | None = None,
    save: str | None = None,
    load: str | None = None,
    **options: Any,
) -> list[float]:
    """Train a model in place; the loss of each update, as this process sees it.

    Args:
        model: what to train.
        updates: how many updates to make; None goes on to the end of the data.
        data: the micro-batches; each process takes its share. By default the recipe's.
        save, load: the folder of a checkpoint to write at the end, and of one to go on from.
        options: the optimizer's, such as ``state="8bit"``.
    """
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)
    own = gradstep.AdamW(gradstep.param_groups(model, weight_decay=WEIGHT_DECAY), lr=LR, **options)
    scheduler = gradstep.Scheduler(own, lr=SCHEDULE)
    accelerator.register_for_checkpointing(scheduler)
    model, optimizer, batches = accelerator.prepare(model, own, loader() if data is None else data)
    if load is not None:
        accelerator.load_state(load)
        batches = accelerator.skip_first_batches(batches, scheduler.last_epoch * ACCUMULATE)

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
    if save is not None:
        accelerator.save_state(save)
    return losses


if __name__ == "__main__":
    for update, loss in enumerate(train(gpt())):
        print(f"update {update:2}  loss {loss:.4f}")
