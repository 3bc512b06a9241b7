"""Forked children, and peak memory: each in a process of its own, with a limit of time."""

import os
import subprocess
import sys
import textwrap

import pytest


def python(code: str, *, timeout: float = 120) -> str:
    """What the code prints, in a fresh Python with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        # What is freed goes back at once, so that a temporary of an earlier step cannot hide one of this step.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_forked_data_loader_workers_after_the_first_step():
    out = python("""
        import warnings
        import torch, gradstep
        from torch.utils.data import DataLoader, TensorDataset

        torch.set_num_threads(2)
        model = torch.nn.Linear(300, 300)
        optimizer = gradstep.AdamW(model.parameters())

        class Data(torch.utils.data.Dataset):
            def __len__(self):
                return 16
            def __getitem__(self, i):
                x = torch.full((300,), float(i))
                return x.sin() @ torch.eye(300)  # work that may ask for threads

        loader = DataLoader(Data(), batch_size=4, num_workers=2, multiprocessing_context="fork")
        count = 0
        for epoch in range(2):
            for x in loader:
                model(x).square().mean().backward()
                optimizer.step(max_grad_norm=1.0)
                optimizer.zero_grad()
                count += 1
        print(count, int(optimizer.state[model.weight]["step"]))
    """)
    assert out.split() == ["8", "8"]


# In the child torch's own operations on large tensors would hang (its OpenMP team did not survive the fork), so
# that only ours work on them there, and NumPy compares.
FORKED = """
    import os, signal
    import numpy as np
    import torch, gradstep

    torch.set_num_threads(2)

    def make(n):
        p = torch.linspace(-1, 1, n).requires_grad_()
        p.grad = torch.linspace(1, 2, n)
        return p, gradstep.AdamW([p])

    p, optimizer = make(200_000)
    optimizer.step(max_grad_norm=1.0)   # the parent's team of threads is awake now
    expected, other = make(200_000)
    for _ in range(3):
        other.step(max_grad_norm=1.0)

    child = os.fork()
    if child == 0:
        signal.alarm(60)
        for _ in range(2):
            optimizer.step(max_grad_norm=1.0)
        q, fresh = make(100)            # and an optimizer made in the child
        fresh.step()
        same = np.array_equal(p.detach().numpy(), expected.detach().numpy())
        os._exit(0 if same and int(fresh.state[q]["step"]) == 1 else 3)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
    optimizer.step()                    # the parent goes on
    print(int(optimizer.state[p]["step"]))
"""


def test_a_step_inside_a_forked_child():
    assert python(FORKED).split() == ["0", "2"]


PEAK = """
    import torch, gradstep

    def kilobytes(field):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(field))

    params = [torch.zeros(n, requires_grad=True) for n in SIZES]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = gradstep.AdamW(params, engine=ENGINE)
    for options in {}, {"max_grad_norm": 1.0}:
        optimizer.step(**options)          # compiles, and makes the state
        optimizer.step(**options)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")                # the peak is counted from here
        before = kilobytes("VmHWM")
        optimizer.step(**options)
        print(kilobytes("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_extra_memory_of_a_step():
    """25 M parameters: a step needs no memory in the size of a parameter, clipped or not."""
    code = PEAK.replace("SIZES", "[20_000_000, 4_000_000] + [10_000] * 100").replace("ENGINE", "'fused'")
    assert max(map(int, python(code).split())) < 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_copy_would_be_seen_by_the_test_of_memory():
    """The measure above can fail: the eager engine needs temporaries of a parameter's size."""
    code = PEAK.replace("SIZES", "[4_000_000]").replace("ENGINE", "'eager'")
    assert max(map(int, python(code).split())) > 16_000
