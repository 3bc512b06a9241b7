"""``gradstep.check``, which judges any optimizer, and the same as a test: ``@gradstep.conformance("adamw")``."""

import functools
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from gradstep.judge.catalogue import CONVENTIONS, Variant
from gradstep.judge.diagnosis import (
    Explanation,
    Observations,
    accepted,
    as_match,
    describe_nearest,
    explain,
    find_parting,
)
from gradstep.judge.formula import Formula, replay
from gradstep.judge.isolation import TIME_LIMIT, check_file
from gradstep.judge.properties import FUNCTION, NUMPY, PROPERTIES, Context, Property, bad_settings
from gradstep.judge.scenario import Parting, Scenario, Values, battery, shared_defaults, tolerance
from gradstep.judge.subjects.detect import describe_submission, subject_of
from gradstep.judge.subjects.subject import (
    FailureError,
    Kind,
    NotOfferedError,
    Observed,
    Subject,
    fit_scenarios,
    fresh_defaults,
    observe,
)
from gradstep.judge.verdict import Outcome, Probe, Status, Verdict
from gradstep.rules import RULES, Rule
from gradstep.variants import find_named_rule


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
    with warnings.catch_warnings(), fresh_defaults():
        # A submission that warns is judged by its results, also where warnings are errors.
        warnings.simplefilter("ignore")
        verdict = trial.verdict(blank)
    return replace(verdict, seconds=time.perf_counter() - started)


def find_rule(rule: str | type[Rule]) -> type[Rule]:
    """Return the rule of this name, in upper or lower case; ``FILE.py:NAME`` names one in a file.

    Raises:
        ValueError: there is no such rule; the message names the nearest one.
    """
    if isinstance(rule, type):
        return rule
    return {name.lower(): kind for name, kind in RULES.items()}.get(str(rule).lower()) or find_named_rule(rule)


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


CHOSEN = ("weight_decay", "momentum")
"""Settings whose default authors choose, like the learning rate: another default is advice, and no failure."""


@final
@dataclass(eq=False)
class Trial:
    """The check of one submission."""

    subject: Subject
    rule: type[Rule]
    fixed: Mapping[str, Any]  # settings that stay fixed
    convention: str
    strict: bool
    watch: Callable[[str], None]
    # by the name of each scenario: the error that the submission raised, why it was skipped, or what was observed
    failures: dict[str, FailureError] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    observed: dict[str, tuple[Scenario, Observed]] = field(default_factory=dict)

    def verdict(self, blank: Verdict) -> Verdict:
        """Run the check and return the blank verdict with its results."""
        scenarios = battery(self.rule)
        if failure := self._run(scenarios):
            return replace(blank, reason=f"It could not be judged: the constructor raises {failure}.")
        compared = [pair for pair in self.observed.values() if not pair[0].defaults]
        evidence = Observations(self.rule, [s for s, _ in compared], [o for _, o in compared])
        self.watch("diagnosis")
        best = explain(evidence, self.convention) if compared else Explanation()
        certain = bool(best.variants) and not best.unexplained
        is_right = certain and best.variants[0] in accepted(self.rule, self.convention)
        base = best.variants[0] if is_right else evidence.rule_itself
        probes, parting = self._probe_trajectories(scenarios, base, best)
        probes += self._probe_properties(agrees=is_right) if self.observed else []
        status, reason = self._status(probes, best, is_right)
        wrong = () if is_right else tuple(v for v in best.variants if v.mistakes)
        return replace(
            blank,
            status=status,
            reason=reason,
            probes=tuple(probes),
            matches=tuple(as_match(v, best.residual) for v in wrong),
            parting=parting,
            nearest=describe_nearest(evidence) if compared and not best.variants else "",
            notes=tuple(self._notes(base, best)),
        )

    def _run(self, scenarios: tuple[Scenario, ...]) -> FailureError | None:
        """Run every scenario; return the failure of the constructor if it fails in the first of them."""
        for scenario, reason in fit_scenarios(scenarios, self.subject, self.rule, self.fixed):
            if scenario.defaults and self.convention != "torch":
                reason = "the defaults are torch's"
            if reason:
                self.skipped[scenario.name] = reason
                continue
            self.watch(scenario.name)
            try:
                self.observed[scenario.name] = scenario, observe(self.subject, scenario)
            except NotOfferedError as error:
                self.skipped[scenario.name] = str(error)
            except FailureError as failure:
                if failure.step == 0 and not self.observed and not self.failures:
                    return failure
                self.failures[scenario.name] = failure
        return None

    def _probe_trajectories(
        self, scenarios: tuple[Scenario, ...], base: Variant, best: Explanation
    ) -> tuple[list[Probe], Parting | None]:
        """Compare every scenario with the accepted form; return the probes, and the first place of a difference."""
        probes: list[Probe] = []
        first: Parting | None = None
        own = best.variants[0] if best.variants else base
        for scenario in scenarios:
            name = scenario.name
            if name in self.skipped:
                probes.append(Probe(name, scenario.shows, Outcome.SKIPPED, self.skipped[name]))
            elif name in self.failures:
                failure = self.failures[name]
                where = f"step {failure.step}" if failure.step else "the constructor"
                probes.append(Probe(name, scenario.shows, Outcome.FAIL, f"{where} raises {failure}"))
            elif scenario.defaults and not best.variants:
                probes.append(Probe(name, scenario.shows, Outcome.SKIPPED, "judged when the rest is known"))
            else:
                run, observed = self.observed[name]
                # Defaults are compared by the form of the rule that it computes: other mistakes do not count here.
                formula = own.formula if scenario.defaults else base.formula
                parting = find_parting(run, replay(formula, run), observed.trajectory, best.precision)
                detail = self._describe_defaults() if parting and scenario.defaults else str(parting or "")
                if parting and observed.error:
                    detail = f"{observed.error}; {detail}"
                outcome = Outcome.FAIL if parting else Outcome.PASS
                if parting and scenario.defaults and self._differs_by_choice(formula, run, observed, best.precision):
                    outcome = Outcome.FAIL if self.strict else Outcome.ADVICE
                probes.append(Probe(name, scenario.shows, outcome, detail))
                first = first or (None if scenario.defaults else parting)
        return probes, first

    def _differs_by_choice(self, formula: Formula, run: Scenario, observed: Observed, precision: str) -> bool:
        """Whether only the defaults that authors choose (``CHOSEN``) differ."""
        own, defaults = dict(self.subject.arguments.defaults), shared_defaults(self.rule)
        chosen = {name: own[name] for name in CHOSEN if name in own and name in defaults}
        same = replace(run, settings={**run.settings, **chosen})
        return find_parting(same, replay(formula, same), observed.trajectory, precision) is None

    def _describe_defaults(self) -> str:
        own = dict(self.subject.arguments.defaults)
        differing = [
            f"{name} is {own[name]} (torch: {default})"
            for name, default in shared_defaults(self.rule).items()
            if name != "lr" and name in own and own[name] != default
        ]
        return "its defaults are its own: " + (", ".join(differing) or "they cannot be seen from the constructor")

    def _probe_properties(self, *, agrees: bool) -> list[Probe]:
        context = Context(self.subject, self.rule, self.fixed, agrees)
        probes = []
        for prop in self._properties():
            self.watch(prop.name)
            probe = prop.probe(context)
            strict = self.strict and probe.outcome is Outcome.ADVICE
            probes.append(replace(probe, outcome=Outcome.FAIL) if strict else probe)
        return probes

    def _properties(self) -> tuple[Property, ...]:
        if self.subject.kind == "torch":
            from gradstep.judge.subjects.torch_optimizer import TORCH_PROPERTIES

            return (*TORCH_PROPERTIES, *PROPERTIES, bad_settings)
        own = {"function": FUNCTION, "update": (bad_settings,), "numpy": (*NUMPY, bad_settings)}
        return (*own[self.subject.kind], *PROPERTIES)

    def _status(self, probes: list[Probe], best: Explanation, is_right: bool) -> tuple[Status, str]:
        failed = [p for p in probes if p.outcome is Outcome.FAIL]
        if not failed and is_right:
            return Status.PASSED, f"It computes {self._rule_name()} and behaves as an optimizer should."
        if not self.observed:
            return Status.FAILED, f"It raises in every scenario: {next(iter(self.failures.values()))}."
        math = [p for p in failed if p.name in self.observed and p.name != "defaults"]
        others = [p for p in failed if p not in math and p.name != "defaults"]
        variant = best.variants[0] if best.variants and not is_right and not best.unexplained else None
        holders = [m.conventions_of(self.rule) for m in variant.mistakes] if variant is not None else []
        if variant is not None and holders and all(holders):
            if variant.conventions:
                names = ", ".join(variant.conventions)
                text = f"It is {self.rule.__name__} by another convention ({names}), not by {self.convention}'s"
            else:
                text = f"It is {self.rule.__name__} by several conventions at once: {variant.sentence}"
            if not others:
                return Status.DIFFERS, f"{text}."
            return Status.FAILED, f"{text}, and fails elsewhere: {', '.join(p.name for p in others)}."
        if is_right and not others:
            return Status.DIFFERS, f"It computes {self._rule_name()}, but {failed[0].detail}."
        if is_right:
            names = ", ".join(p.name for p in others)
            return Status.FAILED, f"It computes {self._rule_name()}, but fails elsewhere: {names}."
        if best.unexplained:
            names = ", ".join(best.unexplained)
            return (
                Status.FAILED,
                f"It computes {best.variants[0].sentence}, and differs for another reason in: {names}.",
            )
        if best.variants:
            return Status.FAILED, f"It computes {best.variants[0].sentence}."
        return Status.FAILED, f"It does not compute {self.rule.__name__}: {len(math) + len(others)} probes fail."

    def _rule_name(self) -> str:
        """Return the rule's name, with the settings that its user or its author chose, and the convention."""
        own, defaults = {**dict(self.subject.arguments.defaults), **self.fixed}, shared_defaults(self.rule)
        chosen = [
            f"{name}={own[name]}"
            for name, default in defaults.items()
            if (name in CHOSEN or name in self.fixed) and name != "lr" and name in own and own[name] != default
        ]
        settings = f" with {' and '.join(chosen)}" if chosen else ""
        convention = "" if self.convention == "torch" else f" by the convention of {self.convention}"
        return f"{self.rule.__name__}{settings}{convention}"

    def _notes(self, base: Variant, best: Explanation) -> list[str]:
        notes = []
        if base.mistakes:
            notes.append(f"By the convention of {self.convention}: {base.sentence}.")
        if best.variants and best.residual > tolerance("float64", 10**4):
            coarse = best.precision if best.precision != "float64" else "float32"
            notes.append(f"It agrees to {best.residual:.0e} only: some of it is computed in {coarse}.")
        built_in = shared_defaults(self.rule).keys() & {"momentum", "weight_decay"} - self.subject.arguments.offered
        if self.observed and not best.variants and (built_in := built_in - self.fixed.keys()):
            names = " and no ".join(sorted(built_in))
            notes.append(f"It takes no {names}. If one is built in, give its value: --set {min(built_in)}=...")
        lr = dict(self.subject.arguments.defaults).get("lr")
        torch_lr = shared_defaults(self.rule).get("lr")
        if lr not in (None, torch_lr) and "lr" not in self.fixed:
            notes.append(f"Its default learning rate is {lr}; torch's is {torch_lr}.")
        return notes
