"""Sinks: the destinations of a monitor's records, such as files, the terminal and experiment trackers."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, final

from gradstep.monitor.lines import RECORD_FILE, Reader, encode_entry
from gradstep.monitor.record import Header, Run, Update

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from torch.utils.tensorboard import SummaryWriter


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
    *("loss", "grad_norm", "weight_norm", "update_norm", "update_ratio", "root_min", "root_max"),
    *("unmoved_share", "non_finite", "clip", "loss_scale", "seconds"),
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
    single = len(update.groups) == 1  # its norms are the global ones
    for group, numbers in zip(header.groups, update.groups):
        for name in ("lr", "weight_decay") if single else OF_GROUP:
            if getattr(numbers, name) is not None:
                yield name if single else f"{name}/{group.name}", getattr(numbers, name)
    if update.parameters is not None:
        for name in OF_PARAMETER:
            column = getattr(update.parameters, name).tolist()
            for index, value in zip(update.parameters.index.tolist(), column):
                yield f"{name}/{header.parameters[index].name}", value
    yield from update.extra.items()


@final
class JsonLines(Sink):
    """Writes one line of JSON for each update, about once a second all updates of that second.

    No line is lost after an exception or Ctrl-C. A killed process loses at most the lines of the last second, which it
    had not yet passed to the operating system.

    A resumed run (:meth:`gradstep.Monitor.load_state_dict`) continues its file; a new run does not overwrite a file.

    Args:
        path: the file; for a path without suffix, ``monitor.jsonl`` in that folder. Folders are made.
        overwrite: replace an existing record.

    Raises:
        FileExistsError: there is a record already; raised before the run's first step.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.path = Path(path) if Path(path).suffix else Path(path) / RECORD_FILE
        self._overwrite = overwrite
        self._file: BinaryIO | None = None

    def open(self, header: Header) -> None:
        if self._file is None:
            self._file = self._open_file(resumed=header.first_update > 0)
        self.write(header)

    def _open_file(self, *, resumed: bool) -> BinaryIO:
        if self.path.exists() and self.path.stat().st_size:
            if resumed:
                Reader(self.path).read()  # raises if the file is not a record
                file = self.path.open("r+b", buffering=0)
                file.seek(file.read().rfind(b"\n") + 1)
                file.truncate()  # removes a last line that a crash cut off
                return file
            if not self._overwrite:
                raise FileExistsError(
                    f"{self.path} holds a record already: give another path, or JsonLines(path, overwrite=True); to "
                    "go on with it, load the monitor's state_dict() before the first step"
                )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("wb", buffering=0)

    def write(self, update: Header | Update) -> None:
        assert self._file is not None
        self._file.write((encode_entry(update) + "\n").encode())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@final
class Html(Sink):
    """Writes the report of the run as one HTML page when the monitor is closed; the page needs no network.

    The page covers the updates of this process; ``gradstep monitor RUN --html`` makes the page of a whole record, also
    while it grows.

    Args:
        path: the page; folders are made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._headers: list[Header] = []
        self._updates: list[Update] = []

    def open(self, header: Header) -> None:
        self._headers.append(header)

    def write(self, update: Update) -> None:
        if self._updates and self._updates[-1].parameters is not None and update.parameters is not None:
            self._updates[-1] = replace(self._updates[-1], parameters=None)  # the page shows only the last update's
        if update.groups:
            self._updates.append(update)

    def close(self) -> None:
        from gradstep.monitor.report import write_run_report

        if self._headers:
            write_run_report(Run(tuple(self._headers), tuple(self._updates)), self.path)


MOST_SHOWN = 2_000
"""Most updates in memory for the display; above this, every second update is removed."""


@final
class Terminal(Sink):
    """Shows a table that is redrawn during the run; without a terminal, in a log or a pipe, once at the end.

    Args:
        seconds: time between two drawings, > 0.
        console: the console of rich to draw on; by default standard output.

    Raises:
        ImportError: rich is not installed.
        ValueError: ``seconds`` is not positive.
    """

    def __init__(self, seconds: float = 0.5, *, console: Console | None = None) -> None:
        try:
            from rich.console import Console
        except ImportError as error:
            raise ImportError(
                'the terminal view needs rich, which is not installed: pip install "gradstep[lab]"'
            ) from error
        if not seconds > 0:
            raise ValueError(f"Invalid seconds: {seconds} (must be greater than 0)")
        self._seconds = seconds
        self._console = console or Console()
        self._live: Live | None = None
        self._run: Run | None = None
        self._updates: list[Update] = []
        self._last_drawing = 0.0

    def open(self, header: Header) -> None:
        from rich.live import Live

        self._run = Run((header,), ())
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()

    def write(self, update: Update) -> None:
        if update.groups:
            self._updates.append(replace(update, parameters=None))
        if len(self._updates) > MOST_SHOWN:
            del self._updates[1:-1:2]

    def flush(self) -> None:
        is_due = time.monotonic() - self._last_drawing > self._seconds
        if self._live is not None and self._console.is_terminal and is_due:
            self._draw()

    def close(self) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        from gradstep.monitor.view import view

        assert self._live is not None
        assert self._run is not None
        self._live.update(view(replace(self._run, updates=tuple(self._updates)), self._console.width), refresh=True)
        self._last_drawing = time.monotonic()


class _Tracker(Sink):
    """The base of sinks that log to a run of a tracker's library."""

    module: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, run: Any = None, **settings: Any) -> None:
        try:
            self._library = import_module(self.module)
        except ImportError as error:
            raise ImportError(f"{self.title} is not installed: pip install {self.module}") from error
        if run is not None and settings:
            raise ValueError(
                f"give a run, or settings for {self.module}.init, not both: {', '.join(settings)} would be lost"
            )
        self._given, self._run, self._settings = run, run, settings
        self._header: Header | None = None

    def _start(self, header: Header, **more: Any) -> None:
        """Start a run with these settings too, unless one was given or is open already."""
        self._header = header
        if self._run is None:
            self._run = self._library.init(**more, **self._settings)

    def _values(self, update: Update) -> dict[str, float]:
        assert self._header is not None
        return {f"monitor/{name}": value for name, value in scalars(self._header, update)}

    def close(self) -> None:
        if self._given is None and self._run is not None:
            self._run.finish()
            self._run = None


@final
class WandB(_Tracker):
    """Logs scalars under ``monitor/`` to a run of Weights & Biases, with ``monitor/update`` as the x-axis.

    Args:
        run: the run that your script has started; None starts one, and finishes it.
        settings: arguments of ``wandb.init``: ``project=``, ``mode="offline"``, ...

    Raises:
        ImportError: wandb is not installed.
        ValueError: both a run and settings for a new one.
    """

    module, title = "wandb", "Weights & Biases"

    def open(self, header: Header) -> None:
        self._start(header)
        # Not W&B's own step, which the user's calls of log() advance.
        self._run.define_metric("monitor/update")
        self._run.define_metric("monitor/*", step_metric="monitor/update")
        self._run.config.update({"gradstep": _config(header)}, allow_val_change=True)

    def write(self, update: Update) -> None:
        self._run.log({"monitor/update": update.update, **self._values(update)})


@final
class Trackio(_Tracker):
    """Logs scalars under ``monitor/`` to a project of trackio, which stores them on this machine.

    Args:
        run: the run that your script has started; None starts one, and finishes it.
        settings: arguments of ``trackio.init``: ``project=`` is required, ``name=``, ...

    Raises:
        ImportError: trackio is not installed.
        ValueError: both a run and settings for a new one.
    """

    module = title = "trackio"

    def open(self, header: Header) -> None:
        self._start(header, config={"gradstep": _config(header)})

    def write(self, update: Update) -> None:
        self._run.log(self._values(update), step=update.update)


def _config(header: Header) -> dict[str, Any]:
    """Return the run's settings for a tracker, without the list of parameters, which may be long."""
    return {
        "optimizer": f"{header.package}.{header.optimizer}",
        "groups": [asdict(group) for group in header.groups],
        "parameters": sum(p.elements for p in header.parameters),
        "planned_updates": header.planned_updates,
        "schedule": header.schedule,
        "accumulate": header.accumulate,
        "precision": header.precision,
    }


@final
class TensorBoard(Sink):
    """Writes scalars under ``monitor/``, for ``tensorboard --logdir FOLDER``.

    Args:
        folder: the folder of the event files.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if find_spec("tensorboard") is None:  # torch's writer needs it; raise here, not at the first step
            raise ImportError("TensorBoard is not installed: pip install tensorboard")
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._header: Header | None = None

    def open(self, header: Header) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._header = header
        if self._writer is None:
            self._writer = SummaryWriter(os.fspath(self._folder), purge_step=header.first_update or None)

    def write(self, update: Update) -> None:
        assert self._writer is not None
        assert self._header is not None
        for name, value in scalars(self._header, update):
            self._writer.add_scalar(f"monitor/{name}", value, update.update, walltime=update.time)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
