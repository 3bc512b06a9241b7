"""What a training loop needs around the optimizer: parameter groups, schedules, the update window."""
