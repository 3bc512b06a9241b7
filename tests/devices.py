"""The kernel for devices against the reference, without a device: compiled for the CPU, or its PTX interpreted."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gradstep.engines.cuda.check import count_unequal
from gradstep.engines.cuda.kernel import build_host_loop
from gradstep.engines.cuda.ptx import emit_ptx
from gradstep.engines.fused.skeleton import compile_module
from gradstep.engines.reference import NumPyArrays
from gradstep.rules import Rule
from gradstep.storage.elements import ELEMENTS
from gradstep.storage.policy import (
    ROUNDINGS,
    STATES,
    ParameterStorage,
    UpdateSpec,
    parameter_codec,
    refuse_rounding,
    slot_codec,
)
from tests.ptx import READ, WRITE, Memory, launch

Storage = tuple[str, str, str]
Runner = Callable[[UpdateSpec, Memory, list[int]], None]

STORAGES: list[Storage] = [
    (dtype, state, rounding)
    for dtype in ELEMENTS
    for state in STATES
    for rounding in ROUNDINGS
    if dtype in ("bfloat16", "float16") or rounding == "nearest"
    if dtype != "float64" or state == "float32"
    if refuse_rounding(rounding, dtype) is None
]
"""Type of the parameter, state and rounding: every combination that there is."""


def spec_of(rule: Rule, dtype: str, state: str, rounding: str) -> UpdateSpec:
    element, slots = ELEMENTS[dtype], tuple(rule.slots(2))
    codecs = tuple(slot_codec(state, element, signed=slot.signed) for slot in slots)
    return ParameterStorage(parameter_codec(rounding, element), slots, codecs, "").spec(rule, element)


@functools.cache
def ptx_of(spec: UpdateSpec) -> str:
    return emit_ptx(spec)


@functools.cache
def host_loop_of(spec: UpdateSpec) -> Any:
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(compile_module(build_host_loop(spec)))


def play_on_host(spec: UpdateSpec, memory: Memory, parameters: list[int]) -> None:
    host_loop_of(spec)(*parameters, 3, 64)


def interpret(spec: UpdateSpec, memory: Memory, parameters: list[int]) -> None:
    launch(ptx_of(spec), memory, parameters, blocks=2, threads=64)


def cut(lengths: Sequence[int], size: int) -> list[tuple[int, int, int]]:
    """Cut tensors into pieces of this size: (tensor, start, stop)."""
    return [(t, start, min(start + size, n)) for t, n in enumerate(lengths) for start in range(0, n, size)]


def numbers(rng: np.random.Generator, length: int, size: float) -> Any:
    """Numbers of many sizes up to about ``size``, and zeros."""
    x = rng.standard_normal(length) * size * 10.0 ** rng.integers(-6, 1, length)
    return (x * (rng.random(length) > 0.02)).astype(np.float32)


def gradients(lengths: Sequence[int], rng: np.random.Generator, steps: int, finite: bool) -> Iterator[list[Any]]:
    """Gradients of every tensor, at each step; at the last some are subnormal, or not finite unless they must be."""
    for step in range(steps):
        grads = [numbers(rng, n, 10.0 ** (step - 1)) for n in lengths]
        if step == steps - 1:
            for g in grads:
                g[: len(g) // 3 : 7] = 1e-41
            if not finite:
                grads[-1][-1] = np.nan
                grads[-2][-2:] = np.inf, -1e30
        yield grads


def differences(
    rule: Rule,
    spec: UpdateSpec,
    run: Runner,
    lengths: Sequence[int],
    *,
    shift: int,
    steps: int = 3,
    finite: bool = False,
) -> tuple[int, float]:
    """Take steps with a kernel and with the reference.

    Args:
        rule: the rule with its settings.
        spec: the update.
        run: runs the kernel.
        lengths: elements of each of two tensors or more; the last two have at least two.
        shift: how many elements after an aligned address each array begins.
        steps: how many steps.
        finite: whether all gradients are finite, for codecs that have only finite numbers.

    Returns:
        How many stored numbers differ (a NaN equals each other NaN), and the share of the parameters that moved.
    """
    rng = np.random.default_rng(len(spec.fields) + shift)
    memory = Memory(1 << 20)
    tensors = []
    for n in lengths:
        accesses = [READ] + [WRITE] * (len(spec.fields) - 1)  # gradients are only read
        tensors.append(
            [
                memory.array(f.length(n), f.element.stored, shift=shift, access=access)
                for f, access in zip(spec.fields, accesses, strict=True)
            ]
        )
        start = numbers(rng, n, 1.0).astype(spec.arithmetic)
        for place, code in zip(tensors[-1][1:], spec.parameter.split(start, np.zeros(n, np.int32)), strict=False):
            place[...] = code
    expected = [[a.copy() for a in arrays] for arrays in tensors]
    before = [arrays[1].copy() for arrays in tensors]
    pieces = memory.array(3 * len(cut(lengths, 1024)), np.int64)
    pieces[:] = np.ravel(cut(lengths, 1024))
    table = memory.array(len(lengths) * (len(spec.fields) + 3), np.int64)
    coefficients = memory.array(2 * len(spec.coefficients), spec.arithmetic)
    scalars = dict(type(rule).scalars)
    for step, grads in enumerate(gradients(lengths, rng, steps, finite), 1):
        row = rule.coefficients(step, **scalars) | {"gradient": 0.5}
        scalars = {name: row[name] for name in scalars}
        coefficients[len(spec.coefficients) :] = [row[name] for name in spec.coefficients]  # row 1: row 0 is zeros
        named = SimpleNamespace(**dict(zip(spec.coefficients, coefficients[len(spec.coefficients) :].copy())))
        rows = []
        for arrays, other, g in zip(tensors, expected, grads, strict=True):
            arrays[0][:] = other[0][:] = spec.gradient.element.encode(g.astype(spec.arithmetic))
            key = int(rng.integers(-(2**62), 2**62))
            rows.append([*(a.ctypes.data for a in arrays), len(g), 1, key])
            with np.errstate(all="ignore"):
                NumPyArrays().update(spec, named, key, other, watched=False)
        table[:] = np.ravel(rows)
        addresses = [a.ctypes.data for a in (table, pieces, coefficients)]
        run(spec, memory, [*addresses, len(pieces) // 3])
    found = 0
    for arrays, other in zip(tensors, expected, strict=True):
        for codec, ours, theirs in zip(spec.codecs, *map(spec.split_by_codec, (arrays, other)), strict=True):
            found += count_unequal(codec, ours, theirs)
    moved = np.concatenate([a[1] != b for a, b in zip(tensors, before, strict=True)])
    return found, float(moved.mean())
