"""What docs/clients.md says that clients do by themselves, so that it stays true or is found out."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import gradstep
from gradstep.schedules import cosine, warmup
from tests.examples.plain import plain, same

pytestmark = [
    # Lightning 2.6 with torch 2.13, and its advice on loading data.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


@pytest.fixture
def one_process() -> Iterator[Any]:
    """Accelerate's state, which is global, made and thrown away."""
    state = pytest.importorskip("accelerate.state", reason="accelerate is not installed")
    state.PartialState(cpu=True)
    yield state
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.GradientState._reset_state()


def linear() -> tuple[torch.nn.Linear, gradstep.AdamW]:
    model = torch.nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    return model, gradstep.AdamW(model.parameters(), lr=0.1)


# -- Trainer ----------------------------------------------------------------------------------------------------


def test_trainer_does_not_pass_its_learning_rate_on(example, tmp_path):
    client = example("huggingface_trainer")
    trainer = client.Trainer(
        model=client.gpt2(),
        optimizer_cls_and_kwargs=(gradstep.AdamW, {}),
        args=client.TrainingArguments(str(tmp_path), learning_rate=5e-3, report_to="none", use_cpu=True),
    )
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {1e-3}  # AdamW's own


def test_trainer_s_defaults_are_those_of_the_page(example, tmp_path):
    args = example("huggingface_trainer").TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    assert (args.weight_decay, args.warmup_steps, args.learning_rate) == (0.0, 0, 5e-5)
    assert (args.lr_scheduler_type, args.adam_beta2, args.max_grad_norm) == ("linear", 0.999, 1.0)


def test_trainer_s_own_schedule_and_decay_drive_our_optimizer(example, tmp_path):
    client = example("huggingface_trainer")
    trainer = client.Trainer(
        model=client.gpt2(),
        optimizer_cls_and_kwargs=(gradstep.AdamW, {"lr": 3e-4}),
        args=client.TrainingArguments(
            str(tmp_path),
            weight_decay=0.1,
            lr_scheduler_type="cosine",
            warmup_steps=4,
            report_to="none",
            use_cpu=True,
        ),
    )
    trainer.create_optimizer_and_scheduler(num_training_steps=12)
    seen = []
    for _ in range(12):
        seen.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    ours = warmup(updates=4, to=3e-4).then(cosine(3e-4, updates=8))
    assert seen == pytest.approx([ours(update) for update in range(12)])
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.1, 0.0]


def test_trainer_groups_a_gpt2_as_we_do(example, tmp_path):
    client = example("huggingface_trainer")
    model = client.gpt2()
    trainer = client.Trainer(
        model=model,
        optimizer_cls_and_kwargs=(gradstep.AdamW, {"lr": 1e-3}),
        args=client.TrainingArguments(str(tmp_path), weight_decay=0.1, report_to="none", use_cpu=True),
    )
    theirs = {p: group["weight_decay"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    ours = {p: group["weight_decay"] for group in gradstep.param_groups(model) for p in group["params"]}
    assert theirs == ours


@pytest.mark.slow
def test_trainer_counts_the_first_label_of_a_model_whose_name_does_not_say_causal(example, recipe, tmp_path):
    client = example("huggingface_trainer")
    data = [{"input_ids": block["input_ids"], "labels": block["input_ids"]} for block in recipe.dataset()]
    losses = []
    for kind in ("ForCausalLM", None):
        model = client.gpt2()
        model.loss_type = kind
        trainer = client.trainer(model, str(tmp_path))
        trainer.train_dataset = data
        trainer.args.max_steps = 1
        with pytest.warns(UserWarning, match="but 1 updates are planned"):
            trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0] * (recipe.BLOCK - 1) / recipe.BLOCK)


# -- windows that are not full ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_last_window_that_is_not_full(example, recipe, monkeypatch, tmp_path):
    # Trainer divides by the micro-batches that there are; Accelerate and Lightning by those that were planned.
    data = recipe.dataset(updates=2)[: -recipe.BATCH]
    batches = torch.utils.data.DataLoader(data, batch_size=recipe.BATCH)

    trainer = example("huggingface_trainer")
    ours, theirs = trainer.gpt2(), trainer.gpt2()
    running = trainer.trainer(ours, str(tmp_path), max_steps=-1, num_train_epochs=1)
    running.train_dataset = data
    with pytest.warns(UserWarning, match="24 updates long, but 2 updates are planned"):
        running.train()
    plain(recipe, theirs, batches=batches)
    assert same(ours, theirs)

    expected = recipe.gpt()
    plain(recipe, expected, batches=batches, partial="planned")
    actual = recipe.gpt()
    plain(recipe, actual, batches=batches)
    assert not same(actual, expected)
    accelerate = example("huggingface_accelerate")
    ours = recipe.gpt()
    monkeypatch.setattr(accelerate, "loader", lambda: batches)
    accelerate.train(ours)
    assert same(ours, expected)

    plain_by_groups = recipe.gpt()
    plain(recipe, plain_by_groups, batches=batches, partial="planned", by_groups=True)
    lightning = example("lightning_module")

    class Usual(lightning.Lit):  # type: ignore[name-defined,misc]  # the module is found at run time
        optimizer_step = lightning.LightningModule.optimizer_step

    ours = recipe.gpt()
    with pytest.warns(UserWarning, match="24 updates long, but 2 updates are planned"):
        lightning.trainer(gradient_clip_val=recipe.MAX_GRAD_NORM).fit(Usual(ours), batches)
    assert same(ours, plain_by_groups)


# -- Accelerate -------------------------------------------------------------------------------------------------


def test_a_prepared_schedule_advances_once_per_process(example, one_process, monkeypatch):
    _, own = linear()
    schedule = gradstep.Scheduler(own, lr=gradstep.schedules.linear(0.1, 0.0, updates=10))
    accelerator = example("huggingface_accelerate").Accelerator(cpu=True)
    optimizer, prepared = accelerator.prepare(own, schedule)
    optimizer.step()
    prepared.step()
    assert schedule.last_epoch == 1
    with monkeypatch.context() as patch:
        patch.setitem(one_process.PartialState._shared_state, "num_processes", 2)
        optimizer.step()
        prepared.step()
    assert schedule.last_epoch == 3


@pytest.mark.parametrize("fused", [gradstep.AdamW, lambda params: torch.optim.AdamW(params, fused=True)])
def test_accelerate_does_not_see_that_a_fused_step_was_skipped(example, one_process, fused):
    example("huggingface_accelerate").Accelerator(cpu=True)
    wrapper = pytest.importorskip("accelerate.optimizer").AcceleratedOptimizer
    model, _ = linear()
    before = model.weight.clone()
    scaler = torch.amp.GradScaler("cpu")
    own = fused(model.parameters())
    optimizer = wrapper(own, scaler=scaler)
    scaler.scale(torch.ones(()))  # the scaler starts with its first loss
    assert model.weight.grad is not None
    model.weight.grad[0, 0] = float("inf")
    optimizer.step()
    assert torch.equal(model.weight, before)
    assert not optimizer.step_was_skipped  # it was
    if isinstance(own, gradstep.Optimizer):
        assert own.last_step is not None
        assert not own.last_step.stepped  # this tells


# -- Lightning --------------------------------------------------------------------------------------------------


def lightning_fp16(example, recipe, **arguments):
    from lightning.pytorch.plugins import MixedPrecision

    client = example("lightning_module")
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    return client, client.trainer(plugins=[precision], **arguments)


def test_lightning_refuses_its_own_clipping_in_fp16(example, recipe):
    client, trainer = lightning_fp16(example, recipe, gradient_clip_val=0.5)
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        trainer.fit(client.Lit(recipe.gpt()), recipe.loader())


@pytest.mark.slow
def test_lightning_in_fp16_clips_inside_the_step(example, recipe):
    client, trainer = lightning_fp16(example, recipe)
    module = client.Lit(recipe.gpt())
    trainer.fit(module, recipe.loader())
    exact = client.Lit(recipe.gpt())
    client.trainer().fit(exact, recipe.loader())
    assert module.losses == pytest.approx(exact.losses, rel=5e-3)
    assert module.losses != exact.losses


def test_lightning_wraps_the_optimizer(example):
    example("lightning_module")
    from lightning.pytorch.core.optimizer import LightningOptimizer

    _, optimizer = linear()
    optimizer.step()
    wrapped = LightningOptimizer(optimizer)
    assert isinstance(wrapped, gradstep.AdamW)
    assert wrapped.optimizer.last_step is optimizer.last_step is not None


def test_lightning_reads_the_state_through_its_wrapper(example):
    example("lightning_module")
    from lightning.pytorch.core.optimizer import LightningOptimizer

    model, optimizer = linear()
    optimizer.step()
    wrapped = LightningOptimizer(optimizer)
    assert wrapped.state_dict().keys() == optimizer.state_dict().keys()
    assert wrapped.state[model.weight].keys() == optimizer.state[model.weight].keys()


def test_lightning_advances_a_schedule_per_epoch_unless_told(example, recipe):
    client = example("lightning_module")

    class Usual(client.Lit):  # type: ignore[name-defined,misc]  # the module is found at run time
        def configure_optimizers(self):
            configured = super().configure_optimizers()
            return {**configured, "lr_scheduler": configured["lr_scheduler"]["scheduler"]}

    trainer = client.trainer(limit_train_batches=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the planned updates, and of Lightning's
        trainer.fit(Usual(recipe.gpt()), recipe.loader())
    assert trainer.global_step == 2
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 1
