import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from catchment import CrossEntropy, DrainageLoss, Model
from catchment.baselines.shift import Adapted, adapt_batch_norm, recalibrate_quantiles, source_quantiles, tent
from catchment.objective import Objective


def small_net(seed=0, dtype=torch.float64):
    """Two BatchNorm layers with statistics and weights of their own, and dropout."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3),
    ).to(dtype)  # fmt: skip
    with torch.no_grad():
        for layer in (net[1], net[5]):
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.5, 0.5)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    return net


def images(*sizes, shift=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [shift + 3 * torch.randn(n, 2, 6, 6, generator=generator, dtype=torch.float64) for n in sizes]


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_untouched(model, state, training):
    assert model.training == training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def entropy(logits):
    p = logits.softmax(1)
    return -(p * p.log()).sum(1).mean().item()


class ByName(nn.Module):
    """A net as this library's are."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return {"features": x.flatten(1), "logits": self.net(x)}


def adapt_by_quantiles(model, batches):
    return recalibrate_quantiles(model, batches, source_quantiles(model, images(50, shift=0.0)))


METHODS = {"batch-norm": adapt_batch_norm, "tent": tent, "quantiles": adapt_by_quantiles}
each_method = pytest.mark.parametrize("adapt", METHODS.values(), ids=METHODS.keys())


# ---- what all have in common


@each_method
@pytest.mark.parametrize("training", [True, False])
def test_the_given_model_is_untouched(adapt, training):
    net = small_net().train(training)
    state = state_of(net)
    result = adapt(net, images(8, 5))
    assert_untouched(net, state, training)
    assert isinstance(result, Adapted)
    assert not result.model.training
    assert result.logits.shape == (13, 3)
    assert not result.logits.requires_grad
    assert all(p.requires_grad and p.grad is None for p in result.model.parameters())
    assert (result.logits - torch.cat([net.eval()(x) for x in images(8, 5)])).abs().max() > 0.01


@each_method
def test_models_and_batches_of_every_kind_give_the_same(adapt):
    net, batches = small_net(), images(8, 5)
    expected = adapt(net, batches).logits
    label = torch.zeros(8)
    assert torch.equal(adapt(net, [(x, label) for x in batches]).logits, expected)
    assert torch.equal(adapt(net, [[x, label] for x in batches]).logits, expected)
    assert torch.equal(adapt(net, iter([{"inputs": x, "target": label} for x in batches])).logits, expected)
    assert torch.equal(adapt(ByName(net), batches).logits, expected)
    result = adapt(Model(ByName(net), CrossEntropy()), batches)
    torch.testing.assert_close(result.logits, expected)
    assert isinstance(result.model, Model)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat(batches)), batch_size=8)
    assert torch.equal(adapt(net, loader).logits, expected)


@each_method
def test_the_same_call_gives_the_same_bits(adapt):
    assert torch.equal(adapt(small_net(), images(8, 5)).logits, adapt(small_net(), images(8, 5)).logits)


@each_method
def test_says_what_is_wrong(adapt):
    with pytest.raises(ValueError, match="there is no batch: give at least one"):
        adapt(small_net(), [])
    plain = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).double()
    with pytest.raises(ValueError, match=r"Sequential has no (BatchNorm|normalisation) layer"):
        adapt(plain, images(4))


# ---- BatchNorm statistics


def by_hand(net, x, source_samples=0.0):
    """The forward pass with each BatchNorm written out, mixing its source with the batch: (logits, statistics)."""
    statistics = []
    for layer in net:
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            dims = (0, 2, 3) if x.ndim == 4 else (0,)
            share = source_samples / (source_samples + len(x))
            mean = share * layer.running_mean + (1 - share) * x.mean(dims)
            centred = x - x.mean(dims).reshape(1, -1, *[1] * (x.ndim - 2))
            variance = share * layer.running_var + (1 - share) * centred.square().mean(dims)
            statistics.append((mean, variance))
            shape = (1, -1, *[1] * (x.ndim - 2))
            x = (x - mean.reshape(shape)) / (variance.reshape(shape) + layer.eps).sqrt()
            x = x * layer.weight.reshape(shape) + layer.bias.reshape(shape)
        elif not isinstance(layer, nn.Dropout):
            x = layer(x)
    return x, statistics


@pytest.mark.parametrize("source_samples", [0, 16, 500.0])
def test_statistics_and_logits_of_one_batch_are_those_by_hand(source_samples):
    net, (x,) = small_net(), images(20)
    result = adapt_batch_norm(net, [x], source_samples=source_samples)
    logits, statistics = by_hand(net, x, source_samples)
    torch.testing.assert_close(result.logits, logits)
    for layer, (mean, variance) in zip((result.model[1], result.model[5]), statistics, strict=True):
        torch.testing.assert_close(layer.running_mean, mean)
        torch.testing.assert_close(layer.running_var, variance)
    torch.testing.assert_close(result.model(x), logits)


def test_without_a_source_it_is_training_mode_without_dropout():
    net, (x,) = small_net(), images(20)
    result = adapt_batch_norm(net, [x])
    expected = copy.deepcopy(net).train()
    expected[7].eval()
    torch.testing.assert_close(result.logits, expected(x))


def test_a_source_of_many_samples_changes_nothing():
    net, batches = small_net().eval(), images(8, 5)
    result = adapt_batch_norm(net, batches, source_samples=1e12)
    torch.testing.assert_close(result.logits, torch.cat([net(x) for x in batches]), rtol=0, atol=1e-8)


@pytest.mark.parametrize("source_samples", [0, 16])
def test_batches_are_pooled_by_their_sizes(source_samples):
    net, batches = small_net(), images(8, 5, 30)
    result = adapt_batch_norm(net, batches, source_samples=source_samples)
    torch.testing.assert_close(result.logits, torch.cat([by_hand(net, x, source_samples)[0] for x in batches]))
    # at the first layer nothing before depends on the batch, so the pool is that of all 43 samples
    mean, variance = by_hand(net, torch.cat(batches), source_samples)[1][0]
    torch.testing.assert_close(result.model[1].running_mean, mean)
    torch.testing.assert_close(result.model[1].running_var, variance)


def test_batch_norm_adaptation_changes_statistics_alone():
    net = small_net()
    result = adapt_batch_norm(net, images(8))
    changed = {
        name for name, value in result.model.state_dict().items() if not torch.equal(value, net.state_dict()[name])
    }
    assert changed == {"1.running_mean", "1.running_var", "5.running_mean", "5.running_var"}
    assert not any(m._forward_pre_hooks for m in result.model.modules())


def test_batch_norm_adaptation_undoes_a_change_of_scale_and_offset():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(4, eps=1e-12), nn.Linear(4, 3)).double()
    x = torch.randn(400, 4, dtype=torch.float64)
    net.train()(x)
    net[0].running_mean.copy_(x.mean(0))
    net[0].running_var.copy_(x.var(0, correction=0))
    clean = net.eval()(x)
    shifted = 5 * x - 3
    assert (net(shifted) - clean).abs().max() > 1
    torch.testing.assert_close(adapt_batch_norm(net, [shifted]).logits, clean)


def test_batch_norm_adaptation_says_what_is_wrong():
    with pytest.raises(ValueError, match="source_samples is -1"):
        adapt_batch_norm(small_net(), images(4), source_samples=-1)
    with pytest.raises(ValueError, match="keep no running statistics"):
        adapt_batch_norm(nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)).double(), images(4))


# ---- TENT


def test_tent_without_a_step_size_is_normalisation_by_the_batch():
    net, batches = small_net(), images(8, 5)
    result = tent(net, batches, learning_rate=0.0)
    torch.testing.assert_close(result.logits, torch.cat([by_hand(net, x)[0] for x in batches]))
    # the copy goes on normalising by the batch
    torch.testing.assert_close(result.model(batches[1]), by_hand(net, batches[1])[0])


def test_tent_reduces_the_entropy():
    net, (x,) = small_net(), images(40)
    result = tent(net, [x], steps=30, learning_rate=0.05)
    before, after = entropy(by_hand(net, x)[0]), entropy(result.model(x))
    assert after < 0.7 * before
    longer = tent(net, [x], steps=60, learning_rate=0.05)
    assert entropy(longer.model(x)) < after


def test_tent_takes_adams_first_step():
    net, (x,) = small_net(), images(40)
    result = tent(net, [x], learning_rate=0.01)
    affine = [p.detach().clone().requires_grad_() for p in (net[1].weight, net[1].bias, net[5].weight, net[5].bias)]

    def loss(*affine):
        h = F.batch_norm(net[0](x), None, None, affine[0], affine[1], training=True).relu().flatten(1)
        h = F.batch_norm(net[4](h), None, None, affine[2], affine[3], training=True).relu()
        p = net[8](h).softmax(1)
        return -(p * p.log()).sum(1).mean()

    gradients = torch.autograd.grad(loss(*affine), affine)
    names = ("1.weight", "1.bias", "5.weight", "5.bias")
    for name, value, gradient in zip(names, affine, gradients, strict=True):
        # of Adam's first step each entry is learning_rate * g / (|g| + eps)
        expected = value.detach() - 0.01 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(result.model.state_dict()[name], expected)
    # the logits are from before the step
    torch.testing.assert_close(result.logits, by_hand(net, x)[0])


def test_tent_changes_scale_and_shift_alone():
    net = small_net()
    result = tent(net, images(8, 5))
    before, after = net.state_dict(), result.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"1.weight", "1.bias", "5.weight", "5.bias"}
    assert {name for name in before if name not in after} == {
        f"{layer}.{name}" for layer in (1, 5) for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_tent_online_goes_on_and_episodic_begins_anew():
    net, (x, y) = small_net(), images(20, 20)
    episodic = tent(net, [x, y, x], steps=3, learning_rate=1e-2, episodic=True)
    assert torch.equal(episodic.logits[:20], episodic.logits[40:])
    alone = tent(net, [y], steps=3, learning_rate=1e-2)
    assert torch.equal(episodic.logits[20:40], alone.logits)
    online = tent(net, [x, y, x], steps=3, learning_rate=1e-2)
    assert torch.equal(online.logits[:20], episodic.logits[:20])
    assert entropy(online.logits[40:]) < entropy(online.logits[:20])


def test_tent_keeps_what_was_frozen_frozen():
    net = small_net()
    net[0].weight.requires_grad_(False)
    result = tent(net, images(8))
    assert [name for name, p in result.model.named_parameters() if not p.requires_grad] == ["0.weight"]


def test_tent_survives_certain_predictions():
    net, (x,) = small_net(dtype=torch.float32), images(20)
    with torch.no_grad():
        net[8].weight.mul_(1e4)
    result = tent(net, [x.float()], steps=3)
    assert all(value.isfinite().all() for value in result.model.state_dict().values())


def test_tent_works_within_no_grad():
    with torch.no_grad():
        assert torch.equal(tent(small_net(), images(8, 5)).logits, tent(small_net(), images(8, 5)).logits)


def test_tent_takes_the_probabilities_of_the_objective():
    net, (x,) = small_net(), images(30)
    model = Model(ByName(net), DrainageLoss())  # two classes and drainage
    result = tent(model, [x], steps=30, learning_rate=0.05)
    probabilities = model.objective.probabilities
    before, after = (probabilities(z) for z in (by_hand(net, x)[0], result.model.net(x)["logits"]))
    assert before.shape == (30, 2)
    assert -(after * after.log()).sum(1).mean() < -0.9 * (before * before.log()).sum(1).mean()


class OneVsRest(Objective):
    exclusive = False


def test_tent_says_what_is_wrong():
    with pytest.raises(ValueError, match="steps is 0"):
        tent(small_net(), images(4), steps=0)
    with pytest.raises(ValueError, match="learning_rate is -1"):
        tent(small_net(), images(4), learning_rate=-1)
    with pytest.raises(ValueError, match="probabilities of OneVsRest don't sum to 1"):
        tent(Model(ByName(small_net()), OneVsRest()), images(4))
    with pytest.raises(ValueError, match="neither scale nor shift"):
        tent(nn.Sequential(nn.BatchNorm2d(2, affine=False)).double(), images(4))


# ---- quantile recalibration


def test_source_quantiles_are_numpys():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).double().eval()
    x = torch.randn(200, 3, dtype=torch.float64)
    given = source_quantiles(net, x.split(50), levels=20)
    assert given.keys() == {"0"}
    levels = (np.arange(20) + 0.5) / 20
    exact = np.quantile(net[0](x).detach().numpy(), levels, axis=0, method="hazen").T
    # of each batch 17 of 50 values are kept, every third
    np.testing.assert_allclose(given["0"].numpy()[:, 1:-1], exact[:, 1:-1], atol=0.25)
    whole = source_quantiles(net, [x], levels=200)  # nothing is left out
    np.testing.assert_allclose(whole["0"].numpy(), np.sort(net[0](x).detach().numpy(), 0).T, rtol=1e-12)


def test_recalibration_of_the_source_by_itself_changes_nothing():
    net, (x,) = small_net().eval(), images(60)
    source = source_quantiles(net, [x], levels=60 * 16)
    assert source["1"].shape == (4, 960)
    assert source["5"].shape == (8, 960)
    result = recalibrate_quantiles(net, [x], source)
    assert (result.logits - net(x)).abs().max() < 0.05
    # with as many levels as values, it is exact
    one_layer = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3)).double().eval()
    source = source_quantiles(one_layer, [x], levels=60 * 36)
    torch.testing.assert_close(recalibrate_quantiles(one_layer, [x], source).logits, one_layer(x))


def test_recalibration_undoes_any_rising_change():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    x = torch.randn(500, 5, dtype=torch.float64)
    source = source_quantiles(net, [x], levels=500)
    clean = net(x)
    for change in (torch.exp, lambda v: v**3, lambda v: 7 * v - 30):
        torch.testing.assert_close(recalibrate_quantiles(net, [change(x)], source).logits, clean)
    # of which BatchNorm statistics undo the last alone
    assert (adapt_batch_norm(net, [x.exp()]).logits - clean).abs().mean() > 0.1


def test_ties_share_the_middle_of_their_places():
    source = {"0": torch.tensor([[10.0, 20.0, 30.0, 40.0]], dtype=torch.float64)}
    net = nn.Sequential(nn.BatchNorm1d(1, affine=False, eps=0.0)).double()
    x = torch.tensor([[1.0], [1.0], [5.0], [7.0]], dtype=torch.float64)
    logits = recalibrate_quantiles(net, [x], source).logits
    assert logits.flatten().tolist() == [15.0, 15.0, 30.0, 40.0]


def test_beyond_the_stored_levels_values_keep_their_distance():
    source = {"0": torch.tensor([[100.0, 200.0]], dtype=torch.float64)}  # at the levels 1/4 and 3/4
    net = nn.Sequential(nn.BatchNorm1d(1, affine=False, eps=0.0)).double()
    x = torch.arange(8, dtype=torch.float64)[:, None]  # at 1/16, 3/16, ..: quantiles 1.5 and 5.5 at 1/4 and 3/4
    logits = recalibrate_quantiles(net, [x], source).logits
    assert logits.flatten().tolist() == [98.5, 99.5, 112.5, 137.5, 162.5, 187.5, 200.5, 201.5]


@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 4), nn.LayerNorm(5), nn.InstanceNorm1d(4), nn.BatchNorm1d(4)])
def test_recalibration_takes_every_normalisation(layer):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Sequential(layer), nn.Flatten(), nn.Linear(20, 3)).double().eval()
    x = torch.randn(100, 4, 5, dtype=torch.float64)
    source = source_quantiles(net, [x])
    channels = 5 if isinstance(layer, nn.LayerNorm) else 4
    assert {name: tuple(q.shape) for name, q in source.items()} == {"0.0": (channels, 1000)}
    seen = []
    result = recalibrate_quantiles(net, [x], source)
    result.model[0].register_forward_hook(lambda module, args, output: seen.append(output))
    result.model(x.exp())  # each channel has the source's distribution again
    dim = 2 if channels == 5 else 1
    for channel in range(channels):
        values = seen[0].select(dim, channel).flatten().sort().values
        clean = layer(x).select(dim, channel).flatten().sort().values
        inside = slice(5, -5)
        assert (values - clean)[inside].abs().max() < 0.05


def test_recalibration_says_what_is_wrong():
    with pytest.raises(ValueError, match="levels is 1"):
        source_quantiles(small_net(), images(4), levels=1)
    source = source_quantiles(small_net(), images(4))
    with pytest.raises(ValueError, match="of another model: 5 differ"):
        recalibrate_quantiles(small_net(), images(4), {"1": source["1"]})


def test_single_samples_warn_nobody_and_stay_finite():
    net, (x,) = small_net(), images(1)
    for result in (adapt_batch_norm(net, [x], source_samples=8), adapt_by_quantiles(net, [x])):
        assert result.logits.isfinite().all()
    assert math.isfinite(adapt_batch_norm(net, [x]).logits.sum().item())
