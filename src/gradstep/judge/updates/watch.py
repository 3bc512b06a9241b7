"""``gradstep.watch_rules``: the optimizers of a training run watched, by torch's own hooks around their steps."""

from __future__ import annotations

import contextlib
import inspect
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradstep.judge.updates.candidates import Candidate, promise_of
from gradstep.judge.updates.history import LARGE, WHOLE, History, UnseenError, eps_of, mark_of
from gradstep.judge.updates.matching import fits, named, visible
from gradstep.judge.updates.report import Result, UpdateReport, WatchReport
from gradstep.optimizers import Optimizer
from gradstep.optimizers.wrapped import innermost
from gradstep.rules import RULES

STEPS = 20
"""Steps of each optimizer that are watched."""

BUDGET = 1 << 24
"""Elements of matrices that are kept whole, in all: three steps of them take 0.6 GB in float32."""

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
        unseen: why steps of parameters could not be read, by identity.
    """

    optimizer: torch.optim.Optimizer
    histories: dict[int, History] = field(default_factory=dict)
    steps: int = 0
    inside: bool = True
    unseen: dict[int, str] = field(default_factory=dict)

    def give_up(self, p: Tensor, error: Exception) -> None:
        """Read no more of a parameter: what was seen of it until now is all there is to judge."""
        self.unseen[id(p)] = str(error) if isinstance(error, UnseenError) else f"{type(error).__name__}: {error}"
        if id(p) in self.histories:
            self.histories[id(p)].close()

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
        self._watched: dict[int, _Watched] = {}
        self._handles: list[Any] = []
        for o in optimizers:
            self._of(o)
        self._first = {id(p): mark_of(p) for w in self._watched.values() for *_, p in w.parameters()}
        self._running: dict[int, list[tuple[_Watched, int]]] = {}
        self._kept = 0
        self._modules: dict[int, nn.Module] = {}
        if optimizers:
            self._handles += [
                handle
                for o in optimizers
                for handle in (o.register_step_pre_hook(self._before), o.register_step_post_hook(self._after))
            ]
        else:
            self._handles += [
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
                alone = len(own) == 1 or len(inner) < len(own)
                try:
                    rows.append(self._row(name, p, inner, alone=alone, names=names))
                except Exception as error:  # optimizers are anybody's: one that cannot be judged ends no report
                    kind, text = type(watched.optimizer).__name__, f"not judged: {type(error).__name__}: {error}"
                    rows.append(UpdateReport(name, tuple(p.shape), kind, "", text, Result.OPEN))
        for p, name in self._unheld(told):
            rows.append(_unheld(name, p))
        return WatchReport(tuple(rows), max((w.steps for w in self._watched.values()), default=0))

    # -- what happens at a step ---------------------------------------------------------------------------------------

    @property
    def _open(self) -> list[tuple[_Watched, int]]:
        """This thread's steps that have begun, from the outermost, and the identity of the frame that calls each."""
        return self._running.setdefault(threading.get_ident(), [])

    def _of(self, optimizer: torch.optim.Optimizer) -> _Watched:
        if id(optimizer) not in self._watched:
            self._watched[id(optimizer)] = _Watched(optimizer)
            with contextlib.suppress(AttributeError):  # what has not called torch's constructor has no such hooks
                self._handles.append(optimizer.register_load_state_dict_post_hook(self._loaded))
        return self._watched[id(optimizer)]

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        watched = self._of(optimizer)
        frame = inspect.currentframe()
        caller = frame.f_back if frame else None
        self._drop_ended(caller)
        self._open.append((watched, id(caller)))
        # A subclass's step may call that of its base class, which has torch's hooks too: the outer one counts.
        if watched.steps >= self._steps or sum(w is watched for w, _ in self._open) > 1:
            return
        inside = kwargs.get("closure") is not None or any(callable(a) for a in args[1:])
        for _, _, group, p in watched.parameters():
            try:
                self._begin(watched, group, p, inside=inside)
            except Exception as error:  # the training goes on, whatever cannot be read
                watched.give_up(p, error)

    def _begin(self, watched: _Watched, group: Mapping[str, Any], p: Tensor, *, inside: bool) -> None:
        if id(p) not in self._first:
            self._first[id(p)] = mark_of(p)
        gradient = None if inside else p.grad
        history = watched.histories.get(id(p))
        if (gradient is None and not inside) or not p.numel() or (history is not None and history.closed):
            return
        if history is None:
            history = watched.histories[id(p)] = self._history(watched.optimizer, group, p)
        settings = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        history.before(p, gradient, settings, watched.optimizer.state.get(p, {}))

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        watched = self._of(optimizer)
        frame = inspect.currentframe()
        step = (watched, id(frame.f_back if frame else None))
        if step not in self._open:  # it began before the watch
            return
        while (ended := self._open.pop()) != step:
            self._forget(ended[0], "a step of its optimizer raised an error")  # and the step around it went on
        if any(w is watched for w, _ in self._open):
            return
        if not self._open and watched.steps == 0:
            watched.inside = False
        if watched.steps >= self._steps:
            return
        watched.steps += 1
        for *_, p in watched.parameters():
            history = watched.histories.get(id(p))
            if history is None or history.closed:
                continue
            try:
                if _skipped(optimizer):
                    history.drop()
                else:
                    history.after(p, p.grad, _scale_of(optimizer, kwargs), optimizer.state.get(p, {}))
            except Exception as error:
                watched.give_up(p, error)

    def _drop_ended(self, caller: FrameType | None) -> None:
        """Leave steps that have raised: torch calls no hook then, but their frames are gone from the stack."""
        if not self._open:
            return
        running: set[int] = set()
        frame = caller.f_back if caller else None
        while frame is not None:
            running.add(id(frame))
            frame = frame.f_back
        while caller is not None and self._open and self._open[-1][1] not in running:
            self._forget(self._open.pop()[0], "a step of its optimizer raised an error")

    def _loaded(self, optimizer: torch.optim.Optimizer) -> None:
        self._forget(self._of(optimizer), "its optimizer's state was loaded after the last step that was watched")

    def _forget(self, watched: _Watched, reason: str) -> None:
        """Begin anew with an optimizer whose state is not what its steps made of it; what is complete stays."""
        if watched.steps >= self._steps:
            return
        for *_, p in watched.parameters():
            history = watched.histories.pop(id(p), None)
            if history is not None:
                watched.unseen[id(p)] = reason
                self._kept -= math.prod(history.shape) if history.keeps_whole else 0

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
        seen = history is not None and bool(history.moments)
        if not seen and id(p) in watched.unseen:
            return row("not judged: " + watched.unseen[id(p)], Result.OPEN)
        if not watched.steps and (mark := self._first.get(id(p))) is not None and mark_of(p) not in (None, mark):
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


def _judged(history: History, promise: str, candidates: tuple[Candidate, ...]) -> tuple[str, Result]:
    moved = any(m.update.any() for m in history.moments)
    rates = [float(m.settings["lr"]) for m in history.moments if m.settings.get("lr") is not None]
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


def _scale_of(optimizer: torch.optim.Optimizer, kwargs: Mapping[str, Any]) -> float:
    """What the gradients were multiplied by inside the step."""
    given = kwargs.get("grad_scale")
    given = vars(optimizer).get("grad_scale") if given is None else given
    clip = optimizer.last_step.clip if isinstance(optimizer, Optimizer) and optimizer.last_step else 1.0
    return clip if given is None else clip / float(given)


def _skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer left the step out: a scaler told it to, or it is gradstep's and says so."""
    found = vars(optimizer).get("found_inf")
    if found is not None and bool(found):
        return True
    return isinstance(optimizer, Optimizer) and optimizer.last_step is not None and not optimizer.last_step.stepped
