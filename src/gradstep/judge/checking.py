"""``gradstep.check``, which judges any optimizer, and the same as a test: ``@gradstep.conformance("adamw")``."""

from __future__ import annotations

import functools
import inspect
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from gradstep.judge.catalogue import CONVENTIONS
from gradstep.judge.isolation import TIME_LIMIT, check_file
from gradstep.judge.scenario import Values
from gradstep.judge.subjects.base import Kind
from gradstep.judge.subjects.detect import subject_of
from gradstep.judge.trial import Trial
from gradstep.judge.verdict import Status, Verdict
from gradstep.rules import RULES, Rule
from gradstep.spelling import suggest
from gradstep.variants import names_file, rule_in_file


def check(
    submission: Any,
    rule: str | type[Rule],
    settings: Mapping[str, Any] | None = None,
    *,
    convention: str = "torch",
    kind: Kind | None = None,
    parameter: Callable[[Values], Any] | str | None = None,
    strict: bool = False,
    time_limit: float | None = None,
    watch: Callable[[str], None] = lambda probe: None,
) -> Verdict:
    """Judge an optimizer: does it compute the rule, and if not, what is the likely mistake?

    It runs through some twenty small scenarios, compared step by step with the rule in float64, and then through probes
    of everything around the mathematics. Where it differs, it is compared with the catalogue of known mistakes, one and
    two at a time.

    A class or function runs in this process without a time limit: a live object cannot move to another process, and
    Python cannot stop it in a way that it could not catch. A submission named by its file runs in a process of its own,
    with a time limit, as with ``gradstep check``: use that for code which may loop, print or end the process.

    Args:
        submission: a PyTorch optimizer class or factory ``(params, **settings)``, a NumPy one over objects with
            ``.data`` and ``.grad``, or a function ``(p, g, state, step) -> (p, state)``; its first state is ``{}``, its
            first step 1. Also a class whose ``update(w, grad)`` or ``update(params, grads)`` returns the new
            parameters, and a function ``(w, dw, config) -> (w, config)``. Or the text ``"FILE.py:NAME"``, which names
            one of these in a file.
        rule: its name (``"adamw"``), a class of rule, also one of your own, or ``"FILE.py:NAME"`` for one in a file. A
            rule can also be the submission: the optimizer made from it is then judged.
        settings: settings that stay fixed. Those of the rule that the submission does not take count as built into it;
            those that the rule does not have are passed to the submission.
        convention: the reading of the rule that counts as right: "torch", "paper", "optax", "tinytorch", "keras",
            "huggingface", "bitsandbytes" or "textbook". The verdict names the others as conventions.
        kind: "torch", "numpy", "function" or "update", if the code does not show the form.
        parameter: for NumPy optimizers, makes a parameter from an array (the framework's own tensor class); for a file,
            its name there.
        strict: advice counts as failure.
        time_limit: for a file, the seconds that the check may take after the libraries are loaded; 20 by default.
        watch: called with the name of each probe before it runs; not for a file.

    Returns:
        The verdict, with ``passed``, the probes and the diagnosis; ``str()`` of it is a report.

    Raises:
        ValueError: there is no such rule or convention, or a time limit is given for an object of this process.
        TypeError: for a file, the rule or the parameter's class is an object; its process can look up names only.

    Example:
        >>> import numpy as np
        >>> def forgetful(p, g, state, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        ...     m = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
        ...     v = betas[1] * state.get("v", 0) + (1 - betas[1]) * g * g
        ...     return p - lr * (m / (np.sqrt(v) + eps) + weight_decay * p), {"m": m, "v": v}
        >>> verdict = check(forgetful, rule="adamw")
        >>> verdict.passed
        False
        >>> verdict.matches[0].sentence
        'AdamW with no bias correction'
    """
    started = time.perf_counter()
    rule_class = find_rule(rule)
    if convention not in CONVENTIONS:
        raise ValueError(f"No convention {convention!r}: there are {', '.join(CONVENTIONS)}")
    if isinstance(submission, str):
        if not isinstance(rule, str):
            raise TypeError(
                f"A file is judged by the name of a rule, not by {rule!r}: import it, and give the class itself"
            )
        if not isinstance(parameter, (str, type(None))):
            raise TypeError(f"For a file, parameter is a name in it, not {parameter!r}")
        limit = TIME_LIMIT if time_limit is None else time_limit
        return check_file(
            submission,
            rule,
            settings,
            convention=convention,
            kind=kind,
            parameter=parameter,
            strict=strict,
            time_limit=limit,
        )
    if time_limit is not None:
        raise ValueError("A time limit needs a process of its own: give the submission as a text, 'FILE.py:NAME'")
    if isinstance(parameter, str):
        raise TypeError(f"The name of a parameter's class, {parameter!r}, is for a file; give the class itself")
    blank = Verdict(describe_submission(submission), rule_class.__name__, convention, Status.UNJUDGED, "")
    if isinstance(submission, type) and issubclass(submission, Rule):
        from gradstep.optimizers import optimizer

        submission = optimizer(submission)
    try:
        subject = subject_of(submission, rule_class, settings or {}, kind, parameter)
    except TypeError as error:
        return replace(blank, reason=f"It could not be judged: {error}.")
    trial = Trial(subject, rule_class, dict(settings or {}), convention, strict, watch)
    with warnings.catch_warnings(), _torch_defaults():
        # A submission that warns is judged by its results, also where warnings are errors.
        warnings.simplefilter("ignore")
        verdict = trial.verdict(blank)
    return replace(verdict, seconds=time.perf_counter() - started)


def _torch_defaults() -> AbstractContextManager[None]:
    """Make torch's new tensors float32 and on the CPU inside, if torch is loaded."""
    if "torch" not in sys.modules:
        return nullcontext()
    from gradstep.judge.defaults import fresh_defaults

    return fresh_defaults()


def find_rule(rule: str | type[Rule]) -> type[Rule]:
    """Return the rule of this name, in upper or lower case; ``FILE.py:NAME`` names one in a file.

    Raises:
        ValueError: there is no such rule; the message names the nearest one.
    """
    if isinstance(rule, type):
        return rule
    if names_file(rule):
        return rule_in_file(rule)
    by_name = {name.lower(): candidate for name, candidate in RULES.items()}
    if rule.lower() not in by_name:
        raise ValueError(f"No rule {rule!r}.{suggest(rule.lower(), by_name, most=1)} There are {', '.join(by_name)}")
    return by_name[rule.lower()]


def describe_submission(submission: Any) -> str:
    """Return the submission's name."""
    if isinstance(submission, functools.partial):
        return describe_submission(submission.func)
    has_name = isinstance(submission, type) or inspect.isroutine(submission)
    return str(submission.__name__ if has_name else type(submission).__name__)


def conformance(rule: str | type[Rule], **options: Any) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a test from a function that returns an optimizer: it passes if the optimizer conforms to the rule.

    The function may take fixtures and be parametrised like any test. If the optimizer does not pass, the verdict is the
    message of the failing test.

    Args:
        rule: the rule's name, or the rule itself.
        options: as for :func:`gradstep.check`.

    Raises:
        ValueError: there is no such rule; raised by the decorator, so that pytest reports it at collection.

    Example:
        >>> import torch
        >>> @conformance("adamw")
        ... def test_my_optimizer():
        ...     return torch.optim.AdamW
        >>> test_my_optimizer()
    """
    find_rule(rule)

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(function)
        def test(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            verdict = check(function(*args, **kwargs), rule, **options)
            if not verdict.passed:
                raise AssertionError(str(verdict))

        return test

    return decorate
