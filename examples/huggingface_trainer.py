"""Hugging Face's Trainer with a gradstep optimizer, parameter groups and schedule, on a GPT-2 with random weights.

    python examples/huggingface_trainer.py
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 examples/huggingface_trainer.py

- ``optimizer_cls_and_kwargs`` takes the class and its arguments. With ``params`` among them these groups are used,
  else Trainer makes its own (``TrainingArguments(weight_decay=...)``, which is 0 unless given). ``lr`` has to be said
  here: ``TrainingArguments(learning_rate=...)`` is read only for the optimizers that Trainer makes by name.
- ``create_scheduler`` is where a schedule of one's own belongs: it is called with the number of updates, and without
  it Trainer makes its default, linear to zero.
- Trainer clips and accumulates by itself. Losses are divided by the labels of the whole window, as a Stepper does. It
  counts them right if each text's first label is -100 (see ``docs/clients.md``).
"""

import os
import tempfile
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from recipe import (
    ACCUMULATE,
    BATCH,
    BLOCK,
    LR,
    MAX_GRAD_NORM,
    SCHEDULE,
    UPDATES,
    VOCABULARY,
    WEIGHT_DECAY,
    dataset,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

import gradstep


class ScheduledTrainer(Trainer):
    """A Trainer with gradstep's schedule."""

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Make the schedule once the number of updates is known; a schedule of another length is warned of."""
        if self.lr_scheduler is None:
            driven: Any = self.optimizer if optimizer is None else optimizer
            made: Any = gradstep.Scheduler(driven, lr=SCHEDULE, planned_updates=num_training_steps)
            self.lr_scheduler = made
        assert self.lr_scheduler is not None
        return self.lr_scheduler


def gpt2() -> GPT2LMHeadModel:
    """A tiny GPT-2 whose first weights are the same every time."""
    set_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=BLOCK, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # its name does not say so, and transformers would remark on it
    return model


def trainer(model: GPT2LMHeadModel, folder: str, **arguments: Any) -> ScheduledTrainer:
    """The trainer, ready; ``arguments`` are TrainingArguments to add or to replace."""
    settings = {
        "output_dir": folder,
        "max_steps": UPDATES,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATE,
        "max_grad_norm": MAX_GRAD_NORM,
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    groups = gradstep.param_groups(model, weight_decay=WEIGHT_DECAY)
    return ScheduledTrainer(
        model=model,
        train_dataset=dataset(),
        optimizer_cls_and_kwargs=(gradstep.AdamW, {"params": groups, "lr": LR}),
        args=TrainingArguments(**{**settings, **arguments}),
    )


def train(model: GPT2LMHeadModel) -> list[float]:
    """Train a model in place; the loss of every update."""
    with tempfile.TemporaryDirectory() as folder:
        running = trainer(model, folder)
        running.train()
    return [entry["loss"] for entry in running.state.log_history if "loss" in entry]


if __name__ == "__main__":
    for update, loss in enumerate(train(gpt2())):
        print(f"update {update:2}  loss {loss:.4f}")
