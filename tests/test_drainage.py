import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck

from catchment import (
    CrossEntropy,
    DrainageHead,
    DrainageLoss,
    closed_probabilities,
    drainage_loss,
    metrics,
    open_probabilities,
)

INF = math.inf
ALPHA_BETA = [(1.0, 1.0), (0.1, 10.0), (0.01, 100.0), (3.0, 0.2), (5.0, 5.0), (1.0, 1e-6), (2.0, 0.0)]
GOLDEN = np.load(Path(__file__).parent / "golden" / "losses.npz")
GOLDEN_DRAINAGE = sorted(
    name.removesuffix("/value") for name in GOLDEN if name.startswith("drainage(") and "/v" in name
)

few = settings(deadline=None, max_examples=20, derandomize=True)
logit_rows = st.integers(1, 6).flatmap(
    lambda num_classes: st.lists(st.floats(-20, 20), min_size=num_classes + 1, max_size=num_classes + 1)
)
alphas = st.floats(0.01, 100)
betas = st.none() | st.floats(0, 100)


def reference(row, label, alpha=1.0, beta=None):
    """One row's loss from the probabilities, as the paper's equation reads."""
    beta = 1 / alpha if beta is None else beta
    largest = max(row)
    exponentials = [math.exp(z - largest) for z in row]
    p = [e / math.fsum(exponentials) for e in exponentials]
    p_t, p_d, p_j = p[label], p[-1], math.fsum(p[j] for j in range(len(p) - 1) if j != label)
    return -math.log(1 / (1 + alpha * (p_d + p_j) / p_t + beta * p_j / p_d))


def accurate_reference(row, label, alpha=1.0, beta=None):
    """The same from ratios of probabilities, p_i / p_k = e^(z_i - z_k): keeps its digits as p_t -> 1."""
    beta = 1 / alpha if beta is None else beta
    rivals = [j for j in range(len(row) - 1) if j != label]
    not_on_label = math.fsum(math.exp(row[i] - row[label]) for i in [*rivals, len(row) - 1])
    rivals_on_drainage = math.fsum(math.exp(row[j] - row[-1]) for j in rivals)
    return math.log1p(alpha * not_on_label + beta * rivals_on_drainage)


def rows(seed, *shape, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=dtype)


def labels(seed, high, *shape):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def soft(seed, *shape):
    return rows(seed, *shape, scale=1.5).softmax(1)


def value_and_grad(logits, target, **arguments):
    logits = logits.detach().requires_grad_()
    loss = drainage_loss(logits, target, **arguments)
    return loss.detach(), grad(loss.sum(), logits)[0]


# The numbers of the authors' code


@pytest.mark.parametrize("name", GOLDEN_DRAINAGE)
@pytest.mark.parametrize("kind", ["indices", "one-hot probabilities"])
def test_equals_the_papers_code(name, kind):
    assert len(GOLDEN_DRAINAGE) == 5
    alpha, beta = (float(part.partition("=")[2]) for part in name.removesuffix(")").split(","))
    target = torch.from_numpy(GOLDEN["targets"])
    if kind == "one-hot probabilities":
        target = F.one_hot(target, 10).double()
    value, gradient = value_and_grad(torch.from_numpy(GOLDEN["logits_with_drainage"]), target, alpha=alpha, beta=beta)
    assert value.item() == pytest.approx(GOLDEN[f"{name}/value"].item(), rel=0, abs=1e-10)
    np.testing.assert_allclose(gradient, GOLDEN[f"{name}/grad"], rtol=0, atol=1e-10)


def test_cross_entropy_equals_the_papers_code():
    logits = torch.from_numpy(GOLDEN["logits"]).requires_grad_()
    value = CrossEntropy()(logits, torch.from_numpy(GOLDEN["targets"]))
    assert value.item() == pytest.approx(GOLDEN["ce/value"].item(), rel=0, abs=1e-10)
    np.testing.assert_allclose(grad(value, logits)[0], GOLDEN["ce/grad"], rtol=0, atol=1e-10)


# The formula


@few
@given(row=logit_rows, alpha=alphas, beta=betas, data=st.data())
def test_is_the_formula_on_probabilities(row, alpha, beta, data):
    label = data.draw(st.integers(0, len(row) - 2))
    expected = reference(row, label, alpha, beta)
    logits = torch.tensor([row], dtype=torch.float64)
    one_hot = F.one_hot(torch.tensor([label]), len(row) - 1).double()
    for target in (torch.tensor([label]), one_hot):
        got = drainage_loss(logits, target, alpha=alpha, beta=beta)
        assert got.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), ALPHA_BETA)
def test_is_a_logsumexp_over_logits(alpha, beta):
    logits, target = rows(1, 40, 6), labels(1, 5, 40)
    for z, t in zip(logits.tolist(), target.tolist(), strict=True):
        rivals = [z[j] for j in range(5) if j != t]
        exponents = [0.0, z[5] - z[t] + math.log(alpha), *(z_j - z[t] + math.log(alpha) for z_j in rivals)]
        if beta > 0:
            exponents += [z_j - z[5] + math.log(beta) for z_j in rivals]
        got = drainage_loss(torch.tensor([z], dtype=torch.float64), torch.tensor([t]), alpha=alpha, beta=beta)
        assert got.item() == pytest.approx(torch.tensor(exponents, dtype=torch.float64).logsumexp(0).item(), rel=1e-13)


def test_alpha_weighs_the_rivals_too():
    # p = (0.2, 0.6, 0.2), so that with alpha = 0.1, beta = 10: 1 + 0.1 (0.2 + 0.6) / 0.2 + 10 * 0.6 / 0.2 = 31.4.
    # With alpha on p_d alone it would be 1 + 0.1 + 3 + 30 = 34.1.
    logits = torch.tensor([[0.2, 0.6, 0.2]], dtype=torch.float64).log()
    loss = drainage_loss(logits, torch.tensor([0]), alpha=0.1, beta=10.0)
    assert loss.item() == pytest.approx(math.log(31.4), rel=1e-14)


def test_beta_none_is_one_over_alpha():
    logits, target = rows(2, 20, 6), labels(2, 5, 20)
    for alpha in (0.01, 0.1, 1.0, 4.0):
        default = drainage_loss(logits, target, alpha=alpha)
        torch.testing.assert_close(default, drainage_loss(logits, target, alpha=alpha, beta=1 / alpha), rtol=0, atol=0)
        assert DrainageLoss(alpha)(logits, target) == default
    assert default != drainage_loss(logits, target, alpha=4.0, beta=4.0)


@pytest.mark.parametrize(("alpha", "beta"), [ab for ab in ALPHA_BETA if ab[1] > 0])
def test_best_drainage_logit_is_halfway_between_label_and_rivals(alpha, beta):
    logits, target = rows(3, 30, 5), labels(3, 4, 30)
    z_t = logits.gather(1, target[:, None])[:, 0]
    others = logits[:, :4].scatter(1, target[:, None], -INF).logsumexp(1)
    best = (z_t + others + math.log(beta / alpha)) / 2

    def loss_at(z_d):
        moved = torch.cat([logits[:, :4], z_d[:, None]], 1)
        return drainage_loss(moved, target, alpha=alpha, beta=beta, reduction="none")

    z_d = best.clone().requires_grad_()
    (slope,) = grad(loss_at(z_d).sum(), z_d, create_graph=True)
    (curvature,) = grad(slope.sum(), z_d)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-13)
    assert (curvature > 0).all()
    for step in (-1.0, -0.1, 0.1, 1.0):
        assert (loss_at(best + step) > loss_at(best)).all()

    r = (others - z_t).exp()
    profiled = torch.log(1 + alpha * r + 2 * torch.sqrt(alpha * beta * r))
    torch.testing.assert_close(loss_at(best), profiled, rtol=1e-12, atol=1e-12)
    if alpha == beta == 1:
        torch.testing.assert_close(loss_at(best), 2 * torch.log1p(r.sqrt()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_classes", [1, 2, 7])
def test_is_cross_entropy_without_drainage(num_classes):
    classes, target = rows(4, 50, num_classes), labels(4, num_classes, 50)
    logits = F.pad(classes, (0, 1), value=-INF)
    value, gradient = value_and_grad(logits, target, alpha=1.0, beta=0.0)
    classes.requires_grad_()
    expected = F.cross_entropy(classes, target)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(gradient[:, :-1], grad(expected, classes)[0], rtol=1e-13, atol=1e-16)
    assert (gradient[:, -1] == 0).all()


# Properties


@few
@given(
    masses=st.lists(st.floats(0.01, 1), min_size=3, max_size=7), alpha=alphas, beta=betas,
    share=st.floats(0, 0.99), to_drainage=st.booleans(), data=st.data(),
)  # fmt: skip
def test_moving_mass_from_rivals_never_raises_the_loss(masses, alpha, beta, share, to_drainage, data):
    num_classes = len(masses) - 1
    label = data.draw(st.integers(0, num_classes - 1))
    rival = data.draw(st.integers(0, num_classes - 1).filter(lambda j: j != label))
    before = torch.tensor([masses], dtype=torch.float64)
    after = before.clone()
    moved = share * masses[rival]
    after[0, rival] -= moved
    after[0, -1 if to_drainage else label] += moved
    loss = [drainage_loss(p.log(), torch.tensor([label]), alpha=alpha, beta=beta).item() for p in (before, after)]
    assert loss[1] <= loss[0] + 1e-12


def test_moving_mass_to_drainage_lowers_the_loss_strictly():
    before = torch.tensor([[0.3, 0.5, 0.2]], dtype=torch.float64).log()
    after = torch.tensor([[0.3, 0.3, 0.4]], dtype=torch.float64).log()
    for alpha, beta in [(0.1, 10.0), (1.0, 1.0), (20.0, 0.05)]:
        arguments = {"alpha": alpha, "beta": beta}
        target = torch.tensor([0])
        # Only beta p_J / p_d moves: 1 + alpha 0.7/0.3 + beta 0.5/0.2 against 1 + alpha 0.7/0.3 + beta 0.3/0.4.
        difference = drainage_loss(before, target, **arguments) - drainage_loss(after, target, **arguments)
        base = 1 + alpha * 7 / 3
        assert difference.item() == pytest.approx(math.log((base + beta * 2.5) / (base + beta * 0.75)), rel=1e-12)


@few
@given(seed=st.integers(0, 10**6), alpha=alphas, beta=betas, soft_target=st.booleans())
def test_is_convex_between_any_two_points(seed, alpha, beta, soft_target):
    first, second = rows(seed, 8, 5, scale=6.0), rows(seed + 1, 8, 5, scale=6.0)
    target = soft(seed, 8, 4) if soft_target else labels(seed, 4, 8)
    at = [
        drainage_loss(z, target, alpha=alpha, beta=beta, reduction="none")
        for z in (first, (first + second) / 2, second)
    ]
    assert (at[1] <= (at[0] + at[2]) / 2 + 1e-10).all()


@pytest.mark.parametrize(("alpha", "beta"), ALPHA_BETA)
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_hessian_is_positive_semidefinite(alpha, beta, kind):
    logits, target = rows(5, 6, 5), labels(5, 4, 6)
    if kind == "probabilities":
        target = soft(5, 6, 4)

    def loss(z, y):
        return drainage_loss(z[None], y[None], alpha=alpha, beta=beta)

    hessian = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(loss)))(logits, target)
    torch.testing.assert_close(hessian, hessian.mT, rtol=0, atol=1e-13)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    assert eigenvalues.min() > -1e-12
    assert eigenvalues.max() > 1e-3
    torch.testing.assert_close(hessian.sum(-1), torch.zeros(6, 5, dtype=torch.float64), rtol=0, atol=1e-13)
    slow = torch.autograd.functional.hessian(lambda z: loss(z, target[0]), logits[0])
    torch.testing.assert_close(hessian[0], slow, rtol=0, atol=1e-13)


@few
@given(row=logit_rows, shift=st.floats(-50, 50), alpha=alphas, data=st.data())
def test_does_not_change_with_a_shift_of_all_logits(row, shift, alpha, data):
    label = torch.tensor([data.draw(st.integers(0, len(row) - 2))])
    logits = torch.tensor([row], dtype=torch.float64)
    losses = [drainage_loss(z, label, alpha=alpha).item() for z in (logits, logits + shift)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-11, abs=1e-11)


@few
@given(seed=st.integers(0, 10**6), alpha=alphas, beta=betas, scale=st.sampled_from([0.1, 5.0, 200.0]))
def test_is_not_negative_and_gradient_rows_sum_to_zero(seed, alpha, beta, scale):
    logits = rows(seed, 6, 5, scale=scale)
    for target in (labels(seed, 4, 6), soft(seed, 6, 4)):
        loss, gradient = value_and_grad(logits, target, alpha=alpha, beta=beta, reduction="none")
        assert (loss >= 0).all()
        torch.testing.assert_close(gradient.sum(1), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-14)


def test_goes_to_zero_as_the_label_wins_over_drainage_over_the_rivals():
    previous = INF
    for margin in (1.0, 10.0, 100.0, 400.0):
        logits = torch.tensor([[margin, -margin, -margin, 0.0]], dtype=torch.float64)
        loss = drainage_loss(logits, torch.tensor([0]), alpha=0.1).item()
        assert 0 < loss < previous
        assert loss == pytest.approx(accurate_reference(logits[0].tolist(), 0, 0.1), rel=1e-12)
        previous = loss
    assert previous < 1e-170


# Gradients


@pytest.mark.parametrize(("alpha", "beta"), ALPHA_BETA)
def test_gradient_is_the_closed_form(alpha, beta):
    logits, target = rows(6, 30, 6), labels(6, 5, 30)
    _, gradient = value_and_grad(logits, target, alpha=alpha, beta=beta, reduction="sum")
    for z, t, got in zip(logits.tolist(), target.tolist(), gradient.tolist(), strict=True):
        mass = math.fsum(math.exp(z[j]) for j in range(5) if j != t)
        term_1 = alpha * (math.exp(z[5]) + mass) / math.exp(z[t])
        term_2 = beta * mass / math.exp(z[5])
        w1, w2 = term_1 / (1 + term_1 + term_2), term_2 / (1 + term_1 + term_2)
        drained = math.exp(z[5]) / (math.exp(z[5]) + mass)
        expected = [(w1 * (1 - drained) + w2) * math.exp(z[j]) / mass for j in range(5)]
        expected[t] = -w1
        assert got == pytest.approx([*expected, w1 * drained - w2], rel=1e-10, abs=1e-13)


def gradient_cases():
    ignored = labels(7, 4, 5)
    ignored[2] = -100
    weight = torch.tensor([0.5, 2.0, 0.0, 1.3], dtype=torch.float64)
    yield pytest.param((3, 5), labels(7, 4, 3), {}, id="indices")
    yield pytest.param((3, 5), soft(7, 3, 4), {"alpha": 0.1}, id="probabilities")
    yield pytest.param((3, 4), F.one_hot(labels(7, 3, 3), 3).double(), {"alpha": 0.1}, id="one-hot probabilities")
    yield pytest.param((5, 5), ignored, {"weight": weight, "alpha": 0.1}, id="weights and ignored")
    yield pytest.param((2, 5), soft(8, 2, 4), {"weight": weight}, id="probabilities and weights")
    yield pytest.param((1, 4, 2, 3), labels(8, 3, 1, 2, 3), {"alpha": 2.0}, id="spatial")
    yield pytest.param((2, 3, 2), soft(9, 2, 2, 2), {"alpha": 2.0, "reduction": "none"}, id="spatial probabilities")
    yield pytest.param((3, 2), labels(9, 1, 3), {}, id="one class")
    yield pytest.param((3, 4), labels(7, 3, 3), {"beta": 0.0, "reduction": "sum"}, id="beta 0")


@pytest.mark.parametrize(("shape", "target", "arguments"), [*gradient_cases()])
def test_first_and_second_derivatives_are_exact(shape, target, arguments):
    logits = rows(10, *shape, scale=2.0).requires_grad_()
    assert gradcheck(lambda z: drainage_loss(z, target, **arguments), logits)
    assert gradgradcheck(lambda z: drainage_loss(z, target, **arguments), logits)


def test_gradient_reaches_the_class_probabilities():
    logits, target = rows(11, 4, 5).requires_grad_(), soft(11, 4, 4).requires_grad_()
    weight = torch.tensor([0.5, 2.0, 1.0, 1.3], dtype=torch.float64)
    assert gradcheck(lambda z, y: drainage_loss(z, y, alpha=0.3, weight=weight), (logits, target))
    loss = drainage_loss(logits, target, reduction="sum")
    one_by_one = [drainage_loss(logits, torch.full((4,), c), reduction="none") for c in range(4)]
    torch.testing.assert_close(grad(loss, target)[0], torch.stack(one_by_one, 1), rtol=1e-12, atol=1e-12)


def test_gradient_at_a_masked_rival_is_zero_and_differentiable():
    logits = torch.tensor([[1.0, -INF, 0.5, 0.2]], dtype=torch.float64)
    kept = [0, 2, 3]
    for target, kept_target in [
        (torch.tensor([2]), torch.tensor([1])),
        (torch.tensor([[0.3, 0.0, 0.7]]), torch.tensor([[0.3, 0.7]])),
    ]:
        value, gradient = value_and_grad(logits, target, alpha=0.3)
        expected, expected_gradient = value_and_grad(logits[:, kept], kept_target, alpha=0.3)
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
        assert gradient[0, 1] == 0
        torch.testing.assert_close(gradient[:, kept], expected_gradient, rtol=1e-13, atol=1e-16)


# Precision and infinities


@pytest.mark.parametrize("num_classes", [10, 1000])
@pytest.mark.parametrize("alpha", [1.0, 0.1])
@pytest.mark.parametrize("kind", ["indices", "one-hot probabilities"])
def test_float32_keeps_its_digits_as_the_label_wins(num_classes, alpha, kind):
    margins = torch.arange(10, 81, 5).float()
    for drained in (0.0, 0.5, 0.9):  # how far up between the rivals and the label z_d stands
        logits = rows(12, len(margins), num_classes + 1, scale=0.5, dtype=torch.float32)
        logits[:, 3] = margins
        logits[:, -1] = drained * margins
        target = torch.full((len(margins),), 3)
        if kind != "indices":
            target = F.one_hot(target, num_classes).float()
        loss, gradient = value_and_grad(logits, target, alpha=alpha, reduction="none")
        assert loss.dtype == torch.float32
        expected = [accurate_reference(row, 3, alpha) for row in logits.double().tolist()]
        assert loss.tolist() == pytest.approx(expected, rel=1e-5, abs=0)
        _, exact = value_and_grad(logits.double(), target.double() if target.ndim == 2 else target, alpha=alpha)
        torch.testing.assert_close(
            gradient[:, 3].double(), len(margins) * exact[:, 3], rtol=2e-5, atol=0
        )  # dl/dz_t = -w1 keeps its digits too


@pytest.mark.parametrize("scale", [10.0, 100.0, 1000.0, 1e4])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_float32_gradient_is_accurate_for_large_logits(scale, kind):
    logits = rows(13, 500, 6, scale=scale, dtype=torch.float32)
    logits[::2] = (logits[::2] / scale).round() * scale  # many ties
    target = labels(13, 5, 500) if kind == "indices" else soft(13, 500, 5).float()
    exact_target = target if kind == "indices" else target.double()
    loss, gradient = value_and_grad(logits, target, reduction="none")
    exact_loss, exact = value_and_grad(logits.double(), exact_target, reduction="none")
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-6, atol=1e-6)
    # T1 and T2 are differences of logits: their rounding is all that the weights e^T1 / (1 + e^T1 + e^T2) may carry
    torch.testing.assert_close(gradient.double(), exact, rtol=0, atol=1e-6 + 2**-25 * scale)


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_float32_is_as_accurate_with_a_common_offset(kind):
    logits = (rows(34, 500, 6) * 1024).round() / 1024  # so that the sums below are exact in float32
    target = labels(34, 5, 500) if kind == "indices" else soft(34, 500, 5).float()
    expected = value_and_grad(logits.float(), target, alpha=0.1, reduction="none")
    for offset in (-8000.0, 8000.0):
        shifted = (logits + offset).float()
        assert torch.equal(shifted.double(), logits + offset)
        value, gradient = value_and_grad(shifted, target, alpha=0.1, reduction="none")
        torch.testing.assert_close((value, gradient), expected, rtol=2e-6, atol=1e-6)


BIG = 1e4
HUGE_LOGITS = [  # logits, label, loss, gradient; worked out by hand for alpha = beta = 1
    ([BIG, -BIG, 0.0], 0, 0.0, [0.0, 0.0, 0.0]),
    ([-BIG, BIG, 0.0], 0, 2 * BIG, [-1.0, 1.0, 0.0]),
    ([-BIG, BIG, -BIG], 0, 2 * BIG + math.log(2), [-0.5, 1.0, -0.5]),
    ([-BIG, -BIG, BIG], 0, 2 * BIG, [-1.0, 0.0, 1.0]),
    ([BIG, BIG, -BIG], 0, 2 * BIG, [0.0, 1.0, -1.0]),
    ([BIG, BIG, BIG], 0, math.log(4), [-0.5, 0.5, 0.0]),
    ([-BIG, BIG, BIG, 0.0], 0, 2 * BIG + math.log(2), [-1.0, 0.5, 0.5, 0.0]),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("row", "label", "loss", "gradient"), HUGE_LOGITS)
def test_huge_logits_by_hand(row, label, loss, gradient, dtype):
    logits, target = torch.tensor([row], dtype=dtype), torch.tensor([label])
    hard_loss, hard_gradient = value_and_grad(logits, target)
    soft_loss, soft_gradient = value_and_grad(logits, F.one_hot(target, len(row) - 1).to(dtype))
    assert hard_loss.item() == pytest.approx(loss, rel=1e-6, abs=0)
    assert hard_gradient[0].tolist() == pytest.approx(gradient, rel=0, abs=1e-6)
    torch.testing.assert_close(soft_loss, hard_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(soft_gradient, hard_gradient, rtol=0, atol=1e-6)


INFINITIES = [  # logits, label, beta, loss
    ([0.0, -INF, 0.0], 0, 1.0, math.log(2)),  # no rival: 1 + alpha p_d / p_t
    ([0.0, -INF, 1.0, 0.0], 0, 1.0, math.log(1 + math.e + 1 + math.e)),  # one rival left
    ([0.0, -INF, -INF], 0, 1.0, 0.0),  # the label alone
    ([0.0, -INF, -INF], 0, 0.0, 0.0),
    ([-INF, 0.0, 0.0], 0, 1.0, INF),  # the label has no mass
    ([-INF, 0.0, 0.0], 0, 0.0, INF),
    ([-INF, -INF, 0.0], 0, 1.0, INF),
    ([-INF, 0.0, -INF], 0, 1.0, INF),
    ([0.0, 1.0, -INF], 0, 1.0, INF),  # drainage has none, though a rival has
    ([0.0, 1.0, -INF], 0, 1e-6, INF),
    ([0.0, 1.0, -INF], 0, 0.0, math.log(1 + math.e)),
    ([1.0, 2.0], 0, 1.0, math.log(1 + math.e)),  # one class
    ([1.0, -INF], 0, 1.0, 0.0),
    ([-INF, 2.0], 0, 1.0, INF),
]


@pytest.mark.parametrize(("row", "label", "beta", "loss"), INFINITIES)
@pytest.mark.parametrize("kind", ["indices", "one-hot probabilities"])
def test_infinite_logits_by_hand(row, label, beta, loss, kind):
    logits, target = torch.tensor([row], dtype=torch.float64), torch.tensor([label])
    if kind != "indices":
        target = F.one_hot(target, len(row) - 1).double()
    value, gradient = value_and_grad(logits, target, beta=beta)
    assert value.item() == pytest.approx(loss, rel=1e-14, abs=0)
    assert gradient.isfinite().all()
    assert gradient.sum().abs() < 1e-15
    if loss == 0:
        assert (gradient == 0).all()


def test_infinite_loss_still_pulls_towards_the_label():
    gradient = value_and_grad(torch.tensor([[-INF, 0.0, 0.0]]), torch.tensor([0]))[1]
    assert gradient[0].tolist() == pytest.approx([-1.0, 0.5, 0.5])
    gradient = value_and_grad(torch.tensor([[0.0, 1.0, -INF]]), torch.tensor([0]))[1]
    assert gradient[0].tolist() == pytest.approx([0.0, 1.0, -1.0], abs=1e-6)


def test_one_class_is_a_softplus():
    logits = rows(14, 20, 2)
    for target in (torch.zeros(20, dtype=torch.long), torch.ones(20, 1)):
        value, gradient = value_and_grad(logits, target, alpha=0.3, reduction="none")
        margin = logits[:, 1] - logits[:, 0] + math.log(0.3)
        torch.testing.assert_close(value, torch.log1p(margin.exp()), rtol=1e-13, atol=0)
        torch.testing.assert_close(gradient[:, 1], margin.sigmoid(), rtol=1e-13, atol=0)


def test_class_without_probability_contributes_nothing():
    logits = torch.tensor([[0.5, -INF, 1.0, 0.2], [0.5, 0.1, 1.0, 0.2]], dtype=torch.float64)
    target = torch.tensor([[0.25, 0.0, 0.75], [0.25, 0.0, 0.75]], dtype=torch.float64)
    value, gradient = value_and_grad(logits, target, reduction="none")
    for i in range(2):
        row = [z for z in logits[i].tolist() if z > -INF]
        expected = 0.25 * reference(row, 0) + 0.75 * reference(row, len(row) - 2)
        assert value[i].item() == pytest.approx(expected, rel=1e-13)
    assert gradient.isfinite().all()
    assert gradient[0, 1] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_half_precision_is_computed_in_float32(dtype, kind):
    logits = rows(15, 30, 11).to(dtype)
    target = labels(15, 10, 30) if kind == "indices" else soft(15, 30, 10).to(dtype)
    value, gradient = value_and_grad(logits, target, alpha=0.1)
    wide, wide_gradient = value_and_grad(logits.float(), target if kind == "indices" else target.float(), alpha=0.1)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, wide)
    assert torch.equal(gradient, wide_gradient.to(dtype))


def test_float16_at_its_range_is_finite():
    logits = torch.tensor([[-60000.0, 60000.0, 0.0], [60000.0, -60000.0, 0.0]], dtype=torch.float16)
    for target in (torch.tensor([0, 0]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])):
        value, gradient = value_and_grad(logits, target, reduction="none")
        assert value.tolist() == [120000.0, 0.0]
        assert gradient.tolist() == [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_returns_float32_under_autocast():
    torch.manual_seed(0)
    head, features, target = DrainageHead(6, 4), torch.randn(8, 6), labels(16, 4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features)
        loss = DrainageLoss(0.1)(logits, target)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == F.cross_entropy(torch.zeros(1, 2), torch.tensor([0])).dtype == torch.float32
    assert torch.equal(loss, drainage_loss(logits.float(), target, alpha=0.1))
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.abs().sum() > 0 for p in head.parameters())


# Shapes, weights, labels


@pytest.mark.parametrize("shape", [(6,), (6, 3, 2), (2, 3, 2, 2), (6, 1)])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_spatial_dims_and_reductions_against_one_row_at_a_time(shape, kind):
    samples, *spatial = shape
    logits = rows(17, samples, 5, *spatial)
    flat_logits = logits.movedim(1, -1).reshape(-1, 5)
    if kind == "indices":
        target = labels(17, 4, *shape)
        expected = [reference(z, t, 0.1) for z, t in zip(flat_logits.tolist(), target.flatten().tolist(), strict=True)]
    else:
        target = soft(17, samples, 4, *spatial)
        flat = target.movedim(1, -1).reshape(-1, 4).tolist()
        expected = [
            math.fsum(y[c] * reference(z, c, 0.1) for c in range(4))
            for z, y in zip(flat_logits.tolist(), flat, strict=True)
        ]
    one_by_one = drainage_loss(logits, target, alpha=0.1, reduction="none")
    assert one_by_one.shape == shape
    assert one_by_one.flatten().tolist() == pytest.approx(expected, rel=1e-12)
    total = drainage_loss(logits, target, alpha=0.1, reduction="sum")
    assert total.item() == pytest.approx(math.fsum(expected), rel=1e-12)
    mean = drainage_loss(logits, target, alpha=0.1)
    assert mean.item() == pytest.approx(math.fsum(expected) / len(expected), rel=1e-12)
    assert total.shape == mean.shape == ()


def test_class_weights_by_hand():
    logits, target = rows(18, 4, 4), torch.tensor([0, 2, -100, 1])
    weight = [0.5, 2.0, 3.0]
    losses = [reference(z, t) if t >= 0 else 0.0 for z, t in zip(logits.tolist(), target.tolist(), strict=True)]
    weighted = [0.5 * losses[0], 3.0 * losses[1], 0.0, 2.0 * losses[3]]
    arguments = {"weight": torch.tensor(weight, dtype=torch.float64)}
    assert drainage_loss(logits, target, reduction="none", **arguments).tolist() == pytest.approx(weighted, rel=1e-12)
    assert drainage_loss(logits, target, reduction="sum", **arguments).item() == pytest.approx(sum(weighted), rel=1e-12)
    assert drainage_loss(logits, target, **arguments).item() == pytest.approx(sum(weighted) / 5.5, rel=1e-12)


def test_class_weights_of_class_probabilities_by_hand():
    logits = rows(19, 2, 4)
    y = [[0.25, 0.75, 0.0], [0.0, 0.5, 0.5]]
    weight = [0.5, 2.0, 3.0]
    sample_weight = [0.25 * 0.5 + 0.75 * 2.0, 0.5 * 2.0 + 0.5 * 3.0]
    losses = [sum(y[i][c] * reference(logits[i].tolist(), c) for c in range(3)) for i in range(2)]
    weighted = [sample_weight[i] * losses[i] for i in range(2)]
    arguments = {"weight": torch.tensor(weight)}
    got = drainage_loss(logits, torch.tensor(y), reduction="none", **arguments)
    assert got.tolist() == pytest.approx(weighted, rel=1e-7)
    mean = drainage_loss(logits, torch.tensor(y), **arguments)
    assert mean.item() == pytest.approx(sum(weighted) / sum(sample_weight), rel=1e-7)


def test_ignored_samples_are_as_if_absent():
    logits, target = rows(20, 6, 5), labels(20, 4, 6)
    logits[1, 0] = -INF  # what an ignored row holds does not count
    for ignore_index in (-100, 3, 255):
        with_ignored = target.clone()
        with_ignored[[1, 4]] = ignore_index
        kept = with_ignored != ignore_index
        value, gradient = value_and_grad(logits, with_ignored, ignore_index=ignore_index)
        expected, expected_gradient = value_and_grad(logits[kept], with_ignored[kept])
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
        torch.testing.assert_close(gradient[kept], expected_gradient, rtol=1e-14, atol=0)
        assert (gradient[~kept] == 0).all()
        one_by_one = drainage_loss(logits, with_ignored, ignore_index=ignore_index, reduction="none")
        assert (one_by_one[~kept] == 0).all()


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((0, 4), torch.zeros(0, dtype=torch.long)),
        ((0, 4), torch.zeros(0, 3)),
        ((2, 4, 0), torch.zeros(2, 0, dtype=torch.long)),
        ((3, 4), torch.full((3,), -100)),
        ((2, 4, 2), torch.full((2, 2), -100)),
    ],
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_to_average_gives_zero(shape, target, reduction):
    value, gradient = value_and_grad(rows(21, *shape), target, reduction=reduction)
    assert value.item() == 0
    assert gradient.shape == shape
    assert (gradient == 0).all()


def test_classes_of_weight_zero_give_zero():
    value, gradient = value_and_grad(rows(22, 2, 4), torch.tensor([1, 1]), weight=torch.tensor([1.0, 0.0, 1.0]))
    assert value.item() == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint8])
def test_labels_of_any_integer_type(dtype):
    logits, target = rows(23, 6, 5), labels(23, 4, 6)
    assert torch.equal(drainage_loss(logits, target.to(dtype)), drainage_loss(logits, target))


def test_uint8_label_156_is_a_class_and_not_ignored():
    logits = rows(24, 1, 201)
    loss = drainage_loss(logits, torch.tensor([156], dtype=torch.uint8))
    assert loss.item() == pytest.approx(reference(logits[0].tolist(), 156), rel=1e-12)


def test_memory_layout_does_not_matter():
    logits, target = rows(25, 3, 5, 4, 6), labels(25, 4, 3, 4, 6)
    expected, expected_gradient = value_and_grad(logits, target)
    strided = rows(25, 3, 5, 4, 12)
    strided[..., ::2] = logits
    for other in (logits.contiguous(memory_format=torch.channels_last), strided[..., ::2], logits.mT.contiguous().mT):
        assert not other.is_contiguous()
        value, gradient = value_and_grad(other, target)
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-13, atol=0)


INDICES = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("logits", "target", "arguments", "message"),
    [
        (torch.zeros(2, 4), torch.tensor([0, -1]), {}, r"-1 \(no known class\).*drop those samples, or label them"),
        (torch.zeros(2, 4), torch.tensor([0, 3]), {}, r"the label 3: give 0 to 2, or -100"),
        (torch.zeros(2, 4), torch.tensor([-7, 0]), {}, r"the label -7: give 0 to 2, or -100"),
        (torch.zeros(2, 4), torch.tensor([-100, 0]), {"ignore_index": -7}, r"the label -100: give 0 to 2, or -7"),
        (torch.zeros(2, 4), torch.tensor([0, 1, 2]), {}, r"target has shape \(3,\).*class indices \(2,\)"),
        (torch.zeros(2, 4), torch.tensor([[0], [1]]), {}, r"target has shape \(2, 1\)"),
        (torch.zeros(2, 4, 5), INDICES, {}, r"class indices \(2, 5\)"),
        (torch.zeros(2, 4), torch.eye(4)[:2], {}, r"shape \(2, 4\): give class probabilities \(2, 3\)"),
        (torch.zeros(2, 4), torch.tensor([0.0, 1.0]), {}, r"probabilities \(2, 3\), or class indices as integers"),
        (torch.zeros(2, 4), torch.tensor([[1.5, -0.5, 0.0]] * 2), {}, "negative class probabilities"),
        (torch.zeros(2, 4), torch.tensor([True, False]), {}, r"torch.bool: give class indices \(integers\)"),
        (torch.zeros(2, 4, dtype=torch.long), INDICES, {}, "logits are torch.int64: give floating-point"),
        (torch.zeros(2, 4, dtype=torch.complex64), INDICES, {}, "logits are torch.complex64: give floating-point"),
        (torch.zeros(4), torch.tensor(0), {}, r"logits have shape \(4,\)"),
        (torch.tensor(0.0), torch.tensor(0), {}, r"logits have shape \(\)"),
        (torch.zeros(2, 1), INDICES, {}, r"logits have shape \(2, 1\): give \(N, C\+1, ...\)"),
        (torch.zeros(2, 4), INDICES, {"weight": torch.ones(4)}, r"weight has shape \(4,\).*each of the 3 classes"),
        (torch.zeros(2, 4), INDICES, {"alpha": 0.0}, "alpha is 0.0: give a finite number above 0"),
        (torch.zeros(2, 4), INDICES, {"alpha": -1.0}, "alpha is -1.0"),
        (torch.zeros(2, 4), INDICES, {"alpha": math.nan}, "alpha is nan"),
        (torch.zeros(2, 4), INDICES, {"alpha": INF}, "alpha is inf"),
        (torch.zeros(2, 4), INDICES, {"beta": -0.1}, "beta is -0.1: give a finite number of at least 0"),
        (torch.zeros(2, 4), INDICES, {"beta": math.nan}, "beta is nan"),
        (torch.zeros(2, 4), INDICES, {"beta": INF}, "beta is inf"),
        (torch.zeros(2, 4), INDICES, {"reduction": "avg"}, "reduction is 'avg': choose one of mean, sum, none"),
    ],
)
def test_says_what_is_wrong_and_what_to_do(logits, target, arguments, message):
    with pytest.raises(ValueError, match=message):
        drainage_loss(logits, target, **arguments)


@pytest.mark.parametrize("arguments", [{"alpha": -1.0}, {"beta": -1.0}, {"reduction": "avg"}, {"constant": math.nan}])
def test_the_module_checks_when_it_is_made(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} is"):
        DrainageLoss(**arguments)


# torch.compile, torch.func, torch.export


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_compiled_equals_eager(function, logits, *others, backend="aot_eager", tolerance=0.0):
    results = []
    for run in (function, torch.compile(function, fullgraph=True, backend=backend)):
        z = logits.clone().requires_grad_()
        value = run(z, *others)
        results.append((value.detach(), grad(value.sum(), z)[0]))
    torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_compiles_without_a_graph_break(kind):
    logits, target = rows(26, 7, 5, dtype=torch.float32), labels(26, 4, 7)
    target[3] = -100
    if kind == "probabilities":
        target = soft(26, 7, 4).float()
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0])
    assert_compiled_equals_eager(
        lambda z, y, w: drainage_loss(z, y, alpha=0.1, weight=w), logits, target, weight, tolerance=1e-6
    )


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("objective", [DrainageLoss(0.1), CrossEntropy()], ids=["drainage", "cross-entropy"])
def test_objectives_compile_without_a_graph_break(objective):
    assert_compiled_equals_eager(objective, rows(27, 7, 5, dtype=torch.float32), labels(27, 4, 7), tolerance=1e-6)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("constant", [None, 1.5])
def test_head_compiles_without_a_graph_break(constant):
    torch.manual_seed(0)
    assert_compiled_equals_eager(DrainageHead(6, 4, constant=constant), torch.randn(3, 6), tolerance=1e-6)


@pytest.mark.inductor
@pytest.mark.usefixtures("_fresh_compiler")
def test_inductor_equals_eager():
    logits, hard, probabilities = rows(28, 7, 5, dtype=torch.float32), labels(28, 4, 7), soft(28, 7, 4).float()
    logits[0, 1], hard[0], probabilities[0, 1] = -INF, 0, 0.0

    def both(z, y_hard, y_soft):
        return drainage_loss(z, y_hard, alpha=0.1) + drainage_loss(z, y_soft, alpha=2.0)

    assert_compiled_equals_eager(both, logits, hard, probabilities, backend="inductor", tolerance=1e-5)


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_per_sample_gradients_equal_a_loop(kind):
    logits, target = rows(29, 6, 5), labels(29, 4, 6)
    if kind == "probabilities":
        target = soft(29, 6, 4)

    def loss(z, y):
        return drainage_loss(z[None], y[None], alpha=0.1)

    together = torch.func.vmap(torch.func.grad(loss))(logits, target)
    for i in range(6):
        alone = value_and_grad(logits[i : i + 1], target[i : i + 1], alpha=0.1)[1][0]
        torch.testing.assert_close(together[i], alone, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("constant", [None, 1.5])
def test_exports_for_inference(constant):
    class Inference(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = DrainageHead(6, 4, constant=constant)

        def forward(self, features):
            logits = self.head(features)
            return closed_probabilities(logits), open_probabilities(logits)

    torch.manual_seed(0)
    model = Inference().eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (torch.randn(3, 6),), dynamic_shapes={"features": {0: batch}})
    features = torch.randn(5, 6)
    torch.testing.assert_close(program.module()(features), model(features), rtol=0, atol=1e-7)


# Reading the outputs


def test_probabilities_by_hand():
    logits = torch.tensor([[1.0, 3.0, 4.0]]).log()
    torch.testing.assert_close(open_probabilities(logits), torch.tensor([[0.125, 0.375, 0.5]]))
    torch.testing.assert_close(closed_probabilities(logits), torch.tensor([[0.25, 0.75]]))
    objective = DrainageLoss()
    torch.testing.assert_close(objective.probabilities(logits), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(objective.unknown_score(logits), torch.tensor([0.5]))
    torch.testing.assert_close(objective.label_score(logits, torch.tensor([0])), torch.tensor([0.875]))


@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_readings_have_the_shape_of_the_samples(shape, dtype):
    objective, logits = DrainageLoss(), rows(30, *shape).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    sample_shape = (shape[0], *shape[2:])
    p, p_open = objective.probabilities(logits), open_probabilities(logits)
    assert p.shape == (shape[0], 3, *shape[2:])
    assert p_open.shape == shape
    assert p.dtype == p_open.dtype == wide
    for probabilities in (p, p_open):
        torch.testing.assert_close(probabilities.sum(1), torch.ones(sample_shape, dtype=wide))
    torch.testing.assert_close(objective.unknown_score(logits), 1 - p_open[:, :-1].sum(1), rtol=0, atol=1e-6)
    target = labels(30, 3, *sample_shape)
    target.view(-1)[0], target.view(-1)[1] = -1, -100
    score = objective.label_score(logits, target)
    assert score.shape == sample_shape
    assert score.isnan().view(-1).tolist() == [True, True, *[False] * (score.numel() - 2)]
    for n, index in enumerate(np.ndindex(*sample_shape)):
        if n > 1:
            expected = 1 - p_open[(index[0], target[index], *index[1:])]
            torch.testing.assert_close(score[index], expected, rtol=0, atol=0)


def test_objective_passes_its_parameters_on():
    logits, target = rows(31, 6, 5), labels(31, 4, 6)
    target[2] = 7
    weight = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=torch.float64)
    arguments = {"alpha": 0.2, "beta": 3.0, "weight": weight, "ignore_index": 7, "reduction": "none"}
    assert torch.equal(DrainageLoss(**arguments)(logits, target), drainage_loss(logits, target, **arguments))


def test_objective_describes_itself():
    objective = DrainageLoss(0.1, constant=2.0, weight=torch.ones(3))
    assert repr(objective) == "DrainageLoss(alpha=0.1, beta=10, constant=2.0)"
    assert objective.extra_outputs == 1
    assert objective.exclusive
    assert objective.state_dict() == {}
    assert objective.double().weight.dtype == torch.float64  # it moves with the module all the same


@pytest.mark.parametrize("constant", [None, 0.0, -2.5])
def test_head_sizes(constant):
    head = DrainageLoss(constant=constant).make_head(8, 3)
    assert isinstance(head, DrainageHead)
    assert {p.shape for p in head.parameters()} == ({(4, 8), (4,)} if constant is None else {(3, 8), (3,)})
    logits = head(rows(32, 2, 5, 8, dtype=torch.float32))
    assert logits.shape == (2, 5, 4)
    assert constant is None or (logits[..., -1] == constant).all()
    assert head.to(torch.float64)(torch.zeros(1, 8, dtype=torch.float64)).dtype == torch.float64


def test_head_refuses_a_constant_that_is_not_finite():
    for constant in (INF, -INF, math.nan):
        with pytest.raises(ValueError, match="give a finite drainage logit, or None"):
            DrainageHead(8, 3, constant=constant)


def test_constant_drainage_ranks_like_the_energy_score():
    torch.manual_seed(1)
    head = DrainageHead(4, 6, constant=0.0).double()
    inputs, unknown = rows(33, 300, 4), labels(33, 2, 300).bool()
    inputs[unknown] *= 0.3
    with torch.no_grad():
        classes = head(inputs)[:, :-1]
    energy = -classes.logsumexp(1)
    expected = metrics.auroc(energy, unknown)
    assert 0.6 < expected < 0.99
    for constant in (-5.0, 0.0, 0.7, 4.0):
        score = DrainageLoss().unknown_score(F.pad(classes, (0, 1), value=constant))
        assert torch.equal(score.argsort(), energy.argsort())
        assert metrics.auroc(score, unknown) == expected
