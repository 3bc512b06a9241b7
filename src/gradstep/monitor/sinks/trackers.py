"""Sinks for experiment trackers: TensorBoard, Weights & Biases, trackio."""

from __future__ import annotations

import os
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, final

from gradstep.monitor.record import Header, Update
from gradstep.monitor.sinks.base import Sink, scalars

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class _Tracker(Sink):
    """The base of sinks that log to a run of a tracker's library."""

    def __init__(self, module: str, name: str, run: Any, settings: dict[str, Any]) -> None:
        try:
            self._library = import_module(module)
        except ImportError as error:
            raise ImportError(f"{name} is not installed: pip install {module}") from error
        if run is not None and settings:
            raise ValueError(
                f"give a run, or settings for {module}.init, not both: {', '.join(settings)} would be lost"
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

    def __init__(self, run: Any = None, **settings: Any) -> None:
        super().__init__("wandb", "Weights & Biases", run, settings)

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

    def __init__(self, run: Any = None, **settings: Any) -> None:
        super().__init__("trackio", "trackio", run, settings)

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
