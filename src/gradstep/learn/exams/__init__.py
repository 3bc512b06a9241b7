"""Exams for a schedule and for a clipping function, which the judge of optimizers cannot judge."""
