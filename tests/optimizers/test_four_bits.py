"""``state="4bit"``: two codes share a byte, so state has neither the shape nor the memory order of its parameter."""

import copy

import pytest
import torch

import gradstep
from tests.training import assert_same, assert_same_bits, leaves, normal, trained, unchanged, walk

SHAPE = (67, 71)  # an odd number of elements
STEPS = [[normal(*SHAPE, seed=t) * 10.0 ** (-t)] for t in range(1, 5)]


def run(steps=STEPS, **options):
    optimizer, params = trained(gradstep.AdamW, [normal(*SHAPE)], steps, **{"state": "4bit", "seed": 3} | options)
    return optimizer, params


def entry_of(optimizer):
    [entry] = optimizer.state.values()
    return entry


def test_state_is_half_a_byte_a_slot_and_as_planned():
    optimizer, [p] = run()
    n, blocks = p.numel(), -(-p.numel() // 256)
    sizes = {key: (value.dtype, tuple(value.shape)) for key, value in entry_of(optimizer).items()}
    assert sizes == {
        **{f"exp_avg{end}": (torch.uint8, ((n + 1) // 2,)) for end in ("", "_sq")},
        **{f"exp_avg{end}_scale4": (torch.uint8, (blocks,)) for end in ("", "_sq")},
        "step": (torch.float32, ()),
    }
    [row] = optimizer.state_summary().rows
    assert row.state == "exp_avg: 4bit, exp_avg_sq: 4bit"
    plan = gradstep.plan(torch.nn.Linear(*SHAPE[::-1], bias=False), state="4bit")
    assert row.nbytes == 2 * ((n + 1) // 2 + blocks) + 4 == plan.of("state")


def test_a_checkpoint_goes_on_with_the_same_bits(tmp_path):
    one, params = run(STEPS[:2])
    torch.save(one.state_dict(), tmp_path / "saved.pt")
    saved = torch.load(tmp_path / "saved.pt")
    assert saved["state"][0]["exp_avg"].keys() == {"codes", "scale4"}
    others = leaves(params)
    two = gradstep.AdamW(others, state="4bit")
    two.load_state_dict(saved)
    walk(one, params, STEPS[2:])
    walk(two, others, STEPS[2:])
    assert_same(one, two)


def test_paged_and_released_steps_are_the_same_bits(tmp_path):
    plain, [p] = run()
    _, [q] = run(paged=tmp_path)
    assert_same_bits(p.detach(), q.detach())
    model = torch.nn.Linear(*SHAPE[::-1], bias=False)
    with torch.no_grad():
        model.weight.copy_(normal(*SHAPE))
    optimizer = gradstep.AdamW(model.parameters(), state="4bit", seed=3)
    gradstep.release_gradients(model, optimizer)
    for [g] in STEPS:
        (model.weight * g).sum().backward()
        optimizer.step()
    assert_same_bits(entry_of(plain)["exp_avg"], entry_of(optimizer)["exp_avg"])
    assert_same_bits(p.detach(), model.weight.detach())


def test_other_storages_refuse_or_hold_it():
    saved = run()[0].state_dict()
    for state in ("8bit", "bfloat16"):
        other = gradstep.AdamW([normal(*SHAPE).requires_grad_()], state=state)
        if state == "bfloat16":
            other.load_state_dict(copy.deepcopy(saved))
        else:
            with unchanged(other), pytest.raises(RuntimeError, match="exp_avg is stored as 4bit, and here as 8bit"):
                other.load_state_dict(copy.deepcopy(saved))
    wide = gradstep.AdamW([normal(*SHAPE).requires_grad_()])
    wide.load_state_dict(saved)
    back = gradstep.convert_state(wide.state_dict(), gradstep.AdamW([normal(*SHAPE).requires_grad_()], state="4bit"))
    assert back.lossless
    assert [(change.before, change.after) for change in back.changes] == [("float32", "4bit")] * 2
    assert gradstep.convert_state(wide.state_dict(), "4bit").lossless


def test_a_name_does_not_have_the_shapes_of_packed_codes():
    saved = run()[0].state_dict()
    with pytest.raises(ValueError, match="4-bit codes, two in a byte, which show no shapes: give an optimizer"):
        gradstep.convert_state(saved, "float32")
    wide = gradstep.AdamW([normal(*SHAPE).requires_grad_()])
    assert gradstep.convert_state(saved, wide).lossless


def test_another_order_of_memory_is_refused():
    """The codes of a byte are neighbours in row-major order, and no array of the state says another."""
    turned = normal(*SHAPE[::-1]).t().requires_grad_()
    with pytest.raises(ValueError, match=r'state="4bit" packs .*strides \(1, 67\): make it contiguous .*8bit'):
        gradstep.AdamW([turned], state="4bit", engine="fused")
    optimizer, [p] = run(STEPS[:1])
    p.data = p.detach().t().contiguous().t()
    p.grad = torch.ones_like(p)
    before = p.detach().clone(), copy.deepcopy(entry_of(optimizer))
    with pytest.raises(ValueError, match="packs the codes of neighbours in row-major order"):
        optimizer.step()
    assert_same_bits(p.detach(), before[0])
    assert_same_bits(entry_of(optimizer)["exp_avg"], before[1]["exp_avg"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda e: e.update(exp_avg=e["exp_avg"][:-1]), r"exp_avg has shape \(2378,\), but must have \(2379,\)"),
        (lambda e: e.update(exp_avg_scale4=e["exp_avg_scale4"][:-1]), r"exp_avg_scale4 has shape \(18,\).*\(19,\)"),
        (
            lambda e: e.update(exp_avg=e["exp_avg"].repeat_interleave(2)[::2]),
            r"exp_avg has strides \(2,\), .*contiguous",
        ),
    ],
)
def test_wrong_arrays_are_refused(spoil, words):
    optimizer, [p] = run(STEPS[:1])
    spoil(entry_of(optimizer))
    p.grad = torch.ones_like(p)
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match=words):
        optimizer.step()
    assert_same_bits(p.detach(), before)


def test_engines():
    shapes = [SHAPE, (64, 128), (64, 64), (8,), (300, 300)]  # some are computed together
    steps = [[normal(*shape, seed=t) for shape in shapes] for t in range(3)]
    one, two = (
        trained(gradstep.AdamW, [normal(*shape) for shape in shapes], steps, state="4bit", engine=engine)[0]
        for engine in ("eager", "foreach")
    )
    assert_same(one, two)
    with pytest.raises(ValueError, match="rounded at random"):
        run(engine="compiled")


def test_classes_and_names():
    p = normal(80, 80).requires_grad_()
    for optimizer in (
        gradstep.AdamW4bit([p]),
        gradstep.create("adamw_torch_4bit", [p]),
        gradstep.create("lion_4bit", [p]),
    ):
        assert "4bit" in optimizer.state_summary().rows[0].state
