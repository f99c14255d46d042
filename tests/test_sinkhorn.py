"""The solver. T1 ... T21 name the properties it must have; T10 is in test_dsink.py, T22 in disturb/."""

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment import sinkhorn
from catchment.dsink import dsink_labels
from catchment.sinkhorn import SinkhornLabels, sinkhorn_labels
from catchment.training.distributed import leave_process_group

GOLDEN = np.load(Path(__file__).parent / "golden" / "dsink_pot.npz")
PROBLEMS = ("small", "cifar10_batch", "cifar100_batch", "tall")
few = settings(deadline=None, max_examples=25, derandomize=True)


def problem(seed, n, num_classes, sharpness=4.0, dtype=torch.float64):
    """Scores 0.5 (log f_N + log f), and the totals of f_L, of random models."""
    generator = torch.Generator().manual_seed(seed)
    f_noise, f, f_imbalance = (
        sharpness * torch.randn(n, num_classes, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    scores = 0.5 * (f_noise.log_softmax(1) + f.log_softmax(1))
    return scores.to(dtype), f_imbalance.softmax(1).sum(0)


def golden(name):
    noise, f, totals, q = (
        torch.from_numpy(GOLDEN[f"{name}/{key}"])
        for key in ("logits_noise_robust", "logits_target", "class_totals", "Q")
    )
    return 0.5 * (noise.log_softmax(1) + f.log_softmax(1)), totals, q


def marginal_error(labels, totals):
    return float((labels.double().sum(0) - totals * len(labels) / totals.sum()).abs().sum()) / len(labels)


def dual(scores, totals, potential):
    return float(totals @ potential - (scores + potential).logsumexp(1).sum())


@pytest.fixture
def _never_stored(monkeypatch):
    monkeypatch.setattr(sinkhorn, "STORED_ELEMENTS", 0)
    monkeypatch.setitem(sinkhorn.BLOCK_ELEMENTS, "cpu", 256)


@pytest.fixture(params=["stored", "in blocks"])
def _both_ways(request):
    if request.param == "in blocks":
        request.getfixturevalue("_never_stored")


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_rows_and_columns_have_their_sums(dtype, bound, num_classes):  # T1, T2
    scores, totals = problem(0, 300, num_classes, dtype=dtype)
    result = sinkhorn_labels(scores, totals, tol=bound)
    assert result.labels.dtype == dtype
    assert bool((result.labels >= 0).all())
    assert float((result.labels.double().sum(1) - 1).abs().max()) < 1e-6
    assert marginal_error(result.labels, totals) < bound
    assert result.error == pytest.approx(marginal_error(result.labels, totals), rel=1e-6, abs=1e-16)
    assert result.converged


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("name", PROBLEMS)
def test_agrees_with_the_golden_answers_of_pot(name):
    scores, totals, expected = golden(name)
    result = sinkhorn_labels(scores, totals, tol=1e-12)
    assert result.converged
    assert float((result.labels - expected).abs().max()) < 1e-9


@pytest.mark.parametrize("name", PROBLEMS[:3])
def test_from_the_logits_of_three_models_to_the_golden_answers(name):
    noise, f, imbalance, q = (
        torch.from_numpy(GOLDEN[f"{name}/{key}"])
        for key in ("logits_noise_robust", "logits_target", "logits_imbalance_robust", "Q")
    )
    result = dsink_labels(noise, f, imbalance, tol=1e-12)
    assert result.converged
    assert float((result.labels - q).abs().max()) < 1e-9


@pytest.mark.parametrize("method", ["sinkhorn", "sinkhorn_log", "sinkhorn_stabilized"])
def test_agrees_with_pot(method):  # T3
    import ot

    scores, totals = problem(1, 128, 10)
    n = len(scores)
    plan = ot.sinkhorn(
        np.full(n, 1 / n),
        (totals / n).numpy(),
        (-2 * scores).numpy(),
        2.0,
        method=method,
        stopThr=1e-14,
        numItermax=5000,
    )
    ours = sinkhorn_labels(scores, totals, tol=1e-13).labels.numpy()
    assert np.abs(n * plan - ours).max() < 1e-9


def test_is_the_minimum():  # T4
    scores, totals = problem(2, 64, 5)
    q = sinkhorn_labels(scores, totals, tol=1e-13).labels
    slack = q.log() - scores  # = u_i + g_c
    centred = slack - slack.mean(0) - slack.mean(1, keepdim=True) + slack.mean()
    assert float(centred.abs().max()) < 1e-10
    objective = lambda q: float((-2 * scores * q).sum() + 2 * torch.xlogy(q, q).sum())
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):  # mass goes round a rectangle: the sums stay
        i, j = torch.randperm(64, generator=generator)[:2]
        c, d = torch.randperm(5, generator=generator)[:2]
        step = 0.5 * float(torch.stack([q[i, d], q[j, c]]).min())
        swapped = q.clone()
        swapped[i, c] += step
        swapped[j, d] += step
        swapped[i, d] -= step
        swapped[j, c] -= step
        assert objective(swapped) > objective(q) - 1e-12


def test_totals_that_hold_already_change_nothing():  # T5
    scores, _ = problem(3, 200, 10)
    q = scores.softmax(1)
    result = sinkhorn_labels(scores, q.sum(0))
    assert result.iterations == 0
    assert torch.equal(result.potential, torch.zeros(10, dtype=torch.float64))
    assert float((result.labels - q).abs().max()) < 1e-15


def test_agreeing_models_are_left_as_they_are():  # T6
    f = problem(4, 200, 10)[0].softmax(1)
    scores = 0.5 * (f.log() + f.log())
    assert float((sinkhorn_labels(scores, f.sum(0)).labels - f).abs().max()) < 1e-14


def test_constants_of_rows_and_columns_leave_the_labels():  # T7
    scores, totals = problem(5, 100, 6)
    generator = torch.Generator().manual_seed(1)
    row, column = (5 * torch.randn(size, generator=generator, dtype=torch.float64) for size in ((100, 1), (6,)))
    before = sinkhorn_labels(scores, totals, tol=1e-13)
    rows_moved = sinkhorn_labels(scores - row / 2, totals, tol=1e-13)  # P + row
    columns_moved = sinkhorn_labels(scores - column / 2, totals, tol=1e-13)  # P + column
    assert float((rows_moved.labels - before.labels).abs().max()) < 1e-11
    assert float((rows_moved.potential - before.potential).abs().max()) < 1e-10
    assert float((columns_moved.labels - before.labels).abs().max()) < 1e-11
    moved = columns_moved.potential - before.potential
    assert float((moved - (column - column.mean()) / 2).abs().max()) < 1e-10


def test_order_of_samples_and_classes_does_not_matter():  # T8
    scores, totals = problem(6, 100, 7)
    generator = torch.Generator().manual_seed(2)
    rows, columns = torch.randperm(100, generator=generator), torch.randperm(7, generator=generator)
    before = sinkhorn_labels(scores, totals, tol=1e-13).labels
    after = sinkhorn_labels(scores[rows][:, columns], totals[columns], tol=1e-13).labels
    assert float((after - before[rows][:, columns]).abs().max()) < 1e-11


def test_every_sample_twice_gives_the_same_labels():  # T9
    scores, totals = problem(7, 100, 7)
    once = sinkhorn_labels(scores, totals, tol=1e-13).labels
    twice = sinkhorn_labels(scores.repeat(2, 1), 2 * totals, tol=1e-13).labels
    assert float((twice - once.repeat(2, 1)).abs().max()) < 1e-11


def test_repeating_it_leads_to_the_projection_of_the_noise_robust_model():  # T11
    generator = torch.Generator().manual_seed(8)
    f_noise, f, f_imbalance = (3 * torch.randn(200, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    log_noise, log_f, totals = f_noise.log_softmax(1), f.log_softmax(1), f_imbalance.softmax(1).sum(0)
    projection = sinkhorn_labels(log_noise, totals, tol=1e-13).labels
    distances = []
    for _ in range(40):
        q = sinkhorn_labels(0.5 * (log_noise + log_f), totals, tol=1e-13).labels
        distances.append(float((q - projection).abs().max()))
        log_f = q.log()
    assert distances[-1] < 1e-9
    assert distances[20] / distances[10] == pytest.approx(2**-10, rel=0.1)


def test_two_classes_are_a_bisection():  # T12
    scores, totals = problem(9, 50, 2)
    difference = scores[:, 0] - scores[:, 1]
    low, high = -100.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((difference + middle).sigmoid().sum()) < float(totals[0]) else (low, middle)
    result = sinkhorn_labels(scores, totals, tol=1e-14)
    assert float((result.labels[:, 0] - (difference + low).sigmoid()).abs().max()) < 1e-10
    assert float(result.potential[0] - result.potential[1]) == pytest.approx(low, abs=1e-10)


def test_one_class_and_one_sample():  # T12
    one_class = sinkhorn_labels(torch.randn(5, 1), torch.tensor([5.0]))
    assert one_class.labels.tolist() == [[1.0]] * 5
    assert (one_class.error, one_class.iterations, one_class.converged) == (0.0, 0, True)
    totals = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    one_sample = sinkhorn_labels(torch.tensor([[3.0, -1.0, 0.0]], dtype=torch.float64), totals, tol=1e-12)
    assert float((one_sample.labels[0] - totals).abs().max()) < 1e-12


def test_a_class_without_total_gets_nothing():  # T13
    scores, totals = problem(10, 80, 6)
    totals[2] = 0
    totals *= 80 / totals.sum()
    rest = [0, 1, 3, 4, 5]
    result = sinkhorn_labels(scores, totals, tol=1e-12)
    without = sinkhorn_labels(scores[:, rest], totals[rest], tol=1e-12)
    assert result.labels[:, 2].tolist() == [0.0] * 80
    assert float((result.labels[:, rest] - without.labels).abs().max()) < 1e-9
    assert result.potential[2] == -math.inf
    assert bool(result.potential[rest].isfinite().all())
    assert float((result.assign(scores) - result.labels).abs().max()) < 1e-12
    again = sinkhorn_labels(scores, totals, tol=1e-12, start=result.potential)
    assert again.iterations == 0


@pytest.mark.parametrize("factor", [40, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sharp_scores(factor, dtype):  # T14
    generator = torch.Generator().manual_seed(11)
    f_noise, f, f_imbalance = (
        factor * torch.randn(256, 10, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)
    )
    scores = 0.5 * (f_noise.log_softmax(1) + f.log_softmax(1))
    totals = f_imbalance.softmax(1).sum(0)
    result = sinkhorn_labels(scores, totals)
    assert result.converged
    assert bool(result.labels.isfinite().all())
    assert float((result.labels.double().sum(1) - 1).abs().max()) < 1e-6
    assert marginal_error(result.labels, totals.double()) < 1e-6
    reference = sinkhorn_labels(scores.double(), totals.double(), tol=1e-12)
    assert float((sinkhorn_labels(scores, totals, tol=1e-7).labels - reference.labels).abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_upcast(dtype):  # T15
    scores, totals = problem(12, 100, 10)
    scores = scores.to(dtype)
    result = sinkhorn_labels(scores, totals)
    assert result.labels.dtype == torch.float32
    assert torch.equal(result.labels, sinkhorn_labels(scores.float(), totals).labels)


@pytest.mark.parametrize("sharpness", [4.0, 12.0])
def test_in_chunks_as_in_one(monkeypatch, sharpness):  # T16
    scores, totals = problem(13, 300, 20, sharpness)
    whole = sinkhorn_labels(scores, totals, tol=1e-12)
    monkeypatch.setattr(sinkhorn, "STORED_ELEMENTS", 0)
    monkeypatch.setitem(sinkhorn.BLOCK_ELEMENTS, "cpu", 20 * 7)
    chunked = sinkhorn_labels(scores, totals, tol=1e-12, return_labels=False)
    assert chunked.labels is None
    assert chunked.converged
    assert chunked.error <= 1e-12
    assert float((chunked.potential - whole.potential).abs().max()) < 1e-9
    labels = torch.cat([chunked.assign(part) for part in scores.split(64)])
    assert float((labels - whole.labels).abs().max()) < 1e-10


def _process(rank, folder, parts, totals):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(parts))
    results = {}
    for name, sharpness_parts in parts[rank].items():
        everyones, shares = totals[name]
        together = sinkhorn_labels(sharpness_parts, everyones, tol=1e-12)
        shared = sinkhorn_labels(sharpness_parts, shares[rank], tol=1e-12)
        alone = sinkhorn_labels(sharpness_parts, shares[rank], tol=1e-12, distributed=False)
        results[name] = {"together": tuple(together), "shared": tuple(shared), "alone": tuple(alone)}
    bad = parts[rank]["plain"].clone()
    if rank == 1:
        bad[0, 0] = math.nan
    try:
        sinkhorn_labels(bad, totals["plain"][0])
    except ValueError as error:
        results["refused"] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    leave_process_group()


def test_two_processes_as_one(tmp_path):  # T16
    parts, totals, whole = [{}, {}], {}, {}
    for name, sharpness, closed in (("plain", 4.0, None), ("sharp", 40.0, None), ("closed", 4.0, 1)):
        scores, b = problem(14, 101, 10, sharpness)
        by_sample = torch.randn(101, 10, generator=torch.Generator().manual_seed(0)).double().softmax(1)
        if closed is not None:  # the first process's samples give this class nothing
            by_sample[:40, closed] = 0
            by_sample /= by_sample.sum(1, keepdim=True)
        b = by_sample.sum(0)
        parts[0][name], parts[1][name] = scores[:40].clone(), scores[40:].clone()
        totals[name] = (b, (by_sample[:40].sum(0), by_sample[40:].sum(0)))
        whole[name] = sinkhorn_labels(scores, b, tol=1e-12)
    mp.spawn(_process, (str(tmp_path), parts, totals), nprocs=2)
    told = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    for name, expected in whole.items():
        for kind in ("together", "shared"):
            first, second = (SinkhornLabels(*rank[name][kind]) for rank in told)
            assert torch.equal(first.potential, second.potential)
            assert first[2:] == second[2:]
            assert first.converged
            labels = torch.cat([first.labels, second.labels])
            assert float((labels - expected.labels).abs().max()) < 1e-10
        alone = SinkhornLabels(*told[0][name]["alone"])
        assert float((alone.labels.sum(0) - totals[name][1][0]).abs().max()) < 1e-9
    assert [rank["refused"].startswith("scores hold NaN") for rank in told] == [True, True]


def test_a_warm_start_is_shorter_and_ends_where_a_cold_one_does():  # T17
    scores, totals = problem(15, 500, 10)
    before = sinkhorn_labels(scores, totals, tol=1e-10)
    changed = scores + 0.02 * torch.randn(500, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    cold = sinkhorn_labels(changed, totals, tol=1e-10)
    warm = sinkhorn_labels(changed, totals, tol=1e-10, start=before.potential)
    assert warm.iterations < cold.iterations
    assert float((warm.labels - cold.labels).abs().max()) < 1e-8


@pytest.mark.parametrize("shape", [(128, 10, 4.0), (128, 100, 12.0), (2000, 10, 12.0)])
def test_it_stops_when_it_says(shape):  # T18
    n, num_classes, sharpness = shape
    scores, totals = problem(16, n, num_classes, sharpness)
    iterations = []
    for tol in (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10):
        result = sinkhorn_labels(scores, totals, tol=tol)
        assert result.converged
        assert result.error <= tol
        iterations.append(result.iterations)
        if result.iterations:
            earlier = sinkhorn_labels(scores, totals, tol=tol, max_iter=result.iterations - 1)
            assert not earlier.converged
            assert earlier.error > tol
    assert iterations == sorted(iterations)
    assert iterations[-1] > iterations[0]


def test_the_dual_never_falls():  # T18
    scores, totals = problem(17, 128, 50, 10.0)
    steps = sinkhorn_labels(scores, totals, tol=1e-10).iterations
    values = [
        dual(scores, totals, sinkhorn_labels(scores, totals, tol=1e-10, max_iter=k).potential) for k in range(steps)
    ]
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(values))
    assert values[-1] > values[0] + 1


@pytest.mark.parametrize("max_iter", [0, 1, 5, 7])
def test_max_iter_is_honoured_and_the_error_true(max_iter):
    scores, totals = problem(18, 128, 100, 12.0)
    result = sinkhorn_labels(scores, totals, tol=1e-10, max_iter=max_iter)
    assert result.iterations <= max_iter
    assert not result.converged
    assert result.error == pytest.approx(marginal_error(result.labels, totals), rel=1e-9)
    if max_iter == 0:
        assert float((result.labels - scores.softmax(1)).abs().max()) < 1e-15


def test_no_graph_is_kept():  # T19
    scores, totals = problem(19, 50, 5)
    result = sinkhorn_labels(scores.requires_grad_(), totals.requires_grad_())
    assert not result.labels.requires_grad
    assert not result.potential.requires_grad
    assert not result.assign(scores).requires_grad


@few
@given(st.integers(0, 1000), st.integers(0, 4), st.floats(1.05, 3.0))
def test_a_larger_total_raises_its_potential(seed, which, factor):  # T20
    scores, totals = problem(seed, 40, 5, 3.0)
    more = totals.clone()
    more[which] *= factor
    more *= 40 / more.sum()
    before, after = (sinkhorn_labels(scores, b, tol=1e-11) for b in (totals, more))
    assert float(after.labels[:, which].sum()) > float(before.labels[:, which].sum())

    def lead(potential):
        others = torch.arange(5) != which
        return float(potential[which] - (more[others] @ potential[others]) / more[others].sum())

    assert lead(after.potential) > lead(before.potential)
    assert float((more - totals) @ (after.potential - before.potential)) >= 0


def test_relaxed_totals():  # T21
    scores, totals = problem(20, 200, 10)
    exact = sinkhorn_labels(scores, totals, tol=1e-12).labels
    assert float((sinkhorn_labels(scores, totals, tol=1e-12, relaxation=1e9).labels - exact).abs().max()) < 1e-6
    assert torch.equal(sinkhorn_labels(scores, totals, tol=1e-12, relaxation=math.inf).labels, exact)
    free = sinkhorn_labels(scores, totals, tol=1e-12, relaxation=1e-9)
    assert free.converged
    assert float((free.labels - scores.softmax(1)).abs().max()) < 1e-6
    results = [sinkhorn_labels(scores, totals, tol=1e-10, relaxation=t) for t in (0.01, 0.1, 1.0, 10.0, 100.0)]
    assert all(result.converged for result in results)
    errors = [result.error for result in results]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]
    for result in results:
        assert result.error == pytest.approx(marginal_error(result.labels, totals), rel=1e-9)


@pytest.mark.parametrize("relaxation", [0.1, 1.0, 20.0])
def test_relaxed_totals_are_the_minimum_with_the_penalty(relaxation):
    scores, totals = problem(21, 60, 5)
    result = sinkhorn_labels(scores, totals, tol=1e-13, relaxation=relaxation)
    # g = t log(b / column sums), but for a constant
    expected = relaxation * (totals / result.labels.sum(0)).log()
    assert float((result.potential - (expected - expected.mean())).abs().max()) < 1e-9

    def objective(potential):
        q = (scores + potential).softmax(1)
        reached = q.sum(0)
        return float((torch.xlogy(q, q) - scores * q).sum() + relaxation * (reached * (reached / totals).log()).sum())

    least = objective(result.potential)
    generator = torch.Generator().manual_seed(4)
    for _ in range(50):
        nearby = result.potential + 0.05 * torch.randn(5, generator=generator, dtype=torch.float64)
        assert objective(nearby) > least


def test_hard_problems_converge():
    """n 64 to 1024, C 2 to 100, sharpness up to 12; the benchmark runs 200 up to 4096 and 200."""
    generator = torch.Generator().manual_seed(5)
    for seed in range(25):
        u = torch.rand(3, generator=generator).tolist()
        scores, totals = problem(100 + seed, round(2 ** (6 + 4 * u[0])), round(2 * 50 ** u[1]), 12 * u[2])
        result = sinkhorn_labels(scores, totals, tol=1e-8)
        assert result.converged
        assert result.iterations <= 40
        assert marginal_error(result.labels, totals) <= 1e-8


def test_the_problem_on_which_newton_from_zero_fails():
    scores, totals = problem(22, 128, 100, 12.0)
    result = sinkhorn_labels(scores, totals, tol=1e-10)
    assert result.converged
    assert result.iterations <= 40


def test_newton_takes_over_where_sinkhorn_is_slow(monkeypatch):
    scores, totals = problem(23, 2000, 10, 12.0)
    with_newton = sinkhorn_labels(scores, totals, tol=1e-9)
    monkeypatch.setattr(sinkhorn, "MAX_NEWTON_CLASSES", 1)
    plain = sinkhorn_labels(scores, totals, tol=1e-9)
    assert with_newton.iterations < plain.iterations / 3
    assert plain.converged
    assert float((plain.labels - with_newton.labels).abs().max()) < 1e-6


def test_rounding_ends_it():
    scores, totals = problem(24, 2000, 10, 4.0)
    single = sinkhorn_labels(scores.float(), totals, tol=1e-12)
    assert not single.converged
    assert single.iterations < 60
    assert 1e-12 < single.error < 1e-7
    double = sinkhorn_labels(scores, totals, tol=1e-300)
    assert not double.converged
    assert double.iterations < 60
    assert double.error < 1e-14


def test_totals_out_of_reach_are_reported():
    # Both samples may be of class 0 alone, yet one is asked for class 1, which a third allows: the sum can't be had.
    scores = torch.zeros(3, 2, dtype=torch.float64)
    scores[:2, 1] = -math.inf
    result = sinkhorn_labels(scores, torch.tensor([1.0, 2.0]), max_iter=50)
    assert not result.converged
    assert result.iterations <= 50
    assert result.error == pytest.approx(2 / 3, abs=1e-3)  # two of class 0, where one is asked for
    assert float((result.labels.sum(1) - 1).abs().max()) < 1e-12


def test_forbidden_classes_get_nothing():
    scores, totals = problem(25, 60, 4)
    scores[::3, 1] = -math.inf
    result = sinkhorn_labels(scores, totals, tol=1e-10)
    assert result.converged
    assert result.labels[::3, 1].tolist() == [0.0] * 20
    assert marginal_error(result.labels, totals) < 1e-10


def test_fewer_samples_than_classes():
    scores, totals = problem(26, 8, 50)
    result = sinkhorn_labels(scores, totals, tol=1e-10)
    assert result.converged
    assert marginal_error(result.labels, totals) < 1e-10


@pytest.mark.usefixtures("_both_ways")
def test_totals_far_apart():
    scores, _ = problem(27, 64, 6, 12.0)
    totals = torch.tensor([50.0, 14 - 1e-3, 1e-3, 1e-30, 1e-100, 1e-300], dtype=torch.float64)
    result = sinkhorn_labels(scores, totals, tol=1e-10)
    assert result.converged
    assert bool(result.potential.isfinite().all())
    assert float((result.labels.sum(0)[:3] - totals[:3]).abs().max()) < 1e-8
    assert float(result.labels.sum(0)[3:].max()) < 1e-8


@pytest.mark.usefixtures("_both_ways")
def test_a_column_that_underflows_is_found_again():
    scores = torch.zeros(4, 2, dtype=torch.float64)
    scores[:, 1] = torch.tensor([-3000.0, -3001.0, -3002.0, -3003.0])
    result = sinkhorn_labels(scores, torch.tensor([2.0, 2.0]), tol=1e-12)
    assert result.converged
    shifted = sinkhorn_labels(
        scores + torch.tensor([0.0, 3000.0], dtype=torch.float64), torch.tensor([2.0, 2.0]), tol=1e-12
    )
    assert float((result.labels - shifted.labels).abs().max()) < 1e-9


def test_no_samples():
    result = sinkhorn_labels(torch.zeros(0, 3), torch.zeros(3))
    assert result.labels.shape == (0, 3)
    assert (result.error, result.iterations, result.converged) == (0.0, 0, True)
    assert result.potential.tolist() == [0.0] * 3


def test_totals_are_rescaled_with_a_warning():
    scores, totals = problem(28, 100, 5)
    expected = sinkhorn_labels(scores, totals, tol=1e-12).labels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close = sinkhorn_labels(scores, 1.0009 * totals, tol=1e-12).labels
    with pytest.warns(
        UserWarning, match="class_totals sum to 1, but there are 100 samples: they are rescaled"
    ) as caught:
        shares = sinkhorn_labels(scores, totals / 100, tol=1e-12).labels
    assert caught[0].filename == __file__
    for labels in (close, shares):
        assert float((labels - expected).abs().max()) < 1e-10


def test_totals_may_be_counts():
    scores, _ = problem(29, 12, 3)
    result = sinkhorn_labels(scores, torch.tensor([8, 3, 1]), tol=1e-10)
    assert float((result.labels.sum(0) - torch.tensor([8.0, 3.0, 1.0])).abs().max()) < 1e-8


def test_autocast_does_not_reach_it():
    scores, totals = problem(30, 100, 10)
    expected = sinkhorn_labels(scores, totals)
    with torch.autocast("cpu", torch.bfloat16):
        result = sinkhorn_labels(scores, totals)
    assert torch.equal(result.labels, expected.labels)


def test_what_comes_in_is_left_alone():
    scores, totals = problem(31, 100, 10)
    start = torch.ones(10, dtype=torch.float64)
    copies = [x.clone() for x in (scores, totals, start)]
    sinkhorn_labels(scores, 2 * totals / 2, start=start)
    assert all(torch.equal(x, copy) for x, copy in zip((scores, totals, start), copies, strict=True))


def test_columns_need_not_be_contiguous():
    scores, totals = problem(32, 100, 10)
    assert torch.equal(sinkhorn_labels(scores.T.contiguous().T, totals).labels, sinkhorn_labels(scores, totals).labels)


SCORES, TOTALS = torch.zeros(4, 2), torch.tensor([3.0, 1.0])


@pytest.mark.parametrize(
    ("scores", "totals", "options", "message"),
    [
        (torch.tensor([[0.0, math.nan]]), torch.tensor([0.5, 0.5]), {}, "scores hold NaN or [+]inf: give 0.5"),
        (torch.tensor([[0.0, math.inf]]), torch.tensor([0.5, 0.5]), {}, "scores hold NaN or [+]inf"),
        (torch.tensor([[0.0, -math.inf, math.nan]]), torch.tensor([1.0, 0.0, 0.0]), {}, "scores hold NaN"),
        (
            torch.tensor([[-math.inf, -math.inf]]),
            torch.tensor([0.5, 0.5]),
            {},
            "a sample's scores are -inf at every class with a total",
        ),
        (torch.tensor([[0.0, -math.inf]] * 4), TOTALS, {}, "a class with a total above 0 is forbidden to every sample"),
        (SCORES, torch.tensor([5.0, -1.0]), {}, "class_totals hold a negative number, NaN or inf"),
        (SCORES, torch.tensor([math.nan, 1.0]), {}, "class_totals hold a negative number, NaN or inf"),
        (SCORES, torch.tensor([math.inf, 1.0]), {}, "class_totals hold a negative number, NaN or inf"),
        (SCORES, torch.zeros(2), {}, "class_totals are all 0: give at least one class a total"),
        (SCORES, torch.ones(3), {}, r"scores have shape \(4, 2\): give \(N, 3\), a column for each class"),
        (torch.zeros(4), TOTALS, {}, r"scores have shape \(4,\): give \(N, 2\)"),
        (torch.zeros(4, 2, dtype=torch.long), TOTALS, {}, "scores are torch.int64: give floating-point numbers"),
        (SCORES, torch.ones(1, 2), {}, r"class_totals have shape \(1, 2\): give \(C,\)"),
        (SCORES, TOTALS, {"start": torch.zeros(3)}, r"start has shape \(3,\): give \(2,\), a potential"),
        (SCORES, TOTALS, {"tol": 0.0}, "tol is 0.0: give a number above 0"),
        (SCORES, TOTALS, {"tol": math.nan}, "tol is nan: give a number above 0"),
        (SCORES, TOTALS, {"max_iter": -1}, "max_iter is -1: give at least 0"),
        (SCORES, TOTALS, {"relaxation": 0.0}, "relaxation is 0.0: give a number above 0, or None"),
    ],
)
def test_says_what_is_wrong(scores, totals, options, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn_labels(scores, totals, **options)


def test_new_samples_must_fit_the_potential():
    result = sinkhorn_labels(SCORES, TOTALS)
    with pytest.raises(ValueError, match=r"scores have shape \(1, 3\): give \(N, 2\)"):
        result.assign(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="scores hold NaN"):
        result.assign(torch.tensor([[math.nan, 0.0]]))
    with pytest.raises(ValueError, match="a sample's scores are -inf"):
        result.assign(torch.full((1, 2), -math.inf))
    assert result.assign(torch.zeros(0, 2)).shape == (0, 2)
