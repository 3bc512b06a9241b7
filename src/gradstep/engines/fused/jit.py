"""Compile LLVM IR to a function in memory.

Compiling a kernel takes a few hundredths of a second, so nothing is cached on disk.
"""

from __future__ import annotations

import threading
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

_lock = threading.Lock()  # LLVM's tools are not safe to use from two threads at once
_engines: list[Any] = []  # the machine code lives as long as its engine


def _target_machine() -> Any:
    """Return a new target machine: each LLVM engine owns the one that it was made with."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)


def optimize(module: ir.Module | str) -> Any:
    """Parse, check and optimize a module or its text."""
    machine = _target_machine()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=1)
    # Kernels are written in vectors; vectorizing the loop over the remaining elements would double the compile time.
    tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = False
    passes = llvm.create_pass_builder(machine, tuning)
    passes.getModulePassManager().run(parsed, passes)
    return parsed


def compile_module(module: ir.Module | str) -> int:
    """Compile a module for this processor; return the address of its function ``task``."""
    with _lock:
        optimized = optimize(module)
        engine = llvm.create_mcjit_compiler(optimized, _target_machine())
        engine.finalize_object()
        _engines.append(engine)
        return int(engine.get_function_address("task"))


def converts_float16() -> bool:
    """Return whether this processor converts half precision; else LLVM would call a function that does not exist."""
    features = llvm.get_host_cpu_features()
    return bool(features.get("f16c") or not llvm.get_default_triple().startswith(("x86", "i686", "amd64")))
