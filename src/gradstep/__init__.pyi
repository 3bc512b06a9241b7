"""Written by tools/stubs.py from the rules; do not edit."""

from pathlib import Path
from typing import final

from torch import Tensor, nn

from gradstep import rules as rules
from gradstep import schedules as schedules
from gradstep.judge import Verdict as Verdict
from gradstep.judge import check as check
from gradstep.judge import conformance as conformance
from gradstep.judge.updates.watch import watch_rules as watch_rules
from gradstep.monitor.doctor import Diagnosis as Diagnosis
from gradstep.monitor.doctor import diagnose as diagnose
from gradstep.monitor.monitor import Monitor as Monitor
from gradstep.optimizers import OPTIMIZERS as OPTIMIZERS
from gradstep.optimizers import AveragingOptimizer as AveragingOptimizer
from gradstep.optimizers import Optimizer as Optimizer
from gradstep.optimizers import Pages as Pages
from gradstep.optimizers import StepReport as StepReport
from gradstep.optimizers import create as create
from gradstep.optimizers import optimizer as optimizer
from gradstep.optimizers.arguments import ParamsT
from gradstep.optimizers.checkpoint.convert import convert_state as convert_state
from gradstep.optimizers.checkpoint.matching import LoadReport as LoadReport
from gradstep.optimizers.checkpoint.split import split_by_rule as split_by_rule
from gradstep.optimizers.released import GradientRelease as GradientRelease
from gradstep.optimizers.released import release_gradients as release_gradients
from gradstep.planner import Plan as Plan
from gradstep.planner import Plans as Plans
from gradstep.planner import plan as plan
from gradstep.planner import plans as plans
from gradstep.rules import RULES as RULES
from gradstep.rules import Modifier as Modifier
from gradstep.rules import Rule as Rule
from gradstep.rules import Slot as Slot
from gradstep.rules import State as State
from gradstep.rules import StepRule as StepRule
from gradstep.rules import modify as modify
from gradstep.storage.policy import RoundingName, StateName
from gradstep.training.checkpoints import load_checkpoint as load_checkpoint
from gradstep.training.checkpoints import save_checkpoint as save_checkpoint
from gradstep.training.groups import param_groups as param_groups
from gradstep.training.lr_find import LrFound as LrFound
from gradstep.training.lr_find import lr_find as lr_find
from gradstep.training.lr_sweep import LrSuggestion as LrSuggestion
from gradstep.training.lr_sweep import LrSweep as LrSweep
from gradstep.training.outcome import UpdateOutcome as UpdateOutcome
from gradstep.training.scheduler import Scheduler as Scheduler
from gradstep.training.stepper import Stepper as Stepper

__version__: str

@final
class AdaBelief(Optimizer):
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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
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
        bias_correction: bool = ...,
        decoupled_weight_decay: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
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
        bias_correction: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class AdEMAMix(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        betas: tuple[float, float, float] = ...,
        alpha: float = ...,
        t_alpha: int | None = ...,
        t_beta3: int | None = ...,
        eps: float = ...,
        weight_decay: float = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class ADOPT(Optimizer):
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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class ASGD(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        lambd: float = ...,
        alpha: float = ...,
        t0: float = ...,
        weight_decay: float = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class LAMB(Optimizer):
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
        bias_correction: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class LaProp(Optimizer):
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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class LARS(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        momentum: float = ...,
        weight_decay: float = ...,
        trust_coefficient: float = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class MARS(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        betas: tuple[float, float] = ...,
        eps: float = ...,
        weight_decay: float = ...,
        amsgrad: bool = ...,
        gamma: float = ...,
        *,
        maximize: bool = ...,
        bias_correction: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class Muon(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        weight_decay: float = ...,
        momentum: float = ...,
        nesterov: bool = ...,
        ns_coefficients: tuple[float, float, float] | str = ...,
        eps: float = ...,
        ns_steps: int = ...,
        adjust_lr_fn: str | None = ...,
        *,
        maximize: bool = ...,
        matrices: str | int | None = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class NorMuon(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        weight_decay: float = ...,
        momentum: float = ...,
        beta2: float = ...,
        nesterov: bool = ...,
        eps: float = ...,
        ns_steps: int = ...,
        adjust_lr_fn: str | None = ...,
        *,
        maximize: bool = ...,
        matrices: str | int | None = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class Rprop(Optimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        etas: tuple[float, float] = ...,
        step_sizes: tuple[float, float] = ...,
        *,
        maximize: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class ScheduleFreeSGD(AveragingOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        momentum: float = ...,
        *,
        maximize: bool = ...,
        weight_decay: float = ...,
        r: float = ...,
        weight_lr_power: float = ...,
        warmup_steps: float = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class ScheduleFreeAdamW(AveragingOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        betas: tuple[float, float] = ...,
        eps: float = ...,
        *,
        maximize: bool = ...,
        weight_decay: float = ...,
        r: float = ...,
        weight_lr_power: float = ...,
        warmup_steps: float = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class ScheduleFreeRAdam(AveragingOptimizer):
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = ...,
        betas: tuple[float, float] = ...,
        eps: float = ...,
        silent_sgd_phase: bool = ...,
        *,
        maximize: bool = ...,
        weight_decay: float = ...,
        r: float = ...,
        weight_lr_power: float = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
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
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

@final
class StableAdamW(Optimizer):
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
        bias_correction: bool = ...,
        engine: str = ...,
        state: StateName = ...,
        rounding: RoundingName = ...,
        seed: int | None = ...,
        paged: bool | str | Path | Pages = ...,
        page_budget: str | int | None = ...,
        model: nn.Module | None = ...,
        foreach: bool | None = ...,
        fused: bool | None = ...,
        capturable: bool = ...,
        differentiable: bool = ...,
    ) -> None: ...
    @classmethod
    def rule(cls) -> type[Rule]: ...

AdaBelief8bit = AdaBelief
AdaBelief4bit = AdaBelief
PagedAdaBelief = AdaBelief
PagedAdaBelief8bit = AdaBelief
PagedAdaBelief4bit = AdaBelief
Adadelta8bit = Adadelta
Adadelta4bit = Adadelta
PagedAdadelta = Adadelta
PagedAdadelta8bit = Adadelta
PagedAdadelta4bit = Adadelta
Adagrad8bit = Adagrad
Adagrad4bit = Adagrad
PagedAdagrad = Adagrad
PagedAdagrad8bit = Adagrad
PagedAdagrad4bit = Adagrad
Adam8bit = Adam
Adam4bit = Adam
PagedAdam = Adam
PagedAdam8bit = Adam
PagedAdam4bit = Adam
Adamax8bit = Adamax
Adamax4bit = Adamax
PagedAdamax = Adamax
PagedAdamax8bit = Adamax
PagedAdamax4bit = Adamax
AdamW8bit = AdamW
AdamW4bit = AdamW
PagedAdamW = AdamW
PagedAdamW8bit = AdamW
PagedAdamW4bit = AdamW
AdEMAMix8bit = AdEMAMix
AdEMAMix4bit = AdEMAMix
PagedAdEMAMix = AdEMAMix
PagedAdEMAMix8bit = AdEMAMix
PagedAdEMAMix4bit = AdEMAMix
ADOPT8bit = ADOPT
ADOPT4bit = ADOPT
PagedADOPT = ADOPT
PagedADOPT8bit = ADOPT
PagedADOPT4bit = ADOPT
ASGD8bit = ASGD
ASGD4bit = ASGD
PagedASGD = ASGD
PagedASGD8bit = ASGD
PagedASGD4bit = ASGD
LAMB8bit = LAMB
LAMB4bit = LAMB
LaProp8bit = LaProp
LaProp4bit = LaProp
PagedLaProp = LaProp
PagedLaProp8bit = LaProp
PagedLaProp4bit = LaProp
LARS8bit = LARS
LARS4bit = LARS
Lion8bit = Lion
Lion4bit = Lion
PagedLion = Lion
PagedLion8bit = Lion
PagedLion4bit = Lion
MARS8bit = MARS
MARS4bit = MARS
Muon8bit = Muon
Muon4bit = Muon
NAdam8bit = NAdam
NAdam4bit = NAdam
PagedNAdam = NAdam
PagedNAdam8bit = NAdam
PagedNAdam4bit = NAdam
NorMuon8bit = NorMuon
NorMuon4bit = NorMuon
RAdam8bit = RAdam
RAdam4bit = RAdam
PagedRAdam = RAdam
PagedRAdam8bit = RAdam
PagedRAdam4bit = RAdam
RMSprop8bit = RMSprop
RMSprop4bit = RMSprop
PagedRMSprop = RMSprop
PagedRMSprop8bit = RMSprop
PagedRMSprop4bit = RMSprop
Rprop8bit = Rprop
Rprop4bit = Rprop
PagedRprop = Rprop
PagedRprop8bit = Rprop
PagedRprop4bit = Rprop
ScheduleFreeSGD8bit = ScheduleFreeSGD
ScheduleFreeSGD4bit = ScheduleFreeSGD
PagedScheduleFreeSGD = ScheduleFreeSGD
PagedScheduleFreeSGD8bit = ScheduleFreeSGD
PagedScheduleFreeSGD4bit = ScheduleFreeSGD
ScheduleFreeAdamW8bit = ScheduleFreeAdamW
ScheduleFreeAdamW4bit = ScheduleFreeAdamW
PagedScheduleFreeAdamW = ScheduleFreeAdamW
PagedScheduleFreeAdamW8bit = ScheduleFreeAdamW
PagedScheduleFreeAdamW4bit = ScheduleFreeAdamW
ScheduleFreeRAdam8bit = ScheduleFreeRAdam
ScheduleFreeRAdam4bit = ScheduleFreeRAdam
PagedScheduleFreeRAdam = ScheduleFreeRAdam
PagedScheduleFreeRAdam8bit = ScheduleFreeRAdam
PagedScheduleFreeRAdam4bit = ScheduleFreeRAdam
SGD8bit = SGD
SGD4bit = SGD
PagedSGD = SGD
PagedSGD8bit = SGD
PagedSGD4bit = SGD
StableAdamW8bit = StableAdamW
StableAdamW4bit = StableAdamW
