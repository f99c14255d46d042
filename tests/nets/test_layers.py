"""Layers: BatchNorm, ReLU and pooling in one step give what they give one by one."""

import copy

import pytest
import torch
from torch import Tensor, nn

from catchment.kernels import native, norm_relu
from catchment.nets.layers import Layers
from catchment.nets.small_images import cnn8

needs_compiler = pytest.mark.skipif(not native.is_compiled("norm_relu_cpu.cpp"), reason="there is no C++ compiler")


def images(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (3 * x + 2).contiguous(memory_format=torch.channels_last)


def norm(channels: int, **options: object) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(channels, generator=generator))  # also negative
        layer.bias.copy_(torch.randn(channels, generator=generator))
    return layer


def outcome(layers: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers of one step whose upstream gradient is dense."""
    layers = layers.to(x.dtype)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layers(x)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(x.dtype)
    y.backward(grad.contiguous(memory_format=torch.channels_last) if y.ndim == 4 else grad)
    numbers = {"output": y.detach(), "input": x.grad}
    numbers |= {name: parameter.grad for name, parameter in layers.named_parameters()}
    return numbers | {name: buffer.clone() for name, buffer in layers.named_buffers()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, value.double().abs().max().item())
        assert (found[name].double() - value.double()).abs().max().item() < tolerance * scale, name


@needs_compiler
@pytest.mark.parametrize(
    "after",
    [[], [nn.MaxPool2d(2)], [nn.MaxPool2d(2, ceil_mode=True)], [nn.MaxPool2d(3, 2, 1)], [nn.Flatten()]],
    ids=["nothing", "2x2", "2x2, the rest too", "3x3", "no pooling"],
)
@pytest.mark.parametrize("shape", [(5, 32, 8, 12), (3, 7, 6, 4), (2, 196, 10, 10), (4, 16, 7, 9), (300, 3, 2, 2)])
def test_as_one_by_one(shape: tuple[int, ...], after: list[nn.Module]) -> None:
    layers = [norm(shape[1]), nn.ReLU(), *after]
    one_by_one = nn.Sequential(*copy.deepcopy(layers))
    assert_same(outcome(Layers(*layers), images(*shape)), outcome(one_by_one, images(*shape).double()))


@needs_compiler
def test_variance_does_not_cancel_where_the_mean_is_large() -> None:
    x = images(64, 4, 16, 16) + 1000
    found, expected = norm(4), norm(4).double()
    y = Layers(found, nn.ReLU())(x.contiguous(memory_format=torch.channels_last))
    exact = torch.relu(expected(x.double()))
    assert (y - exact).abs().max() < 1e-3
    assert (found.running_var - expected.running_var).abs().max() < 1e-5


@needs_compiler
@pytest.mark.parametrize("options", [{"momentum": None}, {"momentum": 0.3}, {"track_running_stats": False}])
def test_statistics_over_several_steps(options: dict[str, object]) -> None:
    found, expected = norm(6, **options), norm(6, **options).double()
    layers, one_by_one = Layers(found, nn.ReLU()), nn.Sequential(expected, nn.ReLU())
    for seed in range(4):
        layers(images(3, 6, 4, 4, seed=seed))
        one_by_one(images(3, 6, 4, 4, seed=seed).double())
    for name, buffer in expected.named_buffers():
        assert torch.allclose(dict(found.named_buffers())[name].double(), buffer.double(), atol=1e-6), name


@needs_compiler
def test_threads_do_not_change_a_bit() -> None:
    x = images(64, 64, 32, 32)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(outcome(Layers(norm(64), nn.ReLU(), nn.MaxPool2d(2)), x))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(other[name], value) for name, value in results[0].items())


@needs_compiler
@pytest.mark.parametrize("pool", [[], [nn.MaxPool2d(2)]])
def test_nan_stays_in_its_channel(pool: list[nn.Module]) -> None:
    x = images(4, 3, 4, 4)
    x[1, 2, 3, 3] = torch.nan
    y = Layers(norm(3), nn.ReLU(), *pool)(x)
    assert y[:, 2].isnan().all()
    assert not y[:, :2].isnan().any()


@needs_compiler
def test_of_equal_values_the_first_gets_the_gradient() -> None:
    x = torch.zeros(1, 1, 2, 4).contiguous(memory_format=torch.channels_last)
    x[..., 2:] = -1
    x.requires_grad_()
    layers = Layers(nn.BatchNorm2d(1), nn.ReLU(), nn.MaxPool2d(2))
    plain = x.detach().clone().requires_grad_()
    layers(x).sum().backward()
    nn.Sequential(*copy.deepcopy(list(layers)))(plain).sum().backward()
    assert torch.allclose(x.grad, plain.grad, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize(
    ("layers", "x"),
    [
        ([norm(4).eval(), nn.ReLU()], images(2, 4, 4, 4)),
        ([nn.BatchNorm2d(4, affine=False), nn.ReLU()], images(2, 4, 4, 4)),
        ([norm(4).double(), nn.ReLU()], images(2, 4, 4, 4).double()),
        ([norm(4), nn.ReLU()], images(2, 4, 4, 4).contiguous()),
        ([norm(4), nn.GELU()], images(2, 4, 4, 4)),
        ([norm(4)], images(2, 4, 4, 4)),
    ],
    ids=["eval", "no weight", "float64", "channels first", "another activation", "nothing after it"],
)
def test_what_the_loops_do_not_take_runs_one_by_one(
    layers: list[nn.Module], x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norm_relu, "norm_relu", None)
    expected = outcome(nn.Sequential(*copy.deepcopy(layers)), x)
    assert_same(outcome(Layers(*layers), x), expected, tolerance=1e-12)


@needs_compiler
def test_a_net_takes_them_together(monkeypatch: pytest.MonkeyPatch) -> None:
    pooled = []

    def watched(x: Tensor, norm: nn.BatchNorm2d, *, pool: bool) -> Tensor:
        pooled.append(pool)
        return original(x, norm, pool=pool)

    original = norm_relu.norm_relu
    monkeypatch.setattr(norm_relu, "norm_relu", watched)
    backbone, _ = cnn8((32, 32, 3))
    backbone.to(memory_format=torch.channels_last)(images(2, 3, 32, 32))
    assert pooled == [False, True] * 3


@needs_compiler
@pytest.mark.parametrize("position", [0, 1, 2])
def test_hooks_see_their_layer(position: int) -> None:
    layers = Layers(norm(4), nn.ReLU(), nn.MaxPool2d(2))
    seen: list[Tensor] = []
    layers[position].register_forward_hook(lambda module, inputs, output: seen.append(output))
    layers(images(2, 4, 4, 4))
    assert [output.shape for output in seen] == [(2, 4, 2, 2) if position == 2 else (2, 4, 4, 4)]


def test_one_value_per_channel_is_refused_as_by_batch_norm() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        Layers(norm(4), nn.ReLU())(images(1, 4, 1, 1))


@needs_compiler
def test_compiled_and_eager_agree() -> None:
    layers = Layers(norm(8), nn.ReLU(), nn.MaxPool2d(2))
    compiled = torch.compile(copy.deepcopy(layers), backend="aot_eager", fullgraph=True)
    assert torch.allclose(layers(images(3, 8, 6, 6)), compiled(images(3, 8, 6, 6)), atol=2e-5)


def test_names_are_those_of_a_sequential() -> None:
    assert list(Layers(norm(2), nn.ReLU()).state_dict()) == list(nn.Sequential(norm(2), nn.ReLU()).state_dict())
