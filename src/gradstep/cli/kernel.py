"""``gradstep kernel``."""

from enum import Enum
from typing import Annotated

import typer

from gradstep.cli.plan import parse_rule
from gradstep.cli.screen import usage_errors
from gradstep.storage.policy import ROUNDINGS, STATES


class Target(str, Enum):
    """The processors that a kernel can be shown for."""

    CPU = "cpu"
    CUDA = "cuda"


def kernel(
    rule: Annotated[str, typer.Argument(help="name[:key=value,...] or FILE.py:NAME, a rule.")],
    state: Annotated[str, typer.Option(help=f"How state is stored: {', '.join(STATES)}.")] = "float32",
    rounding: Annotated[str, typer.Option(help=f"How weights are rounded: {', '.join(ROUNDINGS)}.")] = "nearest",
    dtype: Annotated[
        str, typer.Option(help="Type of the weights and gradients: float32, bfloat16, float16, float64.")
    ] = "float32",
    target: Annotated[Target, typer.Option(help="This processor's assembly, or PTX for NVIDIA cards.")] = Target.CPU,
) -> None:
    """Print the kernel that updates a parameter by a rule."""
    from gradstep.engines import list_kernel

    with usage_errors(ValueError, TypeError):
        text = list_kernel(parse_rule(rule), state=state, rounding=rounding, dtype=dtype, target=target.value)
    print(text)
