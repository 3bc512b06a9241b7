"""The PyTorch front: a rule as a ``torch.optim.Optimizer``."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast, overload

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer
from torch.utils.hooks import RemovableHandle

from gradstep.engines.statistics import Detail, Observer, StepReport, finest_detail
from gradstep.engines.step import check_engine, defer_signals, take_step
from gradstep.optimizers.arguments import (
    OWN,
    GroupRules,
    ParamsT,
    build_rules,
    check_lists,
    check_positive,
    keep_settings,
    list_given_parameters,
    read_group,
    split_arguments,
)
from gradstep.optimizers.checkpoint.load import export_state_dict, prepare_load
from gradstep.optimizers.checkpoint.matching import LoadReport, write_group_header
from gradstep.optimizers.hooks import call_uncompiled, call_with_hooks
from gradstep.optimizers.named_rules import read_named_rule
from gradstep.optimizers.state.engines import ENGINES
from gradstep.optimizers.state.storage import Choice, Choices, Storage
from gradstep.optimizers.state.summary import Summary, choose_each, summarize
from gradstep.optimizers.step.build import build_batches
from gradstep.optimizers.step.part import TorchBatch
from gradstep.optimizers.step.ranks import fail_on_other_ranks, is_first_update
from gradstep.optimizers.step.table import Table, create_state
from gradstep.optimizers.whole_model import ParamGroups, group_and_mark
from gradstep.optimizers.wrapped import Wrapper, ZeroRanks, find_zero_ranks, innermost
from gradstep.rules import Rule
from gradstep.storage.policy import Pages

if TYPE_CHECKING:  # importing it takes a fifth of gradstep's import time, and only paged state needs it
    from typing_extensions import Self

    from gradstep.optimizers.paged.placement import NewParameter, Placement
    from gradstep.storage.pages import Preflight


class Optimizer(torch.optim.Optimizer):
    """The base class of all gradstep optimizers for PyTorch; :func:`gradstep.optimizer` makes one from a rule.

    State, ``param_groups`` and ``state_dict`` have torch's keys. Checkpoints do not contain the engine.

    Args:
        params: tensors, pairs of name and tensor, or groups.
        positional, named: the rule's settings, in its own order, and those of every optimizer, by name.

    >>> import torch, gradstep
    >>> issubclass(gradstep.Lion, gradstep.Optimizer), gradstep.Lion.rule() is gradstep.rules.Lion
    (True, True)
    """

    preset: ClassVar[Mapping[str, Any]] = {}
    """Defaults of this class that replace those in :data:`OWN`."""

    grad_scale: float | Tensor = 1.0
    """The factor that gradients were multiplied by; ``torch.amp.GradScaler`` sets it during one step."""

    found_inf: float | Tensor = 0.0
    """Not 0 if a gradient is not finite; ``torch.amp.GradScaler`` sets it during one step."""

    _step_supports_amp_scaling: ClassVar[bool] = True

    watch: Detail | None
    """What steps collect statistics of, in the pass that updates: every one of the ``"parameters"``, every one of the
    ``"groups"``, or nothing (None, the default). ``last_step.statistics`` has them, perhaps in finer detail."""

    last_step: StepReport | None
    """Report of the last ``step()``; None before the first."""

    grouping: ParamGroups | None
    """The groups that the constructor made of a whole model, with reasons; None if it made none, and in copies."""

    _rule: ClassVar[type[Rule]]
    _rules: GroupRules
    _engine: str
    _storage: Storage
    _paged: Placement | None
    _observers: OrderedDict[int, Observer] | None
    _locks: dict[int, threading.RLock]
    _state_seen: bool
    _table: Table | None
    _zero_ranks: ZeroRanks | None

    def __new__(cls, *args: Any, **named: Any) -> Self:
        # Of the instance, not of the class: Lightning's wrapper takes over the class and looks up missing attributes in
        # the optimizer inside; it would find class defaults first.
        self = super().__new__(cls)
        self.watch = self.last_step = self.grouping = self._paged = self._observers = self._table = None
        self._engine, self._storage, self._rules = "auto", Storage(), GroupRules(cls._rule)
        self._locks, self._state_seen, self._zero_ranks = {}, False, None
        return self

    def __init__(self, params: ParamsT, *positional: Any, **named: Any) -> None:
        settings, own = split_arguments(type(self).__name__, self.rule(), positional, named)
        own = {**OWN, **self.preset, **own}
        if own["engine"] != "auto":
            check_engine(own["engine"], ENGINES)
        if torch.distributed.is_available() and torch.distributed.is_initialized():  # ranks may share its parameters
            self._zero_ranks = find_zero_ranks(params)
        pages = Pages.of(own["paged"], own["page_budget"])
        rule, self._engine = self.rule()(**settings), own["engine"]  # refuses bad settings before anything exists
        # None is 0 and not torch's seed: ranks may seed torch differently, and their replicas would drift apart.
        self._storage = Storage(own["state"], own["rounding"], 0 if own["seed"] is None else own["seed"])
        params = list_given_parameters(params)
        if rule.sees == "matrix" or own["model"] is not None:
            params, self.grouping = group_and_mark(params, own["model"], rule)
        super().__init__(params, keep_settings(self.rule(), {}, settings))
        self._state_seen = False
        self._storage.check_rounding(p for g in self.param_groups for p in g["params"])
        if pages is not None:
            from gradstep.optimizers.paged.select import choose_placement

            kinds, stored = self._rules.in_use(self.param_groups), self._parameters()
            nbytes = summarize(stored, self._storage, self.param_groups).nbytes
            self._paged = choose_placement(pages, kinds, stored, nbytes, self._storage)
            self._storage = self._paged.storage
            for group in self.param_groups:
                write_group_header(self._rules.of(group), self._storage, group)

    def preflight(self) -> Preflight:
        """Measure the folder that state is paged to: free space, and the time of a step that reads from the disk.

        Raises:
            ValueError: the state is not paged.
        """
        if self._paged is None:
            raise ValueError("the state of this optimizer is not paged: give paged=True or a folder")
        return self._paged.preflight(self.state_summary().nbytes)

    @classmethod
    def rule(cls) -> type[Rule]:
        """Return the rule, which is the mathematics of this optimizer."""
        return cls._rule

    def rule_of(self, group: Mapping[str, Any]) -> type[Rule]:
        """Return the rule of a ``group`` of ``param_groups``: the one named under ``"rule"``, else :meth:`rule`."""
        return self._rules.of(group)

    @property
    def state(self) -> defaultdict[Tensor, dict[str, Any]]:  # a plain attribute in torch
        """The state of every parameter, as in torch: slots and scalars by name.

        A caller that has read this or :meth:`state_dict` may change the state at any time, so every later step checks
        it for changes. Before the first read no check is needed, which makes a small tensor's step a third faster.
        """
        self._state_seen = True
        if "state" not in self.__dict__:  # self is a wrapper that took over our class; it keeps the optimizer inside
            raise AttributeError(f"{type(self).__name__} has no state yet")
        return cast("defaultdict[Tensor, dict[str, Any]]", self.__dict__["state"])

    @state.setter
    def state(self, value: defaultdict[Tensor, dict[str, Any]]) -> None:
        if not isinstance(value, dict):
            raise TypeError(f"an optimizer's state must be a dictionary, by parameter, but is a {type(value).__name__}")
        self.__dict__["state"] = value
        self._table, self._state_seen = None, True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add ``param_group``: parameters with settings of their own, and perhaps a ``"rule"``; it is checked.

        Raises:
            ValueError: a setting is missing or out of its bounds, or a parameter is in the optimizer already.
            TypeError: a parameter is not a tensor of floating-point or complex numbers, or a setting is unknown.
        """
        kind = self._rule
        if isinstance(param_group, dict):
            if "rule" in param_group:
                param_group, kind = read_named_rule(self._rules, self.defaults, param_group, self._zero_ranks)
            param_group, rule = read_group(kind, self.defaults, param_group)
            Choices(self._engine, self._storage, rule, param_group).check(param_group["params"])
        super().add_param_group(param_group)
        self._rules.by_name[kind.__name__] = kind
        self.param_groups[-1] = keep_settings(kind, self.defaults, self.param_groups[-1])
        write_group_header(kind, self._storage, self.param_groups[-1])

    def engines(self) -> list[tuple[str, str, str]]:
        """Return the engine that updates each parameter: (parameter, engine, reason), in the order of ``param_groups``.

        >>> import torch, gradstep
        >>> gradstep.AdamW([torch.zeros(3, requires_grad=True)]).engines()
        [('parameter 0 of group 0', 'fused', 'a dense float32 tensor on the CPU')]
        """
        return [(name, engine.name, why) for name, _, c in self._choices() for engine, why in [c.engine_and_reason]]

    def state_summary(self) -> Summary:
        """Return how each parameter's state is stored, why, and its bytes; ``print`` shows a table.

        >>> import torch, gradstep
        >>> model = torch.nn.Linear(100, 100)
        >>> summary = gradstep.AdamW(model.named_parameters(), state="8bit", model=model).state_summary()
        >>> for row in summary.rows:
        ...     print(row.name, row.parameter, row.state, row.reason, row.nbytes)
        weight float32 exp_avg: 8bit, exp_avg_sq: 8bit state='8bit' 20084
        bias float32 exp_avg: float32, exp_avg_sq: float32 a norm or a bias 804
        """
        whole = None if self._zero_ranks is None else self._parameters(self._zero_ranks.groups)
        return summarize(self._parameters(), self._storage, self.param_groups, whole)

    def _choices(self, groups: Sequence[Mapping[str, Any]] | None = None) -> Iterator[tuple[str, Tensor, Choice]]:
        """Return each (name, parameter, its engine and storage), in the order of the groups, by default its own."""
        groups = self.param_groups if groups is None else groups
        groups = groups if self._zero_ranks is None else self._zero_ranks.describe(groups)
        return choose_each(self._engine, self._storage, self._rules, groups)

    def _parameters(self, groups: Sequence[Mapping[str, Any]] | None = None) -> list[NewParameter]:
        return [(name, p, choice.stored) for name, p, choice in self._choices(groups)]

    # -- the step -----------------------------------------------------------------------------------------------

    @overload
    def step(
        self, closure: None = None, *, max_grad_norm: float | None = None, grad_scale: float | Tensor | None = None
    ) -> None: ...
    @overload
    def step(
        self, closure: Callable[[], Any], *, max_grad_norm: float | None = None, grad_scale: Any = None
    ) -> Any: ...
    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        max_grad_norm: float | None = None,
        grad_scale: float | Tensor | None = None,
    ) -> Any:
        """Update every parameter that has a gradient.

        With ``max_grad_norm`` or ``grad_scale`` the gradients are also unscaled, checked to be finite and clipped, in
        two passes over memory and without writing to ``p.grad``. If a gradient is not finite, the step is skipped:
        nothing changes, and :attr:`last_step` gives the reason.

        Args:
            closure: computes the loss again, with gradients enabled.
            max_grad_norm: clip to this global 2-norm of the unscaled gradients, as ``clip_grad_norm_`` does.
            grad_scale: the factor that the loss was multiplied by.

        Returns:
            The closure's result, or None without a closure.

        Raises:
            RuntimeError: a gradient does not fit its parameter; nothing was changed.
            ValueError: a setting is out of its bounds (a schedule may have moved it); nothing was changed.

        >>> import torch, gradstep
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> w.grad = torch.tensor([30.0, 40.0])
        >>> optimizer = gradstep.SGD([w], lr=1.0)
        >>> optimizer.step(max_grad_norm=5.0, grad_scale=1.0)
        >>> optimizer.last_step.grad_norm, optimizer.last_step.clip
        (50.0, 0.099999998)
        """
        if torch.compiler.is_compiling():  # a compiler has nothing to trace here: it calls the step uncompiled
            return call_uncompiled(self, closure, max_grad_norm=max_grad_norm, grad_scale=grad_scale)
        if not _has_hooks(self):
            return self._step(closure, max_grad_norm=max_grad_norm, grad_scale=grad_scale)
        named: dict[str, Any] = {"max_grad_norm": max_grad_norm, "grad_scale": grad_scale}
        named = {name: value for name, value in named.items() if value is not None}  # hooks see given arguments only
        return call_with_hooks(type(self)._step, self, *(() if closure is None else (closure,)), **named)

    step.hooked = True  # type: ignore[attr-defined]  # torch's own wrapper would cost a fifth of a small step's time

    def register_observer(self, observer: Observer) -> RemovableHandle:
        """Call ``observer`` at every later step, until the handle's ``remove()``; copies are not observed."""
        self._observers = OrderedDict() if self._observers is None else self._observers
        handle = RemovableHandle(self._observers)
        self._observers[handle.id] = observer
        return handle

    def _step(self, closure: Any = None, *, max_grad_norm: float | None = None, grad_scale: Any = None) -> Any:
        observers = () if self._observers is None else tuple(self._observers.values())
        details = [self.watch, *[observer.before(closure=closure is not None) for observer in observers]]
        detail = None if details == [None] else finest_detail(details)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with self._lock, defer_signals():
            scale = 1.0 if grad_scale is None else check_positive("grad_scale", grad_scale)
            norm = None if max_grad_norm is None else check_positive("max_grad_norm", max_grad_norm)
            if float(self.found_inf) > 0:
                report = StepReport(stepped=False, reason="a gradient is not finite (found by GradScaler)")
            else:
                scale *= 1.0 if self.grad_scale == 1.0 else check_positive("grad_scale", self.grad_scale)
                check = grad_scale is not None
                rules, table, batches, created = self._prepare(check or norm is not None, detail is not None)
                report = created or take_step(
                    table, batches, rules, table.ranks, scale=scale, max_grad_norm=norm, check=check, detail=detail
                )
                if report.stepped:
                    self._table = table
            self.last_step = report
        for observer in observers:
            observer.after(report)
        return loss

    def _prepare(self, measured: bool, watched: bool) -> tuple[list[Rule], Table, list[TorchBatch], StepReport | None]:
        """Return a step's rules, table and batches; and the report of a step that creates state and updates nothing."""
        zero, groups, state = self._zero_ranks, self.param_groups, self.__dict__["state"]
        try:
            rules = build_rules(self._rules, groups)
            table = self._table
            batches = None if table is None else table.batches(rules, groups, state, state_seen=self._state_seen)
            if table is None or batches is None:
                chosen = (self._engine, self._storage, self._paged)
                table, batches = build_batches(*chosen, rules, groups, state, zero, watched=watched)
        except Exception:
            watched = watched or is_first_update(self.last_step)
            fail_on_other_ranks(zero, self._rules, groups, state, measured=measured, watched=watched)
            raise
        if table.ranks is not None:
            table.ranks.compares = is_first_update(self.last_step)
        may_only_create = table is not self._table and not (measured or watched or zero)
        return rules, table, batches, create_state(table, batches, groups, state) if may_only_create else None

    @property
    def _lock(self) -> threading.RLock:
        # Held while state changes; of this process, since a fork lacks the threads of its parent.
        return self._locks.get(os.getpid()) or self._locks.setdefault(os.getpid(), threading.RLock())

    # -- checkpoints --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch's class of the same name does, with rule and storage added under ``"gradstep"``.

        That class can load it if the state is float32.
        """
        if isinstance(self, Wrapper) and (inside := innermost(self)) is not self:  # self is around the optimizer
            return inside.state_dict()
        check_lists(self.param_groups)
        return export_state_dict(super().state_dict(), self._rules, self._storage)

    @torch._disable_dynamo  # type: ignore[attr-defined]  # torch.compiler.disable imports it all: 2 s
    def load_state_dict(  # type: ignore[override]  # a report where torch returns None
        self, state_dict: dict[str, Any], strict: bool = True
    ) -> LoadReport | None:
        """Load a state written by this class or by torch's class of the same name.

        Parameters are matched by name where both sides have names, else in order; see ``docs/checkpoints.md``. State
        is converted to this optimizer's storage where that loses nothing (torch casts it to the parameter's type).
        The seed of the rounding noise is loaded too; torch's execution settings are ignored.

        Args:
            state_dict: the state.
            strict: False loads what matches by name and shape and leaves out the rest, for example from a model with
                other layers or another head. Both sides need names, unless their groups have as many parameters each.

        Returns:
            With ``strict=False``, what was loaded and what was left out, and why.

        Raises:
            KeyError: a part of the checkpoint is missing; nothing was changed.
            ValueError: another rule, other groups or parameters, or a setting out of its bounds; nothing was changed.
            RuntimeError: state does not fit its parameter or would be rounded; nothing was changed.
        """
        if isinstance(self, Wrapper) and (inside := innermost(self)) is not self:  # self is around the optimizer
            return cast(LoadReport | None, inside.load_state_dict(state_dict, **({} if strict else {"strict": False})))
        on_host = self._paged is not None and self._paged.on_host
        new = prepare_load(self, self._rules, self._storage, state_dict, on_host=on_host, strict=strict)
        with self._lock:  # all attributes at once: the handler of a signal may raise an error between two assignments
            self.__setstate__({"state": new.state, "param_groups": new.groups, "_storage": new.storage, "_table": None})
            self._state_seen = False
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)
        return None if strict else new.report

    def __setstate__(self, state: dict[str, Any]) -> None:
        pages = state.get("_pages")
        super().__setstate__({key: value for key, value in state.items() if key != "_pages"})
        if pages is not None:
            from gradstep.optimizers.paged.select import make_placement

            self._paged = make_placement(pages, self._parameters())
        self._table, self._state_seen = None, True

    def __getstate__(self) -> dict[str, Any]:
        self._state_seen = True  # copy.copy shares the state
        pages = None if self._paged is None else Pages(None, self._paged.pages.budget)  # a copy has its own folder
        names = ("defaults", "state", "param_groups", "_engine", "_storage", "_rules", "_zero_ranks")
        return {**{name: self.__dict__[name] for name in names}, "_pages": pages}


def _has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a step of this optimizer must call hooks, or report to a running profiler."""
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    every = torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks
    return bool(own or every or torch.autograd._profiler_enabled())  # type: ignore[attr-defined]
