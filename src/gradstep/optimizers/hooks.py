"""Calls of a step with hooks, as torch makes them, and from compiled code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import optimizer as torch_optimizer


@torch._disable_dynamo  # type: ignore[attr-defined]
def call_uncompiled(optimizer: Any, *args: Any, **named: Any) -> Any:
    """Call an optimizer's ``step`` from code that is being compiled, without compiling it."""
    return optimizer.step(*args, **named)


def call_with_hooks(step: Callable[..., Any], optimizer: torch.optim.Optimizer, *args: Any, **named: Any) -> Any:
    """Call ``step`` between the global hooks and this optimizer's own, in the order of torch's own wrapper.

    torch's wrapper also reports the step to a profiler, which costs up to a fifth of a millisecond even without a
    profiler. It is used only if one is running.

    Raises:
        RuntimeError: a hook before the step returned neither None nor new arguments.
    """
    if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
        return torch.optim.Optimizer.profile_hook_step(step)(optimizer, *args, **named)
    positional: tuple[Any, ...] = (optimizer, *args)
    before, after = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    for hook in (*torch_optimizer._global_optimizer_pre_hooks.values(), *before.values()):
        new: Any = hook(optimizer, positional, named)
        if new is None:
            continue
        if not (isinstance(new, tuple) and len(new) == 2):
            raise RuntimeError(f"a hook before step() returns None or (args, kwargs), but this one returned {new!r}")
        positional, named = new
    result = step(*positional, **named)
    for hook in (*after.values(), *torch_optimizer._global_optimizer_post_hooks.values()):
        hook(optimizer, positional, named)
    return result
