"""How and where a value is stored."""

from gradstep.storage.atomic import atomic_write

__all__ = ["atomic_write"]
