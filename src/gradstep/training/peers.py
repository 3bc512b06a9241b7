"""Several processes that train one model: exchange gradients once per window, and average numbers over processes."""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol, final, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradstep.optimizers.memory import is_distributed


@runtime_checkable
class DefersSync(Protocol):
    """A model that can postpone the exchange of gradients, as DistributedDataParallel does."""

    def no_sync(self) -> AbstractContextManager[Any]:
        """Return a context in which forward and backward exchange nothing."""


@final
class Peers:
    """The processes that train this model together: those of DistributedDataParallel, or of distributed parameters.

    Without either, this process is alone.

    Args:
        model: a DistributedDataParallel, a module that contains one (as ``torch.compile`` makes it), a model after
            ``fully_shard`` (FSDP2), or another module.
        params: the parameters that are trained.

    Attributes:
        sharded: whether a process has only a part of some parameters.
        count: the number of processes.

    Raises:
        NotImplementedError: FSDP1. Each process has a flat shard of all parameters, and would compute the norm of that
            shard instead of the global norm.
    """

    def __init__(self, model: nn.Module, params: Sequence[Tensor]) -> None:
        modules: list[Any] = list(model.modules())
        self._shards = _find_fsdp_modules(model)
        self._ddp = next((m for m in modules if isinstance(m, DistributedDataParallel)), None)
        self._defers_sync = self._ddp or next((m for m in modules if isinstance(m, DefersSync)), None)
        self._groups: list[Any] = [] if self._ddp is None else [self._ddp.process_group]
        self._device = params[0].device
        self.sharded = self._ddp is None and any(map(is_distributed, params))
        if self.sharded:
            # The largest mesh has all processes; those that share their data (tensor parallelism) do not change a mean.
            mesh = max((p.device_mesh for p in params if is_distributed(p)), key=lambda mesh: mesh.size())
            self._groups = [mesh.get_group(dim) for dim in range(mesh.ndim)]
            self._device = torch.device(mesh.device_type)
        self.count = math.prod(dist.get_world_size(group) for group in self._groups)
        self._unexchanged = False  # whether FSDP2 has gradients that it has not exchanged

    def forward(self, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context for a micro-batch's forward pass: gradients are exchanged only in the last one."""
        return nullcontext() if self._defers_sync is None or last else self._defers_sync.no_sync()

    @contextmanager
    def backward(self, *, last: bool) -> Iterator[None]:
        """Return the context for its backward pass."""
        self._unexchanged = bool(self._shards) and not last
        for module in self._shards:
            module.set_requires_gradient_sync(last, recurse=False)
        try:
            with self.forward(last=last):
                yield
        finally:
            for module in self._shards:
                module.set_requires_gradient_sync(True, recurse=False)

    @contextmanager
    def failing_together(self, *, last: bool) -> Iterator[None]:
        """Return a context that raises in all processes of a sharded model if its block raises in one of them.

        Without it, the others would wait for this one in the backward pass.

        Args:
            last: whether this process's window ends with this micro-batch.

        Raises:
            RuntimeError: in another process the block raised, or the window ends where this one's does not.
        """
        try:
            yield
        except Exception:
            if self.sharded:
                self._reduce([1.0, 0.0])
            raise
        if self.sharded:
            failures, ends = self._reduce([0.0, float(last)])
            if failures:
                raise RuntimeError(
                    "another rank could not use this micro-batch, and its own error says why; nothing was changed"
                )
            if 0 < ends < self.count:
                raise RuntimeError(
                    f"the window ends with this micro-batch on {ends:.0f} of {self.count} ranks: give all ranks the "
                    "same `accumulate`, and announce a window's end with `with stepper.autocast(last=True):` on all"
                )

    def add_up(self, number: float) -> float:
        """Return the sum of a number of each process."""
        return self._reduce([number])[0]

    def mean(self, *numbers: float) -> list[float]:
        """Return the mean of each number over the processes."""
        return [x / self.count for x in self._reduce(numbers)] if self._groups else list(numbers)

    def smallest(self, number: float) -> float:
        """Return the smallest of a number of each process."""
        return self._reduce([number], "min")[0]

    def _reduce(self, numbers: Sequence[float], how: Literal["sum", "min"] = "sum") -> list[float]:
        reduced = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        for group in self._groups:
            dist.all_reduce(reduced, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MIN, group=group)
        return [float(x) for x in reduced]

    def check_exchanged(self) -> None:
        """Raise if the window ends with gradients that FSDP2 cannot exchange any more.

        Raises:
            RuntimeError: the window's last micro-batch was not announced.
        """
        if self._unexchanged:
            raise RuntimeError(
                "the window is not full and its end was not announced, so FSDP2 has not exchanged its gradients, and "
                "exchanges them in a backward pass only: write `with stepper.autocast(last=True):` for the last "
                "micro-batch of the data. Now add one more micro-batch so, or throw the window away with "
                "stepper.discard()"
            )

    def discard(self) -> None:
        """Discard gradients that FSDP2 has not exchanged; all processes must call it.

        Raises:
            RuntimeError: FSDP2 keeps them where nothing public can clear them.
        """
        if not self._unexchanged:
            return
        for module in self._shards:
            module.reshard()
            sharded = set(module.parameters())
            module.unshard()
            own = [p for p in module.parameters() if p not in sharded and p.requires_grad]
            if own and all(p.grad is None for p in own):
                module.reshard()
                raise RuntimeError(
                    f"the gradients of {type(module).__name__} cannot be discarded: with a reduce_dtype unlike "
                    "param_dtype, or without gradients, FSDP2 keeps them to itself. End the window with one more "
                    "micro-batch in `with stepper.autocast(last=True):`, or go back to a checkpoint in a new process"
                )
            for p in own:
                p.grad = None
            module.reshard()
        self._unexchanged = False

    @torch.no_grad()
    def exchange_late(self) -> None:
        """Average the gradients of a window that was ended after its last backward pass.

        DistributedDataParallel averages during the last backward pass, but has to know beforehand that it is the last.
        A parameter without a gradient in all processes keeps none.
        """
        if self._ddp is None:
            return
        group, params = self._ddp.process_group, [p for p in self._ddp.parameters() if p.requires_grad]
        used = torch.tensor([p.grad is not None for p in params], dtype=torch.int32, device=params[0].device)
        dist.all_reduce(used, group=group)
        for p, count in zip(params, used.tolist(), strict=True):
            if count:
                gradient: Tensor = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(gradient, group=group)
                p.grad = gradient.div_(dist.get_world_size(group))


def _find_fsdp_modules(model: nn.Module) -> list[Any]:
    """Return the modules that ``fully_shard`` (FSDP2) was called for.

    Raises:
        NotImplementedError: FSDP1, because each process would compute the gradient norm of its own flat shards only.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # before anybody has imported it nothing is sharded by it
    if fsdp is None:
        return []
    if any(isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules()):
        raise NotImplementedError(
            "the Stepper does not know FullyShardedDataParallel (FSDP1): the gradient norm would be that of one "
            "process's flat shards. Use fully_shard (FSDP2) or DistributedDataParallel, or torch's own sequence with "
            "the model's clip_grad_norm_ before step()"
        )
    return [module for module in model.modules() if isinstance(module, fsdp.FSDPModule)]
