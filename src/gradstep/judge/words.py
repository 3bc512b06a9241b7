"""The verdict as text."""

from __future__ import annotations

from gradstep.judge.verdict import Match, Outcome, Verdict

_SIGNS = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.ADVICE: "!", Outcome.SKIPPED: "–"}

_SCENARIOS = 3
"""How many failed scenarios are told in full."""


def headline(verdict: Verdict) -> str:
    """The result in one line."""
    return f"{verdict.subject} against {verdict.rule}: {verdict.status.value.upper()}. {verdict.reason}"


def diagnosis(verdict: Verdict) -> list[str]:
    """What is likely wrong, where it shows first, and what to read."""
    lines = [line for match in verdict.matches[:1] for line in _of_match(match)]
    others = [match.sentence for match in verdict.matches[1:3]]
    if others:
        lines.append(f"Equally possible: {'; or '.join(others)}.")
    if verdict.nearest:
        lines.append(verdict.nearest)
    if verdict.parting is not None:
        lines.append(f"First apart in {verdict.parting.scenario!r}, {verdict.parting}.")
    return lines


def _of_match(match: Match) -> list[str]:
    agreed = "exactly" if match.residual == 0 else f"to {match.residual:.0e}"
    lines = [f"Matches {match.sentence}, {agreed}."]
    if match.conventions:
        names = ", ".join(match.conventions)
        lines.append(f"That is a convention, not an error: {names} (--convention {match.conventions[0]} accepts it).")
    elif len(match.whose) > 1 and all(match.whose):
        lines.append(f"Each is a convention, though no one has them all: {'; '.join(match.whose)}.")
    lines += [f"Look for: {text}." for text in match.look_for]
    lines += [f"Read: {text}." for text in dict.fromkeys(match.read)]
    return lines


def report(verdict: Verdict) -> str:
    """The whole verdict: result, diagnosis, probes that did not pass, notes."""
    lines = [headline(verdict), *(f"  {line}" for line in diagnosis(verdict))]
    width = max((len(p.name) for p in verdict.probes), default=0)
    shown = [p for p in verdict.probes if p.outcome is not Outcome.PASS]
    passed = len(verdict.probes) - len(shown)
    if verdict.probes:
        lines.append(f"  {passed} of {len(verdict.probes)} probes passed" + (":" if shown else "."))
    apart = [p for p in shown if p.outcome is Outcome.FAIL and not p.look_for]
    for probe in shown:
        if probe in apart[_SCENARIOS:]:
            continue
        lines.append(f"  {_SIGNS[probe.outcome]} {probe.name:<{width}}  {probe.detail or probe.shows}")
        if probe.look_for and probe.outcome is not Outcome.SKIPPED:
            lines.append(f"    {'':<{width}}look for: {probe.look_for}")
    if len(apart) > _SCENARIOS:
        lines.append(f"  {_SIGNS[Outcome.FAIL]} and also: {', '.join(p.name for p in apart[_SCENARIOS:])}")
    lines += [f"  Note: {note}" for note in verdict.notes]
    return "\n".join(lines)


def sign(outcome: Outcome) -> str:
    """One character for an outcome."""
    return _SIGNS[outcome]
