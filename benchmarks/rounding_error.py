"""Print how far AdamW's weights are from those of float64 after 2,000 updates, for each rounding of bfloat16.

Gradients are noise around a mean that differs from weight to weight. The error is that of the stored value, with what
the state keeps beside the parameter, as a share of what the weights moved (root mean squares).

    python benchmarks/rounding_error.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import gradstep

COUNT, STEPS = 50_000, 2_000
STARTS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "normal, 0.02": (1e-5, lambda noise: 0.02 * noise),
    "1 (a norm's)": (1e-5, torch.ones_like),
    "normal, 0.02 ": (1e-6, lambda noise: 0.02 * noise),
}
"""The weights at first by name, and the learning rate."""

ROUNDINGS: tuple[Any, ...] = ("nearest", "stochastic", "24bit", "kahan", "master")


def stored_value(p: Tensor, entry: dict[str, Tensor]) -> Tensor:
    """Return the value of a parameter, with what its state keeps beside it, in float64."""
    if "low_byte" in entry:
        rest = entry["low_byte"].view(torch.int8).int() << 8
        return (p.detach().float().view(torch.int32) + rest).view(torch.float32).double()
    if "master_param" in entry:
        return entry["master_param"].double()
    return p.detach().double() + entry.get("kahan_comp", torch.zeros(())).double()


def errors(lr: float, start: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Return the error of each rounding."""
    generator = torch.Generator().manual_seed(0)
    first = start(torch.randn(COUNT, generator=generator)).bfloat16()
    mean = 0.3 * torch.randn(COUNT, generator=generator)
    exact = torch.nn.Parameter(first.double())
    reference = gradstep.AdamW([exact], lr=lr)
    weights = {rounding: torch.nn.Parameter(first.clone()) for rounding in ROUNDINGS}
    optimizers = {rounding: gradstep.AdamW([p], lr=lr, rounding=rounding) for rounding, p in weights.items()}
    for _ in range(STEPS):
        g = (mean + torch.randn(COUNT, generator=generator)).bfloat16()
        exact.grad = g.double()
        reference.step()
        for rounding, p in weights.items():
            p.grad = g
            optimizers[rounding].step()
    moved = (exact.detach() - first.double()).norm()
    return {
        rounding: float((stored_value(p, optimizers[rounding].state[p]) - exact.detach()).norm() / moved)
        for rounding, p in weights.items()
    }


if __name__ == "__main__":
    import warnings

    warnings.filterwarnings("ignore", ".*were left where they were")
    print("| weights at first | lr | " + " | ".join(f'`"{r}"`' for r in ROUNDINGS) + " |")
    print("|---|---:|" + "---:|" * len(ROUNDINGS))
    for name, (lr, start) in STARTS.items():
        found = errors(lr, start)
        print(f"| {name.strip()} | {lr:.0e} | " + " | ".join(f"{found[r]:.2%}" for r in ROUNDINGS) + " |", flush=True)
