"""What is wrong with a page file."""

from __future__ import annotations

from typing import final


@final
class PageFileError(ValueError):
    """A file that is not the page file that was asked for: foreign, short, of another layout, or left in mid-step.

    The message says what was expected and what was found.
    """
