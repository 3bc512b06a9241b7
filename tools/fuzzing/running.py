"""Run one case on one optimizer and record errors, numbers, and whether a failed step changed something."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

import gradstep
from fuzzing.cases import Case
from fuzzing.mutations import ENTRIES, GROUPS, PARAMETERS, NotHere, World, load, spoil_in_place, spoil_state
from fuzzing.tensors import BEHIND, GRADIENTS, normal
from fuzzing.tensors import PARAMETERS as KINDS
from gradstep.optimizers.memory import lacks_memory

Values = dict[str, Tensor]
"""Parameters and their state, by name."""


@dataclass
class Trace:
    """The result of a case.

    Attributes:
        stage: the last stage: ``"construct"``, ``"good"``, ``"mutate"``, ``"assign"``, ``"step"``, ``"end"``.
        error: the error of that stage; None at ``"end"``.
        absent: whether the mutation does not apply, or torch itself refuses it.
        half: what a step that raised changed nevertheless.
        values: parameters and state before the first step, and after each step.
        bitwise: whether the engines of all parameters promise the reference's bits.
    """

    stage: str = "construct"
    error: BaseException | None = None
    absent: bool = False
    half: str = ""
    values: list[Values] = field(default_factory=list)
    bitwise: bool = True

    def describe(self) -> str:
        """The error in a line."""
        if self.error is None:
            return "goes on"
        text = " ".join(str(self.error).split())
        return f"{type(self.error).__name__} at {self.stage}: {text[:200]}"


def run(case: Case, kind: Callable[..., Any], options: dict[str, Any], mark: Callable[[str], None]) -> Trace:
    """Run a case.

    Args:
        case: the case.
        kind: the optimizer's class, or torch's of the same name.
        options: arguments beside the case's settings.
        mark: called with the name of every stage.
    """
    trace = Trace()
    warnings.simplefilter("ignore")
    numbers = torch.Generator().manual_seed(case.number * 1009 + case.seed)

    def stage(name: str) -> None:
        trace.stage = name
        mark(name)

    params = _parameters(case, numbers)
    stage("construct")
    try:
        given = [params[0], *params] if case.twice else params
        world = World(kind(given, **case.settings, **options), params, numbers)
        trace.values.append(snapshot(world))
    except Exception as error:
        trace.error = error
        return trace
    try:
        _steps(case, world, trace, stage)
    except NotHere:
        trace.absent = True
    if isinstance(world.optimizer, gradstep.Optimizer):
        try:
            engines = {engine for _, engine, _ in world.optimizer.engines()}
            trace.bitwise = bool(engines) and engines <= {"fused", "reference"}
        except Exception:
            trace.bitwise = False
    return trace


def _parameters(case: Case, numbers: torch.Generator) -> list[Tensor]:
    made: list[Tensor] = []
    for kind in case.parameters:
        data = KINDS[kind](numbers)
        wanted = data.is_floating_point() or data.is_complex()
        try:
            made.append(Parameter(data, requires_grad=wanted))
        except Exception:  # a tensor that cannot be a Parameter can be a leaf
            made.append(data.detach().requires_grad_(wanted))
    if case.overlapping and made[0].requires_grad and made[0].layout == torch.strided and made[0].numel() > 1:
        made.append(Parameter(made[0].detach().reshape(-1)[1:]))
    return made


def _steps(case: Case, world: World, trace: Trace, stage: Callable[[str], None]) -> None:
    for _ in range(case.good):
        stage("assign")
        _assign(world, ["good"] * len(world.params))
        stage("good")
        if not _step(world, trace, {}):
            return
    pick = Random(f"{case.seed}:{case.number}:mutations")
    for mutation in case.mutations:
        stage("mutate")
        before = snapshot(world)
        try:
            _mutate(world, pick, mutation)
        except NotHere:
            raise
        except Exception as error:
            if mutation[0] not in ("load", "group"):
                raise NotHere from error  # torch itself refuses it
            trace.error, trace.half = error, difference(before, snapshot(world))
            return
    stage("assign")
    _assign(world, list(case.gradients), case.behind)
    stage("step")
    if not _step(world, trace, case.call):
        return
    stage("assign")
    _assign(world, ["good"] * len(world.params))
    stage("after")
    if _step(world, trace, {}):
        trace.stage = "end"


def _mutate(world: World, pick: Random, mutation: tuple[str, ...]) -> None:
    what, *arguments = mutation
    if what == "group" and not world.optimizer.param_groups:
        raise NotHere
    if what == "state":
        spoil_state(world, pick, *arguments)
    elif what == "in place":
        spoil_in_place(world, pick, *arguments)
    elif what == "load":
        load(world, pick, *arguments)
    else:
        {"entry": ENTRIES, "group": GROUPS, "parameter": PARAMETERS}[what][arguments[0]](world, pick)


def _assign(world: World, kinds: list[str], behind: str = "") -> None:
    try:
        _give(world, kinds)
        gradient = world.params[0].grad
        if behind and gradient is not None:
            gradient.data = BEHIND[behind](gradient)
    except Exception as error:  # torch's setter refuses it
        raise NotHere from error


def _give(world: World, kinds: list[str]) -> None:
    """Give every parameter its gradient."""
    for p, kind in zip(world.params, kinds + ["good"] * len(world.params), strict=False):
        if kind == "stale" or not isinstance(p, Tensor):
            continue
        p.grad = None
        if not (p.is_floating_point() or p.is_complex()):
            continue
        g = _gradient(p, world.numbers)
        p.grad = g if kind == "good" else GRADIENTS[kind](p, g)


def _gradient(p: Tensor, numbers: torch.Generator) -> Tensor:
    g = normal(numbers, *p.shape, dtype=p.dtype)
    if type(p).__name__ == "TwoTensor":
        return type(p)(g, g.clone())
    if p.device.type == "meta":
        return g.to("meta")
    if type(p).__name__ == "MaskedTensor":
        from torch.masked import masked_tensor

        return masked_tensor(g, p.get_mask())  # type: ignore[attr-defined]
    return g


def _step(world: World, trace: Trace, call: dict[str, float]) -> bool:
    """Take one step and return whether it succeeded."""
    before = snapshot(world)
    try:
        world.optimizer.step(**call)
    except Exception as error:
        trace.error, trace.half = error, difference(before, snapshot(world))
        return False
    trace.values.append(snapshot(world))
    return True


def snapshot(world: World) -> Values:
    """Copy every parameter and every value of state."""
    values: Values = {}
    for i, p in enumerate(world.params):
        _copy_value(values, f"parameter {i}", p)
        entry = world.optimizer.__dict__["state"].get(p)
        if isinstance(entry, dict):
            for key, value in entry.items():
                _copy_value(values, f"{key} of parameter {i}", value)
    return values


def _copy_value(values: Values, name: str, value: Any) -> None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = torch.tensor(float(value), dtype=torch.float64)
    if not isinstance(value, Tensor) or value.device.type == "meta" or value.layout != torch.strided:
        return
    if type(value).__name__ == "TwoTensor":
        value = value.a  # type: ignore[attr-defined]
    if type(value) not in (Tensor, Parameter) and not type(value).__name__.startswith("Tagged"):
        return
    try:
        if value.is_nested or (not value._is_zerotensor() and lacks_memory(value.as_subclass(Tensor))):
            return
    except RuntimeError:  # a tensor that torch.func has wrapped
        return
    value = value.detach().as_subclass(Tensor)
    # Copied without arithmetic, which float8 does not have.
    values[name] = torch.zeros_like(value).copy_(value) if value._is_zerotensor() else value.clone().resolve_neg()


def difference(before: Values, after: Values) -> str:
    """Return the first value that has changed; new values do not count."""
    for name, old in before.items():
        new = after.get(name)
        if new is not None and not same_bits(old, new):
            return name
    return ""


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether type, shape and every number are equal; all NaN are equal, and all layouts of one number."""
    if a.numel() == b.numel() == 1:
        a, b = a.reshape(()), b.reshape(())
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = (t.resolve_conj().contiguous() for t in (a, b))
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if not a.is_floating_point():
        return bool((a == b).all())
    a, b = a.double(), b.double()
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def near(a: Tensor, b: Tensor, steps: int, size: float, unit: float = 0.0) -> str:
    """Return how far two results of the same arithmetic are apart, in words; "" if rounding explains it.

    A step is fewer than 32 operations on numbers not above the largest of the tensor, each wrong by half a unit in
    the last place of its result; a square root halves a relative error, and a quotient adds two. A later step inherits
    the errors of the earlier ones. So two results differ by at most 64 units of the largest number for each step.

    Args:
        a, b: the two results, of one shape.
        steps: number of steps.
        size: the largest input of the steps.
        unit: the least relative size of a unit in the last place.
    """
    if a.numel() == b.numel() == 1:  # a count is as good in one shape as in another
        a, b = a.reshape(()), b.reshape(())
    if a.shape != b.shape:
        return f"shape {tuple(a.shape)} and {tuple(b.shape)}"
    if a.numel() == 0:
        return ""
    unit = max([unit, *(torch.finfo(t.dtype).eps for t in (a, b) if t.is_floating_point() or t.is_complex())])
    if a.is_complex() or b.is_complex():
        a, b = (torch.view_as_real(t.resolve_conj().to(torch.complex128)) for t in (a, b))
    x, y = a.double(), b.double()
    if not torch.equal(x.isnan(), y.isnan()):
        return "NaN in other places"
    wide = x.isinf() | y.isinf() | x.isnan()
    if not torch.equal(x[wide & ~x.isnan()], y[wide & ~x.isnan()]):
        return "infinite in other places"
    x, y = x[~wide], y[~wide]
    if not x.numel():
        return ""
    largest = max(float(x.abs().max()), float(y.abs().max()), size)
    apart = float((x - y).abs().max())
    bound = 64 * max(steps, 1) * unit * max(largest, 1e-30)
    return "" if apart <= bound else f"{apart:.3g} apart, and rounding explains {bound:.3g}"
