"""Plan the memory of a training run before it starts: :func:`plan` for one combination, :func:`plans` for all."""

from gradstep.planner.comparison import Plans, plans
from gradstep.planner.models import GPT2, Llama
from gradstep.planner.planning import Plan, plan

__all__ = ["GPT2", "Llama", "Plan", "Plans", "plan", "plans"]
