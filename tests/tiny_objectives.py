"""Objectives as unlike each other as those to come, a net and a data set, all tiny: what the loop is proved with."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import catchment as ct
from catchment.data import Dataset
from catchment.training.distributed import all_gather_rows


class NeedsIndex(ct.Objective):
    """Keeps a row of state for each training sample, as ELR does."""

    needs = ("index",)

    def setup(self, *, num_samples, class_counts):
        self.register_sample_state("targets", torch.zeros(num_samples, len(class_counts)))

    def forward(self, logits, target, *, index):
        p = logits.softmax(1)
        seen = all_gather_rows(index)  # every process keeps the rows of all
        self.targets[seen] = 0.5 * self.targets[seen] + 0.5 * all_gather_rows(p.detach())
        return F.cross_entropy(logits, target) + (1 - (self.targets[index] * p).sum(1)).log().mean()


class TakesFeatures(ct.Objective):
    """Reads features alone, as the watershed loss does."""

    inputs = ("features",)

    def forward(self, features, target):
        return sum((features[target == c] - features[target == c].mean(0)).square().sum() for c in target.unique())


class TakesOtherLogits(ct.Objective):
    """Learns from another model's logits, as D-SINK does."""

    needs = ("noise_robust_logits", "progress")

    def forward(self, logits, target, *, noise_robust_logits, progress):
        distilled = F.kl_div(logits.log_softmax(1), noise_robust_logits.softmax(1), reduction="batchmean")
        return F.cross_entropy(logits, target) + progress * distilled


class NotExclusive(ct.Objective):
    """Probabilities that don't sum to 1, as the quasibinary classifier's, with a running normaliser."""

    exclusive = False

    def __init__(self):
        super().__init__()
        self.register_buffer("log_normalizer", torch.zeros(()))

    def forward(self, logits, target):
        return F.binary_cross_entropy_with_logits(logits, F.one_hot(target, logits.shape[1]).float())

    def probabilities(self, logits):
        return (logits - self.log_normalizer).sigmoid()


class NeedsClassCounts(ct.Objective):
    """Adjusts logits by the class counts, which a saved model must remember."""

    def setup(self, *, num_samples, class_counts):
        self.register_buffer("log_prior", (class_counts / num_samples).log())

    def forward(self, logits, target):
        return F.cross_entropy(logits + self.log_prior, target)


class Net(nn.Module):
    def __init__(self, objective):
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.head = objective.make_head(6, 3)

    def forward(self, x):
        features = self.body(x).relu()
        return {"features": features, "logits": self.head(features)}


def make_objectives():
    """Name -> (objective, the columns that it needs beyond index and progress)."""
    other = 2.0 * F.one_hot(torch.from_numpy(make_dataset().labels), 3).float()
    return {
        "index": (NeedsIndex(), {}),
        "features": (TakesFeatures(), {}),
        "other-logits": (TakesOtherLogits(), {"noise_robust_logits": other}),
        "not-exclusive": (NotExclusive(), {}),
        "class-counts": (NeedsClassCounts(), {}),
        "cross-entropy": (ct.CrossEntropy(), {}),
        "drainage": (ct.DrainageLoss(alpha=0.1), {}),
        "combined": (ct.Combined([(NeedsIndex(), 1.0), (TakesFeatures(), 0.01), (NeedsClassCounts(), 0.5)]), {}),
    }


SAMPLES = 40


def make_dataset(samples=SAMPLES):
    """Three Gaussian blobs in four dimensions; labels are clean."""
    rng = np.random.default_rng(3)
    labels = np.arange(samples) % 3
    inputs = rng.normal(size=(samples, 4)) + 4.0 * np.eye(4)[labels]
    return Dataset("blobs", inputs.astype(np.float32), labels, ("a", "b", "c"), clean_labels=labels)


def make_model(name, seed=0):
    """A model with seeded weights, and the columns its objective needs."""
    objective, columns = make_objectives()[name]
    torch.manual_seed(seed)
    return ct.Model(Net(objective), objective), columns
