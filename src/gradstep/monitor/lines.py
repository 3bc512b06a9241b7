"""Write a record as JSON lines, one for each header and each update, and read it back, even while the file grows.

A line is strict JSON: a number that is not finite is written as ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``. Fields
with their default value and columns of zeros are left out. Columns of single parameters are little-endian float32
(``index``: int32) in base64: for 2,000 tensors this takes microseconds, while writing 16,000 decimal numbers takes
longer than the optimizer's step.
"""

import base64
import json
import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from gradstep.monitor.record import Group, Header, Numbers, ParameterInfo, PerParameter, Run, Update

RECORD_FORMAT = 1
"""Version of the format, the first entry of every header line."""

_KEY = "gradstep_monitor"


def encode_entry(entry: Header | Update) -> str:
    """Return the line of an entry, without the line break."""
    if isinstance(entry, Header):
        return _text({_KEY: RECORD_FORMAT, **_plain(entry)})
    text = _text(_plain(entry))
    if entry.parameters is None:
        return text
    # Base64 needs no escaping, so it bypasses the JSON encoder, which would check every letter.
    columns = ((name, getattr(entry.parameters, name)) for name in _COLUMNS)
    packed = ",".join(
        f'"{name}":"{_encode(column)}"' for name, column in columns if name == "index" or column.tobytes().strip(b"\0")
    )
    return f'{text[:-1]},"parameters":{{{packed}}}}}'


def decode_entry(line: str) -> Header | Update:
    """Return the header or update in a line.

    Raises:
        ValueError: not a line of a monitor's record, or of a newer format.
    """
    try:
        plain = json.loads(line)
        return _decode_header(plain) if _KEY in plain else _decode_update(plain)
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a line of a monitor's record: {line[:80]!r}") from error


@final
class Reader:
    """Reads a record; each further :meth:`read` reads the lines added since.

    A last line without a line break is still being written, or was cut off by a crash; it is not read yet.

    Args:
        path: the file, or a folder with a file ``monitor.jsonl``.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path) / RECORD_FILE if Path(path).is_dir() else Path(path)
        if not self.path.is_file():
            below = [str(file.parent) for file in sorted(Path(path).glob(f"*/{RECORD_FILE}"))]
            there = f"; there is one in {' and in '.join(below[:3])}" if below else ""
            raise FileNotFoundError(
                f"no record of a monitor at {self.path} (a file, or a folder with {RECORD_FILE}{there})"
            )
        self._offset = 0
        self._lines = 0
        self._headers: list[Header] = []
        self._updates: list[Update] = []

    def read(self) -> Run:
        """Return the whole record up to now.

        Raises:
            ValueError: not the record of a monitor; the message names the line.
        """
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        for line in whole.splitlines():
            self._lines += 1
            try:
                self._add(decode_entry(line.decode()))
            except ValueError as error:
                raise ValueError(f"{self.path}, line {self._lines}: {error}") from error
        self._offset += len(whole)
        if not self._headers:
            raise ValueError(f"{self.path} holds no record of a monitor yet: its first line, the header, is not there")
        return Run(tuple(self._headers), tuple(self._updates))

    def _add(self, entry: Header | Update) -> None:
        if isinstance(entry, Header):
            self._headers.append(entry)
            while self._updates and self._updates[-1].update >= entry.first_update:
                self._updates.pop()
        elif not self._headers:
            raise ValueError("the first line of a record is its header, and this is none")
        elif entry.parameters is not None and not _fits(entry.parameters, len(self._headers[-1].parameters)):
            raise ValueError("its columns do not fit the parameters of the header")
        elif not entry.groups and self._updates and self._updates[-1].update == entry.update:  # values logged later
            last = self._updates[-1]
            loss = last.loss if entry.loss is None else entry.loss
            self._updates[-1] = replace(last, loss=loss, extra={**last.extra, **entry.extra})
        else:
            self._updates.append(entry)


RECORD_FILE = "monitor.jsonl"
"""Name of a record in the folder of its run."""


def read_run(path: str | os.PathLike[str]) -> Run:
    r"""Read a record from its file, finished or still growing.

    Args:
        path: the file, or a folder with a file ``monitor.jsonl``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not the record of a monitor; the message names the line.

    Example:
        >>> from tempfile import mkdtemp
        >>> file = Path(mkdtemp()) / "monitor.jsonl"
        >>> lines = map(encode_entry, [Header("SGD", "torch", None, (), ()), Update(0, 1.5, loss=0.25)])
        >>> _ = file.write_text("\n".join([*lines, '{"update":1,"ti']))
        >>> [update.loss for update in read_run(file).updates]
        [0.25]
    """
    return Reader(path).read()


# -- to JSON ------------------------------------------------------------------------------------------------------


def _text(plain: dict[str, Any]) -> str:
    """Return one line of JSON, in which NaN and infinity are texts."""
    try:
        return _ENCODER.encode(plain)
    except ValueError:
        return _ENCODER.encode(_spell_non_finite(plain))


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _plain(entry: Any) -> dict[str, Any]:
    """Return the fields that differ from their defaults, without the columns of single parameters."""
    defaults = _DEFAULTS[type(entry)]
    result = {}
    for name, value in vars(entry).items():  # in the order of the fields
        default = defaults[name]
        if value is default or value == default or type(value) is PerParameter:
            continue
        if type(value) is tuple and value and type(value[0]) in _DEFAULTS:
            value = [_plain(one) for one in value]
        result[name] = value
    return result


def _spell_non_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _spell_non_finite(one) for key, one in value.items()}
    return [_spell_non_finite(one) for one in value] if isinstance(value, (list, tuple)) else value


def _encode(column: NDArray[Any]) -> str:
    """Return the bytes of a column, (n,), in little-endian order, as base64 text."""
    return base64.b64encode(column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes()).decode()


_COLUMNS = tuple(f.name for f in fields(PerParameter))
"""Names of the columns of single parameters; the first is ``index``."""

_DEFAULTS = {
    kind: {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(kind)}
    for kind in (Header, Group, ParameterInfo, Update, Numbers)
}


# -- from JSON ----------------------------------------------------------------------------------------------------


def _decode_header(plain: dict[str, Any]) -> Header:
    version = plain.pop(_KEY)
    if version != RECORD_FORMAT:
        raise ValueError(f"written in version {version} of the format, and this gradstep reads version {RECORD_FORMAT}")
    plain["groups"] = tuple(Group(**one) for one in plain["groups"])
    for key in ("parameters", "unregistered"):
        if key in plain:
            plain[key] = tuple(_decode_parameter(one) for one in plain[key])
    return Header(**plain)


def _decode_parameter(plain: dict[str, Any]) -> ParameterInfo:
    shape = tuple(plain["shape"])
    if not all(type(size) is int and size >= 0 for size in shape):
        raise TypeError("a shape of whole numbers")
    # Names are printed on terminals, so escape sequences in a foreign record are removed.
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in plain["name"])
    return ParameterInfo(**plain | {"shape": shape, "name": name})


def _fits(columns: PerParameter, count: int) -> bool:
    index = columns.index
    return bool(np.all((index >= 0) & (index < count))) and all(
        len(getattr(columns, name)) == len(index) for name in _COLUMNS
    )


def _decode_update(plain: dict[str, Any]) -> Update:
    """Return the update of a line of the record, which is used up; columns of parameters are base64 of bytes."""
    if "groups" in plain:
        plain["groups"] = tuple(Numbers(**_decode_numbers(one)) for one in plain["groups"])
    extra = _decode_numbers(plain.pop("extra", {}))
    if "parameters" in plain:
        columns = {key: base64.b64decode(text) for key, text in plain["parameters"].items()}
        index = np.frombuffer(columns.pop("index"), "<i4")
        numbers = {key: np.frombuffer(data, "<f4") for key, data in columns.items()}
        zeros = np.zeros(len(index), "<f4")
        plain["parameters"] = PerParameter(index, *(numbers.pop(name, zeros) for name in _COLUMNS[1:]), **numbers)
    texts = {key: plain.pop(key) for key in ("skipped", "culprit", "other_optimizer") if key in plain}
    if type(plain["update"]) is not int or not all(isinstance(text, str | None) for text in texts.values()):
        raise TypeError("an update's number and words")
    return Update(**_decode_numbers(plain), **texts, extra=extra)


def _decode_numbers(plain: dict[str, Any]) -> dict[str, Any]:
    """Return text such as ``"NaN"`` as numbers, and pairs of numbers as tuples."""
    return {key: _decode_number(value) for key, value in plain.items()}


def _decode_number(value: Any) -> Any:
    if isinstance(value, str):
        return float(value)
    if isinstance(value, list):
        first, second = value
        return float(first), float(second)
    if isinstance(value, dict):
        raise TypeError("a number")
    return value
