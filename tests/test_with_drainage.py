import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from catchment import DrainageLoss, with_drainage
from catchment.drainage import find_classifier


class Small(nn.Module):
    """A classifier under a name, behind a body that must not be taken for it."""

    def __init__(self, name, classifier=None):
        super().__init__()
        self.body = nn.Linear(4, 6)
        setattr(self, name, classifier or nn.Linear(6, 3))
        self.name = name

    def forward(self, x):
        return getattr(self, self.name)(self.body(x).relu())


def integers(layer, seed=0):
    """Small integers as weights and inputs: products and sums are exact, in whatever order they are taken."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-8, 8, parameter.shape, generator=generator))
    return layer


def assert_one_more_output(model, x, *, constant=None, read=lambda out: out):
    """The copy answers as the original does, with drainage last; the original stays what it was."""
    model.eval()
    before = copy.deepcopy(model.state_dict())
    wider = with_drainage(model, constant=constant)
    with torch.no_grad():
        expected, got = read(model(x)), read(wider(x))
    assert got.shape[1] == expected.shape[1] + 1
    assert got.dtype == expected.dtype
    if constant is None:  # another number of rows may be summed in another order
        torch.testing.assert_close(got[:, :-1], expected, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(got[:, :-1], expected)
    assert (got[:, -1] == (constant or 0.0)).all()
    assert not wider.training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    return wider


@pytest.mark.parametrize("constant", [None, -1.5])
def test_linear_layer_itself(constant):
    layer, x = integers(nn.Linear(6, 3)), torch.arange(12.0).reshape(2, 6)
    wider = with_drainage(layer, constant=constant)
    assert torch.equal(wider(x)[:, :3], layer(x))
    assert (wider(x)[:, 3] == (constant or 0.0)).all()
    assert layer.out_features == 3
    assert layer(x).shape == (2, 3)
    if constant is None:
        assert isinstance(wider, nn.Linear)
        assert wider.out_features == 4
        assert torch.equal(wider.weight, torch.cat([layer.weight, torch.zeros(1, 6)]))
        assert torch.equal(wider.bias, torch.cat([layer.bias, torch.zeros(1)]))
    with torch.no_grad():
        for parameter in wider.parameters():
            parameter.add_(1)
    assert torch.equal(integers(nn.Linear(6, 3)).weight, layer.weight)  # nothing is shared with the original


@pytest.mark.parametrize("constant", [None, 2.0])
@pytest.mark.parametrize(("conv", "spatial"), [(nn.Conv1d, (5,)), (nn.Conv2d, (5, 4)), (nn.Conv3d, (2, 3, 4))])
def test_pointwise_convolution(conv, spatial, constant):
    layer, x = integers(conv(6, 3, 1)), torch.arange(2.0 * 6).reshape(2, 6, *[1] * len(spatial)).expand(2, 6, *spatial)
    wider = with_drainage(layer, constant=constant)
    assert wider(x).shape == (2, 4, *spatial)
    assert torch.equal(wider(x)[:, :3], layer(x))
    assert (wider(x)[:, 3] == (constant or 0.0)).all()
    unbatched = wider(x[0])
    assert unbatched.shape == (4, *spatial)
    assert torch.equal(unbatched, wider(x)[0])


@pytest.mark.parametrize("constant", [None, 1.0])
@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
        nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(6, 3), nn.Identity()))),
        Small("fc"),
        Small("classifier"),
        Small("head"),
        Small("classifier", nn.Sequential(nn.Dropout(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))),
        Small("head", Small("fc", nn.Sequential(nn.Linear(6, 3)))),
        nn.Sequential(nn.BatchNorm1d(4), Small("head")),
    ],
    ids=["sequential", "nested sequential", "fc", "classifier", "head", "sequential classifier", "model in a model",
         "model in a sequential"],
)  # fmt: skip
def test_finds_the_classifier(model, constant):
    if isinstance(getattr(model, "head", None), Small):
        model.head.body = nn.Identity()
    torch.manual_seed(0)
    assert_one_more_output(model, torch.randn(5, 4), constant=constant)


def test_layer_by_name():
    torch.manual_seed(0)
    model, x = Small("output_of_mine"), torch.randn(5, 4)
    wider = with_drainage(model, layer="output_of_mine")
    torch.testing.assert_close(wider(x)[:, :3], model(x))
    assert (wider(x)[:, 3] == 0).all()
    deep = nn.Sequential(model, nn.Identity())
    assert with_drainage(deep, layer="0.output_of_mine", constant=1.0)(x)[:, 3].tolist() == [1.0] * 5
    assert with_drainage(nn.Linear(4, 3), layer="").out_features == 4


def test_training_moves_the_new_row():
    torch.manual_seed(0)
    model = with_drainage(Small("fc"))
    loss = DrainageLoss(0.1)(model(torch.randn(8, 4)), torch.arange(8) % 3)
    loss.backward()
    assert model.fc.weight.grad[3].abs().max() > 0
    assert model.fc.bias.grad[3] != 0
    assert [p.shape for p in model.parameters()] == [(6, 4), (6,), (4, 6), (4,)]
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert model.fc.weight[3].abs().max() > 0


def test_without_a_bias():
    layer = integers(nn.Linear(6, 3, bias=False))
    wider = with_drainage(layer)
    assert wider.bias is None
    assert torch.equal(wider(torch.ones(1, 6)), torch.cat([layer(torch.ones(1, 6)), torch.zeros(1, 1)], 1))
    assert with_drainage(nn.Conv2d(6, 3, 1, bias=False)).bias is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_keeps_dtype_and_requires_grad(dtype, requires_grad):
    layer = nn.Linear(6, 3, dtype=dtype).requires_grad_(requires_grad)
    layer.bias.requires_grad_(True)
    wider = with_drainage(layer)
    assert wider.weight.dtype == wider.bias.dtype == dtype
    assert wider.weight.requires_grad == requires_grad
    assert wider.bias.requires_grad
    assert isinstance(wider.weight, nn.Parameter)
    assert with_drainage(layer, constant=1.0)(torch.ones(2, 6, dtype=dtype)).dtype == dtype


def test_keeps_the_training_mode():
    assert with_drainage(Small("fc")).training
    assert not with_drainage(Small("fc").eval(), constant=0.0).fc.layer.training


def test_a_saved_copy_loads_into_another():
    torch.manual_seed(0)
    first, second = with_drainage(Small("fc")), with_drainage(Small("fc"))
    second.load_state_dict(first.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(first(x), second(x))


# Models of torchvision and timm


def small_image(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "constant"), [("resnet18", None), ("resnet18", 1.0), ("squeezenet1_1", None), ("squeezenet1_1", 1.0)]
)
def test_torchvision(name, constant):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=7)
    assert_one_more_output(model, small_image(), constant=constant)


def test_torchvision_vision_transformer():
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    model = models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=7
    )
    nn.init.normal_(model.heads.head.weight)  # which torchvision starts at zero
    wider = assert_one_more_output(model, small_image())
    assert wider.heads.head.out_features == 8


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4)

    def forward(self, x):
        return {"out": self.conv(x)}


@pytest.mark.parametrize("constant", [None, 1.0])
def test_torchvision_segmentation(constant):
    segmentation = pytest.importorskip("torchvision").models.segmentation
    torch.manual_seed(0)
    model = segmentation.FCN(Backbone(), segmentation.fcn.FCNHead(8, 5))
    wider = assert_one_more_output(model, small_image(), constant=constant, read=lambda out: out["out"])
    logits = wider(small_image())["out"]
    assert logits.shape == (2, 6, 32, 32)
    DrainageLoss()(logits, torch.randint(5, (2, 32, 32))).backward()
    last = wider.classifier[-1] if constant is None else wider.classifier[-1].layer
    assert (last.weight.grad.abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("alexnet", "classifier.6"),
        ("vgg11_bn", "classifier.6"),
        ("resnet50", "fc"),
        ("googlenet", "fc"),
        ("densenet121", "classifier"),
        ("squeezenet1_1", "classifier.1"),
        ("shufflenet_v2_x0_5", "fc"),
        ("mobilenet_v2", "classifier.1"),
        ("mobilenet_v3_small", "classifier.3"),
        ("convnext_tiny", "classifier.2"),
        ("efficientnet_b0", "classifier.1"),
        ("vit_b_16", "heads.head"),
        ("swin_t", "head"),
        ("fcn_resnet50", "classifier.4"),
        ("deeplabv3_mobilenet_v3_large", "classifier.4"),
    ],
)
def test_the_classifier_of_torchvision_families(name, layer):
    torchvision = pytest.importorskip("torchvision")
    arguments = {"init_weights": False} if name == "googlenet" else {}
    if name.startswith(("fcn", "deeplab")):
        arguments = {"weights_backbone": None}
    with torch.device("meta"):  # names only, no numbers
        model = torchvision.models.get_model(name, weights=None, **arguments)
    assert find_classifier(model) == layer


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet10t", {}),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 1}),
        ("convnext_atto", {}),
    ],
)
def test_timm(name, arguments):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=7, **arguments)
    assert_one_more_output(model, small_image())


def test_timm_with_a_constant():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    assert_one_more_output(
        timm.create_model("resnet10t", pretrained=False, num_classes=7), small_image(), constant=-2.0
    )


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s"])
def test_several_classifiers_are_refused(name):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, pretrained=False)
    with pytest.raises(ValueError, match=r"come from several layers.*'head_dist.*the variant without distillation"):
        with_drainage(model)


# Errors


def test_unknown_layer_names_the_candidates():
    with pytest.raises(ValueError, match=r"no layer 'out': choose one of 'body', 'fc'"):
        with_drainage(Small("fc"), layer="out")
    with pytest.raises(ValueError, match=r"no layer 'fc\.1': choose one of"):
        with_drainage(Small("fc"), layer="fc.1")


@pytest.mark.parametrize(
    ("layer", "kind"),
    [(nn.Conv2d(4, 3, 3), "Conv2d"), (nn.Conv2d(6, 3, 1, groups=3), "Conv2d"), (nn.Embedding(4, 3), "Embedding")],
)
@pytest.mark.parametrize("constant", [None, 0.0])
def test_layer_of_the_wrong_type(layer, kind, constant):
    with pytest.raises(ValueError, match=f"'part' is a {kind}: name the linear layer or 1x1 convolution"):
        with_drainage(Small("part", layer), layer="part", constant=constant)


@pytest.mark.parametrize(
    "model",
    [
        Small("output_of_mine"),
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
        Small("head", nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])),
    ],
)
def test_unclear_classifier_asks_for_its_name(model):
    with pytest.raises(
        ValueError, match=r"can't tell which layer of \w+ makes the logits: name it with layer=, one of"
    ):
        with_drainage(model)


def test_model_without_a_candidate_says_so():
    with pytest.raises(ValueError, match="none: it has no linear layer or 1x1 convolution"):
        with_drainage(nn.Sequential(nn.ReLU()))


def test_timm_model_without_a_classifier():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model("resnet10t", pretrained=False, num_classes=0)
    with pytest.raises(ValueError, match="'fc' is a Identity: name the linear layer or 1x1 convolution"):
        with_drainage(model)


def normalised(layer):
    return nn.utils.parametrizations.weight_norm(layer)


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", 0.5)


def spectrally_normalised(layer):
    return nn.utils.spectral_norm(layer)


@pytest.mark.parametrize("change", [normalised, pruned, spectrally_normalised])
@pytest.mark.parametrize("constant", [None, 0.0])
def test_parametrised_layer(change, constant):
    model = Small("fc", change(nn.Linear(6, 3)))
    with pytest.raises(ValueError, match="'fc' is parametrised: remove its parametrisation first, and add it again"):
        with_drainage(model, constant=constant)


def test_constant_must_be_finite():
    with pytest.raises(ValueError, match="constant is nan: give a finite drainage logit, or None to learn it"):
        with_drainage(nn.Linear(4, 3), constant=float("nan"))
