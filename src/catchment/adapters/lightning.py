"""Lightning: ``Trainer().fit(ObjectiveModule(net, objective), loader)`` with batches ``(inputs, labels)``."""

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from catchment.adapters import check_plain
from catchment.objective import Objective


class ObjectiveModule(LightningModule):
    """A net that makes ``(N, C + objective.extra_outputs)`` logits; ``optimizer`` makes one of its parameters."""

    def __init__(self, net: nn.Module, objective: Objective, optimizer: Callable[..., Any] = torch.optim.AdamW) -> None:
        super().__init__()
        self.net, self.objective, self.optimizer = net, check_plain(objective), optimizer

    def training_step(self, batch: Any, index: int) -> Tensor:  # noqa: D102
        return self.objective(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:  # noqa: D102
        right = self.objective.probabilities(self.net(batch[0])).argmax(1) == batch[1]
        self.log("validation_accuracy", right.float().mean(), batch_size=len(right))

    def configure_optimizers(self) -> Any:  # noqa: D102
        return self.optimizer(self.parameters())
