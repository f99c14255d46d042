"""How good data goes bad: numpy in, numpy out, every draw from a generator that the caller gives."""

from catchment.disturb.label_noise import (
    MAPPINGS,
    Disturbed,
    asymmetric_noise,
    pair_flip_noise,
    relabel_classes,
    symmetric_noise,
)

__all__ = [
    "MAPPINGS",
    "Disturbed",
    "asymmetric_noise",
    "pair_flip_noise",
    "relabel_classes",
    "symmetric_noise",
]
