"""The engines for tensors of torch, in the order in which an optimizer prefers them."""

from __future__ import annotations

from collections.abc import Mapping

from gradstep.engines.base import Engine
from gradstep.engines.compiled import Compiled
from gradstep.engines.cuda.engine import FusedCuda
from gradstep.engines.eager import Eager
from gradstep.engines.foreach import Foreach
from gradstep.engines.fused import Fused
from gradstep.engines.reference import Reference

ENGINES: Mapping[str, Engine] = {e.name: e for e in (Fused(), Foreach(), Eager(), Compiled(), Reference())}
"""Every engine by its name."""

ENGINES_ON: Mapping[str, Mapping[str, Engine]] = {"cuda": {**ENGINES, "fused": FusedCuda()}}
"""The engines for a type of device that has its own."""
