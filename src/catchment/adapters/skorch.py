"""skorch: ``ObjectiveClassifier(module, criterion=objective)``; the module makes C + extra_outputs logits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skorch import NeuralNetClassifier
from skorch.utils import to_numpy

from catchment.adapters import check_plain


class ObjectiveClassifier(NeuralNetClassifier):
    """skorch's classifier, with probabilities and scores as the objective reads the logits."""

    def initialize_criterion(self) -> Any:  # noqa: D102
        initialized = super().initialize_criterion()
        check_plain(self.criterion_)
        return initialized

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """``(N, C)``; skorch's own would be the logits, drainage among them."""
        return to_numpy(self.criterion_.probabilities(self.forward(X, device=self.device)))

    def unknown_score(self, X: Any) -> NDArray[np.float32]:
        """``(N,)``, higher = more likely none of the classes."""
        return to_numpy(self.criterion_.unknown_score(self.forward(X, device=self.device)))
