"""Stopping at a client's checkpoint and going on in new objects is not stopping at all, bit for bit."""

from typing import Any

import pytest
import torch

import gradstep
from tests.examples.plain import same

HALF = 12

pytestmark = [
    pytest.mark.slow,
    # Lightning 2.6 with torch 2.13, and its advice on loading data, on folders that exist, and on the missing callback.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
]

STORAGES: dict[str, dict[str, Any]] = {"float32": {}, "8bit": {"state": "8bit"}}


@pytest.mark.parametrize("storage", STORAGES)
def test_trainer(example, recipe, tmp_path, storage):
    client = example("huggingface_trainer")

    def trainer(model, **arguments):
        made = client.trainer(model, str(tmp_path), **arguments)
        made.optimizer_cls_and_kwargs[1].update(STORAGES[storage])
        return made

    whole, halves, second = client.gpt2(), client.gpt2(), client.gpt2()
    trainer(whole).train()
    # max_steps would shorten the schedule's run: save in the middle of the whole one, and go on from there.
    trainer(halves, save_strategy="steps", save_steps=HALF).train()
    assert same(halves, whole)
    resumed = trainer(second)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{HALF}"))
    assert resumed.state.global_step == recipe.UPDATES
    assert same(second, whole)


def test_lightning(example, recipe, tmp_path):
    client = example("lightning_module")
    whole, second = client.Lit(recipe.gpt()), client.Lit(recipe.gpt())
    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    epochs = recipe.UPDATES // HALF
    trainer = client.trainer(enable_checkpointing=True, callbacks=[keep], max_epochs=epochs)
    trainer.fit(whole, recipe.loader(HALF))
    trainer = client.trainer(max_epochs=epochs)
    trainer.fit(second, recipe.loader(HALF), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert len(second.losses) == (recipe.UPDATES - HALF) * recipe.ACCUMULATE
    assert same(second.model, whole.model)


@pytest.mark.parametrize("storage", STORAGES)
def test_accelerate(example, recipe, tmp_path, storage):
    client = example("huggingface_accelerate")

    def prepared(model):
        accelerator = client.Accelerator(cpu=True)
        own = gradstep.AdamW(gradstep.param_groups(model), lr=recipe.LR, **STORAGES[storage])
        schedule = gradstep.Scheduler(own, lr=recipe.SCHEDULE)
        accelerator.register_for_checkpointing(schedule)
        return accelerator, accelerator.prepare(own), schedule

    def train(model, batches, accelerator, optimizer, schedule):
        for batch in batches:
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    data = list(recipe.loader())
    whole, second = recipe.gpt(), recipe.gpt()
    parts = prepared(whole)
    train(whole, data[:HALF], *parts)
    parts[0].save_state(str(tmp_path))
    second.load_state_dict(whole.state_dict())
    train(whole, data[HALF:], *parts)

    again = prepared(second)
    again[0].load_state(str(tmp_path))
    assert again[2].get_last_lr() == [recipe.SCHEDULE(HALF)] * 2
    train(second, data[HALF:], *again)
    assert same(second, whole)


def test_a_trainer_checkpoint_is_read_by_torch(example, tmp_path):
    client = example("huggingface_trainer")
    trainer = client.trainer(client.gpt2(), str(tmp_path), save_strategy="steps", save_steps=HALF)
    trainer.train()
    state = torch.load(tmp_path / f"checkpoint-{HALF}" / "optimizer.pt", weights_only=True)
    theirs = torch.optim.AdamW(gradstep.param_groups(client.gpt2()), lr=1e-3)
    theirs.load_state_dict(state)
    assert float(next(iter(theirs.state.values()))["step"]) == HALF
