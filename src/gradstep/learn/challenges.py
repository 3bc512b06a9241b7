"""The challenges, in the order of the course."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import final

from gradstep.learn.lesson import SECTIONS, Framework, Lesson, lesson


@final
@dataclass(frozen=True)
class Challenge:
    """A class or function to write, with its lesson.

    Attributes:
        name: its name on the command line.
        entry: the class or function that the learner writes.
        rule: the rule that it is compared with; None if it is not an optimizer.
        needs: settings that the learner's class must take.
    """

    name: str
    entry: str
    rule: str | None = None
    needs: tuple[str, ...] = ()

    @property
    def lesson(self) -> Lesson:
        """The lesson: text, code, hints and questions."""
        return lesson(self.name)

    def file(self, framework: Framework) -> str:
        """Return the name of the learner's file."""
        return f"{self.name}_{framework}.py"

    def title_in(self, framework: Framework) -> str:
        """Return the title with the framework: "AdamW in PyTorch"."""
        return f"{self.entry} in {SECTIONS[framework]}"


CHALLENGES: dict[str, Challenge] = {
    challenge.name: challenge
    for challenge in (
        Challenge("sgd", "SGD", "sgd"),
        Challenge("momentum", "SGD", "sgd", needs=("momentum", "nesterov")),
        Challenge("rmsprop", "RMSprop", "rmsprop", needs=("alpha", "eps")),
        Challenge("adam", "Adam", "adam", needs=("betas", "eps", "weight_decay")),
        Challenge("adamw", "AdamW", "adamw", needs=("betas", "eps", "weight_decay")),
        Challenge("lion", "Lion", "lion", needs=("betas", "weight_decay")),
        Challenge("schedule", "warmup_cosine"),
        Challenge("clipping", "clip_grad_norm"),
    )
}


def challenge_named(name: str) -> Challenge:
    """Return the challenge of that name.

    Raises:
        ValueError: there is none; the message names the nearest.

    >>> challenge_named("adamw").entry
    'AdamW'
    >>> challenge_named("adma")
    Traceback (most recent call last):
    ValueError: no challenge 'adma'; did you mean 'adam'? There are sgd, momentum, rmsprop, adam, adamw, lion, ...
    """
    if name.lower() not in CHALLENGES:
        near = get_close_matches(name.lower(), CHALLENGES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"no challenge {name!r}{hint} There are {', '.join(CHALLENGES)}")
    return CHALLENGES[name.lower()]
