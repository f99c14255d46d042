"""The published constants of the common corruptions: for each size of image and corruption, a tuple for each severity.

From the authors' generators of CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C. Lengths are in pixels of the published
images, whose sides are 32, 64 and 224; brightness is in 0..1.
"""

from __future__ import annotations

SEVERITIES = 5
# The mean corruption error is over the first 15; the other 4 are for choosing settings on.
BENCHMARK_CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
EXTRA_CORRUPTIONS = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
CORRUPTIONS = BENCHMARK_CORRUPTIONS + EXTRA_CORRUPTIONS
# These draw no random number.
DETERMINISTIC = (
    "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate",
)  # fmt: skip

SIDES = {"cifar": 32, "tiny-imagenet": 64, "imagenet": 224}

Severities = tuple[tuple[float, ...], ...]


def _each(*values: float) -> Severities:
    return tuple((value,) for value in values)


def _factors(count: int, step: float) -> tuple[float, ...]:
    """So many zoom factors from 1 on, to the last bit those of the authors' ``numpy.arange``.

    That bit matters: SciPy enlarges 26 pixels to 32 by a factor of 1.25, but to 33 by their 1.2500000000000002.
    """
    between = (1 + step) - 1
    return tuple(1 + i * between for i in range(count))


_ZOOMS_SMALL = (_factors(7, 0.01), _factors(12, 0.01), _factors(16, 0.01), _factors(21, 0.01), _factors(26, 0.01))
_DISPLACED_PIXELS_OF_IMAGENET = 244  # the authors' slip for 224, kept


def _elastic(side: int, *severities: tuple[float, float, float]) -> Severities:
    return tuple((alpha * side, sigma * side, jitter * side) for alpha, sigma, jitter in severities)


# What the numbers of a tuple are:
#   gaussian_noise, speckle_noise   standard deviation
#   shot_noise                      photons of a white pixel
#   impulse_noise                   share of the values that are replaced
#   gaussian_blur                   sigma
#   defocus_blur                    radius of the disk, sigma of its anti-aliasing
#   glass_blur                      sigma, largest step, iterations
#   motion_blur                     radius, sigma
#   zoom_blur                       the zoom factors
#   snow                            mean, standard deviation, zoom, threshold, blur radius, blur sigma, image weight
#   frost                           image weight, frost weight
#   fog                             strength, decay of the roughness
#   brightness                      what is added
#   contrast                        factor
#   saturate                        factor, offset
#   elastic_transform               displacement, smoothing, jitter of the anchors, in pixels
#   pixelate                        small side over side
#   jpeg_compression                quality
#   spatter                         mean, standard deviation, blur sigma, threshold, intensity or mud's sigma, 1 for mud
CONSTANTS: dict[str, dict[str, Severities]] = {
    "cifar": {
        "gaussian_noise": _each(0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": _each(500, 250, 100, 75, 50),
        "impulse_noise": _each(0.01, 0.02, 0.03, 0.05, 0.07),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom_blur": _ZOOMS_SMALL,
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "brightness": _each(0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": _each(0.75, 0.5, 0.4, 0.3, 0.15),
        "elastic_transform": _elastic(
            32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)
        ),
        "pixelate": _each(0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg_compression": _each(80, 65, 58, 50, 40),
        "gaussian_blur": _each(0.4, 0.6, 0.7, 0.8, 1),
        "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        "speckle_noise": _each(0.06, 0.10, 0.12, 0.16, 0.20),
    },
    "tiny-imagenet": {
        "gaussian_noise": _each(0.04, 0.08, 0.12, 0.15, 0.18),
        "shot_noise": _each(250, 100, 50, 30, 15),
        "impulse_noise": _each(0.01, 0.02, 0.05, 0.08, 0.14),
        "defocus_blur": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        "glass_blur": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        "motion_blur": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        "zoom_blur": _ZOOMS_SMALL,
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        "frost": ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        "fog": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        "brightness": _each(0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": _each(0.4, 0.3, 0.2, 0.1, 0.05),
        "elastic_transform": _elastic(
            64, (0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)
        ),
        "pixelate": _each(0.9, 0.8, 0.7, 0.6, 0.5),
        "jpeg_compression": _each(65, 58, 50, 40, 25),
        "gaussian_blur": _each(0.5, 0.75, 1, 1.25, 1.5),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.6, 0),
            (0.65, 0.1, 0.8, 0.7, 0.6, 0),
            (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1),
            (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ),
        "speckle_noise": _each(0.15, 0.20, 0.25, 0.30, 0.35),
    },
    "imagenet": {
        "gaussian_noise": _each(0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": _each(60, 25, 12, 5, 3),
        "impulse_noise": _each(0.03, 0.06, 0.09, 0.17, 0.27),
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom_blur": (
            _factors(12, 0.01), _factors(16, 0.01), _factors(11, 0.02), _factors(13, 0.02), _factors(11, 0.03),
        ),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "brightness": _each(0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": _each(0.4, 0.3, 0.2, 0.1, 0.05),
        "elastic_transform": _elastic(
            _DISPLACED_PIXELS_OF_IMAGENET,
            (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02),
        ),
        "pixelate": _each(0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": _each(25, 18, 15, 10, 7),
        "gaussian_blur": _each(1, 2, 3, 4, 6),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        "spatter": (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        "speckle_noise": _each(0.15, 0.20, 0.35, 0.45, 0.60),
    },
}  # fmt: skip
