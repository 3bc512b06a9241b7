"""``gradstep.watch_rules``: the optimizers of a training run watched, by torch's own hooks around their steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradstep.judge.updates.candidates import Candidate, promised, promised_by
from gradstep.judge.updates.history import LARGE, WHOLE, History, eps_of
from gradstep.judge.updates.matching import fits, named, visible
from gradstep.judge.updates.report import Result, UpdateReport, WatchReport
from gradstep.optimizers import Optimizer
from gradstep.optimizers.wrapped import innermost
from gradstep.rules import RULES

STEPS = 20
"""Steps of each optimizer that are watched."""

BUDGET = 1 << 24
"""Elements of matrices that are kept whole, in all: three steps of them take 0.6 GB in float32."""

_AFFIXES = re.compile(
    r"paged|8bit|4bit|32bit|fp8|fused|deepspeed|cpu|foreach|distributed|single_?device|with_?aux_?adamw?|^my|^custom|_",
    re.IGNORECASE,
)
_MATRIX_RULES = ("Muon", "Adafactor")


@final
@dataclass(eq=False)
class _Watched:
    """One optimizer.

    Attributes:
        optimizer: it.
        histories: what was seen of its parameters, by identity.
        steps: how many of its steps have been watched.
        inside: it has stepped inside another's step only: that one wraps it.
    """

    optimizer: torch.optim.Optimizer
    histories: dict[int, History] = field(default_factory=dict)
    steps: int = 0
    inside: bool = True

    def parameters(self) -> Iterator[tuple[int, int, Mapping[str, Any], Tensor]]:
        """Every parameter with its group's number, its own number there, and the group."""
        for number, group in enumerate(self.optimizer.param_groups):
            for i, p in enumerate(group["params"]):
                yield number, i, group, p


@final
class RuleWatch:
    """A training run that is watched: made by :func:`watch_rules`.

    It is also a context manager: leaving it ends the watch. :attr:`report` may be asked at any time.
    """

    def __init__(self, optimizers: tuple[torch.optim.Optimizer, ...], model: nn.Module | None, steps: int) -> None:
        self._steps, self._model = steps, model
        self._watched = {id(o): _Watched(o) for o in optimizers}
        self._first = {id(p): _mark(p) for w in self._watched.values() for *_, p in w.parameters()}
        self._open: list[_Watched] = []
        self._kept = 0
        self._modules: dict[int, nn.Module] = {}
        if optimizers:
            self._handles: list[Any] = [
                handle
                for o in optimizers
                for handle in (o.register_step_pre_hook(self._before), o.register_step_post_hook(self._after))
            ]
        else:
            self._handles = [
                register_optimizer_step_pre_hook(self._before),
                register_optimizer_step_post_hook(self._after),
                register_module_forward_pre_hook(self._called),
            ]

    def __enter__(self) -> RuleWatch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching; the report stays."""
        while self._handles:
            self._handles.pop().remove()

    @property
    def report(self) -> WatchReport:
        """What has been seen so far."""
        names = self._names()
        holders: dict[int, list[_Watched]] = {}
        for watched in self._watched.values():
            for *_, p in watched.parameters():
                holders.setdefault(id(p), []).append(watched)
        rows = []
        told: set[int] = set()
        for watched in self._watched.values():
            for number, i, group, p in watched.parameters():
                if id(p) in told:
                    continue
                told.add(id(p))
                own = [w for w in holders[id(p)] if w.steps] or holders[id(p)]
                inner = [w for w in own if w.inside] or own
                name = names.get(id(p)) or _place(group, number, i)
                rows.append(self._row(name, p, inner, alone=len(own) == 1 or len(inner) < len(own), names=names))
        for p, name in self._unheld(told):
            rows.append(_unheld(name, p))
        return WatchReport(tuple(rows), max((w.steps for w in self._watched.values()), default=0))

    # -- what happens at a step ---------------------------------------------------------------------------------------

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        watched = self._watched.setdefault(id(optimizer), _Watched(optimizer))
        self._open.append(watched)
        # A subclass's step may call that of its base class, which has torch's hooks too: the outer one counts.
        if watched.steps >= self._steps or self._open.count(watched) > 1:
            return
        inside = kwargs.get("closure") is not None or any(callable(a) for a in args[1:])
        for _, _, group, p in watched.parameters():
            if id(p) not in self._first:
                self._first[id(p)] = _mark(p)
            gradient = None if inside else p.grad
            if (gradient is None and not inside) or not _readable(p) or (gradient is not None and gradient.is_sparse):
                continue
            history = watched.histories.get(id(p))
            if history is None:
                history = watched.histories[id(p)] = self._history(watched.optimizer, group, p)
            settings = {k: v for k, v in group.items() if k not in ("params", "param_names")}
            history.before(p, gradient, settings, optimizer.state.get(p, {}))

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        watched = self._watched.setdefault(id(optimizer), _Watched(optimizer))
        if watched in self._open:
            del self._open[len(self._open) - 1 - self._open[::-1].index(watched) :]
        if watched in self._open:
            return
        if not self._open and watched.steps == 0:
            watched.inside = False
        if watched.steps >= self._steps:
            return
        watched.steps += 1
        skipped, scale = _skipped(optimizer), _scale_of(optimizer, kwargs)
        for *_, p in watched.parameters():
            history = watched.histories.get(id(p))
            if history is None:
                continue
            if skipped:
                history.drop()
            else:
                history.after(p, p.grad, scale, optimizer.state.get(p, {}))

    def _called(self, module: nn.Module, args: Any) -> None:
        self._modules[id(module)] = module

    def _history(self, optimizer: torch.optim.Optimizer, group: Mapping[str, Any], p: Tensor) -> History:
        large = LARGE if promise_of(optimizer, group, p)[0] in _MATRIX_RULES else WHOLE
        whole = p.numel() <= large and self._kept + p.numel() <= BUDGET and not p.is_complex()
        self._kept += p.numel() if whole else 0
        return History(tuple(p.shape), eps_of(p), keeps_whole=whole)

    # -- what it comes to ---------------------------------------------------------------------------------------------

    def _models(self) -> list[nn.Module]:
        if self._model is not None:
            return [self._model]
        inner = {id(child) for m in self._modules.values() for child in m.modules() if child is not m}
        return [m for m in self._modules.values() if id(m) not in inner]

    def _names(self) -> dict[int, str]:
        return {id(p): name for model in self._models() for name, p in model.named_parameters()}

    def _unheld(self, held: set[int]) -> Iterator[tuple[Tensor, str]]:
        for model in self._models():
            for name, p in model.named_parameters():
                if id(p) not in held and any(id(q) in held for q in model.parameters()):
                    yield p, name

    def _row(
        self, name: str, p: Tensor, holders: list[_Watched], *, alone: bool, names: Mapping[int, str]
    ) -> UpdateReport:
        watched = holders[0]
        group = next(g for _, _, g, q in watched.parameters() if q is p)
        kind = type(watched.optimizer).__name__
        promise, candidates = promise_of(watched.optimizer, group, p)

        def row(received: str, result: Result) -> UpdateReport:
            return UpdateReport(name, tuple(p.shape), kind, promise, received, result)

        if not alone:
            kind = " and ".join(type(w.optimizer).__name__ for w in holders)
            return row("updated by two optimizers", Result.WRONG)
        if not p.requires_grad:
            return row("frozen: it needs no gradient", Result.FROZEN)
        history = watched.histories.get(id(p))
        moved = id(p) in self._first and _mark(p) != self._first[id(p)]
        if not watched.steps and moved:
            return row("changed, though no step of its optimizer was made", Result.WRONG)
        if not watched.steps:
            return row("no step of its optimizer was made", Result.UNSTEPPED)
        if history is None or not history.moments:
            if names and id(p) not in names:
                return row("not a parameter of the model that runs: it has no gradient", Result.UNSTEPPED)
            return row("no gradient in any step", Result.OPEN)
        return row(*_judged(history, promise, candidates))


def watch_rules(*optimizers: torch.optim.Optimizer, model: nn.Module | None = None, steps: int = STEPS) -> RuleWatch:
    """Watch a training run: does each parameter receive the update that its optimizer's name promises?

    The first steps are watched through torch's hooks around ``step()``: of each parameter a sample of 128 elements, of
    matrices up to 65,536 elements (4 million for Muon and Adafactor) three steps in full. The update is computed anew
    in float64 from the gradients and settings that were seen and compared with what happened; where it differs, the
    other rules are tried, and the one that fits is named. What a name such as ``AdamW``, ``FusedAdam``,
    ``PagedLion8bit`` or ``MuonWithAuxAdam`` stands for is a promise; a name that stands for no known rule promises
    nothing, and the rule is told.

    Args:
        optimizers: torch's, gradstep's or anybody's; none stands for every optimizer that steps from now on.
        model: its parameters' names are used, and those that no optimizer holds are found. Where no optimizer is
            given, models are found by their calls.
        steps: how many steps of each are watched, at least 1; three tell every rule from the others.

    Returns:
        The watch: ``print(watch.report)`` after some steps, ``watch.report.passed``, ``watch.close()``.

    Raises:
        TypeError: what is watched is no ``torch.optim.Optimizer``.
        ValueError: ``steps`` is less than 1.

    Example:
        >>> import torch, gradstep
        >>> class Muon(torch.optim.SGD):  # by its name Muon, in truth SGD
        ...     pass
        >>> model = torch.nn.Linear(8, 4)
        >>> optimizer = Muon([model.weight], lr=0.1)
        >>> with gradstep.watch_rules(optimizer, model=model) as watch:
        ...     for _ in range(3):
        ...         model(torch.randn(5, 8)).square().sum().backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> for row in watch.report.problems:
        ...     print(row.sentence)
        parameter weight: named Muon, received SGD's update
        parameter bias: held by no optimizer, though it needs a gradient
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, but is {steps!r}")
    for o in optimizers:
        if not isinstance(o, torch.optim.Optimizer):
            raise TypeError(f"only a torch.optim.Optimizer can be watched, not {type(o).__name__}")
    return RuleWatch(tuple(innermost(o) for o in optimizers), model, steps)


def promise_of(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], p: Tensor
) -> tuple[str, tuple[Candidate, ...]]:
    """The name of the rule that an optimizer's class stands for, for this parameter; and what counts as that rule."""
    if isinstance(optimizer, Optimizer):
        return type(optimizer).rule().__name__, promised_by(type(optimizer).rule())
    plain = _AFFIXES.sub("", type(optimizer).__name__).lower()
    if plain == "muon" and _by_muon(optimizer, group, p):
        return "Muon", promised("Muon")
    if plain == "muon":
        return "AdamW", (*promised("AdamW"), *promised("Adam"))
    name = {rule.lower(): rule for rule in RULES}.get(plain, "")
    return name, promised(name) if name else ()


def _by_muon(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], p: Tensor) -> bool:
    """Whether a Muon updates this parameter by Muon, or by the AdamW that many have for the others.

    It is said by a flag of the group or of the parameter's state; where no parameter has one, matrices are meant.
    """
    flags = [s["use_muon"] for s in optimizer.state.values() if "use_muon" in s]
    flags += [g["use_muon"] for g in optimizer.param_groups if "use_muon" in g]
    if any(flags):
        return bool(optimizer.state.get(p, {}).get("use_muon", group.get("use_muon", False)))
    return p.ndim > 1


def _judged(history: History, promise: str, candidates: tuple[Candidate, ...]) -> tuple[str, Result]:
    moved = any(m.update.any() for m in history.moments)
    rates = [float(m.settings["lr"]) for m in history.moments if "lr" in m.settings]
    if not moved and rates and not any(rates):
        return "not moved: its learning rate is 0", Result.UNSTEPPED
    if not moved and not any(m.gradient.any() for m in history.moments):
        return "not moved: its gradients are 0", Result.OPEN
    if not moved:
        return "not moved, though it has gradients", Result.UNSTEPPED
    right = fits(candidates, history)
    if right:
        return promise, Result.RIGHT
    if not visible(history):
        return "updates smaller than its dtype resolves", Result.OPEN
    if candidates and right is None:
        return "not judged: " + _why(history, candidates), Result.OPEN
    known = named(history, promise if promise in (*RULES, "Muon") else "", candidates)
    text = f"received {known}'s update" if known.isalpha() else f"received the update of {known}"
    text = text if known else "received an update of no rule that is known"
    return text, Result.WRONG if candidates else Result.OPEN


def _why(history: History, candidates: tuple[Candidate, ...]) -> str:
    if any(c.whole for c in candidates) and not history.whole:
        return "too large to be kept whole, as its rule needs"
    return "its state is older than the watch, or its settings are not the rule's"


def _unheld(name: str, p: Tensor) -> UpdateReport:
    if not p.requires_grad:
        return UpdateReport(name, tuple(p.shape), "", "", "frozen: it needs no gradient", Result.FROZEN)
    text = "held by no optimizer, though it needs a gradient"
    return UpdateReport(name, tuple(p.shape), "", "", text, Result.UNSTEPPED)


def _place(group: Mapping[str, Any], number: int, i: int) -> str:
    names = group.get("param_names")
    return str(names[i]) if names else f"group {number}, parameter {i}"


def _mark(p: Tensor) -> tuple[float, float]:
    """Two numbers that hardly stay the same when the parameter changes."""
    values = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
    return float(values.sum(dtype=torch.float64)), float(torch.linalg.vector_norm(values, dtype=torch.float64))


def _readable(p: Tensor) -> bool:
    return bool(p.numel()) and (p.is_floating_point() or p.is_complex())


def _scale_of(optimizer: torch.optim.Optimizer, kwargs: Mapping[str, Any]) -> float:
    """What the gradients were multiplied by inside the step."""
    given = kwargs.get("grad_scale")
    given = vars(optimizer).get("grad_scale") if given is None else given
    scale = 1.0 if given is None else 1.0 / float(given)
    limit = kwargs.get("max_grad_norm")
    if limit is not None:
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients)) * scale
        scale *= min(1.0, float(limit) / (norm + 1e-6))
    return scale


def _skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer left the step out: a scaler told it to, or a gradient is not finite."""
    found = vars(optimizer).get("found_inf")
    if found is not None and bool(found):
        return True
    gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    return not all(bool(torch.isfinite(g.sum())) for g in gradients)
