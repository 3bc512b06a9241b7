"""Written by tools/stubs.py from the rules; do not edit."""

from gradstep.rules.adabelief import AdaBelief as AdaBelief
from gradstep.rules.adadelta import Adadelta as Adadelta
from gradstep.rules.adafactor import Adafactor as Adafactor
from gradstep.rules.adagrad import Adagrad as Adagrad
from gradstep.rules.adam import Adam as Adam
from gradstep.rules.adamax import Adamax as Adamax
from gradstep.rules.adamw import AdamW as AdamW
from gradstep.rules.ademamix import AdEMAMix as AdEMAMix
from gradstep.rules.adopt import ADOPT as ADOPT
from gradstep.rules.asgd import ASGD as ASGD
from gradstep.rules.base import Rule as Rule
from gradstep.rules.base import Slot as Slot
from gradstep.rules.base import State as State
from gradstep.rules.base import StepRule as StepRule
from gradstep.rules.cautious import Cautious as Cautious
from gradstep.rules.cautious_decay import CautiousDecay as CautiousDecay
from gradstep.rules.ema import EMA as EMA
from gradstep.rules.lamb import LAMB as LAMB
from gradstep.rules.lamb import TrustRatio as TrustRatio
from gradstep.rules.laprop import LaProp as LaProp
from gradstep.rules.lars import LARS as LARS
from gradstep.rules.lion import Lion as Lion
from gradstep.rules.lookahead import Lookahead as Lookahead
from gradstep.rules.mars import MARS as MARS
from gradstep.rules.mars import VarianceReduction as VarianceReduction
from gradstep.rules.modify import Modifier as Modifier
from gradstep.rules.modify import modify as modify
from gradstep.rules.muon import Muon as Muon
from gradstep.rules.nadam import NAdam as NAdam
from gradstep.rules.normuon import NorMuon as NorMuon
from gradstep.rules.radam import RAdam as RAdam
from gradstep.rules.rms_clip import RMSClip as RMSClip
from gradstep.rules.rmsprop import RMSprop as RMSprop
from gradstep.rules.rprop import Rprop as Rprop
from gradstep.rules.schedule_free import ScheduleFreeAdamW as ScheduleFreeAdamW
from gradstep.rules.schedule_free import ScheduleFreeRAdam as ScheduleFreeRAdam
from gradstep.rules.schedule_free import ScheduleFreeSGD as ScheduleFreeSGD
from gradstep.rules.settings import settings_of as settings_of
from gradstep.rules.sgd import SGD as SGD
from gradstep.rules.stable_adamw import StableAdamW as StableAdamW

MODIFIERS: dict[str, type[Modifier]]
RULES: dict[str, type[Rule]]
