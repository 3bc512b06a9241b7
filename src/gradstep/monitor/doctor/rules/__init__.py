"""What the doctor knows: one small function for each cause. Each returns a finding, or None."""

from collections.abc import Callable

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Finding
from gradstep.monitor.doctor.rules.coupled_decay import coupled_decay
from gradstep.monitor.doctor.rules.fine_tuning_settings import fine_tuning_settings
from gradstep.monitor.doctor.rules.frozen_but_decayed import frozen_but_decayed
from gradstep.monitor.doctor.rules.gradients_exploding import gradients_exploding
from gradstep.monitor.doctor.rules.gradients_not_cleared import gradients_not_cleared
from gradstep.monitor.doctor.rules.gradients_vanished import gradients_vanished
from gradstep.monitor.doctor.rules.loss_scale_collapse import loss_scale_collapse
from gradstep.monitor.doctor.rules.lost_to_rounding import lost_to_rounding
from gradstep.monitor.doctor.rules.lr_jumped import lr_jumped
from gradstep.monitor.doctor.rules.lr_too_high import lr_too_high
from gradstep.monitor.doctor.rules.lr_too_low import lr_too_low
from gradstep.monitor.doctor.rules.momentum_too_high import momentum_too_high
from gradstep.monitor.doctor.rules.no_decay import no_decay
from gradstep.monitor.doctor.rules.no_gradient import no_gradient
from gradstep.monitor.doctor.rules.not_finite import not_finite
from gradstep.monitor.doctor.rules.not_registered import not_registered
from gradstep.monitor.doctor.rules.schedule_ended_early import schedule_ended_early
from gradstep.monitor.doctor.rules.schedule_too_long import schedule_too_long
from gradstep.monitor.doctor.rules.spike import spike
from gradstep.monitor.doctor.rules.step_without_gradient import step_without_gradient
from gradstep.monitor.doctor.rules.stepped_twice import stepped_twice
from gradstep.monitor.doctor.rules.unusual_betas import unusual_betas
from gradstep.monitor.doctor.rules.weights_growing import weights_growing
from gradstep.monitor.doctor.rules.weights_shrinking import weights_shrinking

RULES: tuple[Callable[[Evidence], Finding | None], ...] = (
    lr_too_high,
    lr_too_low,
    gradients_exploding,
    gradients_vanished,
    not_finite,
    spike,
    weights_growing,
    weights_shrinking,
    coupled_decay,
    no_decay,
    unusual_betas,
    not_registered,
    no_gradient,
    frozen_but_decayed,
    schedule_ended_early,
    schedule_too_long,
    lr_jumped,
    lost_to_rounding,
    loss_scale_collapse,
    gradients_not_cleared,
    stepped_twice,
    step_without_gradient,
    momentum_too_high,
    fine_tuning_settings,
)
"""Every rule; their order decides nothing."""
