"""``gradstep.watch_rules``: the optimizers of a training run watched, by torch's own hooks around their steps."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradstep.judge.updates.candidates import find_promise
from gradstep.judge.updates.history import LARGE_MATRIX, MATRIX, History, NumberFormat, copy_settings, fingerprint
from gradstep.judge.updates.matching import Screen, has_zero_rate, judge, judge_zero_rate, make_screens
from gradstep.judge.updates.records import OptimizerRecord, RunningSteps
from gradstep.judge.updates.report import Result, UpdateReport, WatchReport
from gradstep.optimizers import Optimizer, innermost
from gradstep.rules import RULES

WATCHED_STEPS = 20
"""Steps of each optimizer that are watched."""

BUDGET = 1 << 24
"""Elements of matrices that are kept in full, in all: three steps of them take 0.6 GB in float32."""

_ORDER = (Result.WRONG, Result.UNSTEPPED, Result.RIGHT, Result.OPEN, Result.FROZEN)
"""If two optimizers train a parameter one after the other, the result that stands first here counts."""

_MATRIX_RULES = tuple(name for name, rule in RULES.items() if rule.sees in ("tensor", "matrix"))


@final
class RuleWatch:
    """Records the updates of a training run; :func:`watch_rules` makes it.

    As a context manager it ends the watch when it is left. :attr:`report` can be read at any time.
    """

    def __init__(self, optimizers: tuple[torch.optim.Optimizer, ...], model: nn.Module | None, steps: int) -> None:
        self._steps, self._model = steps, model
        self._records: dict[int, OptimizerRecord] = {}
        self._handles: list[Any] = []
        for o in optimizers:
            self._record(o)
        self._fingerprints = {id(p): fingerprint(p) for w in self._records.values() for *_, p in w.parameters()}
        self._running = RunningSteps()
        self._count = itertools.count(1)
        self._elements = 0
        self._modules: dict[int, nn.Module] = {}
        if optimizers:
            self._handles += [
                handle
                for o in optimizers
                for handle in (o.register_step_pre_hook(self._before_step), o.register_step_post_hook(self._after_step))
            ]
        else:
            self._handles += [
                register_optimizer_step_pre_hook(self._before_step),
                register_optimizer_step_post_hook(self._after_step),
                register_module_forward_pre_hook(self._before_forward),
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
        """The report of the steps so far."""
        names = self._names()
        holders: dict[int, list[OptimizerRecord]] = {}
        for record in self._records.values():
            for *_, p in record.parameters():
                holders.setdefault(id(p), []).append(record)
        screens = make_screens(h for r in self._records.values() for h in r.histories.values() if h.steps)
        rows: dict[int, UpdateReport] = {}
        for record in self._records.values():
            for number, i, group, p in record.parameters():
                if id(p) in rows:
                    continue
                name = names.get(id(p)) or _place(group, number, i)
                try:
                    rows[id(p)] = self._report_parameter(name, p, holders[id(p)], names, screens)
                except Exception as error:  # one foreign optimizer that cannot be judged must not end the report
                    kind, text = type(record.optimizer).__name__, f"not judged: {type(error).__name__}: {error}"
                    rows[id(p)] = UpdateReport(name, tuple(p.shape), kind, "", text, Result.OPEN)
        missing = [_report_missing(name, p) for p, name in self._missing_parameters(rows.keys())]
        return WatchReport((*rows.values(), *missing), max((r.steps for r in self._records.values()), default=0))

    # -- around a step ------------------------------------------------------------------------------------------------

    def _record(self, optimizer: torch.optim.Optimizer) -> OptimizerRecord:
        if id(optimizer) not in self._records:
            self._records[id(optimizer)] = OptimizerRecord(optimizer)
            with contextlib.suppress(AttributeError):  # what has not called torch's constructor has no such hooks
                self._handles.append(optimizer.register_load_state_dict_post_hook(self._after_load))
        return self._records[id(optimizer)]

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        record = self._record(optimizer)
        record.count_step(next(self._count))
        frame = inspect.currentframe()
        for failed in self._running.begin(record, frame.f_back if frame else None):
            self._restart(failed, "a step of its optimizer raised an error")
        if record.steps >= self._steps or self._running.count(record) > 1:
            return
        closure = kwargs.get("closure") is not None or any(callable(a) for a in args[1:])
        settings: dict[int, Mapping[str, Any]] = {}
        for number, _, group, p in record.parameters():
            try:
                if number not in settings:
                    settings[number] = copy_settings(group)
                self._begin_step(record, group, settings[number], p, closure=closure)
            except Exception as error:  # the training goes on, whatever cannot be read
                record.stop_reading(p, error)

    def _begin_step(
        self,
        record: OptimizerRecord,
        group: Mapping[str, Any],
        settings: Mapping[str, Any],
        p: Tensor,
        *,
        closure: bool,
    ) -> None:
        if id(p) not in self._fingerprints:
            self._fingerprints[id(p)] = fingerprint(p)
        gradient = None if closure else p.grad
        history = record.histories.get(id(p))
        if (gradient is None and not closure) or not p.numel() or (history is not None and history.closed):
            return
        if history is None:
            history = record.histories[id(p)] = self._new_history(record.optimizer, group, p)
        history.begin_step(p, gradient, settings, record.optimizer.state.get(p, {}))

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        record = self._record(optimizer)
        frame = inspect.currentframe()
        failed = self._running.end(record, frame.f_back if frame else None)
        if failed is None:
            return
        for other in failed:  # and the step around it went on
            self._restart(other, "a step of its optimizer raised an error")
        if self._running.count(record):
            return
        if not self._running and record.steps == 0:
            record.inner = False
        if record.steps >= self._steps:
            return
        record.steps += 1
        for *_, p in record.parameters():
            history = record.histories.get(id(p))
            if history is None or history.closed:
                continue
            try:
                if _is_skipped(optimizer):
                    history.skip_step()
                else:
                    history.end_step(p, p.grad, _scale_of(optimizer, kwargs), optimizer.state.get(p, {}))
            except Exception as error:
                record.stop_reading(p, error)

    def _after_load(self, optimizer: torch.optim.Optimizer) -> None:
        self._restart(self._record(optimizer), "its optimizer's state was loaded after the last step that was watched")

    def _restart(self, record: OptimizerRecord, reason: str) -> None:
        """Start new records of an optimizer whose state has changed outside its steps; complete records stay."""
        if record.steps >= self._steps:
            return
        for *_, p in record.parameters():
            history = record.histories.pop(id(p), None)
            if history is not None:
                record.reasons[id(p)] = reason
                self._elements -= math.prod(history.shape) if history.keeps_matrix else 0

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():  # a compiler traces what changes nothing
            self._modules[id(module)] = module

    def _new_history(self, optimizer: torch.optim.Optimizer, group: Mapping[str, Any], p: Tensor) -> History:
        """Return an empty history of a parameter, which keeps whole matrices if they are within the budget."""
        largest = LARGE_MATRIX if find_promise(optimizer, group, p)[0] in _MATRIX_RULES else MATRIX
        full = p.numel() <= largest and self._elements + p.numel() <= BUDGET and not p.is_complex()
        self._elements += p.numel() if full else 0
        return History(tuple(p.shape), NumberFormat.of(p.dtype), keeps_matrix=full)

    # -- the report ---------------------------------------------------------------------------------------------------

    def _models(self) -> list[nn.Module]:
        if self._model is not None:
            return [self._model]
        inner = {id(child) for m in self._modules.values() for child in m.modules() if child is not m}
        return [m for m in self._modules.values() if id(m) not in inner]

    def _names(self) -> dict[int, str]:
        named = [pair for model in self._models() for pair in model.named_parameters()]
        return {id(p): name.removeprefix("_orig_mod.") for name, p in named}  # torch.compile puts it before each

    def _missing_parameters(self, identities: Collection[int]) -> Iterator[tuple[Tensor, str]]:
        """Yield the parameters that no optimizer holds, of models of which an optimizer holds others."""
        for model in self._models():
            for name, p in model.named_parameters():
                if id(p) not in identities and any(id(q) in identities for q in model.parameters()):
                    yield p, name

    def _report_parameter(
        self,
        name: str,
        p: Tensor,
        holders: list[OptimizerRecord],
        names: Mapping[int, str],
        screens: Mapping[int, Screen],
    ) -> UpdateReport:
        stepped = [record for record in holders if record.steps] or holders
        innermost_records = [record for record in stepped if record.inner] or stepped
        if not len(innermost_records) == len(stepped) > 1:
            return self._report_updates(name, p, innermost_records[0], names, screens)
        stepped.sort(key=lambda record: record.begin)
        kinds = [type(record.optimizer).__name__ for record in stepped]
        if any(later.begin < earlier.end for earlier, later in itertools.pairwise(stepped)):
            promise, _ = find_promise(stepped[0].optimizer, _group_of(stepped[0], p), p)
            return UpdateReport(
                name, tuple(p.shape), " and ".join(kinds), promise, "updated by two optimizers", Result.WRONG
            )
        # One after the other, as in Adam and then L-BFGS, or where each epoch makes its own.
        reports = [self._report_updates(name, p, record, names, screens) for record in stepped]
        return replace(
            min(reports, key=lambda report: _ORDER.index(report.result)), optimizer=", then ".join(dict.fromkeys(kinds))
        )

    def _report_updates(
        self, name: str, p: Tensor, record: OptimizerRecord, names: Mapping[int, str], screens: Mapping[int, Screen]
    ) -> UpdateReport:
        """Return the report of what one optimizer did with a parameter."""
        kind = type(record.optimizer).__name__
        promise, candidates = find_promise(record.optimizer, _group_of(record, p), p)

        def row(received: str, result: Result) -> UpdateReport:
            return UpdateReport(name, tuple(p.shape), kind, promise, received, result)

        if not p.requires_grad:
            return row("frozen: it needs no gradient", Result.FROZEN)
        history = record.histories.get(id(p))
        if history is not None and history.steps:
            if has_zero_rate(history):
                others = (h for h in record.histories.values() if h.steps)
                return row(*judge_zero_rate(history, others_move=not all(map(has_zero_rate, others))))
            return row(*judge(history, promise, candidates, screens[id(history)]))
        if id(p) in record.reasons:
            return row("not judged: " + record.reasons[id(p)], Result.OPEN)
        if not record.steps:
            first = self._fingerprints.get(id(p))
            if first is not None and fingerprint(p) not in (None, first):
                return row("changed, though no step of its optimizer was made", Result.WRONG)
            return row("no step of its optimizer was made", Result.UNSTEPPED)
        if history is not None and history.skipped:
            return row("not judged: its optimizer left out every step, since gradients were not finite", Result.OPEN)
        if names and id(p) not in names:
            return row("not a parameter of the model that runs: it has no gradient", Result.UNSTEPPED)
        return row("no gradient in any step", Result.OPEN)


def watch_rules(
    *optimizers: torch.optim.Optimizer, model: nn.Module | None = None, steps: int = WATCHED_STEPS
) -> RuleWatch:
    """Watch a training run: does each parameter receive the update that its optimizer's name promises?

    The first steps are watched through torch's hooks around ``step()``: of each parameter a sample of 128 elements, of
    matrices up to 65,536 elements (4 million for Muon and Adafactor) three steps in full. The update is computed anew
    in float64 from the recorded gradients and settings and compared with what happened. How far apart they may be is
    computed too: as far as roundings of the parameter's and the state's dtype move the update. Where they are further
    apart, the other rules are tried, and the one that fits is named. A class name such as ``AdamW``, ``FusedAdam``,
    ``PagedLion8bit`` or ``MuonWithAuxAdam`` promises a rule; a name that stands for no known rule promises nothing, and
    the report says which rule it was.

    Args:
        optimizers: any torch.optim.Optimizer; none stands for every optimizer that steps from now on.
        model: its parameters' names are used, and those that no optimizer holds are found. Where no optimizer is
            given, models are found by their calls.
        steps: how many steps of each are watched, at least 1; three tell every rule from the others.

    Returns:
        The watch; its ``report`` prints what was found, ``report.passed`` is the result, ``close()`` ends it.

    Raises:
        TypeError: what is watched is no ``torch.optim.Optimizer``, ``model`` no ``torch.nn.Module``, or ``steps`` no
            integer.
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
    if isinstance(steps, bool) or not hasattr(steps, "__index__"):
        raise TypeError(f"steps must be an integer, at least 1, but is {steps!r}: leave it out for {WATCHED_STEPS}")
    steps = operator.index(steps)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, but is {steps!r}")
    for o in optimizers:
        if not isinstance(o, torch.optim.Optimizer):
            raise TypeError(f"only a torch.optim.Optimizer can be watched, not {type(o).__name__}")
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module or None, but is {model!r}")
    return RuleWatch(tuple(innermost(o) for o in optimizers), model, steps)


def _report_missing(name: str, p: Tensor) -> UpdateReport:
    if not p.requires_grad:
        return UpdateReport(name, tuple(p.shape), "", "", "frozen: it needs no gradient", Result.FROZEN)
    text = "held by no optimizer, though it needs a gradient"
    return UpdateReport(name, tuple(p.shape), "", "", text, Result.UNSTEPPED)


def _group_of(record: OptimizerRecord, p: Tensor) -> Mapping[str, Any]:
    return next(group for _, _, group, q in record.parameters() if q is p)


def _place(group: Mapping[str, Any], number: int, i: int) -> str:
    names = group.get("param_names")
    return str(names[i]) if names else f"group {number}, parameter {i}"


def _scale_of(optimizer: torch.optim.Optimizer, kwargs: Mapping[str, Any]) -> float:
    """Return the factor by which the step multiplied the gradients: its clipping, divided by the loss scale."""
    scale = kwargs.get("grad_scale")
    scale = vars(optimizer).get("grad_scale") if scale is None else scale
    clip = optimizer.last_step.clip if isinstance(optimizer, Optimizer) and optimizer.last_step else 1.0
    return clip if scale is None else clip / float(scale)


def _is_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer skipped the step, as a GradScaler or a gradstep optimizer's own report shows."""
    overflow = vars(optimizer).get("found_inf")
    if overflow is not None and bool(overflow):
        return True
    return isinstance(optimizer, Optimizer) and optimizer.last_step is not None and not optimizer.last_step.stepped
