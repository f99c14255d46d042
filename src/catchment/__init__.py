"""catchment: classification when labels are wrong, ambiguous, missing, many or rare, or the inputs have shifted."""

from catchment import disturb, metrics
from catchment.baselines.noisy_labels import CrossEntropy
from catchment.drainage import (
    DrainageHead,
    DrainageLoss,
    closed_probabilities,
    drainage_loss,
    open_probabilities,
    with_drainage,
)
from catchment.methods import create_objective, list_objectives, preset
from catchment.objective import Combined, Method, Model, Objective

__version__ = "0.1.0"

__all__ = [
    "Combined",
    "CrossEntropy",
    "DrainageHead",
    "DrainageLoss",
    "Method",
    "Model",
    "Objective",
    "closed_probabilities",
    "create_objective",
    "disturb",
    "drainage_loss",
    "list_objectives",
    "metrics",
    "open_probabilities",
    "preset",
    "with_drainage",
]
