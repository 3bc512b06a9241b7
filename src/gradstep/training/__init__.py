"""The parts of a training loop around the optimizer: parameter groups, schedules, the stepper, checkpoints."""
