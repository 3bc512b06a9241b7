"""Which rule made a parameter's updates."""

import math
from collections.abc import Sequence

from gradstep.judge.updates.candidates import Candidate, all_rules, known_mistakes, plain_rules
from gradstep.judge.updates.comparison import (
    CODED,
    EXACT,
    UNRESOLVED,
    VISIBLE,
    Screen,
    collect_updates,
    compare,
    norm,
    rounding_of,
    tolerance,
)
from gradstep.judge.updates.history import EIGHT_BIT, History
from gradstep.judge.updates.replay import settings_from
from gradstep.judge.updates.report import Result
from gradstep.rules import RULES

ALIKE = 1e-2
"""For rules that were not promised: which rule it is matters here, not how exactly it was given its settings."""


def _matches(candidate: Candidate, history: History, screen: Screen) -> bool:
    limit = tolerance(candidate, history)
    if compare(candidate, history, screen, limit=limit).distance > limit:
        return False
    steps = history.full_steps if candidate.full else history.steps
    if len(collect_updates(candidate, history, len(steps))[0]) < len(steps):  # one that ends in NaN explains nothing
        return False
    return not candidate.orthogonal or not _is_exactly_another(history, screen)


def _is_exactly_another(history: History, screen: Screen) -> bool:
    """Whether a rule without an iteration fits.

    A matrix of rank 1 is its own orthogonal one, so that SGD then has Muon's direction.
    """
    return any(_matches(c, history, screen) for c in all_rules() if not c.orthogonal)


def judge(
    history: History, promise: str, candidates: Sequence[Candidate], screen: Screen | None = None
) -> tuple[str, Result]:
    """Return in words which rule updated a parameter, and whether that is right.

    Args:
        history: its record, of at least one step.
        promise: the rule that its optimizer's name stands for; empty if it stands for none.
        candidates: what counts as that rule.
        screen: that of all parameters with its settings; None where it is judged alone.
    """
    screen = screen or Screen([history])
    if not any(step.update.any() for step in history.steps):
        return _judge_unmoved(history, candidates)
    if not candidates:
        lengths = [(norm(step.update), rounding_of(step, history)) for step in history.steps]
        if not any(length > VISIBLE * rounding for length, rounding in lengths):
            return UNRESOLVED, Result.OPEN
        return _name_update(history, promise, candidates, screen), Result.OPEN
    fits = [compare(c, history, screen, limit=tolerance(c, history)) for c in candidates]
    right = any(fit.distance <= tolerance(c, history) for c, fit in zip(candidates, fits))
    other = any(c.orthogonal for c in candidates) and _is_exactly_another(history, screen)
    if right and not other:
        return promise, Result.RIGHT
    unknown = [fit for fit in fits if fit.hidden] or ([] if any(not fit.reason for fit in fits) else fits)
    if unknown and not other:
        return unknown[0].reason, Result.OPEN
    return _name_update(history, promise, candidates, screen), Result.WRONG


def has_zero_rate(history: History) -> bool:
    """Whether the learning rate was 0 in every recorded step, and the parameter stayed as it was."""
    rates = [s.settings.get("lr") for s in history.steps]
    return all(r is not None and float(r) == 0.0 for r in rates) and not any(s.update.any() for s in history.steps)


def judge_zero_rate(history: History, *, others_move: bool) -> tuple[str, Result]:
    """Judge a parameter that :func:`has_zero_rate`: it is meant to be frozen if another group has a rate above 0."""
    if others_move:
        return "frozen: its group's learning rate is 0", Result.FROZEN
    count = len(history.steps)
    if count == 1:  # as in the first step of many schedules
        return "not judged: the learning rate was 0 in the only step that was watched", Result.OPEN
    return f"not moved: the learning rate was 0 in all of its {count} steps", Result.UNSTEPPED


def _judge_unmoved(history: History, candidates: Sequence[Candidate]) -> tuple[str, Result]:
    if not any(step.gradient.any() for step in history.steps):
        return "not moved: its gradients are 0", Result.OPEN
    for candidate in candidates or plain_rules():
        fit = compare(candidate, history, limit=0.0)
        if fit.hidden:
            return fit.reason, Result.OPEN
    return "not moved, though it has gradients", Result.UNSTEPPED


def _name_update(history: History, promise: str, candidates: Sequence[Candidate], screen: Screen) -> str:
    """Return in words what the updates are."""
    decays = any(settings_from(step.settings, RULES["AdamW"]).get("weight_decay") for step in history.steps)
    for candidate in all_rules() if decays else ():  # the simplest mistake, which others resemble at small rates
        if candidate.name == f"{promise} without weight decay" and _matches(candidate, history, screen):
            return f"received the update of {candidate.name}"
    for candidate in known_mistakes(promise) if promise else ():
        if _matches(candidate, history, screen):
            return f"received the update of {candidate.name}"
    own = [c for c in candidates if not c.orthogonal]
    known = list(all_rules())
    plain = [c for c in known if not c.orthogonal and c.name != promise]
    exact = CODED if history.state is EIGHT_BIT else EXACT
    distances = [(compare(c, history, screen, limit=ALIKE).distance, c.name) for c in plain]
    least = min(distances)[0]
    nearest, name = min(
        ((compare(c, history, screen, limit=ALIKE).distance, c.name) for c in own), default=(math.inf, "")
    )
    if nearest <= ALIKE and least > exact:
        return f"received an update {nearest:.2%} away from {name}'s"
    if least <= max(exact, ALIKE):
        name = next(name for distance, name in distances if distance <= max(2 * least, exact))
        return f"received {name}'s update" if name.isalpha() else f"received the update of {name}"
    for candidate in known:
        if candidate.orthogonal and candidate.name != promise and _matches(candidate, history, screen):
            return f"received {candidate.name}'s update"
    for candidate in (*own, *plain):
        fit = compare(candidate, history, screen, limit=max(exact, ALIKE), scaled=True)
        if fit.distance <= max(exact, ALIKE) and fit.factor > 0:
            return f"received the update of {candidate.name}, {fit.factor:.3g} times as long"
    return "received an update of no rule that is known"
