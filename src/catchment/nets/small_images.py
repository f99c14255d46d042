"""The networks of the papers for small images: 28 to 64 pixels on a side.

Each function takes the shape ``(H, W, C)`` of an image and gives a backbone, standardised images -> features, with its
number of features. What follows a layer is made by ``activation``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from catchment.nets.activations import Activation, relu
from catchment.nets.layers import Layers

Backbone = tuple[nn.Module, int]


def small_cnn(shape: tuple[int, ...], activation: Activation = relu) -> Backbone:
    """A small convolutional net, which trains in seconds."""
    height, width, channels = shape
    layers: list[nn.Module] = []
    for out_channels in (16, 32) if min(height, width) < 24 else (32, 64, 128):
        layers += [_conv(channels, out_channels), nn.BatchNorm2d(out_channels), activation(out_channels)]
        layers += [nn.MaxPool2d(2, ceil_mode=True)]
        channels = out_channels
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 128, bias=False)]
    layers += [nn.BatchNorm1d(128), activation(128)]
    return Layers(*layers), 128


def cnn4(shape: tuple[int, ...], activation: Activation = relu) -> Backbone:
    """The four-layer net that noisy-label papers train on MNIST: two convolutions, each pooled, and two linear layers.

    The last linear layer is the head. Kaiming-uniform convolutions, Xavier-uniform linear layers.
    """
    height, width, channels = shape
    features = 64 * (height // 4) * (width // 4)
    layers = [
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        activation(32),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        activation(64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(features, 128),
        nn.BatchNorm1d(128),
        activation(128),
    ]
    return _uniform(Layers(*layers)), 128


def cnn8(shape: tuple[int, ...], activation: Activation = relu) -> Backbone:
    """The eight-layer net that noisy-label papers train on CIFAR-10, with their 196 channels (Ma et al. 2020).

    Three pairs of 3x3 convolutions (64, 128, 196 channels) with BatchNorm, each pair pooled, and two linear layers, of
    which the last is the head. Kaiming-uniform convolutions, Xavier-uniform linear layers.
    """
    height, width, channels = shape
    layers: list[nn.Module] = []
    for out_channels in (64, 128, 196):
        for _ in range(2):
            layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels)]
            layers += [activation(out_channels)]
            channels = out_channels
        layers += [nn.MaxPool2d(2)]
    features = channels * (height // 8) * (width // 8)
    layers += [nn.Flatten(), nn.Linear(features, 256), nn.BatchNorm1d(256), activation(256)]
    return _uniform(Layers(*layers)), 256


def lenet(shape: tuple[int, ...], activation: Activation = relu) -> Backbone:
    """LeNet with more channels than LeCun's: two 5x5 convolutions (32, 64), each pooled, and two linear layers.

    The widths are ours: the paper that calls its LeNet over-parametrised does not state them.
    """
    height, width, channels = shape
    features = 64 * (height // 4) * (width // 4)
    layers = [
        nn.Conv2d(channels, 32, 5, padding=2),
        activation(32),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        activation(64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(features, 512),
        activation(512),
        nn.Linear(512, 128),
        activation(128),
    ]
    return Layers(*layers), 128


def vgg16(shape: tuple[int, ...], activation: Activation = relu) -> Backbone:
    """VGG-16 for small images: thirteen 3x3 convolutions with BatchNorm, pooled five times, and no hidden layer."""
    channels = shape[-1]
    layers: list[nn.Module] = []
    for out_channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [_conv(channels, out_channels), nn.BatchNorm2d(out_channels), activation(out_channels)]
            channels = out_channels
        layers += [nn.MaxPool2d(2, ceil_mode=True)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return _he_normal(Layers(*layers)), channels


def resnet18(shape: tuple[int, ...], activation: Activation = relu) -> Backbone:
    """ResNet-18 with a 3x3 stem of stride 1 and no pooling after it."""
    return _he_normal(_resnet(shape, (2, 2, 2, 2), _BasicBlock, activation)), 512


def resnet34(shape: tuple[int, ...], activation: Activation = relu) -> Backbone:
    """ResNet-34 with a 3x3 stem of stride 1, initialised as the noisy-label papers do (Kaiming-uniform)."""
    return _uniform(_resnet(shape, (3, 4, 6, 3), _BasicBlock, activation)), 512


def preact_resnet18(shape: tuple[int, ...], activation: Activation = relu) -> Backbone:
    """ResNet-18 with BatchNorm and activation before each convolution (He et al. 2016)."""
    backbone = _resnet(shape, (2, 2, 2, 2), _PreactBlock, activation)
    return _he_normal(backbone), 512


def densenet40(shape: tuple[int, ...], activation: Activation = relu) -> Backbone:
    """DenseNet-40 of growth 12 without bottlenecks: three blocks of twelve layers (Huang et al. 2017)."""
    growth, channels = 12, 16
    layers: list[nn.Module] = [_conv(shape[-1], channels)]
    for block in range(3):
        for _ in range(12):
            layers += [_DenseLayer(channels, growth, activation)]
            channels += growth
        if block < 2:
            layers += [nn.BatchNorm2d(channels), activation(channels), nn.Conv2d(channels, channels, 1, bias=False)]
            layers += [nn.AvgPool2d(2)]
    layers += [nn.BatchNorm2d(channels), activation(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return _he_normal(Layers(*layers)), channels


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to what came in."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.body = Layers(
            _conv(in_channels, out_channels, stride),
            nn.BatchNorm2d(out_channels),
            activation(out_channels),
            _conv(out_channels, out_channels),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = _shortcut(in_channels, out_channels, stride, nn.BatchNorm2d(out_channels))
        self.activation = activation(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return out


class _PreactBlock(nn.Module):
    """BatchNorm and activation before each of two 3x3 convolutions, added to what came in."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.before = Layers(nn.BatchNorm2d(in_channels), activation(in_channels))
        self.body = Layers(
            _conv(in_channels, out_channels, stride),
            nn.BatchNorm2d(out_channels),
            activation(out_channels),
            _conv(out_channels, out_channels),
        )
        self.keeps_shape = stride == 1 and in_channels == out_channels
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        before = self.before(x)
        # Where the shape changes, the shortcut too sees what was normalised and activated.
        out: Tensor = self.body(before) + (x if self.keeps_shape else self.shortcut(before))
        return out


class _DenseLayer(nn.Module):
    """A few new channels, beside all that came in."""

    def __init__(self, channels: int, growth: int, activation: Activation) -> None:
        super().__init__()
        self.body = Layers(nn.BatchNorm2d(channels), activation(channels), _conv(channels, growth))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], dim=1)


Block = Callable[[int, int, int, Activation], nn.Module]


def _resnet(shape: tuple[int, ...], blocks: Sequence[int], block: Block, activation: Activation) -> nn.Module:
    """Stem, four groups of blocks, and the mean over what is left of the image."""
    plain = block is _BasicBlock
    layers: list[nn.Module] = [_conv(shape[-1], 64)]
    if plain:
        layers += [nn.BatchNorm2d(64), activation(64)]
    channels = 64
    for group, (out_channels, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
        for position in range(count):
            stride = 2 if group > 0 and position == 0 else 1
            layers += [block(channels, out_channels, stride, activation)]
            channels = out_channels
    if not plain:
        layers += [nn.BatchNorm2d(channels), activation(channels)]
    return Layers(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int, *after: nn.Module) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return Layers(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), *after)


def _uniform(backbone: nn.Module) -> nn.Module:
    """Kaiming-uniform convolutions, Xavier-uniform linear layers, biases as torch draws them."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    return backbone


def _he_normal(backbone: nn.Module) -> nn.Module:
    """Convolutions as in He et al. 2015: normal, with variance 2 / fan-out."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone
