"""What is asked of a schedule and of a clipping function, which the judge of optimizers does not know."""
