"""What a training run will keep in memory, known before it starts: :func:`plan` for one way, :func:`plans` for all."""

from gradstep.planner.comparison import Plans, plans
from gradstep.planner.planning import Plan, plan

__all__ = ["Plan", "Plans", "plan", "plans"]
