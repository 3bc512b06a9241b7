"""The kernel for NVIDIA cards, proved on the CPU: its body against the reference, its PTX interpreted and assembled."""

import os
import re
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

from gradstep.engines import list_kernel
from gradstep.engines.cuda import THREADS
from gradstep.engines.cuda.kernel import build_kernel
from gradstep.rules import SGD, Adafactor, AdamW, Rule, Slot, State
from gradstep.rules.ops import Array, where
from gradstep.storage.codecs import Nearest
from gradstep.storage.elements import ELEMENTS
from gradstep.storage.policy import UpdateSpec
from tests import ptx
from tests.devices import STORAGES, differences, interpret, play_on_host, ptx_of, spec_of
from tests.engines.test_new_codec import Octets
from tests.ptx import Memory, launch
from tests.registry import subjects

SUBJECTS = [param.values[0] for param in subjects(elementwise=True)]

FEW = [
    ("float32", "float32", "nearest"),
    ("float64", "float32", "nearest"),
    ("float32", "8bit", "nearest"),
    ("bfloat16", "8bit", "24bit"),
    ("float16", "bfloat16", "stochastic"),
    ("bfloat16", "float32", "kahan"),
    ("float16", "8bit", "master"),
    ("float32", "4bit", "nearest"),
]
LENGTHS = [1, 255, 256, 1024 + 257, 517]
"""Several pieces of a tensor, whole blocks, and parts of one."""

FEWER = [256, 263]
"""The same for the interpreter, which is slow."""

needs_ptxas = pytest.mark.skipif(shutil.which("ptxas") is None, reason="ptxas is not installed")


def agree(rule, storage, run, lengths=LENGTHS, shift=0, steps=3):
    found, moved = differences(rule, spec_of(rule, *storage), run, lengths, shift=shift, steps=steps)
    assert found == 0
    assert moved > 0.3  # half precision rounds many updates away


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("storage", FEW, ids="-".join)
def test_the_body_is_the_reference_bit_for_bit(storage, shift):
    agree(AdamW(lr=1e-2, weight_decay=0.1), storage, play_on_host, shift=shift)


@pytest.mark.parametrize(
    ("storage", "shift"), [(FEW[0], 1), (FEW[2], 0), (FEW[3], 0), (FEW[4], 0), (FEW[7], 1)], ids=str
)
def test_the_ptx_is_the_reference_bit_for_bit(storage, shift):
    agree(AdamW(lr=1e-2, weight_decay=0.1), storage, interpret, FEWER, shift, steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SUBJECTS)), ids=[subject.name for subject in SUBJECTS])
def test_every_rule_and_every_storage(number):
    """Each rule, with the last of its option sets, which has the most terms.

    A rule takes every third storage, beginning with another one than the rule before it; all of them take 25 minutes,
    with GRADSTEP_EVERY_STORAGE=1.
    """
    subject, every = SUBJECTS[number], 1 if os.environ.get("GRADSTEP_EVERY_STORAGE") else 3
    for storage in STORAGES[number % every :: every]:
        options = subject.options[-1]
        if storage[0] == "float16" and "eps" in options:
            options = options | {"eps": 1e-3}
        rule = subject.rule(**options)
        spec = spec_of(rule, *storage)
        for run, lengths in ((play_on_host, LENGTHS), (interpret, FEWER)):
            for shift in (0, 1):
                found, _ = differences(rule, spec, run, lengths, shift=shift, steps=2)
                assert found == 0, (storage, shift)
        if shutil.which("ptxas") is not None:
            assemble(ptx_of(spec))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("run", [play_on_host, interpret])
def test_every_length_of_a_part_of_a_block(run, shift):
    agree(AdamW(lr=1e-2), ("float32", "8bit", "nearest"), run, range(1, 256), shift, steps=2)


@pytest.mark.parametrize("run", [play_on_host, interpret])
def test_a_new_codec_and_a_new_rule(run):
    """Nothing here knows them: blocks of 128 with scales in float32, and a rule of one's own."""

    class Halfway(Rule):
        def __init__(self, lr: float = 0.1) -> None:
            self.lr = lr

        def slots(self, ndim: int) -> tuple[Slot, ...]:
            del ndim
            return (Slot("mean"),)

        def coefficients(self, step: int, **scalars: float) -> dict[str, float]:
            del scalars
            return {"lr": self.lr / step}

        @staticmethod
        def update(p: Array, g: Array, s: State, c: Any) -> Array:
            s.mean = 0.5 * (s.mean + abs(g))
            return where(s.mean > 1e-3, p - c.lr * s.mean, p)

    rule, float32 = Halfway(), Nearest(ELEMENTS["float32"])
    spec = UpdateSpec.of(rule, rule.slots(2), float32, float32, [Octets(signed=True)])
    for shift in (0, 1):
        found, moved = differences(rule, spec, run, FEWER, shift=shift, steps=2, finite=True)
        assert found == 0
        assert moved > 0.1


def test_rules_that_see_more_than_elements_are_refused():
    with pytest.raises(TypeError, match="Adafactor looks at whole tensors"):
        build_kernel(spec_of(Adafactor(), "float32", "float32", "nearest"))


# -- the text ---------------------------------------------------------------------------------------------------------


def assemble(text: str) -> None:
    """Assemble for two cards; the kernel keeps everything in registers."""
    for card in ("sm_80", "sm_90"):
        command = ["ptxas", "-v", f"-arch={card}", "-o", os.devnull, "/dev/stdin"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in done.stderr


@needs_ptxas
@pytest.mark.parametrize("storage", [FEW[0], FEW[2], FEW[3]], ids="-".join)
def test_it_assembles_without_spills(storage):
    for rule in (AdamW(), SGD(momentum=0.9, nesterov=True)):
        assemble(ptx_of(spec_of(rule, *storage)))


def test_the_text_is_for_old_cards_and_drivers_and_reads_vectors():
    text = ptx_of(spec_of(AdamW(), *FEW[0]))
    assert re.search(r"^\.version 7\.0$", text, re.MULTILINE)
    assert re.search(r"^\.target sm_80$", text, re.MULTILINE)
    assert text.count("ld.global.v4.b32") == 4  # gradient, parameter and two slots
    assert text.count("st.global.v4.b32") == 3
    assert ".local" not in text
    assert re.search(rf"^\.maxntid {THREADS}(, 1, 1)?$", text, re.MULTILINE)
    assert re.search(r"^\.minnctapersm 1$", text, re.MULTILINE)


# -- the interpreter --------------------------------------------------------------------------------------------------


def interpret_lines(*lines: str, threads: int = 32) -> Memory:
    """Run instructions with the address of four float32 in ``%rd1``, and the thread's number in ``%r1``."""
    memory = Memory(1024)
    place = memory.array(4, np.float32, access=ptx.WRITE)
    head = ("ld.param.b64 %rd1, [task_param_0];", "mov.u32 %r1, %tid.x;")
    launch("\n".join(("{", *head, *lines, "ret;", "}")), memory, [place.ctypes.data], 1, threads)
    return memory


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("fma.rn.f32 %r2, %r1, %r1, %r1;", ArithmeticError, "not the same everywhere"),
        ("mul.rn.ftz.f32 %r2, %r1, %r1;", ArithmeticError, "not the same everywhere"),
        ("div.approx.f32 %r2, %r1, %r1;", ArithmeticError, "not the same everywhere"),
        ("add.f32 %r2, %r1, %r1;", ArithmeticError, "may be contracted"),
        ("ld.global.v2.b32 {%r2, %r3}, [%rd1+4];", MemoryError, "not aligned to 8 bytes"),
        ("ld.global.b32 %r2, [%rd1+16];", MemoryError, "outside of the arrays"),
        ("ld.global.b32 %r2, [%rd1+-4];", MemoryError, "outside of the arrays"),
        ("st.global.b32 [%rd1], %r1;", RuntimeError, "written before"),
        ("popc.b32 %r2, %r1;", NotImplementedError, "popc"),
        (
            "setp.eq.b32 %p1, %r1, 0;\n@%p1 redux.sync.max.s32 %r2, %r1, -1;",
            RuntimeError,
            "only a part of a warp is here",
        ),
    ],
)
def test_the_interpreter_refuses(line, error, says):
    with pytest.raises(error, match=says):
        interpret_lines(line)


def test_the_interpreter_sees_a_thread_that_reads_what_another_has_written():
    first = ("setp.eq.b32 %p1, %r1, 0;", "@%p1 st.global.b32 [%rd1], 7;")
    assert interpret_lines(*first).bytes[0] == 7
    with pytest.raises(RuntimeError, match="another thread has written it"):
        interpret_lines(*first, "ld.global.b32 %r2, [%rd1];")


def test_the_interpreter_waits_for_the_warp():
    """Thread 31 goes the longer way, and its number is the maximum of all."""
    memory = interpret_lines(
        "setp.ne.b32 %p1, %r1, 31;",
        "@%p1 bra $L1;",
        "add.s32 %r1, %r1, 100;",
        "$L1:",
        "redux.sync.max.s32 %r2, %r1, -1;",
        "setp.eq.b32 %p2, %r1, 0;",
        "@%p2 st.global.b32 [%rd1], %r2;",
    )
    assert memory.bytes[0] == 131


@pytest.mark.parametrize("rounding", ["kahan", "master", "24bit", "stochastic"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_rounding_of_half_precision_is_refused_for_more(rounding, dtype):
    with pytest.raises(ValueError, match=f"is for parameters of half precision, not for {dtype}"):
        list_kernel(AdamW(), rounding=rounding, dtype=dtype)
