"""Networks: ``x -> {"features": (N, D), "logits": (N, C + extra_outputs)}``, by name."""

from __future__ import annotations

import difflib
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from catchment.data import Dataset, ImageFiles, InputFormat
from catchment.data.images import UnreadableImageError
from catchment.objective import Objective

# Images on disk that a mean and standard deviation are taken from: plenty, since each has thousands of pixels.
STATISTICS_SAMPLES = 2000
NETS = {
    "auto": "small-cnn for images, mlp for tables",
    "small-cnn": "3x3 convolutions with BatchNorm (16, 32 channels; from 24 pixels on 32, 64, 128), a hidden layer",
    "mlp": "two hidden layers of 128 with ReLU",
    "timm/NAME": "any timm model, from scratch; needs the extra [vision]",
    "torchvision/NAME": "any torchvision classification model, from scratch; needs the extra [vision]",
}


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
    name: str, input_format: InputFormat, objective: Objective, statistics: tuple[Tensor, Tensor] | None = None
) -> Net:
    """The net called ``name`` for such inputs, with the objective's head.

    Args:
        name: one of ``NETS``.
        input_format: shape of the inputs, and the classes.
        objective: makes the head.
        statistics: mean and standard deviation; None where they are loaded afterwards.

    Raises:
        ValueError: the name is unknown, or the net doesn't take such inputs.
    """
    is_image = input_format.kind == "image"
    if name == "auto":
        name = "small-cnn" if is_image else "mlp"
    library, _, library_name = name.partition("/")
    if library in ("timm", "torchvision"):
        _require_image(name, is_image)
        make = _timm_backbone if library == "timm" else _torchvision_backbone
        backbone = make(library_name, input_format.shape[-1])
        width = _number_of_features(name, backbone, input_format.shape)
    elif name == "small-cnn":
        _require_image(name, is_image)
        backbone, width = small_cnn(input_format.shape)
    elif name == "mlp":
        backbone, width = mlp(math.prod(input_format.shape))
    else:
        raise ValueError(f"there is no net {name!r}: choose one of {', '.join(NETS)}")
    channels = input_format.shape[-1]
    mean, std = statistics if statistics is not None else (torch.zeros(channels), torch.ones(channels))
    head = objective.make_head(width, len(input_format.class_names))
    return Net(backbone, head, mean=mean, std=std)


def small_cnn(shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """A small convolutional net for images ``(H, W, C)``, and its number of features."""
    height, width, channels = shape
    layers: list[nn.Module] = []
    for out_channels in (16, 32) if min(height, width) < 24 else (32, 64, 128):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]
        layers += [nn.MaxPool2d(2, ceil_mode=True)]
        channels = out_channels
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 128, bias=False)]
    layers += [nn.BatchNorm1d(128), nn.ReLU()]
    return nn.Sequential(*layers), 128


def mlp(in_features: int) -> tuple[nn.Module, int]:
    """A multilayer perceptron, and its number of features."""
    layers = [nn.Flatten(), nn.Linear(in_features, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
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


def _timm_backbone(name: str, channels: int) -> nn.Module:
    timm = _import_vision("timm")
    try:
        backbone: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
    except RuntimeError as error:
        raise ValueError(f"timm can't make {name!r}: {error}") from None
    return backbone


def _torchvision_backbone(name: str, channels: int) -> nn.Module:
    from catchment.drainage import find_classifier

    models = _import_vision("torchvision").models
    if name not in models.list_models(module=models):
        near = difflib.get_close_matches(name, models.list_models(module=models), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see torchvision.models.list_models()"
        raise ValueError(f"torchvision has no classification model {name!r}: {hint}")
    backbone: nn.Module = models.get_model(name, weights=None)
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
