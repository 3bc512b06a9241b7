"""The rules of the doctor: for each cause of unhealthy training, a function that returns a finding or None.

To add a rule, write a function in the file of its subject, and add it to ``RULES``.
"""

from collections.abc import Callable

from gradstep.monitor.doctor.evidence import Evidence
from gradstep.monitor.doctor.finding import Finding
from gradstep.monitor.doctor.rules.gradients import gradients_exploding, gradients_vanished, spike
from gradstep.monitor.doctor.rules.learning_rate import lr_too_high, lr_too_low
from gradstep.monitor.doctor.rules.loop import gradients_not_cleared, step_without_gradient, stepped_twice
from gradstep.monitor.doctor.rules.parameters import frozen_but_decayed, no_gradient, not_registered
from gradstep.monitor.doctor.rules.precision import loss_scale_collapse, lost_to_rounding, not_finite
from gradstep.monitor.doctor.rules.schedule import lr_jumped, schedule_ended_early, schedule_too_long
from gradstep.monitor.doctor.rules.settings import fine_tuning_settings, momentum_too_high, unusual_betas
from gradstep.monitor.doctor.rules.weights import coupled_decay, no_decay, weights_growing, weights_shrinking

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
"""All rules; their order has no effect."""
