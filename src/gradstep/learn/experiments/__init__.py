"""Experiments for a learner to run; everything is computed at once."""

from gradstep.learn.experiments import bias_correction, decay, memory, ravine, resume
from gradstep.learn.experiments.experiment import Conclusion, Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT for module in (ravine, bias_correction, decay, memory, resume)
}

__all__ = ["EXPERIMENTS", "Conclusion", "Experiment"]
