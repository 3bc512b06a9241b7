"""The check: probes, then the diagnosis, then the verdict."""

from __future__ import annotations

import functools
import inspect
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, final

from gradstep.judge.battery import battery
from gradstep.judge.catalogue import CONVENTIONS, Variant
from gradstep.judge.compare import Parting, parting, tolerance
from gradstep.judge.diagnosis import Evidence, Found, accepted, as_match, find, nearest
from gradstep.judge.observe import Failure, NotOffered, Observed, fitted, observe
from gradstep.judge.properties import PROPERTIES, SETTINGS, Context, Property
from gradstep.judge.replay import replay
from gradstep.judge.scenario import Scenario, Values
from gradstep.judge.subjects.base import Kind, Subject
from gradstep.judge.subjects.detect import subject_of
from gradstep.judge.verdict import Outcome, Probe, Status, Verdict
from gradstep.rules import RULES, Rule, settings_of


def check(
    submission: Any,
    rule: str | type[Rule],
    settings: Mapping[str, Any] | None = None,
    *,
    convention: str = "torch",
    kind: Kind | None = None,
    parameter: Callable[[Values], Any] | None = None,
    strict: bool = False,
    watch: Callable[[str], None] = lambda probe: None,
) -> Verdict:
    """Judge an optimizer: does it compute the rule, and if not, what is the likely mistake?

    It is run through some twenty small scenarios and compared, step by step, with the rule in float64; then through
    probes of everything around the mathematics. Where it differs, it is compared with the catalogue of known mistakes,
    one and two at a time. Everything runs in this process, without a time limit; ``gradstep check`` has both.

    Args:
        submission: a PyTorch optimizer class or factory ``(params, **settings)``, a NumPy one over objects with
            ``.data`` and ``.grad``, or a function ``(p, g, state, step) -> (p, state)``; its first state is ``{}``, its
            first step 1.
        rule: its name (``"adamw"``) or the rule itself, also one of your own.
        settings: settings that stay fixed. Those of the rule that the submission does not take are understood to be
            built into it; those that the rule does not have are given to the submission.
        convention: whose reading of the rule counts as right: "torch", "paper", "optax", "tinytorch", "keras",
            "huggingface" or "bitsandbytes". The others are then named as conventions.
        kind: "torch", "numpy" or "function", where the form cannot be seen from the code.
        parameter: for NumPy optimizers, what makes a parameter of an array (the framework's own tensor class).
        strict: advice counts as failure.
        watch: called with the name of each probe before it runs.

    Returns:
        The verdict: readable by ``str()``, with ``passed``, the probes and the diagnosis.

    Raises:
        ValueError: no such rule or convention.

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
    blank = Verdict(name_of(submission), kind_of_rule.__name__, convention, Status.UNJUDGED, "")
    try:
        subject = subject_of(submission, kind_of_rule, settings or {}, kind, parameter)
    except TypeError as error:
        return replace(blank, reason=f"It could not be judged: {error}.")
    trial = _Trial(subject, kind_of_rule, dict(settings or {}), convention, strict, watch)
    with warnings.catch_warnings():
        # What a submission warns of is judged by what comes out, also where warnings are errors.
        warnings.simplefilter("ignore")
        verdict = trial.verdict(blank)
    return replace(verdict, seconds=time.perf_counter() - started)


def rule_of(rule: str | type[Rule]) -> type[Rule]:
    """The rule of that name, in any case.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    if isinstance(rule, type):
        return rule
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


@final
class _Trial:
    """One submission before the judge."""

    def __init__(
        self,
        subject: Subject,
        rule: type[Rule],
        fixed: dict[str, Any],
        convention: str,
        strict: bool,
        watch: Callable[[str], None],
    ) -> None:
        self.subject, self.rule, self.fixed, self.convention = subject, rule, fixed, convention
        self.strict, self.watch = strict, watch
        self.failures: dict[str, Failure] = {}
        self.skipped: dict[str, str] = {}
        self.seen: dict[str, tuple[Scenario, Observed]] = {}

    def verdict(self, blank: Verdict) -> Verdict:
        scenarios = battery(self.rule)
        if raised := self._run(scenarios):
            return replace(blank, reason=f"It could not be judged: the constructor raises {raised.what}.")
        compared = [pair for pair in self.seen.values() if not pair[0].defaults]
        evidence = Evidence(self.rule, [s for s, _ in compared], [o for _, o in compared])
        self.watch("diagnosis")
        found = find(evidence, self.convention) if compared else Found()
        certain = bool(found.variants) and not found.unexplained
        right = found.variants[:1] if certain and found.variants[0] in self._accepted() else ()
        base = right[0] if right else evidence.true
        probes, parted = self._trajectories(scenarios, base, found)
        probes += self._properties(agrees=bool(right))
        status, reason = self._status(probes, found, bool(right))
        named = tuple(v for v in found.variants if v.mistakes) if not right else ()
        return replace(
            blank,
            status=status,
            reason=reason,
            probes=tuple(probes),
            matches=tuple(as_match(v, found.residual) for v in named),
            parting=parted,
            nearest=nearest(evidence) if compared and not found.variants else "",
            notes=tuple(self._notes(base, found)),
        )

    def _accepted(self) -> tuple[Variant, ...]:
        return accepted(self.rule, self.convention)

    def _run(self, scenarios: tuple[Scenario, ...]) -> Failure | None:
        """Every scenario run; the failure of the constructor, if it is that."""
        for scenario, lacking in fitted(scenarios, self.subject, self.rule, self.fixed):
            if scenario.defaults and self.convention != "torch":
                lacking = "the defaults are torch's"
            if lacking:
                self.skipped[scenario.name] = lacking
                continue
            self.watch(scenario.name)
            seen = observe(self.subject, scenario)
            if isinstance(seen, NotOffered):
                self.skipped[scenario.name] = seen.what
            elif isinstance(seen, Failure):
                if seen.step == 0 and not self.seen and not self.failures:
                    return seen
                self.failures[scenario.name] = seen
            else:
                self.seen[scenario.name] = scenario, seen
        return None

    def _trajectories(
        self, scenarios: tuple[Scenario, ...], base: Variant, found: Found
    ) -> tuple[list[Probe], Parting | None]:
        """The outcome of every scenario against what counts as right, and where the first one parts."""
        probes: list[Probe] = []
        first: Parting | None = None
        own = found.variants[0] if found.variants else base
        for scenario in scenarios:
            name = scenario.name
            if name in self.skipped:
                probes.append(Probe(name, scenario.shows, Outcome.SKIPPED, self.skipped[name]))
            elif name in self.failures:
                failure = self.failures[name]
                where = f"step {failure.step}" if failure.step else "the constructor"
                probes.append(Probe(name, scenario.shows, Outcome.FAIL, f"{where} raises {failure.what}"))
            elif scenario.defaults and not found.variants:
                probes.append(Probe(name, scenario.shows, Outcome.SKIPPED, "judged when the rest is known"))
            else:
                run, seen = self.seen[name]
                # The defaults are judged apart from the mathematics: in the submission's own form of the rule.
                formula = own.formula if scenario.defaults else base.formula
                parted = parting(run, replay(formula, run), seen.trajectory, found.precision)
                detail = self._defaults() if parted and scenario.defaults else str(parted or "")
                if parted and seen.told:
                    detail = f"{seen.told}; {detail}"
                probes.append(Probe(name, scenario.shows, Outcome.FAIL if parted else Outcome.PASS, detail))
                first = first or (None if scenario.defaults else parted)
        return probes, first

    def _defaults(self) -> str:
        own = dict(self.subject.arguments.defaults)
        differing = [
            f"{f.name} is {own[f.name]} (torch: {f.default})"
            for f in settings_of(self.rule)
            if f.name != "lr" and f.name in own and own[f.name] != f.default
        ]
        return "its defaults are its own: " + (", ".join(differing) or "they cannot be seen from the constructor")

    def _properties(self, *, agrees: bool) -> list[Probe]:
        context = Context(self.subject, self.rule, self.fixed, agrees)
        probes = []
        for prop in self._applicable():
            self.watch(prop.name)
            probe = prop.probe(context)
            strict = self.strict and probe.outcome is Outcome.ADVICE
            probes.append(replace(probe, outcome=Outcome.FAIL) if strict else probe)
        return probes

    def _applicable(self) -> tuple[Property, ...]:
        if self.subject.kind == "torch":
            from gradstep.judge.torch_properties import PROPERTIES as TORCH

            return (*TORCH, *PROPERTIES, SETTINGS)
        from gradstep.judge.numpy_properties import FUNCTION, NUMPY

        return (*FUNCTION, *PROPERTIES) if self.subject.kind == "function" else (*NUMPY, *PROPERTIES, SETTINGS)

    def _status(self, probes: list[Probe], found: Found, right: bool) -> tuple[Status, str]:
        failed = [p for p in probes if p.outcome is Outcome.FAIL]
        if not failed and right:
            return Status.PASSED, f"It computes {self._named()} and behaves as an optimizer should."
        if not self.seen:
            return Status.FAILED, f"It raises in every scenario: {next(iter(self.failures.values())).what}."
        math = [p for p in failed if p.name in self.seen and p.name != "defaults"]
        others = [p for p in failed if p not in math and p.name != "defaults"]
        conventional = (
            bool(found.variants) and bool(found.variants[0].conventions) and not right and not found.unexplained
        )
        if not others and conventional:
            whose = " and ".join(found.variants[0].conventions)
            return (
                Status.DIFFERS,
                f"It is {self.rule.__name__} by another convention ({whose}), not by {self.convention}'s.",
            )
        if right and not others:
            return Status.DIFFERS, f"It computes {self._named()}, but {failed[0].detail}."
        if right:
            names = ", ".join(p.name for p in others)
            return Status.FAILED, f"It computes {self._named()}, but fails elsewhere: {names}."
        if found.unexplained:
            names = ", ".join(found.unexplained)
            return (
                Status.FAILED,
                f"It computes {found.variants[0].sentence}, and differs for another reason in: {names}.",
            )
        if found.variants:
            return Status.FAILED, f"It computes {found.variants[0].sentence}."
        return Status.FAILED, f"It does not compute {self.rule.__name__}: {len(math) + len(others)} probes fail."

    def _named(self) -> str:
        by = "" if self.convention == "torch" else f" by the convention of {self.convention}"
        return f"{self.rule.__name__}{by}"

    def _notes(self, base: Variant, found: Found) -> list[str]:
        notes = []
        if base.mistakes:
            notes.append(f"By the convention of {self.convention}: {base.sentence}.")
        if found.variants and found.residual > tolerance("float64", 10**4):
            notes.append(f"It agrees to {found.residual:.0e} only: some of it is computed in float32.")
        lr = dict(self.subject.arguments.defaults).get("lr")
        theirs = next((f.default for f in settings_of(self.rule) if f.name == "lr"), None)
        if lr not in (None, theirs) and "lr" not in self.fixed:
            notes.append(f"Its default learning rate is {lr}; torch's is {theirs}.")
        return notes
