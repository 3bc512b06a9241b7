"""The same bits on every machine: states after some steps, against what was written down on one of them.

``same_bits.json`` was written on an x86-64 processor by ``python -m tests.engines.test_same_bits``. It changes only
when the arithmetic of a rule or of a storage does. Inputs are integers times powers of two, so that they are exact
everywhere; coefficients are rounded to float32 from float64, where a machine's ``pow`` may differ in the last bit.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.registry import SUBJECTS, in_turns, subjects
from tests.training import bits, tensors_of, trained

FILE = Path(__file__).with_name("same_bits.json")
STORAGES: dict[str, Any] = {
    "float32": (torch.float32, {}),
    "float32-8bit": (torch.float32, {"state": "8bit"}),
    "bfloat16-8bit-stochastic": (torch.bfloat16, {"state": "8bit", "rounding": "stochastic"}),
    "bfloat16-float32-master": (torch.bfloat16, {"rounding": "master"}),
    "float16-bfloat16-kahan": (torch.float16, {"state": "bfloat16", "rounding": "kahan"}),
}
SHAPE = (67, 70)  # more than the 4,096 elements from which state is kept in 8 bits; its end is no whole block or vector


def exact(seed, exponent, dtype):
    """Integers from −2²² to 2²² times a power of 2, rounded to the type."""
    integers = np.random.Generator(np.random.PCG64(seed)).integers(-(2**22), 2**22, SHAPE)
    return torch.from_numpy(np.ldexp(integers.astype(np.float64), exponent - 22).astype(np.float32)).to(dtype)


def digest(subject, storage, engine):
    """The hash of every bit of the parameter and its state after five steps with gradients of several sizes."""
    dtype, options = STORAGES[storage]
    settings = {**subject.options[-1], **options, "engine": engine, "seed": 5}
    if subject.name == "Adagrad" and dtype == torch.float16:
        settings["eps"] = 1e-3  # the rule's own is 0 in float16
    grads = [[exact(t, exponent, dtype)] for t, exponent in enumerate((0, -6, 2, -12, 0), 1)]
    optimizer, _ = trained(subject.optimizer, [exact(0, 0, dtype)], grads, **settings)
    found = hashlib.sha256()
    for name, tensor in tensors_of(optimizer):
        found.update(name.encode() + bits(tensor).tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("engine", ["fused", "reference"])
@pytest.mark.parametrize(("subject", "storage"), in_turns(subjects(elementwise=True), {s: s for s in STORAGES}, 2))
def test_states_are_the_same_bits_on_every_machine(subject, storage, engine):
    expected = json.loads(FILE.read_text(encoding="utf-8"))
    assert digest(subject, storage, engine) == expected[f"{subject.name} {storage}"]


@pytest.mark.parametrize("subject", subjects(elementwise=True))
def test_the_engines_of_torch_compute_them_too(subject):
    """One storage for each rule; every storage is met by several rules."""
    storage = list(STORAGES)[sum(map(ord, subject.name)) % len(STORAGES)]
    expected = json.loads(FILE.read_text(encoding="utf-8"))[f"{subject.name} {storage}"]
    assert {engine: digest(subject, storage, engine) for engine in ("eager", "foreach")} == {
        "eager": expected,
        "foreach": expected,
    }


if __name__ == "__main__":
    rules = [s for s in SUBJECTS if s.name in {p.values[0].name for p in subjects(elementwise=True)}]
    table = {f"{s.name} {storage}": digest(s, storage, "reference") for s in rules for storage in STORAGES}
    FILE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
