"""The base class of sinks, and the scalars that sinks for experiment trackers log."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from gradstep.monitor.record import Header, Update


class Sink(ABC):
    """A destination of a monitor's records; a sink of your own implements the three abstract methods."""

    @abstractmethod
    def open(self, header: Header) -> None:
        """Start a run, or continue it at ``header.first_update``; called before the first step changes anything.

        Called again when the optimizer has got another parameter group.
        """

    @abstractmethod
    def write(self, update: Update) -> None:
        """Write an update; one without ``groups`` only has values that were logged later for the previous one."""

    def flush(self) -> None:
        """Called after each batch of writes, about once a second; override it to flush buffers."""
        return

    @abstractmethod
    def close(self) -> None:
        """End the run; called once, even if no run was started."""


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
"""Names in a record, which cannot be used to log other numbers."""


def scalars(header: Header, update: Update) -> Iterator[tuple[str, float]]:
    """Yield the numbers of an update by name: ``grad_norm``, ``lr`` (of several groups ``lr/decay``), logged numbers.

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
        only = update.groups[0]
        yield from ((name, getattr(only, name)) for name in ("lr", "weight_decay") if getattr(only, name) is not None)
    else:
        for group, numbers in zip(header.groups, update.groups):
            for name in OF_GROUP:
                if getattr(numbers, name) is not None:
                    yield f"{name}/{group.name}", getattr(numbers, name)
    if update.parameters is not None:
        for name in OF_PARAMETER:
            column = getattr(update.parameters, name).tolist()
            for index, value in zip(update.parameters.index.tolist(), column):
                yield f"{name}/{header.parameters[index].name}", value
    yield from update.extra.items()
