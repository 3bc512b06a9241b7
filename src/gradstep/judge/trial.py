"""A submission before the judge: probes, then the diagnosis, then the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

from gradstep.judge.battery import battery
from gradstep.judge.catalogue import Variant
from gradstep.judge.compare import Parting, parting, tolerance
from gradstep.judge.diagnosis import Evidence, Found, accepted, as_match, find, nearest
from gradstep.judge.formula import Formula
from gradstep.judge.observe import Failure, NotOffered, Observed, fitted, observe
from gradstep.judge.properties import PROPERTIES, SETTINGS, Context, Property
from gradstep.judge.replay import replay
from gradstep.judge.scenario import Scenario
from gradstep.judge.subjects.base import Subject
from gradstep.judge.verdict import Outcome, Probe, Status, Verdict
from gradstep.rules import Rule
from gradstep.rules.settings import shared_settings_of

CHOSEN = ("weight_decay", "momentum")
"""Settings whose default is a choice, as that of the learning rate is: another one is worth a word, and no failure."""


@final
class Trial:
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
        probes += self._properties(agrees=bool(right)) if self.seen else []
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
                outcome = Outcome.FAIL if parted else Outcome.PASS
                if parted and scenario.defaults and self._choice(formula, run, seen, found.precision):
                    outcome = Outcome.FAIL if self.strict else Outcome.ADVICE
                probes.append(Probe(name, scenario.shows, outcome, detail))
                first = first or (None if scenario.defaults else parted)
        return probes, first

    def _choice(self, formula: Formula, run: Scenario, seen: Observed, precision: str) -> bool:
        """Whether its defaults differ in nothing but what authors choose differently on purpose."""
        own, known = dict(self.subject.arguments.defaults), {f.name for f in shared_settings_of(self.rule)}
        chosen = {name: own[name] for name in CHOSEN if name in own and name in known}
        same = replace(run, settings={**run.settings, **chosen})
        return parting(same, replay(formula, same), seen.trajectory, precision) is None

    def _defaults(self) -> str:
        own = dict(self.subject.arguments.defaults)
        differing = [
            f"{f.name} is {own[f.name]} (torch: {f.default})"
            for f in shared_settings_of(self.rule)
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

        own = {"function": FUNCTION, "update": (SETTINGS,), "numpy": (*NUMPY, SETTINGS)}
        return (*own[self.subject.kind], *PROPERTIES)

    def _status(self, probes: list[Probe], found: Found, right: bool) -> tuple[Status, str]:
        failed = [p for p in probes if p.outcome is Outcome.FAIL]
        if not failed and right:
            return Status.PASSED, f"It computes {self._named()} and behaves as an optimizer should."
        if not self.seen:
            return Status.FAILED, f"It raises in every scenario: {next(iter(self.failures.values())).what}."
        math = [p for p in failed if p.name in self.seen and p.name != "defaults"]
        others = [p for p in failed if p not in math and p.name != "defaults"]
        best = found.variants[0] if found.variants and not right and not found.unexplained else None
        whose = [m.conventions_of(self.rule) for m in best.mistakes] if best is not None else []
        if best is not None and whose and all(whose):
            if best.conventions:
                named = ", ".join(best.conventions)
                text = f"It is {self.rule.__name__} by another convention ({named}), not by {self.convention}'s"
            else:
                text = f"It is {self.rule.__name__} by several conventions at once: {best.sentence}"
            if not others:
                return Status.DIFFERS, f"{text}."
            return Status.FAILED, f"{text}, and fails elsewhere: {', '.join(p.name for p in others)}."
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
        theirs = next((f.default for f in shared_settings_of(self.rule) if f.name == "lr"), None)
        if lr not in (None, theirs) and "lr" not in self.fixed:
            notes.append(f"Its default learning rate is {lr}; torch's is {theirs}.")
        return notes
