"""PyTorch optimizers: a class or a factory, called with parameters or with groups of them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar, final

import numpy as np
import torch

from gradstep.judge.scenario import Gradients, Scenario, Values
from gradstep.judge.subjects.base import Kind, NotOfferedError, Session, Subject, SubmissionError


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
            params = [{k: v for k, v in group.items() if k in self._group_keys(keywords)} for group in groups]
        return self.subject.make(params, **keywords)

    def _group_keys(self, keywords: dict[str, Any]) -> set[str]:
        """Return the keys of the optimizer's groups, for example ``beta1`` and ``beta2`` for ``betas``."""
        return set(self.subject.make(self.leaves, **keywords).param_groups[0])

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
