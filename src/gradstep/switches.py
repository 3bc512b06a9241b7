"""Environment variables that switch a part of gradstep off."""

from __future__ import annotations

import os

_OFF = ("0", "false", "off", "no")
_ON = ("1", "true", "on", "yes")


def is_switched_off(variable: str) -> bool:
    """Return whether an environment variable switches its part off, in upper or lower case; unset or empty it is on.

    Args:
        variable: the name of the variable.

    Raises:
        ValueError: its value is none of ``0``, ``false``, ``off``, ``no``, ``1``, ``true``, ``on`` and ``yes``.

    >>> os.environ["GRADSTEP_EXAMPLE"] = "off"
    >>> is_switched_off("GRADSTEP_EXAMPLE"), is_switched_off("GRADSTEP_ANOTHER_EXAMPLE")
    (True, False)
    """
    given = os.environ.get(variable, "")
    value = given.strip().lower()
    if value in _OFF:
        return True
    if value and value not in _ON:
        raise ValueError(
            f'Invalid {variable}: "{given}"; set it to one of {", ".join(_OFF)} to switch it off, '
            f"to one of {', '.join(_ON)} to leave it on, or unset it"
        )
    return False
