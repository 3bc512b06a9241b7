"""Paged state: the same bits as resident state, and files that are never mistaken for what they are not."""

import copy
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import gradstep
from gradstep import schedules
from gradstep.engines.eager import ARRAYS
from gradstep.engines.fused import Fused
from gradstep.optimizers.state.storage import element_of
from gradstep.storage.pages import PageFileError
from gradstep.storage.policy import slot_codec
from tests.training import assert_same, assert_same_bits, normal

SHAPES = [(300, 100), (100,), (1, 70_001), (70, 60)]
RULES: dict[str, Any] = {
    "AdamW": (gradstep.AdamW, {"weight_decay": 0.1}),
    "Lion": (gradstep.Lion, {"lr": 1e-3}),
    "SGD": (gradstep.SGD, {"lr": 1e-2, "momentum": 0.9}),
    "Adagrad": (gradstep.Adagrad, {"initial_accumulator_value": 0.5}),
    "RMSprop": (gradstep.RMSprop, {"centered": True, "momentum": 0.9}),
}
TIGHT = "600KB"  # of 0.8 MB or more in float32: the longest tensor is parted
TIGHTER = {"float32": TIGHT, "bfloat16": "300KB", "8bit": "150KB"}


def made(kind: Any, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, list[torch.Tensor]]:
    params = [normal(*s, seed=i, dtype=dtype).requires_grad_() for i, s in enumerate(SHAPES)]
    options = {"seed": 4, **options}
    return kind([{"params": params[:2]}, {"params": params[2:], "lr": 3e-3}], **options), params


def stepped(optimizer: Any, params: list[torch.Tensor], steps: range) -> None:
    for t in steps:
        for i, p in enumerate(params):
            p.grad = normal(*p.shape, seed=100 * t + i, dtype=p.dtype)
        if t % 3 == 1:
            params[2].grad = None
        optimizer.step(max_grad_norm=5.0)


def both(kind: Any, dtype: torch.dtype = torch.float32, *, page_budget: str = TIGHT, **options: Any) -> None:
    resident, params = made(kind, dtype, **options)
    paged, others = made(kind, dtype, paged=True, page_budget=page_budget, **options)
    stepped(resident, params, range(5))
    stepped(paged, others, range(5))
    assert_same(resident, paged)


@pytest.mark.parametrize("tight", [True, False])
@pytest.mark.parametrize("state", TIGHTER)
def test_the_same_bits_in_every_precision_of_state(state, tight):
    both(gradstep.AdamW, state=state, page_budget=TIGHTER[state] if tight else "1GB")


@pytest.mark.parametrize("rule", RULES)
def test_the_same_bits_for_every_kind_of_slot(rule):
    kind, options = RULES[rule]
    both(kind, **options)


@pytest.mark.parametrize("rounding", ["stochastic", "24bit", "kahan", "master"])
def test_the_same_bits_for_parameters_of_16_bits(rounding):
    both(gradstep.AdamW, torch.bfloat16, rounding=rounding, state="8bit", page_budget="400KB")


@pytest.mark.parametrize("options", [{"state": "8bit"}, {"state": "bfloat16"}, {}], ids=["8bit", "bfloat16", "float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_with_a_stepper_and_a_schedule(dtype: torch.dtype, options: Any) -> None:
    if dtype == torch.bfloat16:
        options = {**options, "rounding": "stochastic"}
    found: list[Any] = []
    placements: list[Any] = [{}, {"paged": True, "page_budget": "300KB"}]
    for placement in placements:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(100, 300), torch.nn.Tanh(), torch.nn.Linear(300, 200)).to(dtype)
        optimizer: Any = gradstep.AdamW(model.named_parameters(), lr=1e-2, seed=1, **options, **placement)
        schedule = schedules.cosine(1e-2, updates=8)
        stepper = gradstep.Stepper(model, optimizer, accumulate=2, max_grad_norm=0.5, schedule=schedule)
        for t in range(10):
            with stepper.autocast():
                loss = (model(normal(8, 100, seed=t, dtype=dtype)) ** 2).mean()
            stepper.backward(100 * loss)
        assert optimizer.last_step.clip < 1
        found.append(optimizer)
    assert found[0].param_groups[0]["lr"] == found[1].param_groups[0]["lr"] != 1e-2
    assert_same(*found)


@pytest.mark.parametrize("engine", ["reference", "eager", "foreach"])
def test_engines_that_take_tensors_whole(engine):
    both(gradstep.AdamW, engine=engine, page_budget="2MB")


def test_work_is_parted(monkeypatch):
    """The test of equal bits is worth something: the kernel is called for parts of a tensor."""
    seen: list[int] = []
    update = Fused.update

    def counted(self: Any, batch: Any) -> None:
        seen.append(0 if batch.pieces is None else len(batch.pieces))
        update(self, batch)

    monkeypatch.setattr(Fused, "update", counted)
    paged, params = made(gradstep.AdamW, paged=True, page_budget=TIGHT)
    stepped(paged, params, range(1))
    assert len(seen) > 4
    assert all(seen)


def test_parameters_of_several_kinds_keep_to_one_budget():
    """A step takes parameters with 8-bit and with float32 state after each other: what stays is counted once."""
    params = [normal(*s, seed=i).requires_grad_() for i, s in enumerate([(700, 300), (300,), (300, 700), (700,)])]
    optimizer: Any = gradstep.AdamW(params, state="8bit", paged=True, page_budget="250KB")
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    (file,) = optimizer._paged._files
    pagers = list(file._pagers.values())
    assert len(pagers) == 2
    stay = {each for pager in pagers for window in pager._windows if window.stays for each in window.ranges}
    moving = [window.nbytes for pager in pagers for window in pager._windows if not window.stays]
    assert sum(end - begin for begin, end in stay) + max(moving) <= 250_000


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("state", TIGHTER)
def test_bytes_of_zero_are_zeros(state, signed):
    """A new file, and state that is made, are taken for zeros without being encoded."""
    codec = slot_codec(state, element_of(torch.float32), signed=signed)
    arrays = [
        torch.zeros(field.length(4_200), dtype=getattr(torch, field.element.name)).reshape(
            [-1] if field.per > 1 else [70, 60]
        )
        for field in codec.fields
    ]
    assert_same_bits(ARRAYS.value(codec, arrays, torch.empty(70, 60)).float(), torch.zeros(70, 60))


def test_a_budget_that_nothing_fits_is_refused_with_one_that_does():
    paged, params = made(gradstep.AdamW, paged=True, page_budget="10KB")
    with pytest.raises(ValueError, match=r"Invalid page budget: 10 KB .* give at least"):
        stepped(paged, params, range(1))


def test_a_group_that_comes_later_gets_pages_too(tmp_path):
    found = []
    for options in ({}, {"paged": tmp_path, "page_budget": "1GB"}):
        optimizer, params = made(gradstep.AdamW, **options)
        stepped(optimizer, params, range(2))
        late = normal(50, 90).requires_grad_()
        optimizer.add_param_group({"params": [late]})
        stepped(optimizer, [*params, late], range(2, 5))
        found.append(optimizer)
    assert_same(*found)
    assert sorted(p.name for p in tmp_path.glob("*.pages")) == ["state-0.pages", "state-1.pages"]


@pytest.mark.parametrize("into", [{}, {"paged": True, "page_budget": TIGHT}], ids=["resident", "paged"])
@pytest.mark.parametrize("out", [{}, {"paged": True, "page_budget": TIGHT}], ids=["resident", "paged"])
@pytest.mark.parametrize("state", ["float32", "8bit"])
def test_checkpoints_go_in_and_out(out, into, state):
    through, params = made(gradstep.AdamW, state=state, **out)
    stepped(through, params, range(2))
    other, others = made(gradstep.AdamW, state=state, **into)
    stepped(other, others, range(1))
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    other.load_state_dict(through.state_dict())
    stepped(through, params, range(2, 4))
    stepped(other, others, range(2, 4))
    assert_same(through, other)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_has_pages_of_its_own(copied, tmp_path):
    optimizer, params = made(gradstep.AdamW, paged=tmp_path)
    stepped(optimizer, params, range(2))
    twin, others = copied((optimizer, params))
    stepped(twin, others, range(2, 4))
    stepped(optimizer, params, range(2, 4))
    assert_same(optimizer, twin)


def test_a_temporary_folder_goes_with_its_optimizer():
    optimizer, params = made(gradstep.AdamW, paged=True)
    stepped(optimizer, params, range(1))
    folder = optimizer._paged.folder
    assert list(folder.iterdir())
    del optimizer
    assert not folder.exists()


def test_files_of_an_earlier_run_are_not_overwritten(tmp_path):
    optimizer, params = made(gradstep.AdamW, paged=tmp_path)
    stepped(optimizer, params, range(1))
    del optimizer
    other, others = made(gradstep.AdamW, paged=tmp_path)
    with pytest.raises(FileExistsError, match="state-0"):
        stepped(other, others, range(1))


def test_a_finished_run_goes_on_from_its_pages(tmp_path):
    through, params = made(gradstep.AdamW, state="8bit")
    stepped(through, params, range(4))
    first, others = made(gradstep.AdamW, state="8bit", paged=tmp_path)
    stepped(first, others, range(2))
    del first
    again, _ = made(gradstep.AdamW, state="8bit", paged=gradstep.Pages(tmp_path, resume=True))
    for group, old in zip(again.param_groups, (others[:2], others[2:]), strict=True):
        for p, q in zip(group["params"], old, strict=True):
            p.data.copy_(q.data)
    stepped(again, [p for g in again.param_groups for p in g["params"]], range(2, 4))
    assert_same(through, again)


def resumed(folder: Path, old: Any, seed: int) -> Any:
    """An optimizer of a process with another seed, which goes on from the pages in a folder."""
    again, _ = made(gradstep.AdamW, state="8bit", seed=seed, paged=gradstep.Pages(folder, resume=True))
    params = [p for group in again.param_groups for p in group["params"]]
    for p, q in zip(params, old, strict=True):
        p.data.copy_(q.data)
    return again, params


@pytest.mark.parametrize("seed", [0, 7, -1, 2**63 + 5])
def test_pages_go_on_with_the_noise_that_they_were_written_with(seed, tmp_path):
    """Bit for bit, whatever seed the resuming process has; and the checkpoint of the resumed run says the same seed."""
    through, params = made(gradstep.AdamW, state="8bit", seed=seed)
    stepped(through, params, range(4))
    first, others = made(gradstep.AdamW, state="8bit", seed=seed, paged=tmp_path)
    stepped(first, others, range(2))
    del first
    again, fresh = resumed(tmp_path, others, seed=12345)
    stepped(again, fresh, range(2, 4))
    assert_same(through, again)
    assert again.state_dict()["gradstep"]["seed"] == seed % 2**64


def test_pages_hold_the_seed_of_a_checkpoint_that_was_loaded_into_them(tmp_path):
    """From the step on that writes the loaded state into them."""
    through, params = made(gradstep.AdamW, state="8bit", seed=3)
    stepped(through, params, range(1))
    first, others = made(gradstep.AdamW, state="8bit", seed=4, paged=tmp_path)
    stepped(first, others, range(2))
    first.load_state_dict(copy.deepcopy(through.state_dict()))
    for p, q in zip(others, params, strict=True):
        p.data.copy_(q.data)
    stepped(first, others, range(1, 2))
    stepped(through, params, range(1, 2))
    twin = copy.deepcopy(first)
    assert twin.state_dict()["gradstep"]["seed"] == 3
    del first, twin
    again, fresh = resumed(tmp_path, others, seed=5)
    stepped(again, fresh, range(2, 4))
    stepped(through, params, range(2, 4))
    assert_same(through, again)


def test_pages_of_other_parameters_are_refused_with_the_difference(tmp_path):
    optimizer, params = made(gradstep.AdamW, paged=tmp_path)
    stepped(optimizer, params, range(1))
    del optimizer
    other, others = made(gradstep.AdamW, state="8bit", paged=gradstep.Pages(tmp_path, resume=True))
    with pytest.raises(PageFileError, match="exp_avg"):
        stepped(other, others, range(1))


def test_two_optimizers_do_not_share_a_folder(tmp_path):
    one, params = made(gradstep.AdamW, paged=tmp_path)
    stepped(one, params, range(1))
    two, others = made(gradstep.AdamW, paged=gradstep.Pages(tmp_path, resume=True))
    with pytest.raises(BlockingIOError):
        stepped(two, others, range(1))


def test_a_step_that_breaks_off_is_not_gone_on_from(monkeypatch):
    optimizer, params = made(gradstep.AdamW, paged=True, page_budget=TIGHT)
    stepped(optimizer, params, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    update = Fused.update

    def breaks(self: Any, batch: Any) -> None:
        update(self, batch)
        raise OSError("the disk is gone")

    monkeypatch.setattr(Fused, "update", breaks)
    with pytest.raises(OSError, match="the disk is gone"):
        stepped(optimizer, params, range(2, 3))
    monkeypatch.setattr(Fused, "update", update)
    with pytest.raises(RuntimeError, match="load a checkpoint"):
        stepped(optimizer, params, range(2, 3))
    optimizer.load_state_dict(saved)
    stepped(optimizer, params, range(2, 3))


def test_ctrl_c_waits_for_the_end_of_the_step(monkeypatch, request):
    resident, params = made(gradstep.AdamW)
    stepped(resident, params, range(1))
    optimizer, others = made(gradstep.AdamW, paged=True, page_budget=TIGHT)
    update = Fused.update
    pressed: list[int] = []

    def interrupted(self: Any, batch: Any) -> None:
        if not pressed:
            pressed.append(1)
            signal.raise_signal(signal.SIGINT)
        update(self, batch)

    monkeypatch.setattr(Fused, "update", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started deaf to it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        stepped(optimizer, others, range(1))
    for p, q in zip(params, others, strict=True):
        assert_same_bits(p.detach(), q.detach())
    stepped(resident, params, range(1, 2))
    stepped(optimizer, others, range(1, 2))
    assert_same(resident, optimizer)


_KILLED = """
import sys, torch, gradstep
torch.manual_seed(0)
p = torch.randn(500, 1000, requires_grad=True)
optimizer = gradstep.AdamW([p], paged=sys.argv[1], page_budget="1MB")
p.grad = torch.ones_like(p)
optimizer.step()
print("ready", flush=True)
while True:
    optimizer.step()
"""


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_only_where_its_pages_are_whole(tmp_path):
    refused = whole = 0
    for n in range(3):
        folder = tmp_path / str(n)
        run = subprocess.Popen([sys.executable, "-c", _KILLED, str(folder)], stdout=subprocess.PIPE, text=True)
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        threading.Event().wait(0.03 * (n + 1))
        run.kill()
        run.communicate()
        p = torch.zeros(500, 1000, requires_grad=True)
        optimizer = gradstep.AdamW([p], paged=gradstep.Pages(folder, resume=True), page_budget=None)
        p.grad = torch.ones_like(p)
        try:
            optimizer.step()
        except PageFileError:
            refused += 1
            continue
        # The same gradient all along: after k steps every element of a moment is the same number.
        assert len(optimizer.state[p]["exp_avg"].unique()) == 1
        whole += 1
    assert refused + whole == 3


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"page_budget": "1GB"}, ValueError, "page_budget= is for paged state"),
        ({"paged": True, "page_budget": 0}, ValueError, "Invalid page budget: 0"),
        ({"paged": __file__}, NotADirectoryError, "is a file: name another place"),
        ({"paged": 7}, TypeError, "paged must be True, False, a folder"),
        ({"paged": True, "page_budget": "many"}, ValueError, "many"),
        ({"paged": gradstep.Pages(Path("x")), "page_budget": "1GB"}, ValueError, "given by Pages"),
        ({"paged": ""}, TypeError, "'' names none: name one"),
    ],
)
def test_settings_that_mean_nothing(options, error, words):
    with pytest.raises(error, match=words):
        made(gradstep.AdamW, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folder": ""}, "'' names none"),
        ({"folder": 3}, "3 names none"),
        ({"folder": b"pages"}, "b'pages' names none"),
        ({"resume": "False"}, "resume must be True or False, but is 'False'"),
        ({"resume": None}, "resume must be True or False, but is None"),
    ],
)
def test_pages_of_wrong_types(options, words):
    with pytest.raises(TypeError, match=words):
        gradstep.Pages(**options)


@pytest.mark.parametrize("word", ["no", "True", "off", "None", " off", "no\n"])
def test_a_word_for_true_or_false_makes_no_folder(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"give True or False, or './{word}' for the folder"):
        made(gradstep.AdamW, paged=word)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_paged_is_said():
    p = torch.ones(3, 3, requires_grad=True)
    with pytest.raises(ValueError, match="Adafactor looks at whole parameters"):
        gradstep.Adafactor([p], paged=True)
    with pytest.raises(ValueError, match="has no state"):
        gradstep.SGD([p], paged=True)
    with pytest.raises(ValueError, match="is complex"):
        gradstep.AdamW([torch.ones(2, dtype=torch.complex64, requires_grad=True)], paged=True)


def test_the_room_on_the_disk_is_asked_before_training(tmp_path, monkeypatch):
    def full(folder: Path, nbytes: int) -> None:
        raise OSError(28, f"{nbytes} bytes are needed")

    monkeypatch.setattr("gradstep.optimizers.paged.files.check_room", full)
    with pytest.raises(OSError, match="bytes are needed"):
        made(gradstep.AdamW, paged=tmp_path)


def test_preflight_says_how_long_a_step_takes_from_the_disk(tmp_path):
    optimizer, _ = made(gradstep.AdamW, paged=tmp_path)
    found = optimizer.preflight()
    assert found.needed == optimizer.state_summary().nbytes
    assert found.seconds_from_disk > 0
    with pytest.raises(ValueError, match="is not paged"):
        made(gradstep.AdamW)[0].preflight()
