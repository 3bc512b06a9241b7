"""The check as a test: ``@gradstep.conformance("adamw")``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gradstep.judge.checking import check, rule_of
from gradstep.rules import Rule


def conformance(rule: str | type[Rule], **options: Any) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """A test that the optimizer which the decorated function returns conforms to the rule.

    The function may take fixtures and be parametrised as any test. Where the optimizer does not pass, the test fails
    with the verdict as its message.

    Args:
        rule: the rule's name, or the rule itself.
        options: as for :func:`gradstep.check`.

    Raises:
        ValueError: no such rule; at decoration, so that pytest reports it when it collects.

    Example:
        >>> import torch
        >>> @conformance("adamw")
        ... def test_my_optimizer():
        ...     return torch.optim.AdamW
        >>> test_my_optimizer()
    """
    rule_of(rule)

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(function)
        def test(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            verdict = check(function(*args, **kwargs), rule, **options)
            if not verdict.passed:
                raise AssertionError(str(verdict))

        return test

    return decorate
