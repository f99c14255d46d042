import pytest
import torch
from torch import nn

import catchment as ct
from catchment.data import InputFormat
from catchment.nets import NETS, create_net
from catchment.nets.activations import ACTIVATIONS
from catchment.nets.small_images import densenet40, resnet34

CIFAR = InputFormat("image", (32, 32, 3), None, tuple("abcdefghij"))
MNIST = InputFormat("image", (28, 28, 1), None, tuple("abcdefghij"))
SMALL = ("cnn4", "cnn8", "lenet", "resnet18", "resnet34", "preact-resnet18", "vgg16", "densenet40")


def number_of_parameters(name, input_format, objective, classes=10):
    names = tuple(str(i) for i in range(classes))
    net = create_net(name, InputFormat("image", input_format.shape, None, names), objective)
    return sum(p.numel() for p in net.parameters())


def test_parameters_are_as_many_as_in_the_papers_nets():
    """The first two were counted in the Drainage paper's code; those of ResNet-18 and DenseNet-40 are 11 M and 1 M."""
    assert number_of_parameters("cnn8", CIFAR, ct.DrainageLoss()) == 1_640_051
    assert number_of_parameters("resnet34", CIFAR, ct.DrainageLoss(), classes=100) == 21_328_805
    assert number_of_parameters("resnet18", CIFAR, ct.CrossEntropy()) == 11_173_962
    assert number_of_parameters("preact-resnet18", CIFAR, ct.CrossEntropy()) == 11_172_170  # 2 shortcut norms fewer
    assert number_of_parameters("densenet40", CIFAR, ct.CrossEntropy()) == 1_019_722
    assert number_of_parameters("vgg16", CIFAR, ct.CrossEntropy()) == 14_724_042
    # 32 * 9 + 32 + 64, 64 * 32 * 9 + 64 + 128, 128 * 3136 + 128 + 256, 10 * 128 + 10
    assert number_of_parameters("cnn4", MNIST, ct.CrossEntropy()) == 384 + 18_624 + 401_792 + 1_290


@pytest.mark.parametrize("name", SMALL)
def test_takes_small_images_of_any_colour(name):
    for shape in ((28, 28, 1), (40, 33, 3)):
        net = create_net(name, InputFormat("image", shape, None, ("a", "b")), ct.CrossEntropy()).eval()
        with torch.no_grad():
            out = net(torch.zeros(2, shape[2], *shape[:2], dtype=torch.uint8))
        assert out["logits"].shape == (2, 2)
        assert out["features"].shape == (2, net.head.in_features)


@pytest.mark.parametrize(("name", "side"), [("cnn4", 4), ("cnn8", 8), ("lenet", 4), ("densenet40", 4)])
def test_images_that_would_vanish_are_refused(name, side):
    def formed(height):
        return InputFormat("image", (height, 30, 1), None, ("a", "b"))

    with torch.no_grad():
        out = create_net(name, formed(side), ct.CrossEntropy()).eval()(torch.zeros(2, 1, side, 30, dtype=torch.uint8))
    assert out["logits"].shape == (2, 2)
    with pytest.raises(ValueError, match=f"^{name} takes images of {side} pixels or more .*--image-size"):
        create_net(name, formed(side - 1), ct.CrossEntropy())


@pytest.mark.parametrize("name", ["cnn4", "cnn8", "resnet34"])
def test_weights_are_drawn_as_the_noisy_label_papers_do(name):
    torch.manual_seed(0)
    net = create_net(name, MNIST if name == "cnn4" else CIFAR, ct.CrossEntropy())
    for module in net.backbone.modules():
        if isinstance(module, nn.Conv2d):
            bound = (6 / (module.in_channels * module.kernel_size[0] ** 2)) ** 0.5
        elif isinstance(module, nn.Linear):
            bound = (6 / (module.in_features + module.out_features)) ** 0.5
        else:
            continue
        largest = module.weight.abs().max().item()
        assert 0.98 * bound < largest <= bound
        assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_the_first_layer_of_small_image_resnets_keeps_the_resolution():
    sizes = []
    backbone, width = resnet34((32, 32, 3))
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_hook(lambda module, x, y: sizes.append(y.shape[-1]))
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, width)
    assert sizes == [32] * 7 + [16] * 8 + [8] * 12 + [4] * 6


def test_preactivation_keeps_what_came_in_untouched():
    """With its convolutions at 0 a block of the same shape is the identity, negative values included."""
    net = create_net("preact-resnet18", CIFAR, ct.CrossEntropy())
    block = net.backbone[1]
    nn.init.zeros_(block.body[0].weight)
    nn.init.zeros_(block.body[3].weight)
    x = torch.randn(2, 64, 8, 8)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def test_dense_layers_add_twelve_channels_to_all_that_came():
    backbone, width = densenet40((32, 32, 3))
    assert width == 16 + 3 * 12 * 12
    layer = backbone[1]
    x = torch.randn(2, 16, 8, 8)
    out = layer(x)
    assert out.shape == (2, 28, 8, 8)
    torch.testing.assert_close(out[:, :16], x, rtol=0, atol=0)


@pytest.mark.parametrize("activation", ["prelu", "selu"])
@pytest.mark.parametrize("name", ["small-cnn", "mlp", "cnn4", "lenet", "densenet40", "preact-resnet18"])
def test_a_switch_replaces_every_activation(name, activation):
    usual = create_net(name, MNIST, ct.CrossEntropy())
    switched = create_net(name, MNIST, ct.CrossEntropy(), activation=activation)
    made = type(ACTIVATIONS[activation](4))
    relus = sum(isinstance(module, nn.ReLU) for module in usual.modules())
    assert relus > 0
    assert sum(isinstance(module, made) for module in switched.modules()) == relus
    assert not any(isinstance(module, nn.ReLU) for module in switched.modules())


def test_learned_slopes_are_one_for_each_channel():
    slopes = [m.num_parameters for m in create_net("cnn4", MNIST, ct.CrossEntropy(), activation="prelu").modules()
              if isinstance(m, nn.PReLU)]  # fmt: skip
    assert slopes == [32, 64, 128]


def test_unknown_names_are_one_line_with_the_nearest():
    with pytest.raises(ValueError, match=r"^there is no net 'resnet-34': did you mean 'resnet34'\?$"):
        create_net("resnet-34", CIFAR, ct.CrossEntropy())
    with pytest.raises(ValueError, match=r"^there is no activation 'quantiles': did you mean 'quantile'\?$"):
        create_net("resnet18", CIFAR, ct.CrossEntropy(), activation="quantiles")
    with pytest.raises(ValueError, match=r"^torchvision/resnet18 has activations of its own"):
        create_net("torchvision/resnet18", CIFAR, ct.CrossEntropy(), activation="selu")
    assert set(SMALL) <= set(NETS)
