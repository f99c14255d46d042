"""Scores for "none of the known classes" and losses that learn from such samples, against numpy and by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import catchment as ct
from catchment import metrics
from catchment.baselines.unknowns import SCORES, energy, entropy, margin, max_logit, msp
from catchment.data import Dataset, InputFormat
from catchment.nets import create_net, input_statistics
from catchment.training import TrainingConfig, predict, train


def by_hand(logits):
    """All scores from their formulas, without the tricks that keep large logits finite."""
    e = np.exp(logits.astype(np.float64))
    p = e / e.sum(1, keepdims=True)
    ordered = np.sort(p, axis=1)
    return {
        "msp": 1 - p.max(1),
        "max_logit": -logits.max(1),
        "energy": -np.log(e.sum(1)),
        "entropy": -(p * np.log(p)).sum(1),
        "margin": 1 - (ordered[:, -1] - ordered[:, -2]),
    }


@pytest.mark.parametrize("shape", [(7, 4), (3, 5, 2, 6)])
@pytest.mark.parametrize("name", SCORES)
def test_scores_are_their_formulas(name, shape):
    logits = np.random.default_rng(0).normal(size=shape) * 3
    score, expected = SCORES[name], by_hand(logits)[name]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        z = torch.from_numpy(logits).to(dtype)
        assert score(z).dtype == dtype
        assert score(z).shape == (shape[0], *shape[2:])
        np.testing.assert_allclose(score(z), expected, atol=tolerance, rtol=tolerance)


def test_scores_worked_out_by_hand():
    """Logits 0, log 2, log 3: p = 1/6, 1/3, 1/2."""
    z = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64).log()
    assert msp(z).item() == pytest.approx(0.5)
    assert max_logit(z).item() == pytest.approx(-math.log(3))
    assert energy(z).item() == pytest.approx(-math.log(6))
    assert entropy(z).item() == pytest.approx(math.log(6) / 6 + math.log(3) / 3 + math.log(2) / 2)
    assert margin(z).item() == pytest.approx(5 / 6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    z = (torch.randn(50, 10, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    for score in SCORES.values():
        assert score(z).dtype == torch.float32
        assert torch.equal(score(z), score(z.float()))


def test_large_logits_stay_finite():
    z = torch.tensor([[1e4, 0.0], [-1e4, -1e4], [-math.inf, 2.0]])
    assert msp(z).tolist() == pytest.approx([0.0, 0.5, 0.0])
    assert max_logit(z).tolist() == [-1e4, 1e4, -2.0]
    assert energy(z).tolist() == pytest.approx([-1e4, 1e4 - math.log(2), -2.0])
    assert entropy(z).tolist() == pytest.approx([0.0, math.log(2), 0.0])
    assert margin(z).tolist() == pytest.approx([0.0, 1.0, 0.0])


def test_whole_numbers_are_refused():
    for score in SCORES.values():
        with pytest.raises(ValueError, match="give floating-point numbers"):
            score(torch.ones(2, 3, dtype=torch.int64))


def test_a_margin_needs_two_classes():
    with pytest.raises(ValueError, match=r"logits have shape \(3, 1\): a margin needs two classes or more"):
        margin(torch.zeros(3, 1))


def test_logit_scores_fall_with_a_constant_and_those_of_probabilities_do_not_see_it():
    z = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for score in (energy, max_logit):
        torch.testing.assert_close(score(z + 3), score(z) - 3)
    for score in (msp, entropy, margin):
        torch.testing.assert_close(score(z + 3), score(z))


def test_with_two_classes_the_scores_of_probabilities_rank_alike():
    z = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(margin(z), 2 * msp(z))
    assert torch.equal(entropy(z).argsort(), msp(z).argsort())


@given(st.integers(0, 2**31), st.floats(-5, 5), st.integers(2, 12))
def test_drainage_with_a_constant_logit_ranks_as_energy_does(seed, constant, classes):
    """p_d = e^c / (e^c + sum e^z) falls strictly as log sum e^z grows, whatever the constant c is."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(60, classes, generator=generator, dtype=torch.float64)
    unknown = torch.rand(60, generator=generator).numpy() < 0.3
    unknown[:2] = True, False
    with_drainage = torch.cat([z, torch.full((60, 1), constant, dtype=torch.float64)], 1)
    p_d = ct.DrainageLoss(constant=constant).unknown_score(with_drainage)
    assert torch.equal(p_d.argsort(stable=True), energy(z).argsort(stable=True))
    assert metrics.auroc(p_d.numpy(), unknown) == metrics.auroc(energy(z).numpy(), unknown)


def test_a_learned_drainage_logit_ranks_otherwise():
    z = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    p_d = ct.DrainageLoss().unknown_score(z)
    assert not torch.equal(p_d.argsort(), energy(z[:, :5]).argsort())


def test_names_of_the_scores():
    expected = {"msp": msp, "max_logit": max_logit, "energy": energy, "entropy": entropy, "margin": margin}
    assert expected == SCORES


# Losses that learn from samples labelled -1


def test_l_uniform_worked_out_by_hand():
    """p = (0.8, 0.2): KL(U || p) = -(log 0.8 + log 0.2) / 2 - log 2 = log(1.25)."""
    logits = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.5, 0.5], [0.1, 0.9]], dtype=torch.float64).log()
    target = torch.tensor([0, -1, -1, -100])
    loss = ct.UniformLoss(beta=0.5)(logits, target)
    assert loss.item() == pytest.approx(-math.log(0.8) + 0.5 * (math.log(1.25) + 0) / 2, rel=1e-12)
    none = ct.UniformLoss(beta=0.5, reduction="none")(logits, target)
    assert none.tolist() == pytest.approx([-math.log(0.8), 0.5 * math.log(1.25), 0.0, 0.0], abs=1e-15)
    total = ct.UniformLoss(beta=0.5, reduction="sum")(logits, target)
    assert total.item() == pytest.approx(none.sum().item(), rel=1e-12)


def test_l_maxconf_worked_out_by_hand():
    logits = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.5, 0.5]], dtype=torch.float64).log()
    target = torch.tensor([1, -1, -1])
    loss = ct.MaxConfLoss(lamb=2.0)(logits, target)
    assert loss.item() == pytest.approx(-math.log(0.2) + 2 * (math.log(0.8) + math.log(0.5)) / 2, rel=1e-12)


def test_kl_to_uniform_is_torchs():
    z = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = F.kl_div(z.log_softmax(1), torch.full_like(z, 0.2), reduction="batchmean")
    torch.testing.assert_close(ct.UniformLoss()(z, torch.full((9,), -1)), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", [ct.UniformLoss, ct.MaxConfLoss])
def test_without_unknown_samples_it_is_cross_entropy(loss):
    z = torch.randn(9, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.randint(4, (9, 2), generator=torch.Generator().manual_seed(1))
    target[3, 1] = -100
    weight = torch.tensor([0.5, 2.0, 1.0, 1.3], dtype=torch.float64)
    for y in (target, z.flip(0).softmax(1)):
        expected = ct.CrossEntropy(weight=weight)(z, y)
        torch.testing.assert_close(loss(weight=weight)(z, y), expected, rtol=1e-13, atol=0)
    narrow = torch.tensor([0, 3], dtype=torch.uint8)
    assert loss()(z[:2, :, 0], narrow) == ct.CrossEntropy()(z[:2, :, 0], narrow)


@pytest.mark.parametrize("loss", [ct.UniformLoss, ct.MaxConfLoss])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_with_unknown_samples(loss, reduction):
    z = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    target = torch.tensor([[0, -1], [-1, -1], [3, -100], [1, 2], [-1, 0]])
    assert torch.autograd.gradcheck(lambda x: loss(reduction=reduction)(x, target), z)


@pytest.mark.parametrize("loss", [ct.UniformLoss, ct.MaxConfLoss])
def test_unknown_samples_at_the_edges(loss):
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.3, -math.inf, 0.1], [-1e4, -1e4, -1e4]]).requires_grad_()
    value = loss()(logits, torch.full((3,), -1))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    masked = torch.tensor([[0.3, -math.inf, 0.1]], dtype=torch.float64)
    expected = loss()(masked[:, ::2], torch.tensor([-1]))
    torch.testing.assert_close(loss()(masked, torch.tensor([-1])), expected, rtol=1e-12, atol=0)


def test_l_maxconf_is_least_where_p_is_uniform():
    z = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    losses = ct.MaxConfLoss(reduction="none")(z, torch.full((50,), -1))
    assert (losses > -math.log(6)).all()
    assert ct.MaxConfLoss()(torch.zeros(1, 6), torch.tensor([-1])).item() == pytest.approx(-math.log(6))


@pytest.mark.parametrize("name", ["l-uniform", "l-maxconf"])
def test_training_with_unknown_samples_tells_them_better(name):
    """Two classes left and right; the samples of none lie above, and so do new ones of the test."""
    rng = np.random.default_rng(0)

    def part(size):
        labels = np.repeat([0, 1, -1], size)
        centres = np.array([[-2.0, 0.0], [2.0, 0.0], [0.5, 3.0]])[labels]
        inputs = (rng.normal(size=(3 * size, 2)) + centres).astype(np.float32)
        return Dataset("three blobs", inputs, labels, ("left", "right"))

    training, test = part(100), part(200)

    def separates(objective, dataset):
        torch.manual_seed(0)
        net = create_net("mlp", InputFormat.of(dataset), objective, input_statistics(dataset))
        model = ct.Model(net, objective)
        train(model, dataset, TrainingConfig(epochs=6, learning_rate=0.05, device="cpu"))
        return metrics.auroc(predict(model, test).unknown_score, test.labels == -1)

    without = separates(ct.CrossEntropy(), training.select(training.labels >= 0))
    assert separates(ct.create_objective(name, num_classes=2), training) > max(without, 0.9) + 0.02
