"""Parameter groups as a list that can say what is in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

_TITLES = ("parameter", "shape", "group", "decay", "lr", "reason")
_NONE = "–"


@final
@dataclass(frozen=True)
class Row:
    """What was decided about one parameter.

    Attributes:
        names: its names; more than one if it is tied.
        shape: its shape.
        group: the name of its group; None if it is in none.
        weight_decay: its decay; None if it is in no group.
        lr: its learning rate; None if the optimizer's own counts.
        reason: why it decays or not.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    group: str | None
    weight_decay: float | None
    lr: float | None
    reason: str

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of the table's columns."""
        tied = f"; tied: {', '.join(self.names[1:])}" if len(self.names) > 1 else ""
        decay, lr = (_NONE if value is None else f"{value:.4g}" for value in (self.weight_decay, self.lr))
        shape = " × ".join(map(str, self.shape)) or "scalar"
        return self.names[0], shape, self.group or _NONE, decay, lr, self.reason + tied


@final
class ParamGroups(list[dict[str, Any]]):
    """Groups that any ``torch.optim.Optimizer`` takes as ``params``, made by :func:`gradstep.param_groups`.

    Attributes:
        rows: what was decided about every parameter of the model, in its order, frozen ones included.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], rows: Sequence[Row]) -> None:
        super().__init__(groups)
        self.rows = tuple(rows)

    def table(self) -> str:
        """Every parameter with its shape, group, decay, learning rate and the reason, as plain text."""
        lines = [_TITLES, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (map(str.ljust, line, widths) for line in lines)
        return "\n".join("  ".join(cells).rstrip() for cells in padded)
