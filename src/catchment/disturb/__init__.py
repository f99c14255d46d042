"""How good data goes bad: numpy in, numpy out; labels by a generator that the caller gives, images by a seed."""

from catchment.disturb.corruptions import BENCHMARK_CORRUPTIONS, CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt
from catchment.disturb.disturbed import Disturbed
from catchment.disturb.instance import instance_noise
from catchment.disturb.label_noise import (
    MAPPINGS,
    OpenSetNoise,
    asymmetric_noise,
    class_proportional_noise,
    human_noise,
    open_set_noise,
    pair_flip_noise,
    random_pair_mapping,
    random_pair_noise,
    relabel_classes,
    symmetric_noise,
)
from catchment.disturb.long_tail import long_tail, step_imbalance
from catchment.disturb.unknown_classes import (
    CIFAR40_UNLABELLED,
    CIFAR60_KNOWN,
    cifar60_40,
    random_classes,
    remove_classes,
    renumber,
    unlabel_classes,
)

__all__ = [
    "BENCHMARK_CORRUPTIONS",
    "CIFAR40_UNLABELLED",
    "CIFAR60_KNOWN",
    "CORRUPTIONS",
    "EXTRA_CORRUPTIONS",
    "MAPPINGS",
    "Disturbed",
    "OpenSetNoise",
    "asymmetric_noise",
    "cifar60_40",
    "class_proportional_noise",
    "corrupt",
    "human_noise",
    "instance_noise",
    "long_tail",
    "open_set_noise",
    "pair_flip_noise",
    "random_classes",
    "random_pair_mapping",
    "random_pair_noise",
    "relabel_classes",
    "remove_classes",
    "renumber",
    "step_imbalance",
    "symmetric_noise",
    "unlabel_classes",
]
