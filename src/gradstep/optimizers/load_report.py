"""What became of a checkpoint that was loaded in part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

_SHOWN = 8


@final
@dataclass(frozen=True)
class LoadReport:
    """What ``load_state_dict(..., strict=False)`` and ``load_checkpoint(..., strict=False)`` loaded, and what not.

    Attributes:
        loaded: the names of what was loaded.
        left_out: why the rest was not, by name: what the checkpoint lacks, what it holds besides, and what has the
            right name and does not fit. Whatever the checkpoint lacks stays as it was; the state of such a parameter
            begins at its next step.
        extra: what was saved beside the parts of the run; of ``load_checkpoint`` only.

    >>> print(LoadReport(("0.weight",), {"1.weight": "not in the checkpoint"}))
    loaded 1: 0.weight
    left out 1:
      1.weight: not in the checkpoint
    """

    loaded: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def of(self, part: str) -> LoadReport:
        """The same with the name of a part of the run before every name."""
        names = tuple(f"{part} {name}" for name in self.loaded)
        return LoadReport(names, {f"{part} {name}": why for name, why in self.left_out.items()}, self.extra)

    def __add__(self, other: LoadReport) -> LoadReport:
        return LoadReport(
            self.loaded + other.loaded, {**self.left_out, **other.left_out}, {**self.extra, **other.extra}
        )

    def __str__(self) -> str:
        more = f", … and {len(self.loaded) - _SHOWN} more" if len(self.loaded) > _SHOWN else ""
        lines = [f"loaded {len(self.loaded)}: {', '.join(self.loaded[:_SHOWN]) or 'nothing'}{more}"]
        lines.append(f"left out {len(self.left_out)}{':' if self.left_out else ''}")
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.left_out.items())])
