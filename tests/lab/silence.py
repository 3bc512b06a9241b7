"""A race that shows nothing."""

from contextlib import AbstractContextManager, nullcontext

from gradstep.lab.results import Record
from gradstep.lab.terminal import Display


class Silence(Display):
    """Shows nothing."""

    def open(self) -> AbstractContextManager[object]:
        return nullcontext()

    def __call__(self, record: Record) -> None:
        return
