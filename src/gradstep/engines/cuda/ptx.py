"""Compile a kernel to PTX, the assembly that an NVIDIA driver translates for its card."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm

from gradstep.engines.cuda.kernel import build_kernel
from gradstep.engines.fused.skeleton import llvm_lock, optimize
from gradstep.storage.policy import UpdateSpec

TARGET = "nvptx64-nvidia-cuda"

ARCHITECTURE = "sm_80"
"""The oldest cards that have the exchange of a warp's maximum. It is also the target for newer ones: for sm_100, ptxas
12.9 contracts multiplications and additions of pairs, even where it is told not to, and so changes the bits."""

PTX_VERSION = "+ptx70"
"""The first version of PTX that has sm_80, so that old drivers take it."""


def emit_ptx(spec: UpdateSpec) -> str:
    """Return the PTX of an update's kernel, ``task``.

    Raises:
        TypeError: the rule sees more than single elements.
        ValueError: slots are stored in blocks of several sizes.
        RuntimeError: this LLVM has no target for NVIDIA cards.
    """
    module = build_kernel(spec)
    with llvm_lock:
        machine = _ptx_machine()
        module.triple, module.data_layout = TARGET, str(machine.target_data)
        return str(machine.emit_assembly(optimize(module, machine)))


def _ptx_machine() -> Any:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(TARGET)
    return target.create_target_machine(cpu=ARCHITECTURE, features=PTX_VERSION, opt=3)
