"""Quantile activation against its definition written out, and what holds for any rank."""

import copy
import math
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.checkpoint import checkpoint

from catchment import metrics
from catchment.kernels import quantile_cells, quantile_cpu, quantile_running
from catchment.kernels.quantile_density import kernel_between_nodes
from catchment.kernels.quantile_exact import pairs_of_ranks, rank_rows
from catchment.kernels.quantile_table import build_table, pairs_of_table
from catchment.quantile import (
    QuantileActivation,
    QuantileClassifier,
    QuantileLoss,
    adapt_context,
    convert_activations,
    quantile_activation,
    set_context,
)

METHODS = ["exact", "table"]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["plain", "compiled"])
def loops(request, monkeypatch):
    """With and without the compiled loops."""
    if request.param == "plain":
        monkeypatch.setattr(quantile_cpu, "serves", lambda x: False)
    elif not quantile_cpu.is_compiled():
        pytest.skip("there is no C++ compiler")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def column(values):
    """One channel."""
    return torch.as_tensor(values, dtype=torch.float32).reshape(-1, 1)


def cdf_by_definition(z, context, p=0.5):
    """Section by section of the formula, for one channel in float64."""
    z, v = np.asarray(z, dtype=np.float64), np.asarray(context, dtype=np.float64)
    positive, negative = v[v >= 0], v[v < 0]
    return np.array(
        [
            p + (1 - p) * (positive <= at).sum() / (len(positive) + 1)
            if at >= 0
            else p * (1 - (negative >= at).sum() / (len(negative) + 1))
            for at in z
        ]
    )


def density_by_definition(z, context, p=0.5, h=0.5):
    z, v = np.asarray(z, dtype=np.float64), np.asarray(context, dtype=np.float64)
    weight = np.where(v < 0, p / ((v < 0).sum() + 1), (1 - p) / ((v >= 0).sum() + 1))
    kernel = np.exp(-0.5 * ((z[:, None] - v) / h) ** 2) / (h * math.sqrt(2 * math.pi))
    return kernel @ weight


def gradient(x, **options):
    """f of each value: the gradient of the sum."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(quantile_activation(x, **options).sum(), x)[0]


# ---- the definition


def test_worked_by_hand():
    out = quantile_activation(column([-2.0, -1.0, 0.0, 3.0]), negative_mass=0.3)
    torch.testing.assert_close(out, column([0.1, 0.2, 0.3 + 0.7 / 3, 0.3 + 1.4 / 3]))


@pytest.mark.parametrize("method", METHODS)
@given(
    values=st.lists(st.integers(-30, 30), min_size=1, max_size=60),
    p=st.floats(0.05, 0.95),
    scale=st.sampled_from([1.0, 0.1, 37.0]),
)
@settings(max_examples=40, deadline=None)
def test_is_the_definition_with_ties_and_zeros(method, values, p, scale):
    z = column([scale * v for v in values])
    out = quantile_activation(z, negative_mass=p, method=method)
    np.testing.assert_allclose(out[:, 0], cdf_by_definition(z[:, 0], z[:, 0], p), atol=1e-6)


@pytest.mark.parametrize("n", [60, 300, 700, 4096])
def test_small_contexts_are_exact(loops, n):
    z = randn(n, 3)
    out = quantile_activation(z, negative_mass=0.2)
    for channel in range(3):
        np.testing.assert_allclose(out[:, channel], cdf_by_definition(z[:, channel], z[:, channel], 0.2), atol=1e-6)


def test_float64_is_ranked_in_float64():
    z = 1 + 1e-12 * randn(40, 2).double()
    out = quantile_activation(z)
    assert out.dtype == torch.float64
    np.testing.assert_allclose(out[:, 0], cdf_by_definition(z[:, 0], z[:, 0]), atol=1e-12)


def distributions():
    noise, other = randn(30_000, seed=1), randn(30_000, seed=2)
    coin = torch.rand(30_000, generator=torch.Generator().manual_seed(3)) < 0.5
    return {
        "normal": noise,
        "normal, all but 500 of one sign": torch.cat([noise.abs(), -other[:500].abs()]),
        "5000 normal": noise[:5000],
        "outlier of 1e4": torch.cat([noise, torch.tensor([1e4])]),
        "outlier of -1e4": torch.cat([noise, torch.tensor([-1e4])]),
        "half zeros": torch.where(coin, 0.0, noise),
        "log-normal": noise.exp(),
        "log-normal around zero": torch.where(coin, -1.0, 1.0) * (2 * noise).exp(),
        "uniform": torch.rand(30_000, generator=torch.Generator().manual_seed(4)) * 2 - 1,
        "uniform away from zero": 1 + torch.rand(30_000, generator=torch.Generator().manual_seed(4)),
        "exponential": noise.square() + other.square() - 1,
        "two clumps": torch.where(coin, 2.0, -3.0) + 0.05 * noise,
        "half one value": torch.where(coin, 0.37, noise),
        "bfloat16": noise.bfloat16().float(),
        "scale 1e-4": 1e-4 * noise,
        "scale 1e3": 1e3 * noise,
        "mean 100": 100 + noise,
    }


@pytest.mark.parametrize("name", distributions())
def test_large_contexts_keep_the_promised_accuracy(loops, name):
    z = column(distributions()[name])
    error = (quantile_activation(z, method="table") - quantile_activation(z, method="exact")).abs()
    assert error.max() <= 5e-3
    assert error.mean() <= 5e-4


@pytest.mark.parametrize("name", distributions())
def test_the_table_s_density_is_the_kernel_density(loops, name):
    z = distributions()[name]
    sample = torch.arange(0, len(z), 97)
    h = 500.0 if name == "scale 1e3" else 0.5
    f = gradient(column(z), method="table", bandwidth=h)[sample, 0]
    expected = density_by_definition(z[sample], z, h=h)
    relative = np.abs(f.numpy() - expected) / expected.max()
    assert relative.max() <= 1e-2
    assert relative.mean() <= 3e-3


@pytest.mark.parametrize(("n", "tolerance"), [(50, 1e-5), (400, 1e-5), (2000, 2e-3)])
def test_small_contexts_have_the_kernel_density(loops, n, tolerance):
    z = randn(n, 2) * 1.5
    f = gradient(z, negative_mass=0.3, bandwidth=0.7)
    for channel in range(2):
        expected = density_by_definition(z[:, channel], z[:, channel], 0.3, 0.7)
        np.testing.assert_allclose(f[:, channel], expected, atol=tolerance)


@pytest.mark.parametrize("n", [300, 6000])
def test_a_scaled_bandwidth_is_half_a_standard_deviation(n):
    z = 7 * randn(n, 1)
    expected = density_by_definition(z[:, 0], z[:, 0], h=0.5 * z.std(correction=0).item())
    np.testing.assert_allclose(gradient(z, bandwidth="scaled")[:, 0], expected, atol=2e-4)
    torch.testing.assert_close(
        gradient(4 * z, bandwidth="scaled"), gradient(z, bandwidth="scaled") / 4, rtol=1e-4, atol=1e-6
    )


def test_a_scaled_bandwidth_of_a_constant_channel_is_finite():
    assert gradient(torch.full((10, 1), 2.0), bandwidth="scaled").isfinite().all()


def test_gradient_is_the_slope_of_the_smoothed_distribution_in_a_fixed_context():
    """Against the integral of the kernel, not against F's own change: the context counts as constant."""
    z = randn(120, 1, seed=5).double()
    h, step = 0.5, 1e-5
    weight = torch.where(z < 0, 0.5 / ((z < 0).sum() + 1), 0.5 / ((z >= 0).sum() + 1))

    def smooth(at):
        return (weight.T * torch.special.ndtr((at - z.T) / h)).sum(1, keepdim=True)

    torch.testing.assert_close(gradient(z), (smooth(z + step) - smooth(z - step)) / (2 * step), rtol=1e-6, atol=1e-8)


def test_density_at_zero_of_a_standard_normal_context():
    z = torch.cat([torch.zeros(1), randn(200_000)])
    assert gradient(column(z))[0, 0].item() == pytest.approx(1 / math.sqrt(2 * math.pi * 1.25), abs=2e-3)


def test_an_upstream_gradient_is_multiplied_elementwise(loops):
    for x in (randn(20, 3), randn(20, 3, 16, 16)):
        x = x.requires_grad_()
        up = randn(*x.shape, seed=9)
        f = torch.autograd.grad(quantile_activation(x).sum(), x)[0]
        torch.testing.assert_close(torch.autograd.grad(quantile_activation(x), x, up)[0], up * f)


# ---- properties


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_negatives_stay_below_the_negative_mass_and_the_others_above(loops, method, p):
    z = randn(5000, 2)
    out = quantile_activation(z, negative_mass=p, method=method)
    assert out.min() > 0
    assert out.max() < 1
    assert out[z < 0].max() <= p
    assert out[z >= 0].min() >= p


@pytest.mark.parametrize("method", METHODS)
def test_rises_with_the_value_and_ignores_a_positive_factor(loops, method):
    z = randn(6000, 2)
    out = quantile_activation(z, method=method)
    order = z[:, 0].argsort()
    assert (out[order, 0].diff() >= 0).all()
    for factor in (0.125, 2.0, 64.0):
        assert torch.equal(quantile_activation(factor * z, method=method), out)
    torch.testing.assert_close(quantile_activation(0.1 * z, method=method), out, rtol=0, atol=2e-3)


def test_ignores_any_increasing_map_that_keeps_signs():
    z = randn(500, 2)
    torch.testing.assert_close(quantile_activation(z.pow(3)), quantile_activation(z))


def test_sees_a_shift_by_as_much_as_the_formula_says():
    z = randn(1000, 1)
    moved = quantile_activation(z + 0.5) - quantile_activation(z)
    # a standard normal value 0 has rank 1/2; at 0.5 it stands at the quantile .5 + .5 (Phi(0) - Phi(-.5)) / Phi(.5)
    assert moved[z.abs().argmin()].item() == pytest.approx(0.5 * 0.1915 / 0.6915, abs=0.02)
    assert moved.abs().max() > 0.15


@pytest.mark.parametrize("method", METHODS)
def test_is_odd_around_one_half(loops, method):
    z = randn(5000, 2)
    torch.testing.assert_close(quantile_activation(-z, method=method), 1 - quantile_activation(z, method=method))


@pytest.mark.parametrize("method", METHODS)
def test_pools_batch_and_positions_and_follows_a_permutation(loops, method):
    x = randn(10, 3, 7, 5)
    out = quantile_activation(x, method=method)
    rows = x.transpose(0, 1).reshape(3, -1).T
    torch.testing.assert_close(out.transpose(0, 1).reshape(3, -1).T, quantile_activation(rows, method=method))
    order = torch.randperm(10)
    assert torch.equal(quantile_activation(x[order], method=method), out[order])


@pytest.mark.parametrize("method", METHODS)
def test_one_sided_channels_stay_on_their_side(loops, method):
    z = randn(999, 1).abs() + 0.01
    above, below = quantile_activation(z, method=method), quantile_activation(-z, method=method)
    quartiles = torch.tensor([0.625, 0.75, 0.875])
    torch.testing.assert_close(above.quantile(torch.tensor([0.25, 0.5, 0.75])), quartiles, rtol=0, atol=2e-3)
    assert above.min() > 0.5
    assert below.max() < 0.5
    torch.testing.assert_close(below, 1 - above)
    assert gradient(z, method=method).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 7, 5000])
def test_constant_channels(loops, method, n):
    share = n / (n + 1)
    for value, expected in ((2.3, 0.5 + 0.5 * share), (-2.3, 0.5 - 0.5 * share), (0.0, 0.5 + 0.5 * share)):
        out = quantile_activation(torch.full((n, 1), value), method=method)
        torch.testing.assert_close(out, torch.full((n, 1), expected))
    assert quantile_activation(column([3.0])).item() == 0.75
    assert quantile_activation(column([-3.0])).item() == 0.25


def test_negative_zero_is_zero():
    assert torch.equal(
        quantile_activation(column([-0.0, 0.0, -1.0]))[0], quantile_activation(column([0.0, 0.0, -1.0]))[0]
    )
    assert torch.equal(
        quantile_activation(column([-0.0, 0.0, -1.0]), method="table"), quantile_activation(column([0.0, 0.0, -1.0]))
    )


@pytest.mark.parametrize("method", METHODS)
def test_nan_stays_where_it_is_and_counts_nowhere(loops, method):
    z = randn(700, 2)
    holes = torch.rand(700, 2, generator=torch.Generator().manual_seed(1)) < 0.1
    out = quantile_activation(z.masked_fill(holes, torch.nan), method=method)
    assert torch.equal(out.isnan(), holes)
    for channel in range(2):
        kept = ~holes[:, channel]
        alone = quantile_activation(z[kept, channel, None], method=method)
        torch.testing.assert_close(out[kept, channel, None], alone)
    f = gradient(z.masked_fill(holes, torch.nan), method=method)
    assert torch.equal(f.isnan(), holes)


@pytest.mark.parametrize("method", METHODS)
def test_infinities_are_the_extremes(loops, method):
    z = torch.cat([column([torch.inf, -torch.inf]), randn(600, 1)])
    out = quantile_activation(z, method=method)
    assert out[0] == out.max()
    assert out[1] == out.min()
    assert out.isfinite().all()
    assert gradient(z, method=method).isfinite().all()


def test_uniform_for_a_symmetric_context():
    half = randn(1500, 1)
    out = quantile_activation(torch.cat([half, -half]))[:, 0].numpy()
    assert kstest(out, "uniform").statistic < 1.36 / math.sqrt(3000)
    assert out.mean() == pytest.approx(0.5, abs=1e-3)
    assert out.var() == pytest.approx(1 / 12, abs=1e-3)


@pytest.mark.parametrize("n", [200, 3000, 6000])
def test_deterministic(loops, n):
    z = randn(n, 4)
    assert torch.equal(quantile_activation(z), quantile_activation(z))
    assert torch.equal(gradient(z), gradient(z))


def test_levels_are_steps_of_the_continuous_form():
    z = randn(400, 1)
    F = quantile_activation(z)
    out = quantile_activation(z, levels=100)
    k = torch.arange(1, 101)
    torch.testing.assert_close(out, (k / 101 <= F).sum(1, keepdim=True) / 100)
    assert len(out.unique()) == 101
    torch.testing.assert_close(gradient(z, levels=100), gradient(z))
    assert quantile_activation(column([3.0]), levels=3).item() == 1.0  # F = 3/4 reaches the third of three levels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_in_and_out(loops, dtype, method):
    x = randn(40, 3, 12, 12)
    half = x.to(dtype).requires_grad_()
    out = quantile_activation(half, method=method)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), quantile_activation(x, method=method), rtol=0, atol=1e-2)
    out.sum().backward()
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad.float(), gradient(x, method=method), rtol=0, atol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_memory_format_is_kept_and_changes_nothing(loops, method):
    for x, memory_format in (
        (randn(30, 20, 9, 8), torch.channels_last),
        (randn(6, 5, 9, 8, 3), torch.channels_last_3d),
    ):
        last = x.to(memory_format=memory_format)
        out = quantile_activation(last, method=method)
        assert out.is_contiguous(memory_format=memory_format)
        assert torch.equal(out, quantile_activation(x, method=method))
        torch.testing.assert_close(gradient(last, method=method), gradient(x, method=method))
    every_second = randn(30, 20, 9, 16)[..., ::2]
    assert torch.equal(
        quantile_activation(every_second, method=method), quantile_activation(every_second.contiguous(), method=method)
    )
    same = randn(1, 6).expand(50, 6)
    assert torch.equal(quantile_activation(same, method=method), quantile_activation(same.clone(), method=method))


def test_more_threads_change_nothing():
    x, rows = randn(16, 48, 20, 20), randn(128, 512)
    one = quantile_activation(x), quantile_activation(rows), gradient(x), gradient(rows)
    torch.set_num_threads(3)
    many = quantile_activation(x), quantile_activation(rows), gradient(x), gradient(rows)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


@pytest.mark.parametrize("n", [100, 6000])
def test_a_penalty_on_the_gradient_differentiates_what_comes_in(n):
    x, weight = randn(n, 2).requires_grad_(), torch.tensor(3.0, requires_grad=True)
    first = torch.autograd.grad((weight * quantile_activation(x)).sum(), x, create_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(first.sum(), weight)[0], gradient(x.detach()).sum())


def test_only_two_bytes_a_value_are_kept_of_a_large_input():
    x = randn(20, 4, 40, 40).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        quantile_activation(x)
    of_input_size = [t for t in kept if t.numel() >= x.numel()]
    assert [t.dtype for t in of_input_size] == [torch.int16]


@pytest.mark.skipif(not quantile_cpu.is_compiled(), reason="there is no C++ compiler")
def test_compiled_loops_are_their_plain_twins():
    x = torch.cat([randn(30, 5, 9, 9), torch.tensor([0.0, torch.nan, torch.inf]).repeat(5, 27).view(1, 5, 9, 9)])
    bandwidth = torch.full((5, 1), 0.5)
    coarse = quantile_cells.count_coarse(x)
    assert torch.equal(quantile_cpu.count_coarse(x), coarse)
    key, fine = quantile_cells.refine(x, coarse, 0.3)
    fast_key, fast_fine = quantile_cpu.refine(x, coarse, 0.3)
    assert torch.equal(fast_key, key)
    assert torch.equal(fast_fine, fine)
    cdf, density = quantile_cells.tables(coarse, fine, bandwidth, 0.3)
    fast_cdf, fast_density = quantile_cpu.tables(coarse, fine, bandwidth, 0.3)
    used = fine > 0
    torch.testing.assert_close(fast_cdf[used], cdf[used], equal_nan=True)
    torch.testing.assert_close(fast_density[used], density[used], rtol=1e-4, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(quantile_cpu.look_up(cdf, key), quantile_cells.look_up(cdf, key), equal_nan=True)


@pytest.mark.skipif(not quantile_cpu.is_compiled(), reason="there is no C++ compiler")
@pytest.mark.parametrize("p", [0.5, 0.1])
def test_compiled_loops_learn_as_their_plain_twins(p, monkeypatch):
    """Over batches in which values repeat in some channels, stop to repeat, are zero, and are missing."""
    batches = [3 * randn(300, 20, seed=seed) for seed in range(4)]
    for batch in batches[:2]:
        batch[:150, :3] = torch.tensor([-0.37, 0.8, -2.0])
    batches[2][:40, 17] = 1.6
    batches[3][:100, 5] = 0.0
    batches[3][:50, 6] = torch.nan
    learned = {"loops, of rows": [], "loops": [], "plain": []}
    for way, statistics in learned.items():
        mass, ties = torch.zeros(20, quantile_cells.STORED_CELLS), torch.zeros(2, 20, quantile_cells.STORED_CELLS)
        with monkeypatch.context() as patch:
            if way == "plain":
                patch.setattr(quantile_cpu, "serves", lambda x: False)
            for number, batch in enumerate(batches):
                factor = torch.tensor(1 / (1 + number))
                rows = batch.T if number % 2 else batch.T.contiguous()
                cdf = rank_rows(rows, rows, p)
                if way == "loops, of rows":
                    quantile_running.learn_rows(mass, ties, rows, cdf, p, factor)
                else:
                    coarse = quantile_cells.count_coarse(batch)
                    pairs = quantile_cells.pairs_of_ranks(rows, cdf, coarse, p)
                    quantile_running.learn(mass, ties, coarse, pairs, factor)
        statistics += [mass, ties]
    assert (learned["plain"][1][0] > 0).sum(1).tolist() == [1, 1, 1] + 14 * [0] + [1] + 2 * [0]
    for way in ("loops, of rows", "loops"):
        torch.testing.assert_close(learned[way], learned["plain"])


@pytest.mark.skipif(not quantile_cpu.is_compiled(), reason="there is no C++ compiler")
@pytest.mark.parametrize("p", [0.5, 0.1])
def test_compiled_loops_of_stored_contexts_are_their_plain_twins(p):
    x = 3 * randn(40, 5, 9, 9)
    x[:20, :3] = torch.tensor([-0.37, 0.8, -2.0]).view(3, 1, 1)
    x[0, :, 0, :4] = torch.tensor([0.0, torch.nan, torch.inf, -torch.inf])
    rows = x.transpose(0, 1).reshape(5, -1)
    coarse = quantile_cells.count_coarse(x)
    _, fine = quantile_cells.refine(x, coarse, p)
    pairs = quantile_cells.pairs_of_counts(coarse, fine, p)
    assert torch.equal(quantile_cpu.pairs_of_counts(coarse, fine, p), pairs)
    cdf = rank_rows(rows, rows, p)
    assert torch.equal(
        quantile_cpu.pairs_of_ranks(rows, cdf, coarse, p), quantile_cells.pairs_of_ranks(rows, cdf, coarse, p)
    )
    ties = quantile_running.ties_of_batch(coarse, pairs)
    assert (ties[0] > 0).sum(1).tolist() == [1, 1, 1, 0, 0]
    mass = coarse[:, : quantile_cells.STORED_CELLS].float()
    tables = quantile_running.stored_tables(mass, ties, p)
    torch.testing.assert_close(quantile_cpu.stored_tables(mass, ties, p, 1 / 64), tables)
    x[1, :, 0, :4] = torch.tensor([1e-9, -1e-9, 3e8, -3e8])
    for laid_out in (x, x.contiguous(memory_format=torch.channels_last), x[:, :, 1:, ::2]):
        out = quantile_cpu.read_stored(*tables, laid_out)
        torch.testing.assert_close(out, quantile_running.read_stored(*tables, laid_out), equal_nan=True)


def test_cells_count_every_value_once_and_add_up_over_shards():
    x = randn(100, 3, 4)
    counts = quantile_cells.count_coarse(x)
    assert counts.sum(1).tolist() == [400, 400, 400]
    assert torch.equal(quantile_cells.count_coarse(x[:37]) + quantile_cells.count_coarse(x[37:]), counts)


def test_cell_positions_and_magnitudes_are_inverse():
    position = torch.linspace(0, quantile_cells.MAGNITUDES - 1.001, 5000, dtype=torch.float64)
    again = quantile_cells.position_of(quantile_cells.magnitude_at(position))
    torch.testing.assert_close(again, position, rtol=0, atol=1e-9)


def test_the_nodes_kernel_keeps_mass():
    kernel = kernel_between_nodes(torch.device("cpu"))
    middle = kernel[256]  # of a unit mass at zero, on nodes 1/8 apart near zero
    within_two = middle[256 - 16 : 256 + 17]
    assert torch.trapezoid(within_two, dx=1 / 8).item() == pytest.approx(0.9545, abs=1e-3)


# ---- bad input


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.long), {}, "convert it to floating-point"),
        (torch.zeros(3), {}, "samples by channels"),
        (torch.zeros(0, 3), {}, "empty batch has no context"),
        (torch.zeros(3, 2), {"negative_mass": 1.0}, "negative_mass is 1.0: give a number between 0 and 1"),
        (torch.zeros(3, 2), {"bandwidth": 0.0}, "bandwidth is 0.0: give a finite number above 0"),
        (torch.zeros(3, 2), {"bandwidth": "silverman"}, "or 'scaled'|above 0, or 'scaled'"),
        (torch.zeros(3, 2), {"levels": 0}, "levels is 0"),
        (torch.zeros(3, 2), {"method": "sort"}, "choose one of auto, exact, table"),
    ],
)
def test_bad_input_names_the_remedy(x, options, message):
    with pytest.raises(ValueError, match=message):
        quantile_activation(x, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_features": 0}, "at least 1"),
        ({"num_features": 2, "context": "global"}, "choose batch or running"),
        ({"num_features": 2, "momentum": 0.0}, "momentum is 0.0"),
        ({"num_features": 2, "negative_mass": 0.0}, "between 0 and 1"),
    ],
)
def test_bad_layers_name_the_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        QuantileActivation(**options)


def test_the_layer_names_the_channels_it_was_made_for():
    with pytest.raises(ValueError, match=r"5 channels: this layer was made for 4"):
        QuantileActivation(4)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="floating-point"):
        QuantileActivation(4)(torch.zeros(2, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match="empty batch"):
        QuantileActivation(4)(torch.zeros(0, 4))


# ---- the layer


def test_the_layer_is_two_batch_norms_around_the_function():
    x = randn(32, 4, 6, 6) * 3 + 1
    layer = QuantileActivation(4)
    before, after = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    for norm, ours in ((before, layer.pre_norm), (after, layer.post_norm)):
        ours.weight.data = norm.weight.data = randn(4, seed=3)
        ours.bias.data = norm.bias.data = randn(4, seed=4)
    expected = after(quantile_activation(before(x)))
    torch.testing.assert_close(layer(x), expected)
    # the first batch counts whole here, in BatchNorm with its momentum
    fresh = nn.BatchNorm2d(4, momentum=1.0)
    fresh(x)
    torch.testing.assert_close(layer.pre_norm.running_mean, fresh.running_mean)
    torch.testing.assert_close(layer.pre_norm.running_var, fresh.running_var)


@pytest.mark.parametrize(("pre", "post"), [(False, False), (True, False), (False, True)])
def test_each_norm_may_be_left_out(pre, post):
    x = randn(50, 3) + 5
    layer = QuantileActivation(3, pre_norm=pre, post_norm=post)
    names = {name.split(".")[0] for name, _ in layer.named_parameters()}
    assert names == {name for name, there in (("pre_norm", pre), ("post_norm", post)) if there}
    out = layer(x)
    assert (out.mean().abs() < 1e-5) == post
    if not pre and not post:
        assert torch.equal(out, quantile_activation(x))
        assert out.min() > 0.5  # all are positive: the common offset is seen


@pytest.mark.parametrize("shape", [(4000, 3), (64, 3, 10, 10)])
@pytest.mark.parametrize("pre", [False, True])
def test_running_context_scores_one_sample_like_the_batch(shape, pre):
    layer = QuantileActivation(3, pre_norm=pre, post_norm=False, context="running")
    for seed in range(20):
        layer(randn(*shape, seed=seed) * 2)
    x = randn(*shape, seed=99) * 2
    batch = copy.deepcopy(layer).train()(x)[:60]
    layer.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = torch.cat([layer(sample[None]) for sample in x[:60]])
    torch.testing.assert_close(alone, layer(x)[:60], rtol=0, atol=1e-6)
    assert (alone - batch).abs().mean() < 1e-2


def test_running_distribution_and_density_are_those_of_all_that_was_seen():
    seen = randn(20_000, 1)
    layer = QuantileActivation(1, pre_norm=False, post_norm=False, context="running", momentum=None)
    for batch in seen.split(5000):
        layer(batch)
    layer.eval()
    z = torch.linspace(-4, 4, 401)[:, None].requires_grad_()
    out = layer(z)
    np.testing.assert_allclose(out.detach()[:, 0], cdf_by_definition(z.detach()[:, 0], seen[:, 0]), atol=5e-3)
    f = torch.autograd.grad(out.sum(), z)[0][:, 0]
    np.testing.assert_allclose(f, density_by_definition(z.detach()[:, 0], seen[:, 0]), atol=2e-3)


def test_running_context_with_zeros_nan_and_infinities():
    layer = QuantileActivation(1, pre_norm=False, post_norm=False, context="running")
    layer(column([0.0] * 50 + [1.0] * 25 + [-1.0] * 25 + [torch.nan]))
    layer.eval()
    out = layer(column([0.0, -1e-30, torch.nan, torch.inf, -torch.inf, 0.5]))[:, 0]
    expected = torch.tensor(
        [0.5 + 0.5 * 50 / 76, 0.5, torch.nan, 0.5 + 0.5 * 75 / 76, 0.5 - 0.5 * 25 / 26, 0.5 + 0.5 * 50 / 76]
    )
    torch.testing.assert_close(out, expected, equal_nan=True)


# ---- stored contexts in which values repeat


def with_equal_values(n, at, share=0.69, seed=0):
    """A channel of which a share is ``at`` and the rest standard normal."""
    x = randn(n, seed=seed)
    x[: round(share * n)] = at
    return column(x)


def stored(batches, **options):
    layer = QuantileActivation(1, pre_norm=False, post_norm=False, context="running", **options)
    for batch in batches:
        layer(batch)
    return layer.eval()


def errors(layer, x):
    """How far F in the stored context is off the definition in the context ``x``, at ``x``."""
    return np.abs(layer(x)[:, 0].numpy() - cdf_by_definition(x[:, 0], x[:, 0], layer.negative_mass))


def test_stored_equal_values_have_the_rank_of_the_last_worked_by_hand():
    batch = column([-0.37] * 20 + [-0.1] * 4 + [-0.9] * 6 + [0.8] * 10 + [3.0] * 5)
    layer = stored([batch])
    # -0.9 and -0.1 are too few, and read off the line in their cells; so is 3.0
    out = layer(column([-0.37, -0.36, -0.5, 0.8, 0.81, 0.7, 1.0]))[:, 0]
    outer, inner = 0.5 * (1 - 24 / 31), 0.5 * (1 - 4 / 31)
    assert quantile_cells.coarse_key(column([-0.37, -0.36])).unique().numel() == 1
    expected = [outer, outer, outer, 0.5 + 0.5 * 10 / 16, 0.5 + 0.5 * 10 / 16, 0.5, 0.5 + 0.5 * 10 / 16]
    torch.testing.assert_close(out, torch.tensor(expected))
    assert layer(column([-0.34]))[0, 0] == pytest.approx(inner)


@pytest.mark.parametrize("n", [3000, 6000])
@pytest.mark.parametrize("at", [-0.37, 0.8, -0.5])
def test_stored_equal_values_have_the_rank_of_the_batch(loops, n, at):
    layer = stored(with_equal_values(n, at, seed=seed) for seed in range(10))
    x = with_equal_values(n, at, seed=99)
    error = errors(layer, x)
    assert error[0] < 4e-3  # at the equal values
    assert error.mean() < 4e-3
    assert np.quantile(error, 0.98) < 2e-2  # the rest are values of the same cell: F steps at its inner edge


@pytest.mark.parametrize("n", [4000, 6000])
@pytest.mark.parametrize("spread", [0.03, 0.1])
def test_equal_values_may_lie_elsewhere_in_every_batch(loops, n, spread):
    places = -0.37 * (1 + spread * torch.linspace(-1, 1, 15)[torch.randperm(15, generator=torch.Generator())])
    layer = stored([with_equal_values(n, at, seed=seed) for seed, at in enumerate(places)], momentum=None)
    assert (layer.running_ties[0] > 0).sum() > 1  # more than one cell
    for at, tolerance in ((places.min(), 2e-2), (torch.tensor(-0.37), 5e-3), (places.max(), 2e-2)):
        assert errors(layer, with_equal_values(n, at, seed=99))[0] < tolerance


def test_two_equal_values_in_neighbouring_cells_keep_their_ranks(loops):
    def batch(seed):
        return torch.cat([with_equal_values(3000, -0.37, seed=seed), with_equal_values(3000, -0.39, seed=50 + seed)])

    layer = stored(batch(seed) for seed in range(10))
    x = batch(99)
    error = errors(layer, x)
    assert max(error[0], error[3000]) < 4e-3
    out = layer(column([-0.37, -0.39]))[:, 0]
    assert out[0] - out[1] == pytest.approx(0.5 * 0.345 / 0.845, abs=1e-2)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("normal", 7e-3), ("far", 0.125), ("narrow and far", 0.18), ("log-normal", 5e-3), ("zeros", 7e-3)],
)
def test_values_that_differ_are_read_off_the_line(loops, name, tolerance):
    def batch(n, seed):
        x = randn(n, 1, seed=seed)
        zeros = torch.where(torch.arange(n)[:, None] % 2 == 0, 0.0, x)
        return {"normal": x, "far": x + 100, "narrow and far": x / 4 + 98, "log-normal": x.exp(), "zeros": zeros}[name]

    for n in (64, 4000, 5000):
        layer = stored((batch(n, seed) for seed in range(10)), momentum=None)
        assert not layer.running_ties.any()
    assert errors(layer, batch(20_000, 99)).max() < tolerance


def test_stored_context_with_equal_values_rises_and_is_odd(loops):
    half = torch.cat([with_equal_values(1500, 0.37, 0.3), with_equal_values(1500, 2.0, 0.1, seed=1)]).abs()
    layer = stored([torch.cat([half, -half])])
    z = torch.linspace(-4, 4, 4001)[:, None]
    z = z[z[:, 0] != 0]
    out = layer(z)[:, 0]
    assert (out.diff() >= -1e-7).all()
    assert (out[z[:, 0] < 0] <= 0.5).all()
    torch.testing.assert_close(layer(-z)[:, 0], 1 - out, rtol=0, atol=1e-6)


def test_ties_are_means_over_batches_as_masses_are():
    def ties(momentum):
        batches = [column([value] * 10 + [-8.0] * 10) for value in (-2.0, -4.0)]
        count, rank = stored(batches, momentum=momentum).running_ties[:, 0]
        return count[count > 0].tolist(), rank[count > 0].tolist()

    # at -2 and -4 10 of 20 values are up to there, at -8 all
    for momentum, weights in ((None, (0.5, 0.5)), (1.0, (0.0, 1.0))):
        count, rank = ties(momentum)
        expected = [10 * weight for weight in weights if weight]
        assert count == pytest.approx([*expected, 10])
        assert rank == pytest.approx([*(10 / 21 * c for c in expected), 20 / 21 * 10])


@pytest.mark.parametrize("p", [0.5, 0.1])
def test_equal_values_are_counted_in_every_cell(loops, p):
    x = torch.cat([with_equal_values(700, -0.37), column([0.8] * 300 + [0.0] * 50 + [torch.nan] * 3), randn(400, 1)])
    x = torch.cat([x, x.flip(0) * 2, -x], 1)
    rows = x.T.contiguous()
    coarse = quantile_cells.count_coarse(x)
    expected = torch.zeros(coarse.shape, dtype=torch.int64)
    for channel in range(3):
        known = rows[channel][~rows[channel].isnan()]
        values, count = known.unique(return_counts=True)
        expected[channel].index_add_(0, quantile_cells.coarse_key(values).long(), count * (count - 1))
    cdf = rank_rows(rows, rows, p)
    assert torch.equal(pairs_of_ranks(rows, cdf, coarse, p), expected)
    shards = [pairs_of_ranks(rows[:, part], cdf[:, part], coarse, p) for part in (slice(500), slice(500, None))]
    assert torch.equal(sum(shards), expected)
    table = build_table(x, p, torch.full((3, 1), 0.5), lambda counts: counts)
    large = (coarse >= 100) & (expected > 0)  # divided into so many parts that hardly any two others share one
    torch.testing.assert_close(pairs_of_table(table, p)[large].double(), expected[large].double(), rtol=2e-3, atol=0)


def test_adapting_to_images_with_a_constant_background_scores_them_as_the_batch_does():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), QuantileActivation(6), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 6, 3, padding=1), QuantileActivation(6), nn.Flatten(), nn.Linear(6 * 36, 4)),
    ).eval()
    images = torch.zeros(240, 1, 12, 12)
    images[:, :, 4:9, 4:9] = randn(240, 1, 5, 5).abs()
    with torch.no_grad():
        expected = torch.cat([net(batch) for batch in images.split(60)])
        adapt_context(net, images.split(60))
        difference = net(images) - expected
    assert difference.square().mean() < 5e-2 * expected.var(0).mean()  # 0.016; read off lines alone, 2.1


def test_momentum_weighs_batches_and_none_takes_their_mean():
    batches = [torch.full((10, 1), value) for value in (0.5, 2.0, 8.0, 32.0)]

    def weights(momentum):
        layer = QuantileActivation(1, momentum=momentum, pre_norm=False)
        for batch in batches:
            layer(batch)
        mass = layer.running_mass[0]
        return [m.item() / 10 for m in mass[mass > 0]]

    assert weights(None) == pytest.approx([0.25] * 4)
    # 1, then 1/2, then 0.4 twice
    assert weights(0.4) == pytest.approx([0.18, 0.18, 0.24, 0.4])
    assert weights(1.0) == pytest.approx([1.0])


def test_a_layer_that_saw_nothing_takes_a_standard_normal_context():
    layer = QuantileActivation(2, context="running", post_norm=False).eval()
    z = torch.linspace(-3, 3, 61)[:, None].expand(61, 2)
    torch.testing.assert_close(layer(z), torch.special.ndtr(z), rtol=0, atol=2e-3)


def test_state_dict_round_trip_is_bitwise(tmp_path):
    layer = QuantileActivation(3, context="running")
    for seed in range(3):
        x = randn(20, 3, seed=seed)
        x[:12] = 0.3
        layer(x)
    assert layer.running_ties.any()
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = QuantileActivation(3, context="running")
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(other.eval()(randn(5, 3)), layer.eval()(randn(5, 3)))
    layer.train()(randn(20, 3, seed=7))
    other.train()(randn(20, 3, seed=7))
    assert all(torch.equal(a, b) for a, b in zip(layer.state_dict().values(), other.state_dict().values(), strict=True))


def test_evaluation_leaves_the_running_statistics_alone():
    for context in ("batch", "running"):
        layer = QuantileActivation(3, context=context)
        layer(randn(20, 3))
        before = copy.deepcopy(layer.state_dict())
        layer.eval()(randn(20, 3) + 1)
        assert all(torch.equal(a, b) for a, b in zip(before.values(), layer.state_dict().values(), strict=True))


def test_batch_context_evaluates_as_it_trains_and_warns_of_one_sample():
    layer = QuantileActivation(3)
    x = randn(20, 3)
    assert torch.equal(copy.deepcopy(layer).eval()(x), layer(x))
    with pytest.warns(UserWarning, match="one sample is scored in the context of its own batch"):
        layer.eval()(x[:1])


@pytest.mark.parametrize("shape", [(30, 4), (30, 4, 13, 13)])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_counts_a_batch_once_and_changes_nothing(shape, use_reentrant):
    plain, layer = QuantileActivation(4), QuantileActivation(4)
    x = randn(*shape).requires_grad_()
    up = randn(*shape, seed=1)
    expected = torch.autograd.grad(plain(x), x, up)[0]
    out = checkpoint(layer, x, use_reentrant=use_reentrant)
    out.backward(up)
    assert torch.equal(x.grad, expected)
    assert layer.num_batches_tracked == 1
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), layer.state_dict().values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_counts_stay_exact_in_a_model_of_half_precision(dtype):
    layer = QuantileActivation(1, momentum=1.0, pre_norm=False).to(dtype)
    layer(torch.full((70_000, 1), 2.0, dtype=dtype))
    assert layer.running_mass.dtype == torch.float32
    assert layer.running_mass.max() == 70_000
    assert layer.running_ties.dtype == torch.float32
    assert layer.running_ties.max() == 70_000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layer_in_half_precision_and_under_autocast(dtype):
    layer = QuantileActivation(4)
    x = randn(16, 4, 8, 8).to(dtype).requires_grad_()
    out = layer(x)
    out.sum().backward()
    assert out.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(out.float(), QuantileActivation(4)(x.float()), rtol=0, atol=5e-2)
    layer.eval()
    set_context(layer, "running")
    assert layer(x).dtype == dtype
    assert layer.running_mass.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.train()(nn.Conv2d(3, 4, 1)(randn(2, 3, 5, 5))).dtype == torch.bfloat16


def check_compiled(module, shape, **options):
    torch._dynamo.reset()
    other = copy.deepcopy(module)
    x, up = randn(*shape).requires_grad_(), randn(*shape, seed=1)
    out = module(x)
    compiled = torch.compile(other, fullgraph=True, **options)(x)
    torch.testing.assert_close(compiled, out)
    torch.testing.assert_close(torch.autograd.grad(compiled, x, up), torch.autograd.grad(out, x, up))
    torch.testing.assert_close(list(other.buffers()), list(module.buffers()))


@pytest.mark.parametrize(("shape", "training"), [((32, 8), True), ((8, 6, 24, 24), True), ((8, 6, 4, 4), False)])
def test_compiles_whole(shape, training):
    check_compiled(QuantileActivation(shape[1], context="running").train(training), shape, backend="aot_eager")


def test_plain_twins_compile_whole(monkeypatch):
    monkeypatch.setattr(quantile_cpu, "serves", lambda x: False)
    check_compiled(QuantileActivation(2, pre_norm=False, post_norm=False), (20, 2, 16, 16), backend="aot_eager")


@pytest.mark.inductor
@pytest.mark.parametrize("shape", [(32, 8), (8, 6, 24, 24)])
def test_compiles_with_inductor(loops, shape):
    check_compiled(QuantileActivation(shape[1], pre_norm=False, post_norm=False), shape)


@pytest.mark.filterwarnings("ignore")
def test_running_mode_exports_to_onnx(tmp_path):
    layer = QuantileActivation(4)
    for seed in range(3):
        x = randn(32, 4, 6, 6, seed=seed) * 3 + 1
        x[:, :, :4] = 0.4  # values that repeat
        layer(x)
    assert (layer.running_ties[0] > 0).any(1).all()
    set_context(layer, "running")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Flatten(), nn.Linear(144, 2)).eval()
    program = torch.onnx.export(
        net, (randn(4, 3, 8, 8),), dynamo=True, dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False
    )
    program.save(tmp_path / "net.onnx")
    assert next(o.version for o in program.model_proto.opset_import if o.domain == "") >= 18
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for n in (1, 4, 9):
        x = 5 * randn(n, 3, 8, 8, seed=n)
        x[0, 0, 0, 0] = 1e6
        x[0, :, 4:] = 0.0
        out = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        np.testing.assert_allclose(out, net(x).detach(), atol=1e-5)


# ---- contexts of a model


def small_net(**options):
    return nn.Sequential(nn.Linear(5, 6), QuantileActivation(6, **options), nn.Dropout(0.5), nn.BatchNorm1d(6))


def test_set_context_reaches_every_layer():
    net = nn.Sequential(small_net(), nn.Linear(6, 5), small_net())
    set_context(net, "running")
    assert [m.context for m in net.modules() if isinstance(m, QuantileActivation)] == ["running"] * 2
    with pytest.raises(ValueError, match="choose batch or running"):
        set_context(net, "stored")
    with pytest.raises(ValueError, match="no QuantileActivation"):
        set_context(nn.Linear(2, 2), "running")


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, 0), lambda x: {"inputs": x}])
def test_adapting_takes_the_new_inputs_as_context(wrap):
    net = small_net(pre_norm=False, post_norm=False).eval()
    net[0].requires_grad_(False).weight.copy_(torch.eye(6, 5))
    net[0].bias.zero_()
    norm = copy.deepcopy(net[3].state_dict())
    old, new = randn(300, 5), 3 * randn(300, 5, seed=1) - 1
    adapt_context(net, [old])
    adapt_context(net, [wrap(half) for half in new.split(150)])
    layer = net[1]
    assert layer.context == "running"
    assert layer.num_batches_tracked == 2
    assert not any(module.training for module in net.modules())
    assert layer.momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(norm.values(), net[3].state_dict().values(), strict=True))
    out = layer(net[0](new))
    np.testing.assert_allclose(out[:, 0], cdf_by_definition(new[:, 0], new[:, 0]), atol=2e-2)


def test_adapting_without_reset_adds_to_what_was_known():
    layer = QuantileActivation(1, pre_norm=False)
    adapt_context(layer, [torch.full((10, 1), 1.0)])
    adapt_context(layer, [torch.full((10, 1), 4.0)], reset=False)
    mass = layer.running_mass[0]
    assert mass[mass > 0].tolist() == [5.0, 5.0]


def test_adapting_needs_batches_and_restores_modes_after_an_error():
    net = small_net().eval()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="no batch"):
        adapt_context(net, [])
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    with pytest.raises(RuntimeError):
        adapt_context(net, [torch.zeros(3, 4)])
    assert net[1].momentum == 0.1
    assert not any(module.training for module in net.modules())


# ---- conversion


class Block(nn.Module):
    def __init__(self, width, relu):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.relu = relu

    def forward(self, x):
        return self.relu(self.second(self.relu(self.first(x))) + x)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(nn.functional.relu(self.body(torch.relu(self.stem(x)).relu())))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.relu, self.twice = nn.Linear(3, 3), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        x = self.relu(self.layer(x))
        if x.sum() > 0:
            x = self.twice(self.twice(x))
        return x + 1


def quantile_layers(model):
    return {name: m.num_features for name, m in model.named_modules() if isinstance(m, QuantileActivation)}


def test_conversion_of_modules_keeps_the_rest_and_leaves_the_original_alone(caplog):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 7), nn.ReLU()
    )
    state, text = copy.deepcopy(net.state_dict()), repr(net)
    with caplog.at_level("INFO"):
        converted = convert_activations(net, randn(2, 3, 4, 4))
    assert type(converted) is nn.Sequential
    assert converted.converted_activations == quantile_layers(converted) == {"2": 4, "5": 7}
    assert "converted 2 activations: 2 (4 channels), 5 (7 channels)" in caplog.text
    assert repr(net) == text
    assert all(torch.equal(a, b) for a, b in zip(state.values(), net.state_dict().values(), strict=True))
    assert all(torch.equal(state[name], converted.state_dict()[name]) for name in state)
    assert converted(randn(8, 3, 4, 4)).shape == (8, 7)


def test_conversion_splits_shared_modules():
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 5), relu)
    assert convert_activations(net, randn(2, 3)).converted_activations == {"1": 4, "3": 5}
    blocks = nn.Sequential(nn.Linear(3, 4), Block(4, relu), Block(4, relu))
    converted = convert_activations(blocks, randn(2, 3))
    assert converted.converted_activations == {"1.relu": 4, "1.relu_2": 4, "2.relu": 4, "2.relu_2": 4}
    assert len({id(m) for m in converted.modules() if isinstance(m, QuantileActivation)}) == 4
    assert len(net) == 4
    assert net[1] is net[3]


def test_conversion_of_block_ends_alone():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Block(4, nn.ReLU()), Block(4, nn.ReLU()))
    converted = convert_activations(net, randn(2, 3), where="block-ends")
    assert quantile_layers(converted) == {"2.relu_2": 4, "3.relu_2": 4}
    assert sum(isinstance(m, nn.ReLU) for m in converted.modules()) == 3
    x = randn(6, 3)
    before = net[1](net[0](x))
    block = net[2]
    expected = QuantileActivation(4)(block.second(torch.relu(block.first(before))) + before)
    block = net[3]
    expected = QuantileActivation(4)(block.second(torch.relu(block.first(expected))) + expected)
    torch.testing.assert_close(converted(x), expected)


def test_conversion_of_functional_relus():
    net = Functional()
    converted = convert_activations(net, randn(2, 3))
    assert sorted(converted.converted_activations.values()) == [4, 4, 5]
    x = randn(10, 3)
    expected = QuantileActivation(5)(net.body(QuantileActivation(4)(QuantileActivation(4)(net.stem(x)))))
    torch.testing.assert_close(converted(x), net.head(expected))


def test_conversion_of_what_cannot_be_traced_says_what_stays():
    with pytest.warns(UserWarning, match=r"can't be traced .*functional ReLUs stay if it has any, and so do twice"):
        converted = convert_activations(Untraceable(), torch.ones(2, 3))
    assert quantile_layers(converted) == {"relu": 3}
    with pytest.raises(ValueError, match="ends of its blocks can't be told"):
        convert_activations(Untraceable(), torch.ones(2, 3), where="block-ends")


def test_conversion_keeps_the_mode_and_says_where_there_is_nothing_to_do():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).eval()
    assert not convert_activations(net, randn(2, 3))[1].training
    with pytest.raises(ValueError, match="no ReLU to convert"):
        convert_activations(nn.Linear(3, 4), randn(2, 3))
    with pytest.raises(ValueError, match="choose all or block-ends"):
        convert_activations(net, randn(2, 3), where="last")


def test_a_torchvision_resnet_18_runs_forward_and_backward():
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.resnet18(num_classes=10)
    x = randn(4, 3, 32, 32)
    converted = convert_activations(net, x)
    assert len(converted.converted_activations) == 17
    assert len(convert_activations(net, x, where="block-ends").converted_activations) == 8
    assert not any(isinstance(m, nn.ReLU) for m in converted.modules())
    converted(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in converted.parameters())
    assert converted.conv1.weight.grad.abs().sum() > 0
    set_context(converted, "running")
    assert converted.eval()(x[:1]).isfinite().all()


# ---- the loss and the classifier


def test_loss_worked_by_hand():
    logits = torch.tensor([[1.0, -1.0], [-1.0, 2.0], [2.0, 3.0]])
    # p = 1/2 for two classes. Class 0: ranks 2/3, 1/4, 5/6; class 1: 1/4, 2/3, 5/6
    p = torch.tensor([[2 / 3, 1 / 4], [1 / 4, 2 / 3], [5 / 6, 5 / 6]])
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(QuantileLoss(2)(logits, torch.tensor([0, 1, -1])), expected)
    torch.testing.assert_close(QuantileLoss(2)(logits, y), expected)


def test_loss_leaves_ignored_samples_out_of_loss_and_context():
    logits, target = randn(30, 4), torch.arange(30) % 4
    expected = QuantileLoss(4)(logits[:20], target[:20])
    ignoring = torch.cat([target[:20], torch.full((10,), -100)])
    leaf = logits.clone().requires_grad_()
    loss = QuantileLoss(4)(leaf, ignoring)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert leaf.grad.isfinite().all()
    assert torch.equal(leaf.grad[20:], torch.zeros(10, 4))
    nothing = QuantileLoss(4)(leaf, torch.full((30,), -100))
    assert nothing == 0
    assert torch.autograd.grad(nothing, leaf)[0].abs().sum() == 0
    assert QuantileLoss(4)(leaf[:0], target[:0]) == 0


def test_loss_gradient_is_cross_entropy_s_times_the_density():
    logits = randn(50, 3)
    target = torch.arange(50) % 3
    leaf = logits.clone().requires_grad_()
    QuantileLoss(3)(leaf, target).backward()
    p = quantile_activation(logits, negative_mass=1 / 3)
    y = nn.functional.one_hot(target, 3)
    f = gradient(logits, negative_mass=1 / 3)
    torch.testing.assert_close(leaf.grad, (p - y) / (p * (1 - p)) * f / 50)


def test_the_default_negative_mass_gives_the_prevalence():
    loss = QuantileLoss(10)
    logits = randn(5000, 10) - 1.2816  # 90 % of the logits are negative
    loss(logits, torch.zeros(5000, dtype=torch.long))
    p = loss.eval().probabilities(logits)
    assert p.min() > 0
    assert p.max() < 1
    assert p.mean().item() == pytest.approx(0.1, abs=0.005)
    assert p[logits < 0].max() <= 0.1 + 1e-6
    assert loss.probabilities(torch.full((1, 10), -1e-30)).flatten().tolist() == pytest.approx([0.1] * 10)
    other = QuantileLoss(10, negative_mass=0.9)
    assert other(logits, torch.zeros(5000, dtype=torch.long)) > 0
    assert other.eval().probabilities(logits).mean().item() == pytest.approx(0.5, abs=0.005)


def test_scores_of_the_loss_as_an_objective():
    loss = QuantileLoss(3).eval()
    logits = randn(6, 3)
    p = loss.probabilities(logits)
    assert not loss.exclusive
    torch.testing.assert_close(loss.unknown_score(logits), 1 - p.amax(1))
    score = loss.label_score(logits, torch.tensor([0, 1, 2, -1, -100, 0]))
    torch.testing.assert_close(score[0], (p[0] - torch.tensor([1.0, 0.0, 0.0])).abs())
    torch.testing.assert_close(score[3], p[3])
    assert score[4].isnan().all()


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), r"give \(N, 3\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "labels from 0 to 3: give 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0, -2]), "-1 for none of the classes"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "give class indices"),
        (torch.zeros(2, 3), torch.full((2, 3), 1.5), "outside 0 to 1"),
        (torch.zeros(2, 3, dtype=torch.long), torch.tensor([0, 1]), "floating-point"),
    ],
)
def test_loss_names_the_remedy(logits, target, message):
    with pytest.raises(ValueError, match=message):
        QuantileLoss(3)(logits, target)


def test_loss_needs_two_classes():
    with pytest.raises(ValueError, match="at least 2"):
        QuantileLoss(1)


def test_classifier_on_frozen_embeddings_beside_logistic_regression():
    images, digits = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(digits)
    train, test = slice(0, 1200), slice(1200, None)
    torch.manual_seed(0)
    classifier = QuantileClassifier(64, 10).fit(x[train], y[train], epochs=40)
    assert not classifier.training
    with torch.no_grad():
        p = classifier(x[test])
    assert p.shape == (597, 10)
    assert 0 < p.min() < p.max() < 1
    accuracy = metrics.accuracy(p, y[test])
    baseline = metrics.accuracy(
        LogisticRegression(max_iter=500).fit(x[train], y[train]).predict_proba(x[test]), y[test]
    )
    assert accuracy > 0.8
    assert accuracy < baseline  # as found on digits in every run so far
    assert p.mean().item() == pytest.approx(0.1, abs=0.02)
    assert metrics.ece(p, y[test], kind="marginal") < 0.09
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([classifier(sample[None]) for sample in x[test][:5]]), p[:5])


def test_classifier_fit_is_decided_by_its_seed():
    x, y = randn(90, 4), torch.arange(90) % 3
    start = QuantileClassifier(4, 3)
    a, b, c = (copy.deepcopy(start).fit(x, y, epochs=3, batch_size=40, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.linear.weight, b.linear.weight)
    assert not torch.equal(a.linear.weight, c.linear.weight)
