"""Measure a step of modified rules, and of rules that look at means of their tensors: the fused kernel against eager.

The kernel passes once over a tensor for each mean, before the update. The rivals take turns.

    python benchmarks/modifiers.py [--repeat 9] [--save]
"""

from __future__ import annotations

import argparse
import json
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import torch
from turns import take_turns, time_step

import gradstep
from gradstep import modify, rules
from gradstep.lab.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "modifiers.json"
WORKS: dict[str, list[Any]] = {"8 M, 4 tensors": [(2_000_000,)] * 4, "8 M, 122 tensors": [(256, 256)] * 122}
RULES: dict[str, Any] = {
    "AdamW": rules.AdamW,
    "cautious": modify(rules.AdamW, rules.Cautious),
    "cautious decay": modify(rules.AdamW, rules.CautiousDecay),
    "RMS clip": modify(rules.AdamW, rules.RMSClip),
    "trust ratio (LAMB)": rules.LAMB,
    "StableAdamW": rules.StableAdamW,
    "MARS": rules.MARS,
}


def measure(shapes: list[Any], rule: Any, repeat: int) -> dict[str, list[float]]:
    """Return the seconds of every step of both engines."""
    torch.manual_seed(0)
    params = [torch.randn(shape, requires_grad=True) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    kind = gradstep.optimizer(rule)
    steps = {engine: kind(params, lr=1e-4, engine=engine).step for engine in ("fused", "eager")}
    for step in steps.values():
        step()
        step()
    return take_turns({name: time_step(step) for name, step in steps.items()}, repeat)


def main() -> None:
    """Measure every rule on every work, and print or save the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    result: dict[str, Any] = {"date": date.today().isoformat(), "machine": describe_machine(), "milliseconds": {}}
    for work, shapes in WORKS.items():
        for name, rule in RULES.items():
            found = {rival: statistics.median(x) * 1e3 for rival, x in measure(shapes, rule, options.repeat).items()}
            found["ratio"] = found["eager"] / found["fused"]
            result["milliseconds"].setdefault(work, {})[name] = {key: round(value, 2) for key, value in found.items()}
            print(
                f"{work}, {name}: fused {found['fused']:.1f} ms, eager {found['eager']:.1f} ms, {found['ratio']:.1f}x"
            )
    if options.save:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
