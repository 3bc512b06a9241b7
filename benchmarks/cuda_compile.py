"""Time from a rule to the PTX of its CUDA kernel: trace, LLVM's passes, LLVM's code generator. Medians in milliseconds.

python benchmarks/cuda_compile.py       each elementwise rule with float32 and with 8-bit state
"""

from __future__ import annotations

import statistics
import time

import gradstep
from gradstep.engines import list_kernel

REPEAT = 3
CASES = {
    "float32": {},
    "8-bit state": {"state": "8bit"},
    "bfloat16 weights, stochastic, 8-bit state": {"dtype": "bfloat16", "state": "8bit", "rounding": "stochastic"},
}


def measure(rule: gradstep.Rule, options: dict[str, str]) -> float:
    times = []
    for _ in range(REPEAT):
        begin = time.perf_counter()
        list_kernel(rule, **options, target="cuda")
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    list_kernel(gradstep.rules.SGD(), target="cuda")  # imports LLVM
    for case, options in CASES.items():
        times = {name: measure(kind(), options) for name, kind in gradstep.RULES.items() if kind.sees == "elements"}
        slowest = max(times, key=times.__getitem__)
        print(
            f"{case:42} median {1e3 * statistics.median(times.values()):4.0f} ms, "
            f"AdamW {1e3 * times['AdamW']:4.0f} ms, slowest {1e3 * times[slowest]:4.0f} ms ({slowest})"
        )
