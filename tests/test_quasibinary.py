import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck

from catchment import Combined, CrossEntropy, Model, metrics
from catchment.quasibinary import METHODS, QuasibinaryLoss, recalibrate

INF = math.inf
few = settings(deadline=None, max_examples=20, derandomize=True)


def rows(seed, *shape, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def sets(seed, *shape, share=0.3, dtype=torch.float64):
    """Multi-hot labels; the first row has none, the second all."""
    y = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share
    y[0], y[1] = False, True
    return y.to(dtype)


def violating(seed, samples=6, num_classes=5):
    """Logits and labels with some q > 1."""
    y = sets(seed, samples, num_classes)
    z = rows(seed, samples, num_classes)
    z[1, :2] += 8.0
    return z, y


def q_of(z, y):
    """The q of the batch, as eq. 4 and 10 read."""
    return z.exp() / (z.exp().sum() / y.sum())


def reference(z, y, penalty_weight=1.0):
    """Eq. 11 as a loss, literally."""
    log_q = q_of(z, y).log()
    return (-y * log_q + penalty_weight * log_q.clamp(min=0)).sum() / len(z)


def value_and_grad(z, y, objective=None, **arguments):
    z = z.detach().requires_grad_()
    objective = QuasibinaryLoss() if objective is None else objective
    loss = objective(z, y, **arguments)
    return loss.detach(), grad(loss, z)[0]


def running(log_c, **arguments):
    """A loss in eval mode with C given."""
    objective = QuasibinaryLoss(**arguments).double()
    objective.log_normalizer.fill_(log_c)
    return objective.eval()


# The formula


@few
@given(seed=st.integers(0, 10**6), penalty_weight=st.sampled_from([0.0, 0.5, 1.0, 3.0]), violates=st.booleans())
def test_is_the_formula_and_its_gradient(seed, penalty_weight, violates):
    z, y = violating(seed) if violates else (rows(seed, 6, 5), sets(seed, 6, 5))
    loss, gradient = value_and_grad(z, y, QuasibinaryLoss(penalty_weight=penalty_weight))
    assert loss.item() == pytest.approx(reference(z, y, penalty_weight).item(), rel=1e-12)
    attached = z.clone().requires_grad_()
    torch.testing.assert_close(
        gradient, grad(reference(attached, y, penalty_weight), attached)[0], rtol=1e-12, atol=1e-14
    )
    q, n = q_of(z, y), y.sum()
    m = (q > 1).double()
    closed = (q - y + penalty_weight * (m - m.sum() * q / n)) / len(z)
    torch.testing.assert_close(gradient, closed, rtol=1e-12, atol=1e-14)
    assert gradient.sum().abs() < 1e-14 * len(z) * 5
    if violates:
        assert m.sum() >= 1


def test_q_sums_to_the_number_of_labels_and_is_one_softmax():
    z, y = rows(0, 8, 6), sets(0, 8, 6)
    totals = QuasibinaryLoss().observe(z, y)
    log_q = totals.log_q(z)
    assert abs(log_q.exp().sum() - y.sum()) < 1e-12
    torch.testing.assert_close(log_q, z.flatten().log_softmax(0).view(8, 6) + y.sum().log(), rtol=0, atol=1e-13)
    assert float(totals.log_normalizer) == pytest.approx((z.exp().sum() / y.sum()).log().item(), abs=1e-13)
    assert (totals.labels, totals.rows) == (y.sum().item(), 8)


def test_is_binary_over_batch_and_classes():
    z, y = rows(1, 8, 6), sets(1, 8, 6)
    n = y.sum()
    together = F.cross_entropy(z.flatten()[None], (y / n).flatten()[None]) - n.log()
    loss = QuasibinaryLoss(penalty_weight=0.0)(z, y)
    assert loss.item() == pytest.approx((n / 8 * together).item(), rel=1e-12)


@pytest.mark.parametrize("violates", [False, True])
def test_gradients_are_exact(violates):
    z, y = violating(2) if violates else (rows(2, 4, 3, scale=0.5), sets(2, 4, 3, share=0.9))
    soft = 0.9 * y + 0.02
    for target in (y, soft):
        objective = QuasibinaryLoss(penalty_weight=0.7)
        inputs = (z.requires_grad_(),)
        assert gradcheck(lambda x, o=objective, t=target: o(x, t), inputs)
        assert gradgradcheck(lambda x, o=objective, t=target: o(x, t), inputs)


def test_gradient_flows_through_the_normaliser():
    z, y = violating(3)
    _, gradient = value_and_grad(z, y)
    m = (q_of(z, y) > 1).double()
    detached = (-y + m) / len(z)  # what a constant C would give: nothing pushes an absent class down
    assert (detached[0] == 0).all()
    assert (gradient[0] > 0).all()
    assert (gradient - detached).abs().max() > 0.1


def test_a_row_without_labels_is_pushed_down_by_q():
    z, y = rows(4, 6, 5), sets(4, 6, 5)
    z[0, :] = torch.tensor([-1.0, 0.0, 0.5, -2.0, 0.2])
    q = q_of(z, y)
    _, gradient = value_and_grad(z, y, QuasibinaryLoss(penalty_weight=0.0))
    torch.testing.assert_close(gradient[0], q[0] / 6, rtol=1e-12, atol=0)
    # the penalty takes a share off: M < N, since the q sum to N
    share = 1 - (q > 1).sum() / y.sum()
    assert 0 < share < 1
    torch.testing.assert_close(value_and_grad(z, y)[1][0], share * q[0] / 6, rtol=1e-12, atol=0)


# What it is related to


@pytest.mark.parametrize("offset", [-300.0, 5.0, 1e4])
def test_training_ignores_a_common_offset(offset):
    z, y = violating(5)
    expected = value_and_grad(z, y)
    torch.testing.assert_close(value_and_grad(z + offset, y), expected, rtol=1e-11, atol=1e-11)
    in_float32 = (z * 64).round() / 64  # so that the sum is exact in float32
    expected = value_and_grad(in_float32.float(), y)
    shifted = (in_float32 + offset).float()
    torch.testing.assert_close(value_and_grad(shifted, y), expected, rtol=2e-6, atol=1e-6)


def test_evaluation_scales_with_an_offset_until_the_mean_has_followed():
    z, y = rows(6, 8, 5), sets(6, 8, 5)
    objective = QuasibinaryLoss().double()
    objective(z, y)
    objective.eval()
    before = objective.log_q(z).exp()
    torch.testing.assert_close(objective.log_q(z + 0.7).exp(), before * math.exp(0.7), rtol=1e-12, atol=0)
    objective.train()
    for _ in range(400):
        objective(z + 0.7, y)
    torch.testing.assert_close(objective.eval().log_q(z + 0.7).exp(), before, rtol=1e-12, atol=0)


def test_one_row_with_one_label_is_cross_entropy():
    for seed in range(5):
        z, label = rows(seed, 1, 7, scale=4.0), torch.tensor([seed])
        expected = z.clone().requires_grad_()
        loss = F.cross_entropy(expected, label)
        torch.testing.assert_close(value_and_grad(z, label), (loss.detach(), grad(loss, expected)[0]))


def test_rows_of_equal_normaliser_give_the_softmax():
    z = rows(7, 6, 5).log_softmax(1)
    labels = torch.arange(6) % 5
    totals = QuasibinaryLoss().observe(z, labels)
    torch.testing.assert_close(totals.log_q(z).exp(), z.softmax(1), rtol=0, atol=1e-15)
    assert QuasibinaryLoss()(z, labels).item() == pytest.approx(F.cross_entropy(z, labels).item(), rel=1e-13)


@few
@given(seed=st.integers(0, 10**6))
def test_is_at_least_the_mean_cross_entropy(seed):
    z = rows(seed, 6, 5)
    labels = torch.randint(5, (6,), generator=torch.Generator().manual_seed(seed))
    assert QuasibinaryLoss(penalty_weight=0.0)(z, labels) > F.cross_entropy(z, labels)


def test_permutations_and_copies():
    z, y = violating(8)
    loss, gradient = value_and_grad(z, y)
    sample, label = torch.randperm(6), torch.randperm(5)
    permuted, permuted_gradient = value_and_grad(z[sample][:, label], y[sample][:, label])
    torch.testing.assert_close(permuted, loss)
    torch.testing.assert_close(permuted_gradient, gradient[sample][:, label])
    twice, twice_gradient = value_and_grad(torch.cat([z, z]), torch.cat([y, y]))
    torch.testing.assert_close(twice, loss)
    torch.testing.assert_close(twice_gradient, torch.cat([gradient, gradient]) / 2)
    objective = QuasibinaryLoss()
    torch.testing.assert_close(
        objective.observe(torch.cat([z, z]), torch.cat([y, y])).log_normalizer, objective.observe(z, y).log_normalizer
    )


# The running normaliser and the outputs


def test_log_normalizer_is_the_arithmetic_mean_in_log_space():
    objective = QuasibinaryLoss(momentum=0.25).double()
    constants = [3.0, 7.0, 0.5, 400.0]
    expected = constants[0]
    for i, c in enumerate(constants):
        objective(torch.full((2, 3), math.log(c / 3), dtype=torch.float64), torch.tensor([[1, 0, 1], [0, 0, 0]]))
        expected = expected if i == 0 else 0.75 * expected + 0.25 * c
        # two labels among six equal logits: C_t = 6 (c / 3) / 2 = c
        assert objective.log_normalizer.exp().item() == pytest.approx(expected, rel=1e-12)
    assert objective.num_batches == 4


def test_constant_normaliser_stays():
    objective = QuasibinaryLoss().double()
    for _ in range(10):  # eq. 13 as printed, without 1 - alpha, would add 0.5 each time
        objective(torch.full((1, 5), 0.0, dtype=torch.float64), torch.tensor([2]))
        assert objective.log_normalizer.exp().item() == pytest.approx(5.0, rel=1e-14)


def test_default_momentum_is_a_tenth_of_the_new_batch():
    objective = QuasibinaryLoss()
    for log_c in (0.0, math.log(11.0)):
        objective(torch.full((1, 1), log_c), torch.tensor([0]))
    assert objective.log_normalizer.exp().item() == pytest.approx(0.9 * 1 + 0.1 * 11, rel=1e-6)


def test_cumulative_mean():
    objective = QuasibinaryLoss(momentum=None).double()
    for log_c in (math.log(c) for c in (1.0, 5.0, 30.0)):
        objective(torch.full((1, 1), log_c, dtype=torch.float64), torch.tensor([0]))
    assert objective.log_normalizer.exp().item() == pytest.approx(12.0, rel=1e-12)


def test_normaliser_of_huge_logits_stays_finite():
    objective = QuasibinaryLoss()
    for _ in range(3):
        objective(torch.full((2, 3), 1e4), torch.tensor([0, 1]))
    assert objective.log_normalizer.item() == pytest.approx(1e4 + math.log(3), rel=1e-6)


def test_evaluation_changes_no_state_and_training_does():
    z, y = rows(9, 4, 3), sets(9, 4, 3)
    objective = running(0.3)
    objective(z, y)
    objective.observe(z, y)
    assert (objective.log_normalizer.item(), objective.num_batches.item()) == (0.3, 0)
    objective.train()(z, y)
    assert objective.num_batches == 1
    assert set(objective.state_dict()) == {"log_normalizer", "num_batches"}


def test_a_batch_that_is_not_finite_does_not_spoil_the_running_normaliser():
    objective = QuasibinaryLoss()
    objective(torch.zeros(2, 3), torch.tensor([0, 1]))
    kept = objective.log_normalizer.clone()
    spoilt = torch.zeros(2, 3)
    spoilt[1] = torch.nan
    assert objective(spoilt, torch.tensor([0, 1])).isnan()  # NaN in, NaN out, for the whole batch
    assert torch.equal(objective.log_normalizer, kept)
    assert objective.num_batches == 1


def test_evaluation_loss_has_a_constant_normaliser():
    z, y = rows(10, 6, 5), sets(10, 6, 5)
    log_q = z - 0.4
    loss, gradient = value_and_grad(z, y, running(0.4, penalty_weight=2.0))
    assert loss.item() == pytest.approx(((-y * log_q + 2 * log_q.relu()).sum() / 6).item(), rel=1e-12)
    torch.testing.assert_close(gradient, (-y + 2 * (log_q > 0)) / 6)


def test_probabilities_are_clipped_and_keep_the_ranking():
    z = rows(11, 50, 6)
    for log_c in (-1.0, 0.0, 4.0):
        objective = running(log_c)
        p = objective.probabilities(z)
        torch.testing.assert_close(p, (z - log_c).exp().clamp(max=1.0), rtol=1e-12, atol=0)
        assert torch.equal(objective.log_q(z).argmax(1), z.argmax(1))
        assert objective.share_above_one(z).item() == pytest.approx((z > log_c).double().mean().item(), abs=1e-7)
        unknown = z.amax(1) < 1.0
        assert metrics.auroc(objective.unknown_score(z), unknown) == metrics.auroc(-z.amax(1), unknown)
    assert (running(4.0).probabilities(z) == 1).sum() == (z >= 4.0).sum() > 0
    torch.testing.assert_close(running(0.0).unknown_score(torch.tensor([[0.1, 0.5]])), torch.tensor([-0.5]))
    assert running(0.0).probabilities(torch.tensor([[-INF, 1e4]])).tolist() == [[0.0, 1.0]]


def test_label_score_is_per_class():
    objective = running(0.0)
    p = torch.tensor([[0.2, 0.7]])
    torch.testing.assert_close(objective.label_score(p.log(), torch.tensor([[1.0, 1.0]])), torch.tensor([[0.8, 0.3]]))
    torch.testing.assert_close(objective.label_score(p.log(), torch.tensor([-1])), p)


# No label at all


def test_batch_without_labels_is_pushed_down_by_the_running_q():
    objective = QuasibinaryLoss().double()
    objective(rows(12, 4, 3), sets(12, 4, 3))
    log_c, batches = objective.log_normalizer.clone(), objective.num_batches.clone()
    z = rows(13, 5, 3, scale=1.0)
    z[2, 1] = log_c + 0.5  # one q > 1
    q = (z - log_c).exp()
    for target in (torch.full((5,), -1), torch.zeros(5, 3)):
        loss, gradient = value_and_grad(z, target, objective)
        assert loss.item() == pytest.approx(((q.clamp(max=1).sum() + q.log().relu().sum()) / 5).item(), rel=1e-12)
        torch.testing.assert_close(gradient, q.clamp(max=1) / 5, rtol=1e-12, atol=0)
        assert (gradient > 0).all()
        assert (objective.log_normalizer, objective.num_batches) == (log_c, batches)
        assert gradcheck(lambda x, t=target: objective(x, t), (z.clone().requires_grad_(),))


def test_first_batch_without_labels_counts_as_if_it_held_one():
    z = rows(14, 4, 3)
    objective = QuasibinaryLoss()
    loss, gradient = value_and_grad(z, torch.full((4,), -1), objective)
    softmax = z.flatten().softmax(0).view(4, 3)
    assert loss.item() == pytest.approx(0.25, rel=1e-12)
    torch.testing.assert_close(gradient, softmax / 4, rtol=1e-12, atol=0)
    assert (objective.log_normalizer.item(), objective.num_batches.item()) == (0.0, 0)


def test_push_down_stays_finite_far_above_the_running_normaliser():
    objective = QuasibinaryLoss()
    objective(torch.zeros(2, 3), torch.tensor([0, 1]))
    loss, gradient = value_and_grad(torch.full((2, 3), 1e4), torch.full((2,), -1), objective)
    assert loss.item() == pytest.approx(3 * (1 + 1e4 - math.log(3)), rel=1e-6)
    assert (gradient == 0.5).all()


def test_other_ways_with_a_batch_without_labels():
    z, none = rows(15, 4, 3), torch.full((4,), -1)
    loss, gradient = value_and_grad(z, none, QuasibinaryLoss(empty="skip"))
    assert loss == 0
    assert (gradient == 0).all()
    with pytest.raises(ValueError, match="the batch holds no label: draw larger batches, or choose empty='push-down'"):
        QuasibinaryLoss(empty="raise")(z, none)
    assert QuasibinaryLoss(empty="raise")(z, torch.tensor([0, -1, 1, 2])) > 0


# Range and precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_huge_logits_are_finite(dtype):
    z = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, -1e4]], dtype=dtype)
    loss, gradient = value_and_grad(z, torch.tensor([0, 1]))
    assert loss == 0  # both labels hold all of the mass: q = 1
    assert (gradient == 0).all()
    loss, gradient = value_and_grad(z, torch.tensor([1, 2]))
    # log q = 0 at the two largest: 2 * 2e4 over two rows
    assert loss.item() == pytest.approx(2 * z[0, 0].item(), rel=1e-6)
    assert gradient.tolist() == [[0.5, -0.5, 0.0], [0.0, 0.5, -0.5]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    z, y = rows(16, 20, 7).to(dtype), sets(16, 20, 7)
    value, gradient = value_and_grad(z, y)
    wide, wide_gradient = value_and_grad(z.float(), y)
    assert value.dtype == torch.float32
    assert torch.equal(value, wide)
    assert torch.equal(gradient, wide_gradient.to(dtype))
    assert QuasibinaryLoss().probabilities(z).dtype == torch.float32


def test_returns_float32_under_autocast():
    head, x, y = nn.Linear(4, 3), torch.randn(5, 4), sets(17, 5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = QuasibinaryLoss()(head(x), y)
    assert loss.dtype == torch.float32
    loss.backward()
    assert head.weight.grad.isfinite().all()
    assert head.weight.grad.abs().sum() > 0


def test_impossible_classes_have_q_zero():
    z, y = rows(18, 4, 5), sets(18, 4, 5)
    y[:, 3] = 0
    impossible = z.clone()
    impossible[:, 3] = -INF
    kept = [0, 1, 2, 4]
    loss, gradient = value_and_grad(impossible, y)
    expected, expected_gradient = value_and_grad(z[:, kept], y[:, kept])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[:, kept], expected_gradient)
    assert (gradient[:, 3] == 0).all()
    y[2, 3] = 1
    loss, gradient = value_and_grad(impossible, y)
    assert loss == INF  # as in cross-entropy
    assert gradient.isfinite().all()
    assert gradient[2, 3] == -0.25


# Targets


def test_all_kinds_of_target_mean_the_same():
    z = rows(19, 4, 3)
    indices = torch.tensor([2, -1, 0, 1])
    y = torch.tensor([[0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]])
    expected = value_and_grad(z, indices)
    for target in (indices.int(), y, y.bool(), y.to(torch.uint8), y.float(), y.double(), y.half()):
        torch.testing.assert_close(value_and_grad(z, target), expected, rtol=1e-14, atol=1e-16)


def test_soft_labels_are_linear_but_for_their_number():
    z, y, other = rows(20, 6, 5), sets(20, 6, 5), sets(21, 6, 5, share=0.5)
    mixed = 0.3 * y + 0.7 * other
    assert mixed.sum() != y.sum()
    log_z = z.flatten().logsumexp(0)
    expected = (-mixed * (z - log_z + mixed.sum().log())).sum() / 6
    assert QuasibinaryLoss(penalty_weight=0.0)(z, mixed).item() == pytest.approx(expected.item(), rel=1e-12)
    assert QuasibinaryLoss()(z, mixed).item() == pytest.approx(reference(z, mixed).item(), rel=1e-12)


def test_ignored_rows_are_as_if_absent():
    z, labels = rows(22, 6, 5), torch.tensor([0, -100, 3, -1, -100, 2])
    kept = labels != -100
    z[1] = torch.tensor([INF, torch.nan, 1.0, -INF, 0.0])  # what an ignored row holds does not count
    objective, other = QuasibinaryLoss().double(), QuasibinaryLoss().double()
    loss, gradient = value_and_grad(z, labels, objective)
    expected, expected_gradient = value_and_grad(z[kept], labels[kept], other)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[kept], expected_gradient)
    assert (gradient[~kept] == 0).all()
    torch.testing.assert_close(objective.log_normalizer, other.log_normalizer)


@pytest.mark.parametrize("violates", [False, True])
def test_pairs_that_are_not_known_are_dropped(violates):
    z, y = violating(23) if violates else (rows(23, 6, 5), sets(23, 6, 5))
    target = y.clone()
    target[0, 1:3] = target[1, 4] = target[3, 0] = -100
    target[5] = -100
    known = target != -100
    log_q = z - z[known].logsumexp(0) + y[known].sum().log()
    loss, gradient = value_and_grad(z, target)
    expected = (-y * log_q + log_q.relu())[known].sum() / 5  # the last row does not count
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert (gradient[~known] == 0).all()
    assert gradient.sum().abs() < 1e-14
    torch.testing.assert_close(value_and_grad(z, target.long())[0], loss)
    evaluated = running(0.2)
    log_q = z - 0.2
    expected = (-y * log_q + log_q.relu())[known].sum() / 5
    assert evaluated(z, target).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((0, 4), torch.zeros(0, dtype=torch.long)),
        ((0, 4), torch.zeros(0, 4)),
        ((3, 4), torch.full((3,), -100)),
        ((3, 4), torch.full((3, 4), -100.0)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_nothing_to_learn_from_gives_zero(shape, target, training):
    objective = QuasibinaryLoss().train(training)
    loss, gradient = value_and_grad(rows(24, *shape), target, objective)
    assert loss == 0
    assert (gradient == 0).all()
    assert objective.num_batches == 0


def test_one_class_is_a_density_ratio():
    # C = mean of e^z / prevalence
    z, y = rows(25, 6, 1), torch.tensor([[1.0], [0], [0], [1], [0], [0]])
    totals = QuasibinaryLoss().observe(z, y)
    assert math.exp(totals.log_normalizer) == pytest.approx((z.exp().mean() / (1 / 3)).item(), rel=1e-12)
    loss = QuasibinaryLoss()(z, y)
    assert loss.item() == pytest.approx(reference(z, y).item(), rel=1e-12)


def test_a_class_that_never_occurs_is_pushed_down():
    z, y = rows(26, 6, 5), sets(26, 6, 5)
    y[:, 2] = 0
    _, gradient = value_and_grad(z, y, QuasibinaryLoss(penalty_weight=0.0))
    torch.testing.assert_close(gradient[:, 2], q_of(z, y)[:, 2] / 6)
    assert (gradient[:, 2] > 0).all()


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(3), torch.tensor(0), r"logits have shape \(3,\): give \(N, K\)"),
        (torch.zeros(3, 0), torch.zeros(3, 0), r"logits have shape \(3, 0\): give \(N, K\)"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), r"logits have shape \(2, 3, 4\)"),
        (torch.zeros(2, 3).long(), torch.tensor([0, 1]), "logits are torch.int64: give floating-point"),
        (torch.zeros(2, 3), torch.zeros(3, 3), r"of shape \(3, 3\): give class indices \(2,\), or \(2, 3\)"),
        (torch.zeros(2, 3), torch.zeros(2, 4), r"of shape \(2, 4\): give class indices \(2,\), or \(2, 3\)"),
        (torch.zeros(2, 3), torch.zeros(3), r"of shape \(3,\): give class indices \(2,\)"),
        (torch.zeros(2, 3), torch.zeros(2), r"torch.float32 of shape \(2,\): give class indices as integers"),
        (torch.zeros(2, 3), torch.tensor([True, False]), "torch.bool of shape .* give class indices as integers"),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.complex64), "target is torch.complex64"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "holds the label 3: give 0 to 2, -1 for no class at all, or -100"),
        (torch.zeros(2, 3), torch.tensor([0, -2]), "holds the label -2"),
        (torch.zeros(2, 2), torch.tensor([[0.0, 1.5], [0, 0]]), "holds 1.5 for a sample and a class: give numbers"),
        (torch.zeros(2, 2), torch.tensor([[0, 1], [-1, 0]]), "holds -1 for a sample and a class: .* or -100 where"),
        (torch.zeros(2, 2), torch.tensor([[0, 1], [torch.nan, 0]]), "holds nan for a sample and a class"),
        (torch.zeros(1, 2), torch.tensor([[0, 156]], dtype=torch.uint8), "holds 156"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_says_what_is_wrong(logits, target, message, training):
    with pytest.raises(ValueError, match=message):
        QuasibinaryLoss().train(training)(logits, target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 0.0}, "momentum is 0.0: give a number above 0 and up to 1, or None"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"momentum": math.nan}, "momentum is nan"),
        ({"penalty_weight": -1.0}, "penalty_weight is -1.0: give a finite number of at least 0"),
        ({"penalty_weight": INF}, "penalty_weight is inf"),
        ({"empty": "ignore"}, "empty is 'ignore': choose one of push-down, skip, raise"),
    ],
)
def test_checks_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        QuasibinaryLoss(**arguments)


# Gradient accumulation


@pytest.mark.parametrize("violates", [False, True])
@pytest.mark.parametrize("sizes", [(6,), (2, 4), (1, 1, 4)])
def test_parts_sum_up_to_the_batch(sizes, violates):
    z, y = violating(27) if violates else (rows(27, 6, 5), sets(27, 6, 5))
    y[3, 2] = -100
    whole, parts = QuasibinaryLoss().double(), QuasibinaryLoss().double()
    loss, gradient = value_and_grad(z, y, whole)
    totals = parts.observe(z, y)
    done = [
        value_and_grad(part, target, parts, totals=totals)
        for part, target in zip(z.split(sizes), y.split(sizes), strict=True)
    ]
    assert sum(part for part, _ in done).item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(torch.cat([part for _, part in done]), gradient, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(parts.log_normalizer, whole.log_normalizer)
    assert parts.num_batches == whole.num_batches == 1  # observed once, not once a part
    alone = torch.cat([value_and_grad(p, t)[1] for p, t in zip(z.split(sizes), y.split(sizes), strict=True)])
    assert len(sizes) == 1 or (alone / len(sizes) - gradient).abs().max() > 1e-3  # each part with a C of its own


# Calibrating again


class Net(nn.Module):
    """Has statistics of the batch and dropout, so that training mode differs."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, num_classes))

    def forward(self, x):
        return {"logits": self.layers(x)}


def batches_of(x, y, *sizes):
    return [{"inputs": inputs, "target": target} for inputs, target in zip(x.split(sizes), y.split(sizes), strict=True)]


def test_recalibration_gives_the_exact_normaliser_in_eval_mode():
    torch.manual_seed(0)
    x, y = torch.randn(10, 4), sets(28, 10, 5)
    y[4, 1] = -100
    objective = QuasibinaryLoss()
    model = Model(Net(), Combined([(objective, 1.0)]))
    recalibrate(model, batches_of(x, y, 1, 3, 6))  # the first batch has no label
    assert model.training
    assert model.net.layers[1].num_batches_tracked == 0
    with torch.no_grad():
        z = model.eval().net(x)["logits"].double()
    known = y != -100
    expected = z[known].logsumexp(0) - y[known].sum().log()
    assert objective.log_normalizer.item() == pytest.approx(expected.item(), abs=1e-6)
    q = objective.log_q(z).exp()
    assert q[known].sum().item() == pytest.approx(y[known].sum().item(), rel=1e-6)
    assert objective.num_batches == 1


def test_recalibration_says_what_is_wrong():
    x, none = torch.zeros(4, 4), torch.full((4,), -1)
    model = Model(Net(), QuasibinaryLoss())
    with pytest.raises(ValueError, match="there is no label in these batches"):
        recalibrate(model, batches_of(x, none, 4))
    with pytest.raises(ValueError, match="there is no label in these batches"):
        recalibrate(model, [])
    with pytest.raises(ValueError, match="make log C nan"):
        recalibrate(model, batches_of(x * torch.nan, torch.zeros(4).long(), 4))
    with pytest.raises(ValueError, match="holds 0 quasibinary losses: give one that holds one"):
        recalibrate(Model(Net(), CrossEntropy()), [])


# Training


def test_free_logits_reach_the_labels():
    y = sets(29, 8, 6)
    z = torch.zeros(8, 6, dtype=torch.float64, requires_grad=True)
    objective = QuasibinaryLoss().double()
    optimizer = torch.optim.Adam([z], lr=1.0)
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective(z, y)
        loss.backward()
        optimizer.step()
    assert abs(loss.item()) < 1e-4
    q = objective.observe(z, y).log_q(z).exp()
    assert (q - y).abs().max() < 1e-5
    assert y[0].sum() == 0  # so a row without labels learns that it has none


def test_rows_without_labels_fall_below_what_a_softmax_can_say():
    torch.manual_seed(1)
    num_classes = 5
    y = sets(30, 400, num_classes, share=0.0)
    count = torch.arange(400) % 3  # zero, one or two labels
    for i in range(400):
        y[i] = 0
        y[i, torch.randperm(num_classes)[: count[i]]] = 1
    x = (y @ torch.eye(num_classes, dtype=y.dtype) * 5 + torch.randn(400, num_classes)).float()
    net, objective = nn.Linear(num_classes, num_classes), QuasibinaryLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        objective(net(x), y).backward()
        optimizer.step()
    p = objective.eval().probabilities(net(x)).detach()
    assert p[count == 0].amax(1).mean() < 0.5 / num_classes  # 1 / K is the least that a softmax can give
    assert p[count == 1].amax(1).mean() > 0.7
    assert metrics.auroc(objective.unknown_score(net(x)), count == 0) > 0.97


# Tools


@pytest.mark.parametrize("kind", ["indices", "without labels", "masked"])
def test_compiles_in_one_graph(kind):
    z, y = violating(31)
    target = {
        "indices": torch.tensor([0, -1, 4, -100, 2, 1]),
        "without labels": torch.zeros(6, 5, dtype=torch.uint8),
        "masked": y.masked_fill(rows(32, 6, 5) > 2, -100),
    }[kind]
    plain, compiled = QuasibinaryLoss().double(), QuasibinaryLoss().double()
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for shift in (0.0, 1.0):
        expected = value_and_grad(z + shift, target, plain)
        torch.testing.assert_close(value_and_grad(z + shift, target, run), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(compiled.log_normalizer, plain.log_normalizer)
    assert compiled.num_batches == plain.num_batches
    torch.testing.assert_close(value_and_grad(z, target, run.eval()), value_and_grad(z, target, plain.eval()))


@pytest.mark.inductor
def test_compiles_with_inductor():
    z, y = violating(33)
    plain = QuasibinaryLoss()
    run = torch.compile(QuasibinaryLoss(), fullgraph=True)
    expected = value_and_grad(z.float(), y, plain)
    torch.testing.assert_close(value_and_grad(z.float(), y, run), expected, rtol=1e-5, atol=1e-6)


def test_probabilities_export():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.objective = running(0.3).float()

        def forward(self, z):
            return self.objective.probabilities(z)

    z = rows(34, 5, 3, dtype=torch.float32)
    batch = torch.export.Dim("batch")
    program = torch.export.export(Reader(), (z,), dynamic_shapes=({0: batch},))
    other = rows(35, 9, 3, dtype=torch.float32)
    torch.testing.assert_close(program.module()(other), Reader()(other))


def test_works_under_torch_func():
    z, y = violating(36)
    _, expected = value_and_grad(z, y)
    objective = QuasibinaryLoss()
    totals = objective.observe(z, y)  # moves the buffers, which a function to be transformed may not
    torch.testing.assert_close(torch.func.grad(lambda x: objective(x, y, totals=totals))(z), expected)


def test_is_what_it_says():
    (record,) = METHODS
    objective = record.cls()
    assert record.name == "quasibinary"
    assert (objective.exclusive, objective.accepts_unknown, objective.inputs, objective.extra_outputs) == (
        False, True, ("logits",), 0,
    )  # fmt: skip
    assert repr(QuasibinaryLoss(penalty_weight=2)) == (
        "QuasibinaryLoss(momentum=0.1, penalty_weight=2, empty='push-down')"
    )
