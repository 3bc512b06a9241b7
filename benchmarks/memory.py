"""Measure the memory of a step beside parameters, gradients and state: the rise of the process's peak memory.

Each optimizer runs in its own process. The first step makes the state; then Linux's peak counter is reset before the
second step.

    python benchmarks/memory.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PARAMETERS = 25_000_000

CHILD = """
import sys, torch, gradstep
from pathlib import Path

def kib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])

p = torch.randn({parameters}, requires_grad=True)
p.grad = torch.randn({parameters})
optimizer = {optimizer}
{step}
Path("/proc/self/clear_refs").write_text("5")
before = kib("VmRSS:")
{step}
print(max(0, kib("VmHWM:") - before) * 1024)
"""

CASES = {
    "gradstep": ("gradstep.AdamW([p])", "optimizer.step()"),
    "gradstep, max_grad_norm": ("gradstep.AdamW([p])", "optimizer.step(max_grad_norm=1.0)"),
    "torch fused": ("torch.optim.AdamW([p], fused=True)", "optimizer.step()"),
    "torch foreach": ("torch.optim.AdamW([p], foreach=True)", "optimizer.step()"),
    "torch default": ("torch.optim.AdamW([p], foreach=False)", "optimizer.step()"),
}


def measure() -> dict[str, int]:
    """Return the bytes that the second step adds to the peak, by optimizer."""
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("peak memory is read from Linux's /proc, which is not here")
    extra = {}
    for name, (optimizer, step) in CASES.items():
        code = CHILD.format(parameters=PARAMETERS, optimizer=optimizer, step=step)
        child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        extra[name] = int(child.stdout)
    return extra


if __name__ == "__main__":
    for name, extra in measure().items():
        print(f"{name:25} {extra / 2**20:10.2f} MiB")
