"""Measure what `gradstep.numpy` claims, and write it to benchmarks/results/numpy.md.

python benchmarks/numpy_front.py            all parts, about two minutes
python benchmarks/numpy_front.py steps      one part (steps, small, digits or import), printed and not written

Every part runs in its own processes, which never import torch, like the process of a user without torch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # see start.py
RESULTS = Path(__file__).parent / "results"
REPEAT = {1_000_000: 41, 25_000_000: 11}
"""Number of parameters, and steps of each optimizer."""
SMALL = {1: 501, 10: 301, 100: 201, 1_000: 61}
"""Number of tensors of 64 parameters, and steps of each optimizer."""
SEEDS, EPOCHS = 3, 20

Array = NDArray[np.float32]


# -- steps ------------------------------------------------------------------------------------------------------


@final
class Plain:
    """AdamW in plain NumPy, as the teaching framework writes it: a new array for every operation."""

    def __init__(self, p: Array, g: Array) -> None:
        self.p, self.g = p, g
        self.m, self.v, self.t = np.zeros_like(p), np.zeros_like(p), 0

    def step(self) -> None:
        self.t += 1
        self.m = 0.9 * self.m + (1 - 0.9) * self.g
        self.v = 0.999 * self.v + (1 - 0.999) * self.g**2
        m_hat = self.m / (1 - 0.9**self.t)
        v_hat = self.v / (1 - 0.999**self.t)
        self.p = self.p * (1 - 1e-3 * 0.01)
        self.p = self.p - 1e-3 * m_hat / (np.sqrt(v_hat) + 1e-8)


@final
class Careful:
    """AdamW in careful NumPy: in place, scalars combined, and two temporary arrays that are made once."""

    def __init__(self, p: Array, g: Array) -> None:
        self.p, self.g = p, g
        self.m, self.v, self.t = np.zeros_like(p), np.zeros_like(p), 0
        self.a, self.b = np.empty_like(p), np.empty_like(p)

    def step(self) -> None:
        self.t += 1
        self.m *= 0.9
        self.m += np.multiply(self.g, 1 - 0.9, out=self.a)
        self.v *= 0.999
        np.multiply(self.g, self.g, out=self.a)
        self.a *= 1 - 0.999
        self.v += self.a
        np.sqrt(self.v, out=self.a)
        self.a *= (1 - 0.999**self.t) ** -0.5
        self.a += 1e-8
        np.multiply(self.m, 1e-3 / (1 - 0.9**self.t), out=self.b)
        self.b /= self.a
        self.p *= 1 - 1e-3 * 0.01
        self.p -= self.b


def measure_steps() -> dict[str, Any]:
    """Return the median seconds of a step of one tensor, by its number of parameters."""
    return {str(n): compare(1, n, repeat) for n, repeat in REPEAT.items()}


def measure_small() -> dict[str, Any]:
    """Return the median seconds of a step of tensors of 64 parameters, by their number."""
    return {str(tensors): compare(tensors, 64, repeat) for tensors, repeat in SMALL.items()}


def compare(tensors: int, size: int, repeat: int) -> dict[str, float]:
    """Return the median seconds of a step, by optimizer; the optimizers take turns."""
    import gradstep.numpy as gn

    rng = np.random.default_rng(0)
    starts, gradients = ([rng.standard_normal(size, dtype=np.float32) for _ in range(tensors)] for _ in range(2))
    parameters = [gn.Parameter(p.copy(), grad=g) for p, g in zip(starts, gradients, strict=True)]
    plain = [Plain(p.copy(), g) for p, g in zip(starts, gradients, strict=True)]
    careful = [Careful(p.copy(), g) for p, g in zip(starts, gradients, strict=True)]
    steps: dict[str, Callable[[], None]] = {
        "gradstep": gn.AdamW(parameters, lr=1e-3, weight_decay=0.01).step,
        "plain NumPy": lambda: step_all(plain),
        "careful NumPy": lambda: step_all(careful),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeat + 1):
        for name in random.Random(turn).sample(list(steps), len(steps)):
            begin = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - begin)
    # All must compute the same. The first turn makes the state and compiles.
    for parameter, other in zip(parameters, plain, strict=True):
        np.testing.assert_allclose(parameter.data, other.p, rtol=1e-4, atol=1e-5)
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def step_all(optimizers: Sequence[Plain | Careful]) -> None:
    """Take a step with each optimizer."""
    for optimizer in optimizers:
        optimizer.step()


# -- digits -----------------------------------------------------------------------------------------------------


def measure_digits() -> dict[str, Any]:
    """Return the accuracy on held-out digits and the seconds of training (without imports), by seed."""
    from sklearn.datasets import load_digits

    import gradstep.numpy as gn

    pixels, labels = load_digits(return_X_y=True)
    runs = []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(labels))
        test, train = order[:397], order[397:]
        begin = time.perf_counter()
        model = gn.Sequential(gn.Linear(64, 128, rng=rng), gn.ReLU(), gn.Linear(128, 10, rng=rng))
        loss_fn, optimizer = gn.CrossEntropyLoss(), gn.AdamW(model.parameters())
        schedule = gn.CosineSchedule(max_lr=0.01, min_lr=0.0, total_epochs=EPOCHS)
        for epoch in range(EPOCHS):
            optimizer.lr = schedule.get_lr(epoch)
            for batch in np.array_split(rng.permutation(train), len(train) // 64):
                optimizer.zero_grad()
                loss_fn(model(pixels[batch] / 16), labels[batch]).backward()
                gn.clip_grad_norm(model.parameters(), max_norm=1.0)
                optimizer.step()
        seconds = time.perf_counter() - begin
        with gn.no_grad():
            right = model(pixels[test] / 16).data.argmax(axis=1) == labels[test]
        runs.append({"accuracy": float(right.mean()), "seconds": seconds})
    return {"runs": runs}


# -- import -----------------------------------------------------------------------------------------------------


def measure_import() -> dict[str, Any]:
    """Return the median seconds of ``import gradstep.numpy`` in a fresh process, NumPy included, and of NumPy alone."""
    seconds: dict[str, list[float]] = {"gradstep.numpy": [], "numpy": []}
    for _ in range(6):
        for name, times in seconds.items():
            code = f"import time; begin = time.perf_counter(); import {name}; print(time.perf_counter() - begin)"
            child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            times.append(float(child.stdout))
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first fills the disk's cache


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "steps": measure_steps,
    "small": measure_small,
    "digits": measure_digits,
    "import": measure_import,
}

# -- all of it --------------------------------------------------------------------------------------------------


def measure_part(part: str) -> dict[str, Any]:
    """Measure one part in a separate process."""
    child = subprocess.run([sys.executable, __file__, part], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(child.stdout))


def table(results: dict[str, Any]) -> list[str]:
    """Return the lines of the tables: the goals, then the steps."""
    runs, imports = results["digits"]["runs"], results["import"]
    worst, slowest = min(run["accuracy"] for run in runs), max(run["seconds"] for run in runs)
    rows = [
        (f"step against plain NumPy, {int(n):,} float32 parameters", "≥ 10×", f"{ratio:.1f}×", ratio >= 10)
        for n, times in results["steps"].items()
        for ratio in [times["plain NumPy"] / times["gradstep"]]
    ]
    rows += [
        (f"digits, the worst of {len(runs)} seeds", "> 95 %", f"{100 * worst:.1f} %", worst > 0.95),
        (f"digits, the slowest of {len(runs)} seeds", "< 20 s", f"{slowest:.2f} s", slowest < 20),
        ("import, NumPy included", "< 0.6 s", f"{imports['gradstep.numpy']:.3f} s", imports["gradstep.numpy"] < 0.6),
    ]
    lines = ["| what | goal | measured | met |", "|---|---:|---:|---|"]
    lines += [f"| {what} | {goal} | {value} | {'yes' if met else '**no**'} |" for what, goal, value, met in rows]
    lines += ["", "## Steps", ""]
    lines += ["| AdamW, float32 parameters | gradstep | plain NumPy | careful NumPy | × plain | × careful |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [row(f"{int(n):,}", times, 1e3, "ms") for n, times in results["steps"].items()]
    lines += ["", "| AdamW, tensors of 64 | gradstep | plain NumPy | careful NumPy | × plain | × careful |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [row(f"{int(n):,}", times, 1e6, "µs") for n, times in results["small"].items()]
    return lines


def row(what: str, times: dict[str, float], scale: float, unit: str) -> str:
    """Return one line of a table of steps."""
    ours, plain, careful = (scale * times[name] for name in ("gradstep", "plain NumPy", "careful NumPy"))
    shown = " | ".join(f"{t:,.2f} {unit}" if t < 10 else f"{t:,.0f} {unit}" for t in (ours, plain, careful))
    return f"| {what} | {shown} | {plain / ours:.1f}× | {careful / ours:.1f}× |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what gradstep.numpy claims.")
    parser.add_argument("part", nargs="?", choices=PARTS, help="measure this one here and print it; all by default")
    part = parser.parse_args().part
    if part is not None:
        print(json.dumps(PARTS[part](), indent=1))
        return
    # These import torch; the measuring processes must not.
    from gradstep.lab.machine import OtherPrograms, describe_machine

    others = OtherPrograms()
    results = {part: measure_part(part) for part in PARTS}
    content: dict[str, Any] = {
        "machine": describe_machine(),
        "date": date.today().isoformat(),
        "others": others.share(),
        **results,
    }
    (RESULTS / "numpy.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = [
        "# The NumPy front, measured",
        "",
        "Made by `python benchmarks/numpy_front.py`; not written by hand. The numbers are in `numpy.json`.",
        "",
        *table(results),
        "",
        "Medians of steps taken in turns in one process without torch. *Plain* NumPy is AdamW as one writes it, and as",
        "the teaching framework does, an array for every operation; *careful* NumPy works in place and makes none.",
        f"Digits: scikit-learn's, 1,400 to learn from and 397 held out, a layer of 128, {EPOCHS} epochs in batches",
        "of 64; imports are left out of the time.",
        "",
        f"{content['date']}; processors taken by others: {100 * (content['others'] or 0):.1f} %; "
        + ", ".join(f"{name} {value}" for name, value in content["machine"].items()),
    ]
    text = "\n".join(lines) + "\n"
    (RESULTS / "numpy.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
