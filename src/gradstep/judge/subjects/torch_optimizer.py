"""PyTorch optimizers: a class or a factory, called with parameters or groups; and properties that only they have."""

import inspect
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar, final

import numpy as np
import torch

from gradstep.judge.properties import Context, as_property
from gradstep.judge.scenario import Gradients, Scenario, Values
from gradstep.judge.subjects.subject import Kind, NotOfferedError, Session, Subject, SubmissionError, describe_error


@final
class TorchSubject(Subject):
    """A class or factory called as ``make(params, **settings)``, which steps by ``step()`` along ``p.grad``."""

    kind: ClassVar[Kind] = "torch"

    @property
    def abilities(self) -> frozenset[str]:
        if isinstance(self.make, type) and not issubclass(self.make, torch.optim.Optimizer):
            return frozenset({"rates"})
        return frozenset({"groups", "reload", "rates"})

    def start(self, scenario: Scenario, dtype: str) -> Session:
        return _TorchSession(self, scenario, getattr(torch, dtype))


def make_parameter(values: Values, dtype: torch.dtype, *, strided: bool = False) -> torch.nn.Parameter:
    """Make a parameter with these values; if ``strided``, from every other element of a larger, transposed tensor."""
    if not strided or not values.ndim:
        return torch.nn.Parameter(torch.tensor(values, dtype=dtype))
    wide = torch.zeros((*values.shape[::-1], 2), dtype=dtype)[..., 0]
    leaf = wide.permute(*range(values.ndim - 1, -1, -1))
    leaf.copy_(torch.tensor(values))
    return torch.nn.Parameter(leaf)


@final
class _TorchSession(Session):
    def __init__(self, subject: TorchSubject, scenario: Scenario, dtype: torch.dtype) -> None:
        self.subject, self.scenario, self.dtype = subject, scenario, dtype
        self.leaves = [make_parameter(v, dtype, strided=scenario.strided) for v in scenario.initial]
        self.optimizer = self._make(subject.keywords(scenario))

    def _make(self, keywords: dict[str, Any]) -> Any:
        params: Any = self.leaves
        if self.scenario.groups:
            named = self.subject.arguments.named
            groups = [{"params": [p], **named(own)} for p, own in zip(self.leaves, self.scenario.groups)]
            keys = self.subject.make(self.leaves, **keywords).param_groups[0].keys()  # such as ``beta1`` for ``betas``
            params = [{k: v for k, v in group.items() if k in keys} for group in groups]
        return self.subject.make(params, **keywords)

    def step(self, gradients: Gradients | None) -> None:
        for leaf, g in zip(self.leaves, gradients or ()):
            leaf.grad = None if g is None else torch.tensor(g, dtype=self.dtype)
        self.optimizer.step()

    def values(self) -> list[Values]:
        return [np.array(p.detach().to(torch.float64).numpy()) for p in self.leaves]

    def set_rate(self, lr: float) -> None:
        (name,) = self.subject.arguments.names["lr"]
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            if name not in vars(self.optimizer):
                raise NotOfferedError(f"the optimizer has no attribute {name!r}")
            setattr(self.optimizer, name, lr)
            return
        for group in self.optimizer.param_groups:
            if name not in group:
                raise SubmissionError(f"param_groups have no {name!r}: schedulers set the rate there")
            group[name] = lr

    def reload(self) -> None:
        saved = deepcopy(self.optimizer.state_dict())
        self.leaves = [torch.nn.Parameter(p.detach().clone()) for p in self.leaves]
        self.optimizer = self._make(self.subject.keywords(self.scenario))
        self.optimizer.load_state_dict(saved)


def _make_leaves(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    values = torch.linspace(-1, 1.5, 6).reshape(2, 3)
    return [torch.nn.Parameter(values.to(dtype)), torch.nn.Parameter(values.add(0.5).to(dtype))]


def _loss(leaves: list[torch.nn.Parameter]) -> torch.Tensor:
    return torch.stack([(p.float() ** 2).sum() for p in leaves]).sum()


@as_property("gradient untouched", "p.grad belongs to the caller", "`p.grad.add_`, `p.grad.mul_`, `grad += ...`")
def _gradient(context: Context) -> str:
    leaves = _make_leaves()
    optimizer = context.make(leaves)
    for _ in range(2):
        gradients = [torch.linspace(-2, 3, 6).reshape(2, 3) for _ in leaves]
        copies = [g.clone() for g in gradients]
        for p, g in zip(leaves, gradients):
            p.grad = g
        optimizer.step()
        for p, g, copy in zip(leaves, gradients, copies):
            if p.grad is not g:
                return "p.grad is another tensor after the step"
            if not torch.equal(copy, g):
                return "the numbers in p.grad change during the step"
    return ""


@as_property("in place", "parameters keep their memory", "`p.data = ...`; use `p.add_(...)` or `p.copy_(...)`")
def _in_place(context: Context) -> str:
    leaves = _make_leaves()
    places = [p.data_ptr() for p in leaves]
    optimizer = context.make(leaves)
    for _ in range(2):
        _loss(leaves).backward()
        optimizer.step()
    if [p.data_ptr() for p in leaves] != places:
        return (
            "the parameters lie elsewhere in memory after the step: what shares it (ties, flat buffers) is left behind"
        )
    return ""


@as_property("no graph", "no autograd history is kept", "`@torch.no_grad()` on step")
def _graph(context: Context) -> str:
    leaves = _make_leaves()
    optimizer = context.make(leaves)
    for _ in range(2):
        for p in leaves:
            p.grad = None
        # A gradient with a graph of its own, as second-order methods use.
        for p, g in zip(leaves, torch.autograd.grad((_loss(leaves) ** 2), leaves, create_graph=True)):
            p.grad = g
        optimizer.step()
    if not all(p.is_leaf and p.requires_grad for p in leaves):
        return "the parameters are no leaves that require gradients any more"
    with_graph = [t for t in _tensors(vars(optimizer).get("state", {})) if t.requires_grad]
    return f"{len(with_graph)} tensors of state keep a graph, which grows with every step" if with_graph else ""


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)


def _check_dtype(dtype: torch.dtype, context: Context) -> str:
    leaves = _make_leaves(dtype)
    optimizer = context.make(leaves)
    before = [p.detach().clone() for p in leaves]
    for _ in range(2):
        for p in leaves:
            p.grad = torch.ones_like(p)
        optimizer.step()
    if any(p.dtype is not dtype for p in leaves):
        return f"a parameter of {dtype} becomes {leaves[0].dtype}"
    if context.agrees and any(torch.equal(p, b) for p, b in zip(leaves, before)):
        return f"a parameter of {dtype} does not move"
    return ""


def _make_optimizer_with_closure(context: Context, leaves: list[torch.nn.Parameter]) -> Any:
    optimizer = context.make(leaves)
    if not isinstance(optimizer, torch.optim.Optimizer) and not inspect.signature(optimizer.step).parameters:
        raise NotOfferedError("it is no torch.optim.Optimizer, and its step() takes no closure")
    return optimizer


@as_property("closure", "step(closure) returns the loss", "`with torch.enable_grad(): loss = closure()`")
def _closure(context: Context) -> str:
    leaves = _make_leaves()
    optimizer = _make_optimizer_with_closure(context, leaves)
    enabled = []

    def closure() -> torch.Tensor:
        for p in leaves:
            p.grad = None
        enabled.append(torch.is_grad_enabled())
        loss = _loss(leaves)
        if loss.requires_grad:
            loss.backward()
        return loss

    returned = optimizer.step(closure)
    if not enabled:
        raise NotOfferedError("step(closure) does not call the closure")
    if not enabled[0]:
        return "the closure runs without gradients: call it under torch.enable_grad()"
    if returned is None:
        return "step(closure) does not return the loss"
    loss = returned.item() if isinstance(returned, torch.Tensor) else returned
    return "" if loss > 0 else "step(closure) returns something else than the loss"


@as_property(
    "closure called",
    "step(closure) calls its closure",
    "`if closure is not None:` and `with torch.enable_grad(): loss = closure()`",
    essential=False,
)
def _closure_called(context: Context) -> str:
    leaves = _make_leaves()
    optimizer = _make_optimizer_with_closure(context, leaves)
    calls = []

    def closure() -> torch.Tensor:
        calls.append(True)
        return torch.zeros((), requires_grad=True)

    try:
        optimizer.step(closure)
    except Exception as error:
        if calls:
            raise NotOfferedError(describe_error(error)) from error
        raise
    return "" if calls else "step(closure) does not call the closure: whatever computes the loss there is left out"


@as_property("no gradients at all", "a step before any backward", "`if p.grad is None: continue`")
def _no_gradients(context: Context) -> str:
    leaves = _make_leaves()
    before = [p.detach().clone() for p in leaves]
    context.make(leaves).step()
    return "" if all(torch.equal(p, b) for p, b in zip(leaves, before)) else "parameters without gradient move"


@as_property("generator", "model.parameters() as it is", "`self.params = list(params)`")
def _generator(context: Context) -> str:
    leaves = _make_leaves()
    optimizer = context.make(p for p in leaves)
    values = [leaves[0].detach().clone()]
    for _ in range(2):
        leaves[0].grad = torch.ones_like(leaves[0])
        optimizer.step()
        values.append(leaves[0].detach().clone())
    if context.agrees and torch.equal(values[1], values[2]):
        return "the second step does nothing: model.parameters() can be gone through only once"
    return ""


@as_property("frozen", "a parameter without requires_grad", "`if p.grad is None: continue`")
def _frozen(context: Context) -> str:
    leaves = _make_leaves()
    leaves[1].requires_grad_(False)
    before = leaves[1].detach().clone()
    optimizer = context.make(leaves)
    (leaves[0] ** 2).sum().backward()
    optimizer.step()
    return "" if torch.equal(before, leaves[1]) else "a frozen parameter moves"


@as_property("alone", "two optimizers side by side", "state in the class or the module instead of in self")
def _alone(context: Context) -> str:
    """Compare an optimizer's steps with and without another optimizer beside it."""
    results = []
    for other in (False, True):
        leaves = _make_leaves()
        optimizer = context.make(leaves)
        for _ in range(3):
            if other:
                extra = _make_leaves()
                extra[0].grad = torch.full_like(extra[0], 5.0)
                context.make(extra).step()
            for p in leaves:
                p.grad = torch.ones_like(p)
            optimizer.step()
        results.append(leaves[0].detach().nan_to_num())
    return "" if torch.equal(results[0], results[1]) else "an optimizer beside it changes what it does"


@as_property(
    "an Optimizer",
    "derived from torch.optim.Optimizer",
    "`class Mine(torch.optim.Optimizer)` and `super().__init__(params, defaults)`",
    essential=False,
)
def _base_class(context: Context) -> str:
    leaves = _make_leaves()
    optimizer = context.make(leaves)
    if not isinstance(optimizer, torch.optim.Optimizer):
        return f"{type(optimizer).__name__} is no torch.optim.Optimizer: schedulers, scalers and trainers refuse it"
    try:
        _loss(leaves).backward()
        optimizer.step()
        optimizer.state_dict()
    except Exception as error:
        return describe_error(error)
    return ""


_float32 = as_property("float32 kept", "a float32 parameter stays float32", "`p.data = ...` of a wider type")(
    partial(_check_dtype, torch.float32)
)
_bfloat16 = as_property(
    "bfloat16 kept", "a bfloat16 parameter stays bfloat16", "`p.data = ...` of a wider type", essential=False
)(partial(_check_dtype, torch.bfloat16))

TORCH_PROPERTIES = (
    *(_closure_called, _gradient, _in_place, _graph, _float32, _bfloat16),
    *(_closure, _no_gradients, _frozen, _generator, _alone, _base_class),
)
"""For PyTorch optimizers only."""
