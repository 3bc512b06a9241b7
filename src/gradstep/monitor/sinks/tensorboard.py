"""Numbers for TensorBoard."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, final

from gradstep.monitor.record import Header, Update
from gradstep.monitor.sinks.base import Sink, scalars

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@final
class TensorBoard(Sink):
    """Scalars under ``monitor/``, for ``tensorboard --logdir FOLDER``.

    Args:
        folder: where the event files are put.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if find_spec("tensorboard") is None:  # what torch's writer needs: said here, not at the first step
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
