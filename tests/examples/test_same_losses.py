"""What differs between a client and the plain loop is nothing."""

import os
import socket
import sys
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import torch

import gradstep
from tests.examples.conftest import EXAMPLES
from tests.examples.plain import padded, plain, same

pytestmark = [
    pytest.mark.slow,
    # Lightning 2.6 with torch 2.13, and its advice on loading data.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


def test_the_plain_example(example, recipe):
    ours, theirs = recipe.gpt(), recipe.gpt()
    losses = example("plain_pytorch").train(ours)
    # Clipping inside the step takes the norm in float64 and multiplies once: the last bits differ.
    assert losses == pytest.approx(plain(recipe, theirs), rel=1e-5)
    assert losses[-1] < losses[0] - 1  # and it learns


def test_accelerate_bit_for_bit(example, recipe):
    ours, theirs = recipe.gpt(), recipe.gpt()
    losses = example("huggingface_accelerate").train(ours)
    assert losses == pytest.approx(plain(recipe, theirs), rel=1e-7)  # summed in another precision
    assert same(ours, theirs)


def test_trainer_bit_for_bit(example, recipe):
    # Trainer divides the sum of a window's losses by all its tokens, the plain loop takes means of means. All
    # numbers of tokens are powers of two here, and dividing by those is exact.
    client = example("huggingface_trainer")
    ours, theirs = client.gpt2(), client.gpt2()
    losses = client.train(ours)
    assert losses == plain(recipe, theirs)
    assert same(ours, theirs)


def test_trainer_weighs_tokens_as_a_stepper_does(example, recipe, tmp_path):
    client = example("huggingface_trainer")
    ours, theirs = client.gpt2(), client.gpt2()
    data: Any = padded(recipe)
    trainer = client.trainer(ours, str(tmp_path))
    trainer.train_dataset = data
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    optimizer = gradstep.AdamW(gradstep.param_groups(theirs, weight_decay=recipe.WEIGHT_DECAY), lr=recipe.LR)
    stepper = gradstep.Stepper(
        theirs,
        optimizer,
        schedule=recipe.SCHEDULE,
        accumulate=recipe.ACCUMULATE,
        max_grad_norm=recipe.MAX_GRAD_NORM,
    )
    expected = []
    for batch in torch.utils.data.DataLoader(data, batch_size=recipe.BATCH):
        with stepper.autocast():
            loss = theirs(**batch)["loss"]
        outcome = stepper.backward(loss, weight=int((batch["labels"][:, 1:] != -100).sum()))
        if outcome is not None:
            expected.append(outcome.loss)
    assert losses == pytest.approx(expected, rel=1e-5)
    means = plain(recipe, client.gpt2(), batches=torch.utils.data.DataLoader(data, batch_size=recipe.BATCH))
    assert losses != pytest.approx(means, rel=1e-4)  # means of means are something else


def test_lightning_bit_for_bit(example, recipe):
    # The example clips inside the step, as the plain example does.
    ours, theirs = recipe.gpt(), recipe.gpt()
    losses = example("lightning_module").train(ours)
    assert losses == example("plain_pytorch").train(theirs)
    assert same(ours, theirs)


def test_lightning_that_clips_by_itself_bit_for_bit(example, recipe):
    client = example("lightning_module")

    class Usual(client.Lit):  # type: ignore[name-defined,misc]  # the module is found at run time
        optimizer_step = client.LightningModule.optimizer_step

    ours, theirs = recipe.gpt(), recipe.gpt()
    client.trainer(gradient_clip_val=recipe.MAX_GRAD_NORM).fit(Usual(ours), recipe.loader())
    plain(recipe, theirs, by_groups=True)  # the order in which Lightning takes the norm
    assert same(ours, theirs)


def test_two_processes_bit_for_bit(example, recipe):
    result = example("ddp_gloo").run()
    ours, theirs = recipe.gpt(), recipe.gpt()
    ours.load_state_dict(result["model"])
    assert result["losses"] == example("plain_pytorch").train(theirs)
    assert same(ours, theirs)


def test_accelerate_in_two_processes(recipe, tmp_path):
    # Twice the micro-batches in an update, half the updates; each process prints the loss of its own half.
    pytest.importorskip("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    both = []
    for rank in ("0", "1"):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with Path(tmp_path, rank).open("w") as out:
            command = [sys.executable, str(EXAMPLES / "huggingface_accelerate.py")]
            both.append(Popen(command, env={**os.environ, **meeting, **ranks}, stdout=out))
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    halves = [
        [float(line.split()[-1]) for line in Path(tmp_path, rank).read_text().splitlines() if "loss" in line]
        for rank in ("0", "1")
    ]
    losses = [(a + b) / 2 for a, b in zip(*halves, strict=True)]
    assert losses == pytest.approx(plain(recipe, recipe.gpt(), accumulate=2 * recipe.ACCUMULATE), abs=2e-4)


def test_fp16_skips_until_the_scale_fits_and_learns(example, recipe):
    outcomes = example("stepper_fp16").train(recipe.gpt())
    first, last = outcomes[0], outcomes[-1]
    assert not first.stepped
    assert first.parameter in dict(recipe.gpt().named_parameters())
    assert last.stepped
    made = [outcome for outcome in outcomes if outcome.stepped]
    assert [outcome.lr for outcome in made] == [recipe.SCHEDULE(update) for update in range(len(made))]
    assert made[-1].loss < made[0].loss - 1


def test_memory_saving(example, recipe):
    client = example("memory_saving")
    torch.manual_seed(0)
    model = recipe.GPT(width=64).to(torch.bfloat16)
    losses, optimizer = client.train(model)
    count = sum(p.numel() for p in model.parameters())
    assert losses[-1] < losses[0] - 1
    embeddings = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    # 2 + 2 bytes and the scales of blocks; two float32 moments instead for embeddings, which small models have many of.
    assert client.model_bytes(model) + optimizer.state_summary().nbytes < 4.4 * count + 6 * embeddings
