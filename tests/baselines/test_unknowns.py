"""Scores for "none of the known classes", against numpy and against what is known of them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import catchment as ct
from catchment import metrics
from catchment.baselines.unknowns import SCORES, energy, msp


def by_hand(logits):
    """Both scores from their formulas, without the tricks that keep large logits finite."""
    e = np.exp(logits.astype(np.float64))
    return 1 - (e / e.sum(1, keepdims=True)).max(1), -np.log(e.sum(1))


@pytest.mark.parametrize("shape", [(7, 4), (3, 5, 2, 6)])
def test_scores_are_their_formulas(shape):
    logits = np.random.default_rng(0).normal(size=shape) * 3
    expected_msp, expected_energy = by_hand(logits)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        z = torch.from_numpy(logits).to(dtype)
        assert msp(z).dtype == energy(z).dtype == dtype
        assert msp(z).shape == energy(z).shape == (shape[0], *shape[2:])
        np.testing.assert_allclose(msp(z), expected_msp, atol=tolerance)
        np.testing.assert_allclose(energy(z), expected_energy, atol=tolerance, rtol=tolerance)


def test_scores_worked_out_by_hand():
    """Logits 0, log 2, log 3: p = 1/6, 1/3, 1/2."""
    z = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64).log()
    assert msp(z).item() == pytest.approx(0.5)
    assert energy(z).item() == pytest.approx(-np.log(6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    z = (torch.randn(50, 10, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    for score in (msp, energy):
        assert score(z).dtype == torch.float32
        assert torch.equal(score(z), score(z.float()))


def test_large_logits_stay_finite():
    z = torch.tensor([[1e4, 0.0], [-1e4, -1e4]])
    assert msp(z).tolist() == pytest.approx([0.0, 0.5])
    assert energy(z).tolist() == pytest.approx([-1e4, 1e4 - math.log(2)])


def test_whole_numbers_are_refused():
    for score in (msp, energy):
        with pytest.raises(ValueError, match="give floating-point numbers"):
            score(torch.ones(2, 3, dtype=torch.int64))


def test_energy_falls_with_a_constant_and_msp_does_not_see_it():
    z = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(energy(z + 3), energy(z) - 3)
    torch.testing.assert_close(msp(z + 3), msp(z))


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


def test_both_are_scores_of_an_evaluation():
    assert {"msp": msp, "energy": energy} == SCORES
