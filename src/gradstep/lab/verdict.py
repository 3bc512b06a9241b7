"""Decide who won a race, if anyone did beyond the noise."""

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import final

from gradstep.lab.results import Results
from gradstep.lab.standings import Standing, standings
from gradstep.lab.tasks import TASKS
from gradstep.report.words import TINY

TWICE = 2.0
"""Smallest difference that is written as a ratio, and not in per cent."""
MANY = 1000.0
"""Largest ratio that is written exactly: beyond it, both losses are practically zero."""


@final
@dataclass(frozen=True)
class Verdict:
    """The outcome of a race in words.

    Args:
        winner: label of the contender that is ahead beyond the noise; None if there is none.
        short: a few words, for a card.
        sentence: who won and by how much, or why nobody did.
    """

    winner: str | None
    short: str
    sentence: str


def verdict(results: Results) -> Verdict:
    """Return who won and by how much; nobody, if runs did not finish or differ only within the noise.

    Contenders at one seed start alike and see the same batches, so they are compared seed by seed. A contender is ahead
    of another if its loss is lower at every seed and its mean lead exceeds the standard deviation of the lead.
    """
    table = standings(results)
    seeds = results.header.seeds
    if any("interrupted" in one.status for one in table):
        return Verdict(None, "interrupted", "No winner: the race was interrupted.")
    finished = [one for one in table if len(one.losses) == len(seeds)]
    if not finished:
        return Verdict(None, "nobody arrived", "No winner: nobody arrived; no contender finished at every seed.")
    after = f"after {results.header.steps:,} steps"
    word = TASKS[results.header.task].loss_word
    best = finished[0]
    if len(table) == 1:
        return Verdict(None, f"{word} {best.loss_text}", f"{best.entry.label}: {word} {best.loss_text} {after}.")
    if len(seeds) == 1:
        return Verdict(
            None,
            "one seed: too close to call",
            f"Too close to call: with one seed the noise is not known. Lowest is {best.entry.label}, {word} "
            f"{best.loss_text} {after}.",
        )
    rivals = [one for one in finished[1:] if not _ahead(best, one)]
    if rivals:
        names = [f"{one.entry.label} ({one.loss_text})" for one in (best, *rivals)]
        between = f"{', '.join(names[:-1])} and {names[-1]}"
        return Verdict(
            None, "too close to call", f"Too close to call {after}, at {len(seeds)} seeds: {word} of {between}."
        )
    first = f"{best.entry.label} wins: {word} {best.loss_text} {after}"
    if len(finished) == 1:
        return Verdict(best.entry.label, f"{word} {best.loss_text}", f"{first}; no other finished at every seed.")
    second = finished[1]
    return Verdict(
        best.entry.label,
        f"{word} {best.loss_text}",
        f"{first}, {_lower(best, second)} {second.entry.label} ({second.loss_text}), ahead at all {len(seeds)} seeds.",
    )


def _ahead(one: Standing, other: Standing) -> bool:
    # Losses below TINY count as equal.
    leads = [max(other.losses[seed], TINY) - max(loss, TINY) for seed, loss in one.losses.items()]
    return min(leads) > 0 and fmean(leads) > stdev(leads)


def _lower(best: Standing, second: Standing) -> str:
    """Return how much lower the loss is: a ratio, or per cent where it is below `TWICE`."""
    low, high = fmean(best.losses.values()), fmean(second.losses.values())
    if high > MANY * low:
        return f"over {MANY:,.0f} times lower than"
    if high / low >= TWICE:
        return f"{high / low:,.1f} times lower than"
    return f"{100 * (1 - low / high):.0f} % lower than"
