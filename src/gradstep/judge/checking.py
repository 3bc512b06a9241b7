"""``gradstep.check``: any optimizer judged."""

from __future__ import annotations

import functools
import inspect
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from gradstep.judge.catalogue import CONVENTIONS
from gradstep.judge.isolation import TIME_LIMIT, check_file
from gradstep.judge.scenario import Values
from gradstep.judge.subjects.base import Kind
from gradstep.judge.subjects.detect import subject_of
from gradstep.judge.trial import Trial
from gradstep.judge.verdict import Status, Verdict
from gradstep.rules import RULES, Rule
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

    It is run through some twenty small scenarios and compared, step by step, with the rule in float64; then through
    probes of everything around the mathematics. Where it differs, it is compared with the catalogue of known mistakes,
    one and two at a time.

    A class or function runs in this process, and as long as it likes: a live object cannot be moved to another process,
    and Python has no way to stop it that it could not catch. What is named by its file runs in a process of its own,
    with a time limit, as with ``gradstep check``: that is for code which may loop, print or end the process.

    Args:
        submission: a PyTorch optimizer class or factory ``(params, **settings)``, a NumPy one over objects with
            ``.data`` and ``.grad``, or a function ``(p, g, state, step) -> (p, state)``; its first state is ``{}``, its
            first step 1. Also a class whose ``update(w, grad)`` or ``update(params, grads)`` returns the new
            parameters, and a function ``(w, dw, config) -> (w, config)``. Or a text ``"FILE.py:NAME"`` that says where
            one is.
        rule: its name (``"adamw"``), the rule itself, also one of your own, or ``"FILE.py:NAME"`` for one in a file. A
            rule is also a submission: the optimizer that is made of it is then judged.
        settings: settings that stay fixed. Those of the rule that the submission does not take are understood to be
            built into it; those that the rule does not have are given to the submission.
        convention: whose reading of the rule counts as right: "torch", "paper", "optax", "tinytorch", "keras",
            "huggingface", "bitsandbytes" or "textbook". The others are then named as conventions.
        kind: "torch", "numpy", "function" or "update", where the form cannot be seen from the code.
        parameter: for NumPy optimizers, what makes a parameter of an array (the framework's own tensor class); for a
            file, its name there.
        strict: advice counts as failure.
        time_limit: for a file: seconds that the check may take once the libraries are loaded; 20 by default.
        watch: called with the name of each probe before it runs; not for a file.

    Returns:
        The verdict: readable by ``str()``, with ``passed``, the probes and the diagnosis.

    Raises:
        ValueError: no such rule or convention, or a time limit for an object of this process.
        TypeError: a rule of one's own or a parameter's class for a file, whose process knows names only.

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
    kind_of_rule = rule_of(rule)
    if convention not in CONVENTIONS:
        raise ValueError(f"No convention {convention!r}: there are {', '.join(CONVENTIONS)}")
    if isinstance(submission, str):
        return _of_file(
            submission,
            rule,
            settings,
            convention=convention,
            kind=kind,
            parameter=parameter,
            strict=strict,
            time_limit=time_limit,
        )
    if time_limit is not None:
        raise ValueError("A time limit needs a process of its own: give the submission as a text, 'FILE.py:NAME'")
    if isinstance(parameter, str):
        raise TypeError(f"The name of a parameter's class, {parameter!r}, is for a file; give the class itself")
    blank = Verdict(name_of(submission), kind_of_rule.__name__, convention, Status.UNJUDGED, "")
    if isinstance(submission, type) and issubclass(submission, Rule):
        from gradstep.optimizers import optimizer

        submission = optimizer(submission)
    try:
        subject = subject_of(submission, kind_of_rule, settings or {}, kind, parameter)
    except TypeError as error:
        return replace(blank, reason=f"It could not be judged: {error}.")
    trial = Trial(subject, kind_of_rule, dict(settings or {}), convention, strict, watch)
    with warnings.catch_warnings(), _defaults():
        # What a submission warns of is judged by what comes out, also where warnings are errors.
        warnings.simplefilter("ignore")
        verdict = trial.verdict(blank)
    return replace(verdict, seconds=time.perf_counter() - started)


def _defaults() -> AbstractContextManager[None]:
    """What torch creates by itself is float32 on the CPU; without torch there is nothing to see to."""
    if "torch" not in sys.modules:
        return nullcontext()
    from gradstep.judge.defaults import fresh_defaults

    return fresh_defaults()


def _of_file(target: str, rule: str | type[Rule], settings: Mapping[str, Any] | None, **options: Any) -> Verdict:
    if not isinstance(rule, str):
        raise TypeError(
            f"A file is judged by the name of a rule, not by {rule!r}: import it, and give the class itself"
        )
    if not isinstance(options["parameter"], (str, type(None))):
        raise TypeError(f"For a file, parameter is a name in it, not {options['parameter']!r}")
    limit = TIME_LIMIT if options["time_limit"] is None else options["time_limit"]
    return check_file(target, rule, settings, **{**options, "time_limit": limit})


def rule_of(rule: str | type[Rule]) -> type[Rule]:
    """The rule of that name, in any case; ``FILE.py:NAME`` names one in a file.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    if isinstance(rule, type):
        return rule
    if names_file(rule):
        return rule_in_file(rule)
    by_name = {name.lower(): found for name, found in RULES.items()}
    if rule.lower() not in by_name:
        near = get_close_matches(rule.lower(), by_name, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"No rule {rule!r}.{hint} There are {', '.join(by_name)}")
    return by_name[rule.lower()]


def name_of(submission: Any) -> str:
    """What a submission is called."""
    if isinstance(submission, functools.partial):
        return name_of(submission.func)
    named = isinstance(submission, type) or inspect.isroutine(submission)
    return str(submission.__name__ if named else type(submission).__name__)
