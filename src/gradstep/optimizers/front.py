"""The PyTorch front: a rule as a ``torch.optim.Optimizer``."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, cast, overload

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer
from torch.utils.hooks import RemovableHandle

from gradstep.engines.base import check_engine
from gradstep.engines.statistics import Detail, finest_detail
from gradstep.engines.step import Observer, StepReport, defer_signals, take_step
from gradstep.optimizers.arguments import (
    OWN,
    build_rule,
    check_lists,
    check_params,
    check_positive,
    drop_defaults_beyond_torch,
    drop_execution,
    parameter_names,
    split_arguments,
)
from gradstep.optimizers.checkpoint.load import export_state_dict, make_header, prepare_load
from gradstep.optimizers.checkpoint.matching import LoadReport
from gradstep.optimizers.hooks import call_with_hooks
from gradstep.optimizers.paged.pages import Pages
from gradstep.optimizers.state.storage import (
    ENGINES,
    Choice,
    Choices,
    Embeddings,
    ParameterStorage,
    Storage,
    mark_embeddings,
)
from gradstep.optimizers.state.summary import GUESSED, Summary, summarize
from gradstep.optimizers.step.batch import TorchBatch
from gradstep.optimizers.step.build import build_table
from gradstep.optimizers.step.table import Table
from gradstep.optimizers.wrapped import innermost
from gradstep.rules import Rule, settings_of

if TYPE_CHECKING:  # pages are a fifth of the time to import gradstep, for those who page state
    from typing_extensions import Self

    from gradstep.optimizers.paged.placement import Placement
    from gradstep.storage.pages import Preflight

ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class Optimizer(torch.optim.Optimizer):
    """What every gradstep optimizer for PyTorch shares; made from a rule by :func:`gradstep.optimizer`.

    State, ``param_groups`` and ``state_dict`` are torch's own, key by key. The engine is a property of the optimizer
    and is not kept in checkpoints.
    """

    preset: ClassVar[Mapping[str, Any]] = {}
    """What this class has instead of the defaults in :data:`OWN`."""

    grad_scale: float | Tensor = 1.0
    """Set by ``torch.amp.GradScaler`` for the length of one step: what the gradients were multiplied by."""

    found_inf: float | Tensor = 0.0
    """Set by ``torch.amp.GradScaler`` for the length of one step: not 0 if a gradient is not finite."""

    _step_supports_amp_scaling: ClassVar[bool] = True

    watch: Detail | None
    """Whose statistics steps collect, in the pass that updates: those of all ``"parameters"``, those of all
    ``"groups"``, or nobody's (None, as at first). They are in ``last_step.statistics``; there may be more detail than
    was asked for."""

    last_step: StepReport | None
    """What the last ``step()`` did; None before the first."""

    _rule: ClassVar[type[Rule]]
    _engine: str
    _storage: Storage
    _paged: Placement | None
    _observers: OrderedDict[int, Observer] | None
    _locks: dict[int, threading.RLock]
    _state_seen: bool
    _table: Table | None

    def __new__(cls, *args: Any, **named: Any) -> Self:
        # On the instance and not on the class: a wrapper that takes over the class (Lightning's) looks for what it has
        # not itself in the optimizer inside, and would find the class's defaults first.
        self = super().__new__(cls)
        self.watch = self.last_step = self._paged = self._observers = self._table = None
        self._engine, self._storage, self._locks, self._state_seen = "auto", Storage(), {}, False
        return self

    def __init__(self, params: ParamsT, *positional: Any, **named: Any) -> None:
        given, own = split_arguments(type(self).__name__, self.rule(), positional, named)
        own = {**OWN, **self.preset, **own}
        check_engine(own["engine"], ENGINES)
        pages = Pages.of(own["paged"], own["page_budget"])
        self.rule()(**given)  # refuse bad settings before anything exists
        self._engine = own["engine"]
        seed = torch.initial_seed() if own["seed"] is None else own["seed"]
        self._storage = Storage(own["state"], own["rounding"], seed)
        if own["model"] is not None:
            params = mark_embeddings(params, own["model"])
        defaults = {s.name: given.get(s.name, s.default) for s in settings_of(self.rule())}
        super().__init__(params, drop_defaults_beyond_torch(self.rule(), defaults))
        self._state_seen = False
        self._storage.check_rounding(p for g in self.param_groups for p in g["params"])
        if pages is not None:
            from gradstep.optimizers.paged.select import choose_placement

            self._paged = choose_placement(pages, self.rule(), self._parameters(), self.state_summary().nbytes)
            saved = self._paged.saved_seed()  # state that is resumed goes on with the noise that it was rounded with
            self._storage = replace(self._storage, seed=seed if saved is None else saved)
            self._paged.seed = self._storage.seed

    def preflight(self) -> Preflight:
        """Room and speed of the folder that state is paged to: how long a step takes when it comes from the disk.

        Raises:
            ValueError: the state is not paged.
        """
        if self._paged is None:
            raise ValueError("the state of this optimizer is not paged: give paged=True or a folder")
        return self._paged.preflight(self.state_summary().nbytes)

    @classmethod
    def rule(cls) -> type[Rule]:
        """The mathematics of this optimizer."""
        return cls._rule

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> defaultdict[Tensor, dict[str, Any]]:  # a plain attribute in torch
        """The state of every parameter, as in torch: slots and scalars by name.

        Who has read this, or :meth:`state_dict`, may change it at any time, so from then on every step looks whether it
        has been changed. As long as nobody has, a step need not look, which a small tensor's step is a third faster by.
        """
        self._state_seen = True
        if "state" not in self.__dict__:  # a wrapper that took over our class and keeps the optimizer inside
            raise AttributeError(f"{type(self).__name__} has no state yet")
        return cast("defaultdict[Tensor, dict[str, Any]]", self.__dict__["state"])

    @state.setter
    def state(self, value: defaultdict[Tensor, dict[str, Any]]) -> None:
        if not isinstance(value, dict):
            raise TypeError(f"an optimizer's state must be a dictionary, by parameter, but is a {type(value).__name__}")
        self.__dict__["state"] = value
        self._state_seen = True
        self._table = None

    # -- settings -----------------------------------------------------------------------------------------------

    def _build_rule(self, group: Mapping[str, Any]) -> Rule:
        return build_rule(self._rule, group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; torch's method, with more refused.

        Raises:
            ValueError: a setting out of its bounds, or a parameter that is there already.
            TypeError: something that is not a tensor of floating-point or complex numbers.
        """
        if isinstance(param_group, dict):
            param_group = drop_execution(param_group)
            rule = self._build_rule({**self.defaults, **param_group})
            param_group["params"] = params = check_params(param_group["params"])
            self._storage.check(rule, param_group)
            choices = Choices(self._engine, self._storage, rule, param_group)
            for index, p in enumerate(params):
                name, tensor = p if isinstance(p, tuple) else (f"parameter {index}", p)
                if isinstance(tensor, Tensor):
                    choices.of(tensor, name)
        super().add_param_group(param_group)
        self.param_groups[-1] = drop_defaults_beyond_torch(self.rule(), self.param_groups[-1])

    def engines(self) -> list[tuple[str, str, str]]:
        """What executes each parameter: (parameter, engine, why), in the order of ``param_groups``.

        >>> import torch, gradstep
        >>> gradstep.AdamW([torch.zeros(3, requires_grad=True)]).engines()
        [('parameter 0 of group 0', 'fused', 'a dense float32 tensor on the CPU')]
        """
        return [(name, choice.engine.name, choice.reason) for name, _, choice in self._choices()]

    def state_summary(self) -> Summary:
        """What is stored how, why, and in how many bytes, parameter by parameter; ``print`` shows a table.

        >>> import torch, gradstep
        >>> model = torch.nn.Linear(100, 100)
        >>> summary = gradstep.AdamW(model.named_parameters(), state="8bit", model=model).state_summary()
        >>> for row in summary.rows:
        ...     print(row.name, row.parameter, row.state, row.reason, row.nbytes)
        weight float32 exp_avg: 8bit, exp_avg_sq: 8bit state='8bit' 20084
        bias float32 exp_avg: float32, exp_avg_sq: float32 a norm or a bias 804
        """
        few_bits = [group for group in self.param_groups if group.get("state", self._storage.state) != "float32"]
        note = "" if all(Embeddings(group).are_marked or "state" in group for group in few_bits) else GUESSED
        return summarize(((name, p, stored, self.rule()) for name, p, stored in self._parameters()), note)

    def _choices(self) -> Iterator[tuple[str, Tensor, Choice]]:
        """Every parameter with its name, what executes it and how it is stored, in the order of ``param_groups``."""
        check_lists(self.param_groups)
        for index, group in enumerate(self.param_groups):
            choices = Choices(self._engine, self._storage, self._build_rule(group), group)
            for name, p in zip(parameter_names(group, index), group["params"], strict=True):
                yield name, p, choices.of(p, name)

    def _parameters(self) -> list[tuple[str, Tensor, ParameterStorage]]:
        return [(name, p, choice.stored) for name, p, choice in self._choices()]

    # -- the step -----------------------------------------------------------------------------------------------

    @overload
    def step(
        self, closure: None = None, *, max_grad_norm: float | None = None, grad_scale: float | Tensor | None = None
    ) -> None: ...
    @overload
    def step(
        self,
        closure: Callable[[], Any],
        *,
        max_grad_norm: float | None = None,
        grad_scale: float | Tensor | None = None,
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
        two passes over memory and without writing to ``p.grad``. If one is not finite, the step is skipped, nothing
        changes, and :attr:`last_step` says so.

        Args:
            closure: computes the loss again, with gradients enabled.
            max_grad_norm: clip to this global 2-norm of the unscaled gradients, as ``clip_grad_norm_`` does.
            grad_scale: what the loss was multiplied by.

        Returns:
            What the closure returned, else None.

        Raises:
            RuntimeError: a gradient that does not fit its parameter; nothing was changed.
            ValueError: a setting out of its bounds (a schedule may have moved it); nothing was changed.

        >>> import torch, gradstep
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> w.grad = torch.tensor([30.0, 40.0])
        >>> optimizer = gradstep.SGD([w], lr=1.0)
        >>> optimizer.step(max_grad_norm=5.0, grad_scale=1.0)
        >>> optimizer.last_step.grad_norm, optimizer.last_step.clip
        (50.0, 0.099999998)
        """
        if torch.compiler.is_compiling():  # there is nothing here for a compiler to trace: it takes the step as it is
            return _step_uncompiled(self, closure, max_grad_norm=max_grad_norm, grad_scale=grad_scale)
        if not _has_hooks(self):
            return self._step(closure, max_grad_norm=max_grad_norm, grad_scale=grad_scale)
        named: dict[str, Any] = {"max_grad_norm": max_grad_norm, "grad_scale": grad_scale}
        given = {name: value for name, value in named.items() if value is not None}  # what hooks are shown
        arguments = (self, *(() if closure is None else (closure,)))
        if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
            return _profiled_step(*arguments, **given)
        return call_with_hooks(Optimizer._step, *arguments, **given)

    step.hooked = True  # type: ignore[attr-defined]  # torch would wrap it, at a fifth of what a small step costs

    def register_observer(self, observer: Observer) -> RemovableHandle:
        """Tell an observer of every step from now on, until the handle's ``remove()``; copies are not observed."""
        if self._observers is None:
            self._observers = OrderedDict()
        handle = RemovableHandle(self._observers)
        self._observers[handle.id] = observer
        return handle

    def _step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        max_grad_norm: float | None = None,
        grad_scale: float | Tensor | None = None,
    ) -> Any:
        observers = () if self._observers is None else tuple(self._observers.values())
        wanted = [self.watch, *[observer.before(closure=closure is not None) for observer in observers]]
        detail = None if wanted == [None] else finest_detail(wanted)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = 1.0 if grad_scale is None else check_positive("grad_scale", grad_scale)
        if max_grad_norm is not None:
            max_grad_norm = check_positive("max_grad_norm", max_grad_norm)
        with self._lock, defer_signals():
            if float(self.found_inf) > 0:
                report = StepReport(stepped=False, reason="a gradient is not finite (found by GradScaler)")
            else:
                check_lists(self.param_groups)
                rules = [self._build_rule(group) for group in self.param_groups]
                if self.grad_scale != 1.0:
                    scale *= check_positive("grad_scale", self.grad_scale)
                table, batches = self._batches(rules)
                report = take_step(
                    table,
                    batches,
                    rules,
                    scale=scale,
                    max_grad_norm=max_grad_norm,
                    check=grad_scale is not None,
                    detail=detail,
                )
                if report.stepped:
                    self._table = table
            self.last_step = report
        for observer in observers:
            observer.after(report)
        return loss

    def _batches(self, rules: Sequence[Rule]) -> tuple[Table, list[TorchBatch]]:
        """Return this step's batches and their table; build the table anew if parameters or state have changed."""
        flat = list(chain.from_iterable([group["params"] for group in self.param_groups]))
        state = self.__dict__["state"]
        now = (rules, self.param_groups, flat, state)
        if self._table is not None:
            found = self._table.batches(*now, state_seen=self._state_seen)
            if found is not None:
                return self._table, found
        with torch.inference_mode(mode=False), torch.no_grad():  # state outlives a step that is taken in that mode
            table = build_table(
                engine=self._engine,
                storage=self._storage,
                paged=self._paged,
                rules=rules,
                groups=self.param_groups,
                state=state,
            )
        found = table.batches(*now, state_seen=self._state_seen)
        if found is None:
            raise RuntimeError("parameters or gradients are being changed by another thread while they are stepped")
        return table, found

    @property
    def _lock(self) -> threading.RLock:
        """Held while state changes, so that steps of several threads follow each other.

        A forked process has a lock of its own: nobody there would release one that its parent held.
        """
        process = os.getpid()
        return self._locks.get(process) or self._locks.setdefault(process, threading.RLock())

    # -- checkpoints --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state as torch's class of the same name writes it, and what it is of under ``"gradstep"``.

        Of float32 state, that class can load it.
        """
        inside = innermost(self)
        if inside is not self:  # called on what a trainer put around the optimizer
            return inside.state_dict()
        check_lists(self.param_groups)
        return {
            **export_state_dict(super().state_dict(), self.rule()),
            "gradstep": make_header(self.rule(), self._storage),
        }

    @torch._disable_dynamo  # type: ignore[attr-defined]  # torch.compiler.disable imports it all: 2 s
    def load_state_dict(  # type: ignore[override]  # a report where torch returns None
        self, state_dict: dict[str, Any], strict: bool = True
    ) -> LoadReport | None:
        """Load a state written by this class or by torch's class of the same name.

        Parameters are matched by name where both sides have names, else in order; see ``docs/checkpoints.md``. State
        is stored as this optimizer stores it where that loses nothing (torch casts it to the parameter's type), what
        the checkpoint says about how torch should execute is left out, and the seed of the noise is taken over.

        Args:
            state_dict: the state.
            strict: False loads what matches by name and shape, and leaves out the rest: of a model that has other
                layers, or another head. Both sides need names, unless their groups have as many parameters each.

        Returns:
            With ``strict=False``, what was loaded and what was left out, and why.

        Raises:
            KeyError: a part of the checkpoint is missing; nothing was changed.
            ValueError: another rule, other groups or parameters, or a setting out of its bounds; nothing was changed.
            RuntimeError: state that does not fit its parameter or would be rounded; nothing was changed.
        """
        inside = innermost(self)
        if inside is not self:  # called on what a trainer put around the optimizer
            report: LoadReport | None = inside.load_state_dict(state_dict, **({} if strict else {"strict": False}))
            return report
        check_lists(self.param_groups)
        state_dict = copy(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        on_host = self._paged is not None and self._paged.on_host
        found = prepare_load(
            self.rule(), self.defaults, self._storage, self.param_groups, state_dict, on_host=on_host, strict=strict
        )
        with self._lock, defer_signals():
            self.__setstate__({"state": found.state, "param_groups": found.groups})
            self._storage = found.storage
            if self._paged is not None:
                self._paged.seed = found.storage.seed
            self._state_seen = False
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)
        return None if strict else found.report

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        pages = state.pop("_pages", None)
        super().__setstate__(state)
        if pages is not None:
            from gradstep.optimizers.paged.select import make_placement

            self._paged = make_placement(pages, self._parameters())
            self._paged.seed = self._storage.seed
        self._table = None
        self._state_seen = True

    def __getstate__(self) -> dict[str, Any]:
        self._state_seen = True  # copy.copy shares it
        known = {name: self.__dict__[name] for name in ("defaults", "state", "param_groups")}
        # A copy must not write to the same files: its state is paged to a folder of its own.
        pages = None if self._paged is None else Pages(None, self._paged.pages.budget)
        return {**known, "_engine": self._engine, "_storage": self._storage, "_pages": pages}


def _has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether torch has something to do around a step: a hook to call, or a profiler to name it to."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
        or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
    )


@torch._disable_dynamo  # type: ignore[attr-defined]
def _step_uncompiled(optimizer: Optimizer, closure: Callable[[], Any] | None, **named: Any) -> Any:
    return optimizer.step(closure, **named)


_profiled_step = torch.optim.Optimizer.profile_hook_step(Optimizer._step)
