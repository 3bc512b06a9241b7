"""The text of the kernel that updates a parameter: assembly of this processor, or PTX of NVIDIA cards."""

from __future__ import annotations

from itertools import count
from typing import Literal

import gradstep
from gradstep.rules import Rule
from gradstep.storage.elements import ELEMENTS
from gradstep.storage.policy import (
    ROUNDINGS,
    STATES,
    ParameterStorage,
    UpdateSpec,
    check_choice,
    check_precision,
    parameter_codec,
    refuse_rounding,
    slot_codec,
)

TARGETS = ("cpu", "cuda")


def list_kernel(
    rule: Rule,
    *,
    state: str = "float32",
    rounding: str = "nearest",
    dtype: str = "float32",
    target: Literal["cpu", "cuda"] = "cpu",
) -> str:
    """Return the kernel that updates a matrix of such parameters, whose gradients have their type.

    Comments at the top say what it is the kernel of: the rule with its settings, the storages, and the version.

    Args:
        rule: the rule.
        state: how slots are stored; float64 parameters have float64 state.
        rounding: how updates of half precision are rounded.
        dtype: the type of the parameters.
        target: ``"cpu"`` for this processor's assembly, ``"cuda"`` for PTX.

    Raises:
        ValueError: a name that does not exist, or a combination without a kernel.
        TypeError: the rule looks at more than the target's kernels do.

    >>> from gradstep.rules import AdamW
    >>> ".target sm_80" in list_kernel(AdamW(), target="cuda")
    True
    """
    check_choice("target", target, TARGETS)
    spec = _spec_of(
        rule,
        check_precision("state", state, STATES),
        rounding,
        check_precision("dtype", dtype, ELEMENTS),
    )
    if target == "cuda":
        from gradstep.engines.cuda.ptx import emit_ptx

        return _describe_kernel(rule, spec, rounding, "//") + emit_ptx(spec)
    return _describe_kernel(rule, spec, rounding, "#") + _emit_assembly(spec)


def _describe_kernel(rule: Rule, spec: UpdateSpec, rounding: str, comment: str) -> str:
    """Return the comments at the top of a kernel."""
    slots = [f"{name} {codec.name}" for name, codec in zip(spec.slots, spec.state, strict=True)]
    parameter = f"{spec.gradient.element.name} parameters, rounding {rounding}"
    lines = (
        f"gradstep {gradstep.__version__}: one step of {rule!r}",
        f"{parameter}; state: {', '.join(slots) or 'none'}",
        f"coefficients, in this order: {', '.join(spec.coefficients)}",
    )
    return "".join(f"{comment} {line}\n" for line in lines)


def _spec_of(rule: Rule, state: str, rounding: str, dtype: str) -> UpdateSpec:
    check_choice("rounding", rounding, ROUNDINGS)
    problem = refuse_rounding(rounding, dtype)
    if problem is not None:
        raise ValueError(problem)
    if rounding != "nearest" and dtype not in ("bfloat16", "float16"):
        raise ValueError(f"rounding={rounding!r} is for parameters of half precision, not for {dtype}")
    if dtype == "float64" and state != "float32":
        raise ValueError(
            f"state={state!r} is for float32, bfloat16 and float16 parameters: float64 keeps float64 state"
        )
    element, slots = ELEMENTS[dtype], tuple(rule.slots(2))
    codecs = tuple(slot_codec(state, element, signed=slot.signed) for slot in slots)
    return ParameterStorage(parameter_codec(rounding, element), slots, codecs, "").spec(rule, element)


def _emit_assembly(spec: UpdateSpec) -> str:
    from gradstep.engines.fused.kernel import build_update
    from gradstep.engines.fused.skeleton import emit_assembly
    from gradstep.engines.fused.sums import build_mean

    if spec.rule.sees not in ("elements", "means"):
        raise TypeError(
            f"{spec.rule.__name__} looks at whole tensors (rows, norms, products), for which there is no kernel: it "
            "runs by torch operations"
        )
    means = 0
    if spec.rule.sees == "means":
        means = next(known for known in count() if build_mean(spec, known) is None)
    return emit_assembly(build_update(spec, means=means))
