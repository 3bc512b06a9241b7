"""The colour of each optimizer, the same in every chart. The default line-up has the most different colours."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from gradstep.lab.contenders import base_name
from gradstep.lab.results import Entry

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "sgd": "black",
        "rmsprop": "green",
        "adam": "blue",
        "adamw": "vermilion",
        "nadam": "sky",
        "radam": "wine",
        "lion": "amber",
        "adafactor": "pink",
        "adagrad": "olive",
        "adamax": "indigo",
        "adadelta": "forest",
    }
)
"""Names of :data:`gradstep.report.markup.COLOURS`."""
SPARE = ("magenta", "teal", "brown", "steel", "rose", "petrol", "sand", "grey")
"""For optimizers without an entry above, and for one that races several times with different settings."""


def colours(entries: Iterable[Entry]) -> dict[str, str]:
    """Return a colour for each contender, by label. torch's class has the colour of gradstep's with equal settings."""
    chosen: dict[str, str] = {}
    by_meaning: dict[tuple[str, str], str] = {}
    spare = 0
    for entry in entries:
        settings = {key: value for key, value in entry.settings.items() if key != "engine"}
        name = base_name(entry.name)
        meaning = (name, repr(sorted(settings.items())))
        if meaning not in by_meaning:
            own = COLOURS.get(name)
            if own is None or own in by_meaning.values():
                own = SPARE[spare % len(SPARE)]
                spare += 1
            by_meaning[meaning] = own
        chosen[entry.label] = by_meaning[meaning]
    return chosen
