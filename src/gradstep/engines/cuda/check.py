"""Check a kernel on its card: a few thousand elements, whose new values must be those of the reference bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.engines.cuda.card import Card, launch_pieces
from gradstep.engines.cuda.driver import CudaDriver
from gradstep.engines.fused import divide_pieces
from gradstep.engines.reference import NumPyArrays
from gradstep.storage.codecs import Codec, Field
from gradstep.storage.policy import UpdateSpec

LENGTHS = (1, 255, 256, 1024 + 257, 1, 31, 513, 1024)
"""Elements of the tensors: whole vectors and blocks, parts of them, several pieces."""

FIRST_SHIFTED = 4
"""The first tensor whose arrays begin one element after an aligned address; those before it are aligned."""

PIECE_LENGTH = 1_024
ALIGNMENT = 256
STEPS = 3
GUARD = 0xA5
"""The bytes between the arrays, which a kernel must leave."""


def count_differences(driver: CudaDriver, card: Card, kernel: int, stream: int, spec: UpdateSpec) -> tuple[int, int]:
    """Take steps with a kernel and with the reference, and compare all that is stored.

    Returns:
        How many numbers differ (each changed byte beside the arrays is one more), and how many were compared.

    Raises:
        RuntimeError: the driver or torch reports an error of the card.
    """
    rng = np.random.default_rng(0)
    memory, offsets = _lay_out(spec.fields)
    before = _view_arrays(memory, offsets, spec.fields)
    for n, (_, *places) in zip(LENGTHS, before, strict=True):
        for place in places:
            place[...] = 0
        start = _draw_numbers(rng, n, 1.0).astype(spec.arithmetic)
        for place, code in zip(places, spec.parameter.split(start, np.zeros(n, np.int32)), strict=False):
            place[...] = code
    whole = np.column_stack((np.arange(len(LENGTHS)), np.zeros(len(LENGTHS), np.int64), LENGTHS))
    pieces = divide_pieces(whole, size=PIECE_LENGTH).pieces
    differences = compared = 0
    for step in range(STEPS):
        rows = rng.uniform(0.05, 0.95, (2, len(spec.coefficients))).astype(spec.arithmetic)
        keys = rng.integers(-(2**62), 2**62, len(LENGTHS))
        for place, *_ in before:
            place[...] = spec.gradient.element.encode(_draw_gradient(rng, len(place), step).astype(spec.arithmetic))
        on_card = card.upload(memory)
        described = (np.array(LENGTHS), np.arange(len(LENGTHS)) % 2, keys)
        table = np.column_stack((on_card.data_ptr() + offsets, *described)).astype(np.int64)
        launch_pieces(driver, card, kernel, stream, tuple(map(card.upload, (table, pieces, rows))), len(pieces))
        for k, columns in enumerate(before):
            named = SimpleNamespace(**dict(zip(spec.coefficients, rows[k % 2], strict=True)))
            with np.errstate(all="ignore"):
                NumPyArrays().update(spec, named, int(keys[k]), columns, watched=False)
        found = on_card.cpu().numpy().copy()
        for arrays, columns in zip(_view_arrays(found, offsets, spec.fields), before, strict=True):
            for codec, ours, theirs in zip(spec.codecs, *map(spec.split_by_codec, (arrays, columns)), strict=True):
                differences += count_unequal(codec, ours, theirs)
            for a, b in zip(arrays, columns, strict=True):
                compared += a.size
                a[...] = b
        differences += int((found != memory).sum())
    return differences, compared


def _lay_out(fields: Sequence[Field]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return memory for all arrays, and (tensors, fields) the first byte of each."""
    offsets, end = [], ALIGNMENT
    for tensor, n in enumerate(LENGTHS):
        for field in fields:
            begin = end + -end % ALIGNMENT + (tensor >= FIRST_SHIFTED) * field.element.itemsize
            offsets.append(begin)
            end = begin + field.length(n) * field.element.itemsize
    return np.full(end + ALIGNMENT, GUARD, np.uint8), np.reshape(offsets, (len(LENGTHS), -1)).astype(np.int64)


def _view_arrays(
    memory: NDArray[np.uint8], offsets: NDArray[np.int64], fields: Sequence[Field]
) -> list[list[NDArray[Any]]]:
    """Return the array of every field of each tensor, in the memory."""
    return [
        [
            memory[begin : begin + field.length(n) * field.element.itemsize].view(field.element.stored)
            for begin, field in zip(row, fields, strict=True)
        ]
        for n, row in zip(LENGTHS, offsets.tolist(), strict=True)
    ]


def _draw_numbers(rng: np.random.Generator, length: int, size: float) -> NDArray[np.float64]:
    """Return (length,) numbers of many sizes up to about ``size``, and zeros."""
    numbers = rng.standard_normal(length) * size * 10.0 ** rng.integers(-6, 1, length)
    return numbers * (rng.random(length) > 0.02)


def _draw_gradient(rng: np.random.Generator, length: int, step: int) -> NDArray[np.float64]:
    """Return (length,) gradients; in the last step some are subnormal, infinite or NaN."""
    numbers = _draw_numbers(rng, length, 10.0 ** (step - 1))
    if step == STEPS - 1 and length > 1:
        numbers[: length // 3 : 7] = 1e-41
        numbers[-1], numbers[length // 2] = np.nan, np.inf
    return numbers


def count_unequal(codec: Codec, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> int:
    """Return how many stored numbers differ in a bit.

    A NaN has many bit patterns, and a card makes another one than a CPU. So numbers that both are NaN, or belong to an
    element whose value both times is NaN, count as equal.

    Args:
        codec: how they are stored.
        ours, theirs: the array of every field.
    """
    decoded = [
        [a if f.element.packs > 1 else f.element.decode(a) for f, a in zip(codec.fields, arrays, strict=True)]
        for arrays in (ours, theirs)
    ]
    both_nan: Any = np.False_
    if codec.block == 1:
        with np.errstate(all="ignore"):
            x, y = (codec.join(*numbers) for numbers in decoded)
        both_nan = (x != x) & (y != y)
    count = 0
    for a, b, x, y in zip(ours, theirs, *decoded, strict=True):
        bits = f"u{a.itemsize}"
        count += int(((a.view(bits) != b.view(bits)) & ~((x != x) & (y != y)) & ~both_nan).sum())
    return count
