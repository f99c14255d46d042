import sys

import numpy as np
import pytest
import torch

import catchment as ct
from catchment.data import Dataset, InputFormat
from catchment.nets import NETS, Net, create_net, input_statistics, mlp, small_cnn

GRAY = InputFormat("image", (8, 8, 1), None, ("a", "b", "c"))
COLOUR = InputFormat("image", (32, 32, 3), None, ("a", "b", "c"))
TABLE = InputFormat("table", (5,), None, ("a", "b", "c"))


def make_inputs(input_format, samples=4):
    generator = torch.Generator().manual_seed(1)
    if input_format.kind == "table":
        return torch.randn(samples, *input_format.shape, generator=generator)
    height, width, channels = input_format.shape
    return torch.randint(0, 256, (samples, channels, height, width), generator=generator, dtype=torch.uint8)


def seen_by_head(net, x):
    """What the head is given for ``x``, and what the net returns."""
    seen = []
    handle = net.head.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    outputs = net(x)
    handle.remove()
    (features,) = seen
    return features, outputs


@pytest.mark.parametrize("objective", [ct.CrossEntropy(), ct.DrainageLoss()], ids=["cross-entropy", "drainage"])
@pytest.mark.parametrize(
    ("name", "input_format"),
    [("auto", GRAY), ("auto", COLOUR), ("auto", TABLE), ("mlp", GRAY), ("mlp", TABLE), ("small-cnn", COLOUR)],
)
def test_outputs_are_features_and_a_logit_for_each_class_and_what_the_objective_adds(name, input_format, objective):
    net = create_net(name, input_format, objective).eval()
    features, outputs = seen_by_head(net, make_inputs(input_format))
    assert set(outputs) == {"features", "logits"}
    assert outputs["logits"].shape == (4, 3 + objective.extra_outputs)
    assert outputs["features"].shape == (4, 128)
    assert outputs["features"] is features
    torch.testing.assert_close(net.head(features), outputs["logits"])


def test_auto_is_convolutions_for_images_and_a_perceptron_for_tables():
    def kinds(input_format):
        return {type(module).__name__ for module in create_net("auto", input_format, ct.CrossEntropy()).modules()}

    assert "Conv2d" in kinds(GRAY)
    assert "Conv2d" not in kinds(TABLE)
    assert "Linear" in kinds(TABLE)


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((8, 8, 1), [16, 32]), ((23, 40, 3), [16, 32]), ((24, 24, 3), [32, 64, 128]), ((1, 1, 1), [16, 32])],
)
def test_small_cnn_is_wider_and_deeper_from_24_pixels_on(shape, channels):
    backbone, width = small_cnn(shape)
    convolutions = [module for module in backbone if isinstance(module, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == channels
    assert convolutions[0].in_channels == shape[2]
    height, breadth, depth = shape
    assert backbone(torch.rand(2, depth, height, breadth)).shape == (2, width)


def test_mlp_reads_every_pixel():
    backbone, width = mlp(8 * 8)
    x = torch.zeros(2, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(backbone(x).square().sum(), x)
    assert width == 128
    assert (gradient != 0).all()


def test_statistics_by_hand():
    table = np.array([[1.0, 7.0], [3.0, 7.0], [8.0, 7.0]], dtype=np.float32)
    mean, std = input_statistics(Dataset("t", table, np.zeros(3, np.int64), ("a", "b")))
    torch.testing.assert_close(mean, torch.tensor([4.0, 7.0]))
    torch.testing.assert_close(std, torch.tensor([(26 / 3) ** 0.5, 0.0]))  # (9 + 1 + 16) / 3
    images = np.zeros((2, 1, 2, 3), dtype=np.uint8)
    images[..., 0] = [[[0, 100]], [[200, 100]]]
    images[..., 2] = 255
    mean, std = input_statistics(Dataset("i", images, np.zeros(2, np.int64), ("a", "b")))
    torch.testing.assert_close(mean, torch.tensor([100.0, 0.0, 255.0]))
    torch.testing.assert_close(std, torch.tensor([5000.0**0.5, 0.0, 0.0]))
    assert mean.dtype == std.dtype == torch.float32


def test_statistics_keep_their_digits_far_from_zero():
    # float32 sums, row by row, would be off by a hundred
    table = (1e7 + np.arange(10_000) % 2).astype(np.float32)[:, None].repeat(2, axis=1)
    mean, std = input_statistics(Dataset("t", table, np.zeros(10_000, np.int64), ("a", "b")))
    assert mean.tolist() == pytest.approx([1e7, 1e7], abs=1)
    assert std.tolist() == [0.5, 0.5]


def bare_net(mean, std):
    """A net that gives its standardised inputs back."""
    return Net(torch.nn.Identity(), torch.nn.Identity(), mean=torch.tensor(mean), std=torch.tensor(std))


def test_inputs_are_standardised_by_hand():
    table = bare_net([4.0, 7.0], [2.0, 0.0])
    standardised = table(torch.tensor([[1.0, 7.0], [8.0, 9.0]]))["features"]
    torch.testing.assert_close(standardised, torch.tensor([[-1.5, 0.0], [2.0, 2.0]]))  # std 0: only the mean goes off
    images = bare_net([100.0, 10.0, 0.0], [50.0, 5.0, 1.0])
    x = torch.tensor([200, 20, 255], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(1, 3, 2, 4)
    standardised = images(x)["features"]
    assert standardised.shape == (1, 3, 2, 4)
    torch.testing.assert_close(standardised[0, :, 1, 3], torch.tensor([2.0, 2.0, 255.0]))


@pytest.mark.parametrize("name", ["small-cnn", "mlp"])
def test_a_constant_channel_leaves_everything_finite(name):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
    images[..., 1] = 77
    dataset = Dataset("i", images, np.zeros(6, np.int64), ("a", "b"))
    statistics = input_statistics(dataset)
    assert statistics[1][1] == 0
    net = create_net(name, InputFormat.of(dataset), ct.CrossEntropy(), statistics)
    logits = net(torch.from_numpy(images).permute(0, 3, 1, 2))["logits"]
    assert logits.isfinite().all()
    torch.testing.assert_close(net.mean, statistics[0])
    torch.testing.assert_close(net.std, torch.stack([statistics[1][0], torch.tensor(1.0), statistics[1][2]]))


@pytest.mark.parametrize("input_format", [GRAY, COLOUR])
def test_bytes_and_floats_of_the_same_image_give_the_same(input_format):
    channels = input_format.shape[-1]
    statistics = torch.full((channels,), 120.0), torch.full((channels,), 60.0)
    net = create_net("small-cnn", input_format, ct.CrossEntropy(), statistics).eval()
    x = make_inputs(input_format)
    assert torch.equal(net(x)["logits"], net(x.float())["logits"])
    assert torch.equal(net(x)["logits"], net(x.double())["logits"])


def test_a_saved_net_brings_its_statistics_along():
    net = create_net(
        "mlp", TABLE, ct.CrossEntropy(), (torch.arange(5.0), torch.tensor([1.0, 2.0, 0.0, 4.0, 5.0]))
    ).eval()
    assert {"mean", "std"} <= net.state_dict().keys()
    loaded = create_net("mlp", TABLE, ct.CrossEntropy()).eval()
    x = make_inputs(TABLE)
    assert not torch.equal(loaded(x)["logits"], net(x)["logits"])
    loaded.load_state_dict(net.state_dict())
    assert torch.equal(loaded(x)["logits"], net(x)["logits"])


@pytest.mark.parametrize("name", ["small-cnn", "mlp"])
def test_the_seed_decides_the_weights(name):
    def weights(seed):
        torch.manual_seed(seed)
        return create_net(name, GRAY, ct.CrossEntropy()).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert not all(torch.equal(first[key], other[key]) for key in first if "backbone" in key)


# mobilenetv3 has a hidden layer between its pooled features (288) and its classifier (1024)
@pytest.mark.parametrize(
    ("name", "width", "input_format"), [("resnet10t", 512, COLOUR), ("mobilenetv3_small_050", 1024, GRAY)]
)
def test_timm(name, width, input_format):
    net = create_net(f"timm/{name}", input_format, ct.DrainageLoss()).eval()
    features, outputs = seen_by_head(net, make_inputs(input_format))
    assert outputs["features"] is features
    assert features.shape == (4, width)
    assert outputs["logits"].shape == (4, 4)


def test_timm_gray_images_have_a_first_layer_of_one_channel():
    net = create_net("timm/resnet10t", GRAY, ct.CrossEntropy())
    first = next(module for module in net.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.in_channels == 1


def test_torchvision_without_its_classifier():
    net = create_net("torchvision/resnet18", COLOUR, ct.DrainageLoss()).eval()
    features, outputs = seen_by_head(net, make_inputs(COLOUR))
    assert outputs["features"] is features
    assert features.shape == (4, 512)
    assert outputs["logits"].shape == (4, 4)


def test_torchvision_sees_gray_images_as_three_equal_channels():
    torch.manual_seed(0)
    gray = create_net("torchvision/shufflenet_v2_x0_5", GRAY, ct.CrossEntropy()).eval()
    torch.manual_seed(0)
    colour = create_net("torchvision/shufflenet_v2_x0_5", COLOUR, ct.CrossEntropy())
    x = make_inputs(GRAY)
    torch.testing.assert_close(gray(x)["logits"], colour.eval()(x.repeat(1, 3, 1, 1))["logits"])


def test_an_unknown_net_names_the_nearest_or_lists_those_there_are():
    with pytest.raises(ValueError, match=r"there is no net 'small_cnn': did you mean 'small-cnn'\?$"):
        create_net("small_cnn", GRAY, ct.CrossEntropy())
    with pytest.raises(ValueError, match="there is no net ''") as caught:
        create_net("", GRAY, ct.CrossEntropy())
    assert all(known in str(caught.value) for known in NETS)


def test_published_weights_are_named_after_a_colon_and_not_fetched_for_a_net_whose_weights_are_loaded():
    statistics = torch.zeros(3), torch.ones(3)
    with pytest.raises(ValueError, match=r"no weights 'IMAGENET1K_V3': did you mean 'IMAGENET1K_V1'\?"):
        create_net("torchvision/resnet18:IMAGENET1K_V3", COLOUR, ct.CrossEntropy(), statistics)
    with pytest.raises(ValueError, match="use timm/resnet10t:pretrained"):
        create_net("timm/resnet10t:best", COLOUR, ct.CrossEntropy(), statistics)
    named = create_net("torchvision/resnet18:IMAGENET1K_V1", COLOUR, ct.CrossEntropy())
    plain = create_net("torchvision/resnet18", COLOUR, ct.CrossEntropy())
    assert named.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", ["small-cnn", "timm/resnet10t", "torchvision/resnet18"])
def test_a_net_for_images_refuses_a_table(name):
    with pytest.raises(ValueError, match=f"{name} takes images, and this is a table: choose --net mlp"):
        create_net(name, TABLE, ct.CrossEntropy())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/no_such_net", "timm can't make 'no_such_net': .*no_such_net"),
        ("torchvision/resnet81", "no classification model 'resnet81': did you mean .*resnet18"),
        ("torchvision/fasterrcnn_resnet50_fpn", "no classification model"),
        ("torchvision/googlenet", "'googlenet' has auxiliary outputs"),
        ("timm/vit_tiny_patch16_224", "does not take images of 32 x 32 .*--image-size 224"),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
def test_a_model_that_can_not_serve_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        create_net(name, COLOUR, ct.CrossEntropy())


def test_image_statistics_are_those_of_numpy():
    inputs = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3)).astype(np.uint8)
    mean, std = input_statistics(Dataset("images", inputs, np.zeros(7, np.int64), ("a",)))
    np.testing.assert_allclose(mean.numpy(), inputs.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std.numpy(), inputs.std((0, 1, 2)), rtol=1e-6)


def test_a_torchvision_net_that_ends_in_a_convolution_is_refused():
    with pytest.raises(ValueError, match="'squeezenet1_1' has no linear classifier: choose another net"):
        create_net("torchvision/squeezenet1_1", COLOUR, ct.CrossEntropy())


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_package_names_the_extra(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)  # import of it fails
    with pytest.raises(ValueError, match=rf'{library} is not installed: pip install "catchment\[vision\]"'):
        create_net(f"{library}/resnet18", GRAY, ct.CrossEntropy())
