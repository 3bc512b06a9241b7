"""The summary of an optimizer's state, parameter by parameter, for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from gradstep.optimizers.arguments import Embeddings, GroupRules, build_rules, parameter_names
from gradstep.optimizers.state.storage import Choice, Choices, Storage
from gradstep.storage.policy import ParameterStorage


@final
@dataclass(frozen=True)
class SummaryRow:
    """The storage of one parameter and its state.

    Attributes:
        name: the parameter's name.
        shape: its shape.
        parameter: its own codec.
        state: the codec of each slot.
        reason: why the slots have these codecs.
        nbytes: bytes of the state once it exists: all slots with their scales, the arrays that rounding keeps, and the
            step count.
    """

    name: str
    shape: tuple[int, ...]
    parameter: str
    state: str
    reason: str
    nbytes: int


@final
@dataclass(frozen=True)
class Summary:
    """The storage of all parameters of an optimizer; ``print`` shows a table.

    Attributes:
        rows: one per parameter.
        note: a remark about the reasons; may be empty.
        whole: bytes of the state on all ranks, if this rank has a part of it; else None.
    """

    rows: tuple[SummaryRow, ...]
    note: str = ""
    whole: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the state of these parameters."""
        return sum(row.nbytes for row in self.rows)

    def __str__(self) -> str:
        head = ("parameter", "shape", "stored as", "state", "because", "bytes")
        lines = [
            (r.name, "×".join(map(str, r.shape)) or "scalar", r.parameter, r.state, r.reason, f"{r.nbytes:,}")
            for r in self.rows
        ]
        lines.append(("in all" if self.whole is None else "on this rank", "", "", "", "", f"{self.nbytes:,}"))
        if self.whole is not None:
            lines.append(("on all ranks", "", "", "", "", f"{self.whole:,}"))
        widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]

        def row(line: tuple[str, ...]) -> str:
            *cells, last = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            return "  ".join((*cells, last.strip().rjust(widths[-1])))

        return "\n".join([*map(row, (head, *lines)), *([self.note] if self.note else [])])


_GUESSED = (
    "Embeddings are guessed from names here; model=..., or the groups of gradstep.param_groups(model), know them."
)


def choose_each(
    engine: str, storage: Storage, rules: GroupRules, groups: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, Tensor, Choice]]:
    """Yield (name, parameter, its engine and storage) for the parameters of all groups, in order."""
    for index, (group, rule) in enumerate(zip(groups, build_rules(rules, groups), strict=True)):
        choices = Choices(engine, storage, rule, group)
        for name, p in zip(parameter_names(group, index), group["params"], strict=True):
            yield name, p, choices.of(p, name)


def summarize(
    parameters: Iterable[tuple[str, Tensor, ParameterStorage]],
    storage: Storage,
    groups: Iterable[Mapping[str, Any]],
    whole: Iterable[tuple[str, Tensor, ParameterStorage]] | None = None,
) -> Summary:
    """Return the summary of parameters.

    Args:
        parameters: (name, parameter, its codecs) for each.
        storage, groups: the user's choices; if embeddings are guessed from names where that matters, a note says so.
        whole: the same as ``parameters`` for those of all ranks; None if this process has them all.
    """
    few_bits = [group for group in groups if storage.state_of(group) != "float32"]
    note = "" if all(Embeddings(group).are_marked or "state" in group for group in few_bits) else _GUESSED
    rows = tuple(_summarize_parameter(*parameter) for parameter in parameters)
    total = None if whole is None else sum(_summarize_parameter(*parameter).nbytes for parameter in whole)
    return Summary(rows, note, total)


def _summarize_parameter(name: str, p: Tensor, stored: ParameterStorage) -> SummaryRow:
    shape = tuple(p.shape)
    nbytes = 4 * (1 + len(stored.scalars))
    nbytes += sum(f.element.itemsize * f.length(p.numel()) for f in stored.parameter.fields[1:])
    for slot, codec in zip(stored.slots, stored.codecs, strict=True):
        elements = 1
        for size in slot.shape(shape):
            elements *= size
        nbytes += codec.nbytes(elements) * (2 if p.is_complex() else 1)
    state = ", ".join(f"{slot.name}: {codec.name}" for slot, codec in zip(stored.slots, stored.codecs, strict=True))
    return SummaryRow(name, shape, stored.parameter.name, state or "none", stored.reason, nbytes)
