"""PyTorch optimizers: a class, or a factory, called with parameters or groups of them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, final

import numpy as np
import torch

from gradstep.judge.scenario import Gradients, Scenario, Values
from gradstep.judge.subjects.base import Kind, NotOfferedError, Session, Subject, SubmissionError


@final
class TorchSubject(Subject):
    """Called as ``make(params, **settings)``; steps by ``step()``, with gradients in ``p.grad``."""

    @property
    def kind(self) -> Kind:
        return "torch"

    @property
    def abilities(self) -> frozenset[str]:
        if isinstance(self.make, type) and not issubclass(self.make, torch.optim.Optimizer):
            return frozenset({"rates"})
        return frozenset({"groups", "reload", "rates"})

    def start(self, scenario: Scenario, dtype: str) -> Session:
        return _TorchSession(self, scenario, getattr(torch, dtype))

    def over(self, params: Any, **settings: Any) -> Any:
        """An optimizer over these parameters, with settings by the rule's names."""
        return self.make(params, **self.arguments.named(settings), **self.extra)


def parameter(values: Values, dtype: torch.dtype, *, strided: bool = False) -> torch.nn.Parameter:
    """A leaf with these values; strided, it is every other element of a larger, transposed tensor."""
    if not strided or not values.ndim:
        return torch.nn.Parameter(torch.tensor(values, dtype=dtype))
    wide = torch.zeros((*values.shape[::-1], 2), dtype=dtype)[..., 0]
    leaf = wide.permute(*range(values.ndim - 1, -1, -1))
    leaf.copy_(torch.tensor(values))
    return torch.nn.Parameter(leaf)


def values_of(tensors: list[torch.nn.Parameter]) -> list[Values]:
    """Tensors as NumPy arrays of float64."""
    return [np.array(t.detach().to(torch.float64).numpy()) for t in tensors]


@final
class _TorchSession(Session):
    def __init__(self, subject: TorchSubject, scenario: Scenario, dtype: torch.dtype) -> None:
        self.subject, self.scenario, self.dtype = subject, scenario, dtype
        self.leaves = [parameter(v, dtype, strided=scenario.strided) for v in scenario.initial]
        self.optimizer = self._make(subject.keywords(scenario))

    def _make(self, keywords: dict[str, Any]) -> Any:
        params: Any = self.leaves
        if self.scenario.groups:
            named = self.subject.arguments.named
            groups = [{"params": [p], **named(own)} for p, own in zip(self.leaves, self.scenario.groups)]
            params = [{k: v for k, v in group.items() if k in self._keys(keywords)} for group in groups]
        return self.subject.make(params, **keywords)

    def _keys(self, keywords: dict[str, Any]) -> set[str]:
        """What the optimizer's groups hold; ``beta1`` and ``beta2``, perhaps, for ``betas``."""
        return set(self.subject.make(self.leaves, **keywords).param_groups[0])

    def step(self, gradients: Gradients | None) -> None:
        for leaf, g in zip(self.leaves, gradients or ()):
            leaf.grad = None if g is None else torch.tensor(g, dtype=self.dtype)
        self.optimizer.step()

    def values(self) -> list[Values]:
        return values_of(self.leaves)

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
