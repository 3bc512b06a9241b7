"""What every sink is: told who is trained, then every update as it comes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from gradstep.monitor.record import Header, Update


class Sink(ABC):
    """Where a monitor's numbers go. For one of your own, write the three abstract methods."""

    @abstractmethod
    def open(self, header: Header) -> None:
        """A run begins, or goes on at ``header.first_update``; called before a step changes anything.

        Called again when the optimizer has been given another parameter group.
        """

    @abstractmethod
    def write(self, update: Update) -> None:
        """An update; without ``groups``, only values that were logged about it later."""

    def flush(self) -> None:
        """For now that was the last update: they come together, about once a second. Most sinks need not know."""
        return

    @abstractmethod
    def close(self) -> None:
        """The run has ended; called once, even if it never began."""


GLOBAL = (
    "loss",
    "grad_norm",
    "weight_norm",
    "update_norm",
    "update_ratio",
    "root_min",
    "root_max",
    "unmoved_share",
    "non_finite",
    "clip",
    "loss_scale",
    "seconds",
)
OF_GROUP = ("lr", "weight_decay", "grad_norm", "weight_norm", "update_ratio")
OF_PARAMETER = ("grad_norm", "weight_norm", "update_norm")
RESERVED = {*Update.__dataclass_fields__, *GLOBAL, *OF_GROUP}
"""Names that a record has already: nothing else can be logged under them."""


def scalars(header: Header, update: Update) -> Iterator[tuple[str, float]]:
    """What a logger of scalars gets: ``grad_norm``, ``lr``, ``lr/decay`` where there are groups, what was logged.

    >>> from gradstep.monitor.record import Group, Numbers
    >>> header = Header("SGD", "torch", None, (Group("all"),), ())
    >>> dict(scalars(header, Update(7, 0.0, loss=0.5, groups=(Numbers(lr=0.1, grad_norm=2.0),))))
    {'loss': 0.5, 'grad_norm': 2.0, 'lr': 0.1}
    """
    for name in GLOBAL:
        value = getattr(update, name)
        if value is not None:
            yield name, float(value)
    if update.skipped:
        yield "skipped", 1.0
    if len(update.groups) == 1:
        own = update.groups[0]
        yield from ((name, getattr(own, name)) for name in ("lr", "weight_decay") if getattr(own, name) is not None)
    else:
        for group, numbers in zip(header.groups, update.groups):
            for name in OF_GROUP:
                if getattr(numbers, name) is not None:
                    yield f"{name}/{group.name}", getattr(numbers, name)
    if update.parameters is not None:
        for name in OF_PARAMETER:
            column = getattr(update.parameters, name).tolist()
            for place, value in zip(update.parameters.index.tolist(), column):
                yield f"{name}/{header.parameters[place].name}", value
    yield from update.extra.items()
