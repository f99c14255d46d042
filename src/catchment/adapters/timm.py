"""timm's train loop: ``ObjectiveTask(model, objective)`` in place of ``ClassificationTask`` (timm 1.0.31 or newer)."""

from typing import Any

from timm.task import ClassificationEvaluator, ClassificationTask
from torch import Tensor, nn

from catchment.adapters import check_plain


class ObjectiveTask(ClassificationTask):
    """timm's task on a model with ``num_classes = C + objective.extra_outputs``; labels may be mixed up."""

    def __init__(self, model: nn.Module, objective: Any, **settings: Any) -> None:
        super().__init__(model, check_plain(objective), **settings)

    def create_evaluator(self, **settings: Any) -> "ObjectiveEvaluator":  # noqa: D102
        return ObjectiveEvaluator(self.criterion, device=self.device, **settings)


class ObjectiveEvaluator(ClassificationEvaluator):
    """timm's evaluator, which would count drainage as a class, on log-probabilities of the classes."""

    def __init__(self, objective: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self.objective = objective

    def update(self, output: Tensor, target: Tensor) -> None:  # noqa: D102
        super().update(self.objective.probabilities(output).log(), target)
