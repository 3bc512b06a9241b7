"""Choose the placement for ``paged=``: files for parameters on the CPU, the host's memory for those on a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradstep.optimizers.memory import is_distributed
from gradstep.optimizers.paged.files import FilePlacement
from gradstep.optimizers.paged.host import HostPlacement
from gradstep.optimizers.paged.host_memory import DEVICES
from gradstep.optimizers.paged.placement import NewParameter, Placement
from gradstep.optimizers.state.storage import Storage
from gradstep.rules import Rule
from gradstep.storage.policy import Pages


def choose_placement(
    pages: Pages, rules: Iterable[type[Rule]], parameters: Sequence[NewParameter], nbytes: int, storage: Storage
) -> Placement:
    """Return a placement for these parameters with room for so many bytes of state.

    Its storage is the given one; state that is resumed goes on with its own rounding noise.

    Raises:
        ValueError: the rule or a parameter has no state that could be paged.
        OSError, MemoryError: there is not enough room.
    """
    for rule in rules:
        if rule.sees != "elements":
            raise ValueError(
                f"paged= updates some elements of a parameter at a time, and {rule.__name__} looks at whole parameters"
            )
    for name, p, stored in parameters:
        if is_distributed(p):
            raise ValueError(
                f"paged= is for parameters of one process, and {name} is a DTensor; FSDP2's CPUOffloadPolicy keeps "
                "parameters and their state in the host's memory"
            )
        if p.is_complex():
            raise ValueError(f"paged= is for real parameters, and {name} is complex")
        if not stored.slots:
            raise ValueError(f"paged= cannot be honoured: with these settings {name} has no state")
    placement = make_placement(pages, parameters)
    placement.check_room(nbytes)
    placement.storage = placement.saved_noise(storage)
    return placement


def make_placement(pages: Pages, parameters: Sequence[NewParameter]) -> Placement:
    """Return a placement for the device of these parameters.

    Raises:
        ValueError: they are on several devices, or on a device whose state cannot be paged.
    """
    devices = {p.device: name for name, p, _ in parameters}
    if len(devices) > 1:
        each = ", ".join(f"{name} on {device}" for device, name in devices.items())
        raise ValueError(f"paged= is for parameters on one device, and there are {each}: make an optimizer for each")
    for device, name in devices.items():
        if device.type in DEVICES:
            if pages.folder is not None:
                raise ValueError(
                    f"a folder keeps only state of parameters on the CPU, and {name} is on {device}: give paged=True, "
                    "which keeps state in the host's memory"
                )
            return HostPlacement(pages, device)
        if device.type != "cpu":
            raise ValueError(f"paged= is for parameters on the CPU or on CUDA, and {name} is on {device}")
    return FilePlacement(pages)
