"""A codec is one class: a new one runs on every engine, and is checked, saved, converted, paged and planned for."""

import copy
from dataclasses import dataclass
from typing import Any, final, get_args

import numpy as np
import pytest
import torch

import gradstep
from gradstep.engines.fused.job import CHUNK
from gradstep.engines.fused.kernel import build_update
from gradstep.planner.items import slot_bytes
from gradstep.planner.parameters import ParameterSpec
from gradstep.rules import AdamW, Slot
from gradstep.rules.ops import Array, where
from gradstep.storage.codecs import Blocks, Codec, Field, Nearest
from gradstep.storage.elements import BITS, BYTE, ELEMENTS, at_least, from_bits, to_bits
from gradstep.storage.policy import ROUNDINGS, STATES, RoundingName, StateName, UpdateSpec
from tests.training import assert_same, assert_same_bits, normal, trained, unchanged, walk

NAME: Any = "8bit_128"  # not in the types of arguments, as a codec of the library is


@final
@dataclass(frozen=True)
class Octets(Codec):
    """Finite numbers in eight bits: blocks of 128 with a power of two in float32, and other mantissas than ``Blocks``.

    Signed values have 1 + 5 + 2 bits, and are zero under the smallest code; others have 4 + 4, and are never zero.
    """

    noisy = True
    signed: bool

    @property
    def name(self) -> str:
        return str(NAME)

    @property
    def fields(self) -> tuple[Field, ...]:
        return Field(BYTE), Field(ELEMENTS["float32"], "power", 128)

    @property
    def _dropped(self) -> int:
        return 21 if self.signed else 19

    def _base(self, scale: Array) -> Array:
        return to_bits(scale) - ((31 if self.signed else 15) << 23)

    def scale(self, peak: Array) -> Array:
        rounded = (peak + ((1 << self._dropped) - 1)) >> 23
        return from_bits(at_least(rounded, 40) << 23)

    def join(self, *numbers: Array) -> Array:
        code, scale = numbers
        size = code & 0x7F if self.signed else code
        bits = where(size != 0, (size << self._dropped) + self._base(scale), 0)
        return from_bits(bits | (code & 0x80) << 24) if self.signed else from_bits(bits)

    def split(self, x: Array, noise: Array, scale: Array = None) -> tuple[Array, ...]:
        size, base = to_bits(x) & 0x7FFFFFFF, self._base(scale)
        smallest = base + (1 << self._dropped)
        noise = noise << self._dropped - BITS if self._dropped > BITS else noise >> BITS - self._dropped
        code = (at_least(size, smallest) - base + noise) >> self._dropped
        if not self.signed:
            return (BYTE.encode(where(size != 0, code, 0)),)
        return (BYTE.encode(where(size >= smallest, code | (to_bits(x) >> 24) & 0x80, 0)),)


@pytest.fixture
def octets(monkeypatch):
    """The codec's entry in the table of names: all that a codec needs beside its class."""
    monkeypatch.setitem(STATES, NAME, Octets)


def run(kind, engine="auto", shape=(67, 70), steps=4, **options):
    """Steps with gradients of several sizes; the end of the parameter is no whole block or vector."""
    grads = [[normal(*shape, seed=t) * 10.0 ** (-2 * t)] for t in range(1, steps + 1)]
    options = {"state": NAME, "seed": 5, "engine": engine, **options}
    return trained(kind, [normal(*shape)], grads, **options)[0]


def entry_of(optimizer):
    [entry] = optimizer.state.values()
    return entry


# -- engines ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("octets")
@pytest.mark.parametrize("kind", [gradstep.AdamW, gradstep.Lion, gradstep.RMSprop])
def test_the_kernel_is_the_reference_bit_for_bit(kind):
    assert_same(run(kind, "fused"), run(kind, "reference"))


@pytest.mark.usefixtures("octets")
def test_eager_is_the_reference_bit_for_bit():
    """Lion has no square root, in which torch differs."""
    assert_same(run(gradstep.Lion, "eager"), run(gradstep.Lion, "reference"))


@pytest.mark.usefixtures("octets")
@pytest.mark.parametrize("elements", [4096, 4097, 4096 + 127, CHUNK - 2, CHUNK + 130])
def test_every_length_around_block_and_chunk(elements):
    assert_same(*(run(gradstep.AdamW, engine, (1, elements), steps=2) for engine in ("fused", "reference")))


@pytest.mark.usefixtures("octets")
def test_values_are_near_those_of_float32():
    """Two places of mantissa: each rounding is at most a quarter off, on average by nothing."""
    stored, exact = run(gradstep.SGD, momentum=0.9, steps=1), run(gradstep.SGD, momentum=0.9, steps=1, state="float32")
    codes, powers = (entry_of(stored)[key] for key in ("momentum_buffer", "momentum_buffer_power"))
    wide = np.repeat(powers.numpy(), 128)[: codes.numel()].reshape(codes.shape)
    values = Octets(signed=True).join(codes.numpy().astype(np.int32), wide)
    expected = entry_of(exact)["momentum_buffer"].numpy()
    assert (abs(values - expected) <= abs(expected) / 4).all()
    assert (values / expected).mean() == pytest.approx(1, abs=0.01)


def test_the_kernel_refuses_blocks_of_several_sizes():
    rule, float32 = AdamW(), Nearest(ELEMENTS["float32"])
    spec = UpdateSpec.of(rule, rule.slots(2), float32, float32, [Blocks(signed=True), Octets(signed=False)])
    with pytest.raises(ValueError, match=r"blocks of one size, not \[128, 256\]: use engine='eager'"):
        build_update(spec)


def test_packed_codes_need_an_element_that_unpacks_them():

    @dataclass(frozen=True)
    class Packed(Octets):  # type: ignore[misc]  # a test's
        @property
        def fields(self) -> tuple[Field, ...]:
            return Field(BYTE, per=2), Field(BYTE, "power", 128)

    rule, float32 = AdamW(), Nearest(ELEMENTS["float32"])
    assert Packed(signed=True).nbytes(256) == 130
    with pytest.raises(TypeError, match=f"{NAME} has the codes of 2 elements .*, which has 1"):
        UpdateSpec.of(rule, rule.slots(2), float32, float32, [Packed(slot.signed) for slot in rule.slots(2)])


# -- state, checkpoints, pages, the planner ---------------------------------------------------------------------------


@pytest.mark.usefixtures("octets")
def test_state_is_what_the_codec_says():
    optimizer, blocks = run(gradstep.AdamW), -(-67 * 70 // 128)
    assert {key: (value.dtype, tuple(value.shape)) for key, value in entry_of(optimizer).items()} == {
        "exp_avg": (torch.uint8, (67, 70)),
        "exp_avg_power": (torch.float32, (blocks,)),
        "exp_avg_sq": (torch.uint8, (67, 70)),
        "exp_avg_sq_power": (torch.float32, (blocks,)),
        "step": (torch.float32, ()),
    }
    [row] = optimizer.state_summary().rows
    assert row.state == f"exp_avg: {NAME}, exp_avg_sq: {NAME}"
    assert row.nbytes == 2 * (67 * 70 + 4 * blocks) + 4
    assert slot_bytes(ParameterSpec("w", (67, 70)), Slot("exp_avg"), NAME) == (67 * 70, 4 * blocks)


@pytest.mark.usefixtures("octets")
def test_a_checkpoint_goes_on_with_the_same_bits(tmp_path):
    more = [[normal(67, 70, seed=9)]]
    one = run(gradstep.AdamW)
    torch.save(one.state_dict(), tmp_path / "saved.pt")
    saved = torch.load(tmp_path / "saved.pt")
    assert saved["state"][0]["exp_avg"].keys() == {"codes", "power"}
    params = [p.detach().clone().requires_grad_() for p in one.param_groups[0]["params"]]
    two = gradstep.AdamW(params, state=NAME)
    two.load_state_dict(saved)
    walk(one, one.param_groups[0]["params"], more)
    walk(two, params, more)
    assert_same(one, two)


@pytest.mark.usefixtures("octets")
def test_a_checkpoint_in_another_storage():
    """What would be rounded is refused, with both names; what is wider is taken as it is."""
    saved = run(gradstep.AdamW).state_dict()
    other = gradstep.AdamW([normal(67, 70).requires_grad_()], state="8bit")
    with unchanged(other), pytest.raises(RuntimeError, match=f"exp_avg is stored as {NAME}, and here as 8bit"):
        other.load_state_dict(copy.deepcopy(saved))
    wide = gradstep.AdamW([normal(67, 70).requires_grad_()])
    wide.load_state_dict(saved)
    assert entry_of(wide).keys() == {"step", "exp_avg", "exp_avg_sq"}
    back = gradstep.convert_state(wide.state_dict(), gradstep.AdamW([normal(67, 70).requires_grad_()], state=NAME))
    assert back.lossless
    assert [change.after for change in back.changes] == [NAME, NAME]


@pytest.mark.usefixtures("octets")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda e: e.update(exp_avg_power=e["exp_avg_power"][:-1]), r"exp_avg_power has shape \(36,\), .* \(37,\)"),
        (lambda e: e.update(exp_avg_power=e["exp_avg_power"].byte()), "but must be torch.float32, one number for 128"),
        (lambda e: e.update(exp_avg=e["exp_avg"][:-1]), r"exp_avg has shape \(66, 70\), but must have \(67, 70\)"),
    ],
)
def test_wrong_arrays_are_refused(spoil, words):
    optimizer = run(gradstep.AdamW)
    spoil(entry_of(optimizer))
    [p] = optimizer.param_groups[0]["params"]
    p.grad = torch.ones_like(p)
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match=words):
        optimizer.step()
    assert_same_bits(p.detach(), before)


@pytest.mark.usefixtures("octets")
def test_paged_steps_are_the_same_bits(tmp_path):
    shape = (8, CHUNK)
    paged = run(gradstep.AdamW, shape=shape, paged=tmp_path, page_budget="256KB")
    assert_same(paged, run(gradstep.AdamW, shape=shape))


@pytest.mark.usefixtures("octets")
def test_users_read_its_name():
    unknown: Any = f"x{NAME}"
    with pytest.raises(ValueError, match=f"Invalid state: '{unknown}' .*'4bit', '{NAME}'"):
        gradstep.AdamW([normal(3, 3).requires_grad_()], state=unknown)


# -- every codec that there is ----------------------------------------------------------------------------------------

EVERY = [pytest.param(make(signed), id=f"{name}-{signed}") for name, make in STATES.items() for signed in (True, False)]
EVERY += [pytest.param(Octets(signed), id=f"{NAME}-{signed}") for signed in (True, False)]


def test_names_in_types_are_those_of_the_tables():
    assert set(STATES) <= set(get_args(StateName))
    assert set(ROUNDINGS) == set(get_args(RoundingName))


@pytest.mark.parametrize("codec", EVERY)
def test_bytes_of_0_are_0(codec):
    """State begins with them."""
    numbers = [field.element.decode(np.zeros(field.length(6), field.element.stored)) for field in codec.fields]
    assert codec.join(*numbers).tolist() == [0.0] * 6


@pytest.mark.parametrize("codec", EVERY)
def test_blocks_fit_into_vectors_and_chunks(codec):
    assert codec.block in (1, *(2**k for k in range(4, 15)))
    assert codec.block == 1 or codec.fields[0].element.itemsize == 1  # a checkpoint's codes are recognised by it
    assert all(field.per == field.element.packs for field in codec.fields[:-1])


@pytest.mark.usefixtures("octets")
def test_scales_have_keys_of_their_own():
    """So a checkpoint shows which codec it was written with."""
    suffixes = [codec.fields[-1].suffix for codec in (make(True) for make in STATES.values()) if codec.block > 1]
    assert len(suffixes) >= 2
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize("signed", [True, False])
def test_the_type_that_has_every_8_bit_value(signed):
    codes, codec = np.arange(256, dtype=np.int32), Blocks(signed)
    for scale in range(34, 255):
        values = torch.from_numpy(codec.join(codes, np.int32(scale)))
        assert torch.equal(values.to(getattr(torch, codec.values)).float(), values)
