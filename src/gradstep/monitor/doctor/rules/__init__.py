"""The rules of the doctor: for each cause of unhealthy training, a function that finds its signs.

To add a rule, write a function under ``@finds(...)`` in the file of its subject, and add it to ``RULES``.
"""

from gradstep.monitor.doctor.rules import gradients, learning_rate, loop, precision, settings

RULES = (
    learning_rate.lr_too_high,
    learning_rate.lr_too_low,
    gradients.gradients_exploding,
    gradients.gradients_vanished,
    precision.not_finite,
    gradients.spike,
    settings.weights_growing,
    settings.weights_shrinking,
    settings.coupled_decay,
    settings.no_decay,
    settings.unusual_betas,
    loop.not_registered,
    loop.no_gradient,
    loop.frozen_but_decayed,
    learning_rate.schedule_ended_early,
    learning_rate.schedule_too_long,
    learning_rate.lr_jumped,
    precision.lost_to_rounding,
    precision.loss_scale_collapse,
    loop.gradients_not_cleared,
    loop.stepped_twice,
    loop.step_without_gradient,
    settings.momentum_too_high,
    settings.fine_tuning_settings,
)
"""All rules; their order has no effect."""
