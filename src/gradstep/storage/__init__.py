"""Store values: codecs for the form of a value, pages for its place."""

from gradstep.storage.atomic import atomic_write

__all__ = ["atomic_write"]
