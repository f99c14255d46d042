"""Networks: ``x -> {"features": (N, D), "logits": (N, C + extra_outputs)}``, by name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from catchment.data import Dataset, ImageFiles, InputFormat
from catchment.data.images import UnreadableImageError
from catchment.nearest import did_you_mean
from catchment.nets.activations import ACTIVATIONS, Activation, relu
from catchment.nets.small_images import (
    Backbone,
    cnn4,
    cnn8,
    densenet40,
    lenet,
    preact_resnet18,
    resnet18,
    resnet34,
    small_cnn,
    vgg16,
)
from catchment.objective import Objective

# Images on disk that a mean and standard deviation are taken from: plenty, since each has thousands of pixels.
STATISTICS_SAMPLES = 2000
NETS = {
    "auto": "small-cnn for images, mlp for tables",
    "small-cnn": "3x3 convolutions with BatchNorm (16, 32 channels; from 24 pixels on 32, 64, 128), a hidden layer",
    "mlp": "two hidden layers of 128",
    "cnn4": "the 4-layer net of the noisy-label papers for MNIST: 32 and 64 channels, a hidden layer",
    "cnn8": "their 8-layer net for CIFAR-10: pairs of 64, 128 and 196 channels, a hidden layer",
    "lenet": "two 5x5 convolutions and two hidden layers, wider than LeCun's",
    "resnet18": "ResNet-18 for small images: 3x3 stem of stride 1",
    "resnet34": "ResNet-34 for small images, initialised as the noisy-label papers do",
    "preact-resnet18": "ResNet-18 with normalisation and activation before each convolution",
    "vgg16": "VGG-16 for small images, with BatchNorm and without hidden layers",
    "densenet40": "DenseNet-40 of growth 12 for small images",
    "timm/NAME": "any timm model; needs the extra [vision]; timm/NAME:pretrained takes its published weights",
    "torchvision/NAME": "any torchvision classification model; needs [vision]; torchvision/NAME:WEIGHTS takes those",
}
_IMAGE_NETS: dict[str, Callable[[tuple[int, ...], Activation], Backbone]] = {
    "small-cnn": small_cnn,
    "cnn4": cnn4,
    "cnn8": cnn8,
    "lenet": lenet,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "preact-resnet18": preact_resnet18,
    "vgg16": vgg16,
    "densenet40": densenet40,
}
_SMALLEST_SIDE = {"cnn4": 4, "cnn8": 8, "lenet": 4, "densenet40": 4}


class Net(nn.Module):
    """Inputs as they are stored -> standardised -> features -> logits.

    The mean and standard deviation of the training set are buffers, so that a saved net takes raw inputs:
    images ``(N, C, H, W)`` in 0..255, or table rows ``(N, D)``.

    Args:
        backbone: standardised inputs -> features ``(N, D)``.
        head: features -> logits.
        mean: per channel or column.
        std: per channel or column; where it is 0, 1 is used.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, head: nn.Module, *, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features and logits."""
        shape = (1, -1, *[1] * (x.ndim - 2))
        features = self.backbone((x.to(self.mean.dtype) - self.mean.reshape(shape)) / self.std.reshape(shape))
        return {"features": features, "logits": self.head(features)}


def input_statistics(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel or column, in float64 and then rounded.

    Of images on disk they are the published ones where the set states them, else those of 2,000 of its images, evenly
    spaced (all, where it has no more), as evaluation sees them; files that can't be read don't count where the set
    skips them.
    """
    if isinstance(dataset.inputs, ImageFiles):
        return _file_statistics(dataset.inputs)
    if not dataset.is_image:
        x = dataset.inputs.astype(np.float64)
        return torch.from_numpy(x.mean(0)).float(), torch.from_numpy(x.std(0)).float()
    # from the counts of the 256 levels: exact, and without a float copy of all images
    channels = [dataset.inputs[..., c].reshape(-1) for c in range(dataset.inputs.shape[-1])]
    return _statistics_of_levels(np.stack([np.bincount(channel, minlength=256) for channel in channels]))


def _file_statistics(images: ImageFiles) -> tuple[Tensor, Tensor]:
    if images.mean is not None and images.std is not None:
        return torch.tensor(images.mean) * 255, torch.tensor(images.std) * 255
    rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), STATISTICS_SAMPLES)).round().astype(np.int64))
    counts = np.zeros((3, 256), dtype=np.int64)
    for row in rows.tolist():
        try:
            pixels = np.asarray(images.center(images.read(row)[0]))
        except UnreadableImageError as error:
            if images.on_error == "raise":
                raise ValueError(images.complaint(row, str(error))) from error
            continue
        counts += np.stack([np.bincount(pixels[..., c].reshape(-1), minlength=256) for c in range(3)])
    if not counts.any():
        raise ValueError(f"{images.root}: none of {len(rows)} images can be read: replace them")
    return _statistics_of_levels(counts)


def _statistics_of_levels(counts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel from how often it has each of the 256 levels."""
    levels = np.arange(256.0)
    mean = counts @ levels / counts.sum(1)
    variance = (counts * (levels - mean[:, None]) ** 2).sum(1) / counts.sum(1)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(variance)).float()


def create_net(
    name: str,
    input_format: InputFormat,
    objective: Objective,
    statistics: tuple[Tensor, Tensor] | None = None,
    *,
    activation: str = "relu",
) -> Net:
    """The net called ``name`` for such inputs, with the objective's head.

    Args:
        name: one of ``NETS``.
        input_format: shape of the inputs, and the classes.
        objective: makes the head.
        statistics: mean and standard deviation; None where they, and the weights, are loaded afterwards.
        activation: one of ``ACTIVATIONS``; the nets of timm and torchvision keep their own.

    Raises:
        ValueError: a name is unknown, or the net doesn't take such inputs.
    """
    is_image = input_format.kind == "image"
    if name == "auto":
        name = "small-cnn" if is_image else "mlp"
    if activation not in ACTIVATIONS:
        known = did_you_mean(activation, ACTIVATIONS, "choose one of")
        raise ValueError(f"there is no activation {activation!r}: {known}")
    library, _, library_name = name.partition("/")
    if library in ("timm", "torchvision"):
        _require_image(name, is_image)
        if activation != "relu":
            raise ValueError(f"{name} has activations of its own: leave --activation out, or choose another net")
        model, _, weights = library_name.partition(":")
        make = _timm_backbone if library == "timm" else _torchvision_backbone
        backbone = make(model, input_format.shape[-1], weights if statistics is not None else "")
        width = _number_of_features(name, backbone, input_format.shape)
    elif name in _IMAGE_NETS:
        _require_image(name, is_image)
        height, width = input_format.shape[:2]
        if min(height, width) < _SMALLEST_SIDE.get(name, 1):
            raise ValueError(
                f"{name} takes images of {_SMALLEST_SIDE[name]} pixels or more on each side, and these have {height} x "
                f"{width}: resize them by --image-size, or choose small-cnn"
            )
        backbone, width = _IMAGE_NETS[name](input_format.shape, ACTIVATIONS[activation])
    elif name == "mlp":
        backbone, width = mlp(math.prod(input_format.shape), ACTIVATIONS[activation])
    else:
        raise ValueError(f"there is no net {name!r}: {did_you_mean(name, NETS, 'choose one of')}")
    channels = input_format.shape[-1]
    mean, std = statistics if statistics is not None else (torch.zeros(channels), torch.ones(channels))
    head = objective.make_head(width, len(input_format.class_names))
    return Net(backbone, head, mean=mean, std=std)


def mlp(in_features: int, activation: Activation = relu) -> Backbone:
    """A multilayer perceptron, and its number of features."""
    layers = [nn.Flatten(), nn.Linear(in_features, 128), activation(128), nn.Linear(128, 128), activation(128)]
    return nn.Sequential(*layers), 128


def _require_image(name: str, is_image: bool) -> None:
    if not is_image:
        raise ValueError(f"{name} takes images, and this is a table: choose --net mlp")


def _number_of_features(name: str, backbone: nn.Module, shape: tuple[int, ...]) -> int:
    """What the backbone makes of one image ``(H, W, C)``; a ValueError where it can't take it."""
    height, width, channels = shape
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, channels, height, width))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"{name} does not take images of {height} x {width} ({str(error).splitlines()[0]}): "
            "resize them, with --image-size 224 for example"
        ) from None
    backbone.train()
    if features.ndim != 2:
        raise ValueError(f"{name} gives features of shape {tuple(features.shape)}: choose a net that pools them")
    return int(features.shape[1])


def _timm_backbone(name: str, channels: int, weights: str) -> nn.Module:
    timm = _import_vision("timm")
    if weights not in ("", "pretrained"):
        raise ValueError(f"timm/{name}:{weights} is not known: use timm/{name}:pretrained")
    try:
        backbone: nn.Module = timm.create_model(name, pretrained=bool(weights), num_classes=0, in_chans=channels)
    except RuntimeError as error:
        raise ValueError(f"timm can't make {name!r}: {error}") from None
    return backbone


def _torchvision_backbone(name: str, channels: int, weights: str) -> nn.Module:
    from catchment.drainage import find_classifier

    models = _import_vision("torchvision").models
    if name not in models.list_models(module=models):
        near = difflib.get_close_matches(name, models.list_models(module=models), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see torchvision.models.list_models()"
        raise ValueError(f"torchvision has no classification model {name!r}: {hint}")
    published = {entry.name for entry in models.get_model_weights(name)}
    if weights and weights not in published:
        known = did_you_mean(weights, sorted(published), "it has")
        raise ValueError(f"torchvision's {name} has no weights {weights!r}: {known}")
    backbone: nn.Module = models.get_model(name, weights=weights or None)
    if getattr(backbone, "aux_logits", False):
        raise ValueError(f"torchvision's {name!r} has auxiliary outputs: choose another net, or timm's")
    classifier_name = find_classifier(backbone)
    classifier = backbone.get_submodule(classifier_name)
    if not isinstance(classifier, nn.Linear):
        raise ValueError(f"torchvision's {name!r} has no linear classifier: choose another net")
    parent, _, attribute = classifier_name.rpartition(".")
    setattr(backbone.get_submodule(parent), attribute, nn.Identity())
    if channels != 3:
        backbone = nn.Sequential(_RepeatChannels(), backbone)
    return backbone


class _RepeatChannels(nn.Module):
    """Gray images as RGB, for nets made for colour."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1)


def _import_vision(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise ValueError(f'{package} is not installed: pip install "catchment[vision]"') from None
