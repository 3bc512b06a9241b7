"""A race that shows nothing."""

from contextlib import AbstractContextManager, nullcontext

from gradstep.lab.display import Display
from gradstep.lab.results import Record


class Silence(Display):
    """Shows nothing."""

    def open(self) -> AbstractContextManager[object]:
        return nullcontext()

    def __call__(self, record: Record) -> None:
        return
