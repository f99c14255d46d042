"""Training: settings, one loop for every method, evaluation."""

from catchment.training.config import TrainingConfig
from catchment.training.evaluation import Predictions, predict
from catchment.training.loop import TrainingResult, train

__all__ = ["Predictions", "TrainingConfig", "TrainingResult", "predict", "train"]
