"""Written by tools/stubs.py from the rules; do not edit."""

from typing import final

from torch import Tensor

from gradstep import rules as rules
from gradstep import schedules as schedules
from gradstep.judge import Verdict as Verdict
from gradstep.judge import check as check
from gradstep.judge import conformance as conformance
from gradstep.optimizers import OPTIMIZERS as OPTIMIZERS
from gradstep.optimizers import Optimizer as Optimizer
from gradstep.optimizers import StepReport as StepReport
from gradstep.optimizers import optimizer as optimizer
from gradstep.optimizers.front import ParamsT
from gradstep.planner import Plan as Plan
from gradstep.planner import Plans as Plans
from gradstep.planner import plan as plan
from gradstep.planner import plans as plans
from gradstep.rules import RULES as RULES
from gradstep.rules import Rule as Rule
from gradstep.rules import Slot as Slot
from gradstep.rules import State as State
from gradstep.storage.policy import RoundingName
from gradstep.storage.policy import StateName
from gradstep.training.groups import param_groups as param_groups
from gradstep.training.outcome import UpdateOutcome as UpdateOutcome
from gradstep.training.scheduler import Scheduler as Scheduler
from gradstep.training.stepper import Stepper as Stepper

__version__: str

@final
class Adadelta(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        rho: float = ...,
        eps: float = ...,
        weight_decay: float = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class Adafactor(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        beta2_decay: float = ...,
        eps: tuple[float | None, float] = ...,
        d: float = ...,
        weight_decay: float = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class Adagrad(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        lr_decay: float = ...,
        weight_decay: float = ...,
        initial_accumulator_value: float = ...,
        eps: float = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class Adam(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        betas: tuple[float, float] = ...,
        eps: float = ...,
        weight_decay: float = ...,
        amsgrad: bool = ...,
        *,
        maximize: bool = ...,
        decoupled_weight_decay: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class Adamax(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        betas: tuple[float, float] = ...,
        eps: float = ...,
        weight_decay: float = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class AdamW(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        betas: tuple[float, float] = ...,
        eps: float = ...,
        weight_decay: float = ...,
        amsgrad: bool = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class Lion(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        betas: tuple[float, float] = ...,
        weight_decay: float = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class NAdam(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        betas: tuple[float, float] = ...,
        eps: float = ...,
        weight_decay: float = ...,
        momentum_decay: float = ...,
        decoupled_weight_decay: bool = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class RAdam(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        betas: tuple[float, float] = ...,
        eps: float = ...,
        weight_decay: float = ...,
        decoupled_weight_decay: bool = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class RMSprop(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        alpha: float = ...,
        eps: float = ...,
        weight_decay: float = ...,
        momentum: float = ...,
        centered: bool = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class SGD(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        momentum: float = ...,
        dampening: float = ...,
        weight_decay: float = ...,
        nesterov: bool = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...
