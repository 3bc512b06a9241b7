"""The check of one submission: scenarios and properties, then the diagnosis, then the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

from gradstep.judge.battery import battery
from gradstep.judge.catalogue import Variant
from gradstep.judge.compare import Parting, find_parting, tolerance
from gradstep.judge.diagnosis import Evidence, Explanation, accepted, as_match, describe_nearest, explain
from gradstep.judge.formula import Formula
from gradstep.judge.observe import FailureError, Observed, fit_scenarios, observe
from gradstep.judge.properties import PROPERTIES, Context, Property, bad_settings
from gradstep.judge.replay import replay
from gradstep.judge.scenario import Scenario, shared_defaults
from gradstep.judge.subjects.base import NotOfferedError, Subject
from gradstep.judge.verdict import Outcome, Probe, Status, Verdict
from gradstep.rules import Rule

CHOSEN = ("weight_decay", "momentum")
"""Settings whose default authors choose, like the learning rate: another default is advice, and no failure."""


@final
class Trial:
    """The check of one submission."""

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
        self.failures: dict[str, FailureError] = {}
        self.skipped: dict[str, str] = {}
        self.observed: dict[str, tuple[Scenario, Observed]] = {}

    def verdict(self, blank: Verdict) -> Verdict:
        """Run the check and return the blank verdict with its results."""
        scenarios = battery(self.rule)
        if failure := self._run(scenarios):
            return replace(blank, reason=f"It could not be judged: the constructor raises {failure}.")
        compared = [pair for pair in self.observed.values() if not pair[0].defaults]
        evidence = Evidence(self.rule, [s for s, _ in compared], [o for _, o in compared])
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
            from gradstep.judge.torch_properties import PROPERTIES as TORCH

            return (*TORCH, *PROPERTIES, bad_settings)
        from gradstep.judge.numpy_properties import FUNCTION, NUMPY

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
        convention = "" if self.convention == "torch" else f" by the convention of {self.convention}"
        return f"{self.rule.__name__}{convention}"

    def _notes(self, base: Variant, best: Explanation) -> list[str]:
        notes = []
        if base.mistakes:
            notes.append(f"By the convention of {self.convention}: {base.sentence}.")
        if best.variants and best.residual > tolerance("float64", 10**4):
            notes.append(f"It agrees to {best.residual:.0e} only: some of it is computed in float32.")
        lr = dict(self.subject.arguments.defaults).get("lr")
        torch_lr = shared_defaults(self.rule).get("lr")
        if lr not in (None, torch_lr) and "lr" not in self.fixed:
            notes.append(f"Its default learning rate is {lr}; torch's is {torch_lr}.")
        return notes
