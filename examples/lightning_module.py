"""PyTorch Lightning with a gradstep optimizer and schedule, clipping inside the step.

    python examples/lightning_module.py
    torchrun --nproc_per_node 2 examples/lightning_module.py

- ``"interval": "step"`` makes Lightning advance the schedule once per update; its default is once per epoch.
- Lightning passes what ``optimizer_step`` gives on to the optimizer, so that clipping is part of gradstep's step. The
  Trainer's own ``gradient_clip_val`` works too, takes two more passes over the gradients, and is refused by Lightning
  with ``precision="16-mixed"``.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from recipe import ACCUMULATE, LR, MAX_GRAD_NORM, SCHEDULE, WEIGHT_DECAY, gpt, loader

import gradstep


class Lit(LightningModule):
    """A language model that knows how it is trained; ``options`` are the optimizer's, such as ``state="8bit"``."""

    def __init__(self, model: torch.nn.Module, **options: Any) -> None:
        super().__init__()
        self.model, self.options = model, options
        self.losses: list[float] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The loss of a micro-batch; Lightning divides it by ``accumulate_grad_batches``."""
        loss: torch.Tensor = self.model(**batch)["loss"]
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        """Groups, optimizer and schedule."""
        groups = gradstep.param_groups(self.model, weight_decay=WEIGHT_DECAY)
        optimizer = gradstep.AdamW(groups, lr=LR, **self.options)
        planned = int(self.trainer.estimated_stepping_batches)
        scheduler = gradstep.Scheduler(optimizer, lr=SCHEDULE, planned_updates=planned)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Clip while updating; the closure computes loss and gradients."""
        optimizer.step(closure=optimizer_closure, max_grad_norm=MAX_GRAD_NORM)


def trainer(**arguments: Any) -> Trainer:
    """The trainer, ready; ``arguments`` replace the ones here."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun says how many it has started here
    own = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": processes,
        "strategy": "ddp" if processes > 1 else "auto",
        "accumulate_grad_batches": ACCUMULATE,
    }
    return Trainer(**{**quiet, **own, **arguments})


def train(model: torch.nn.Module) -> list[float]:
    """Train a model in place; the loss of every update."""
    module = Lit(model)
    trainer().fit(module, loader())
    windows = zip(*[iter(module.losses)] * ACCUMULATE)
    return [sum(loss / ACCUMULATE for loss in window) for window in windows]


if __name__ == "__main__":
    for update, loss in enumerate(train(gpt())):
        print(f"update {update:2}  loss {loss:.4f}")
