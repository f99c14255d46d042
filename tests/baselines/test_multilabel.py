import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck

from catchment.baselines.multilabel import (
    METHODS,
    ZLPR,
    AsymmetricLoss,
    BinaryCrossEntropy,
    BinaryFocalLoss,
    MultiLabelSoftmax,
    SelfNormalizedCrossEntropy,
    TwoWayLoss,
)

INF = math.inf
EVERY = pytest.mark.parametrize("record", METHODS, ids=lambda record: record.name)
SIGMOIDS = (BinaryCrossEntropy, BinaryFocalLoss, AsymmetricLoss, ZLPR, TwoWayLoss)


def rows(seed, *shape, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sets(seed, *shape, share=0.4):
    """Multi-hot labels; the first row has none, the second all."""
    y = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share
    y[0], y[1] = False, True
    return y.double()


def value_and_grad(objective, z, y):
    z = z.detach().requires_grad_()
    loss = objective(z, y)
    return loss.detach(), grad(loss, z)[0]


# By hand and against torch


def test_binary_cross_entropy_equals_torch():
    z, y = rows(0, 6, 5), sets(0, 6, 5)
    for target in (y, 0.8 * y + 0.1):
        expected = F.binary_cross_entropy_with_logits(z, target, reduction="none").sum(1).mean()
        assert BinaryCrossEntropy()(z, target).item() == pytest.approx(expected.item(), rel=1e-13)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_the_formula(gamma, alpha):
    z, y = rows(1, 6, 5), sets(1, 6, 5)
    p_of_truth = torch.where(y > 0, z.sigmoid(), 1 - z.sigmoid())
    weight = 1.0 if alpha is None else torch.where(y > 0, alpha, 1 - alpha)
    expected = (-weight * (1 - p_of_truth) ** gamma * p_of_truth.log()).sum(1).mean()
    assert BinaryFocalLoss(gamma, alpha=alpha)(z, y).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("gamma_neg", "gamma_pos", "clip"), [(4.0, 1.0, 0.05), (2.0, 0.0, 0.2), (0.5, 0.5, 0.0), (0.0, 3.0, 0.1)]
)
def test_asymmetric_loss_is_the_formula(gamma_neg, gamma_pos, clip):
    z, y = rows(2, 6, 5), sets(2, 6, 5)
    p = z.sigmoid()
    shifted = (p - clip).clamp(min=0)
    expected = -(y * (1 - p) ** gamma_pos * p.log() + (1 - y) * shifted**gamma_neg * (1 - shifted).log()).sum(1).mean()
    loss = AsymmetricLoss(gamma_neg, gamma_pos, clip=clip)(z, y)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_asymmetric_and_focal_loss_without_their_factors_are_binary_cross_entropy():
    z, y = rows(3, 6, 5), sets(3, 6, 5)
    expected = value_and_grad(BinaryCrossEntropy(), z, y)
    torch.testing.assert_close(value_and_grad(AsymmetricLoss(0.0, 0.0, clip=0.0), z, y), expected)
    torch.testing.assert_close(value_and_grad(BinaryFocalLoss(0.0), z, y), expected)
    both = value_and_grad(BinaryFocalLoss(2.0), z, y)
    torch.testing.assert_close(value_and_grad(AsymmetricLoss(2.0, 2.0, clip=0.0), z, y), both)


def test_an_absent_class_below_the_clip_costs_nothing():
    z = torch.tensor([[math.log(0.05 / 0.95) - 1e-6, -20.0, math.log(0.06 / 0.94)]], dtype=torch.float64)
    loss, gradient = value_and_grad(AsymmetricLoss(gamma_neg=1.0), z, torch.tensor([-1]))
    assert loss.item() == pytest.approx(-0.01 * math.log(0.99), rel=1e-9)
    assert gradient[0, :2].tolist() == [0.0, 0.0]
    assert gradient[0, 2] > 0


@pytest.mark.parametrize("cls", [BinaryFocalLoss, AsymmetricLoss])
def test_detached_factors_change_the_gradient_alone(cls):
    z, y = rows(4, 6, 5), sets(4, 6, 5)
    loss, gradient = value_and_grad(cls(), z, y)
    detached_loss, detached = value_and_grad(cls(detach_factor=True), z, y)
    assert torch.equal(loss, detached_loss)
    assert (gradient - detached).abs().max() > 1e-3
    if cls is BinaryFocalLoss:  # then only log p carries one: -(1 - p_t)^gamma dlog p_t
        p = z.sigmoid()
        expected = torch.where(y > 0, -((1 - p) ** 3), p**3) / 6
        torch.testing.assert_close(detached, expected)


def test_softmax_shares_the_labels_out():
    z, y = rows(5, 4, 5), sets(5, 4, 5)
    log_p = z.log_softmax(1)
    expected = [0.0] + [-log_p[i][y[i] > 0].mean().item() for i in range(1, 4)]
    loss, gradient = value_and_grad(MultiLabelSoftmax(), z, y)
    assert loss.item() == pytest.approx(math.fsum(expected) / 4, rel=1e-12)
    assert (gradient[0] == 0).all()  # no label, nothing to learn
    labels = torch.tensor([0, 3, 2, 4])
    torch.testing.assert_close(MultiLabelSoftmax()(z, labels), F.cross_entropy(z, labels))


def test_self_normalised_cross_entropy_is_the_formula():
    z, y = rows(6, 4, 5), sets(6, 4, 5)
    z_of_rows = z[1:].logsumexp(1)
    expected = MultiLabelSoftmax()(z, y) + 0.3 * (z_of_rows**2).sum() / 4
    loss, gradient = value_and_grad(SelfNormalizedCrossEntropy(0.3), z, y)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert (gradient[0] == 0).all()
    p = SelfNormalizedCrossEntropy().probabilities(torch.tensor([[-1.0, 0.0, 3.0]]))
    torch.testing.assert_close(p, torch.tensor([[math.exp(-1), 1.0, 1.0]]))


def test_zlpr_is_the_formula():
    z, y = rows(7, 4, 5), sets(7, 4, 5)
    for target in (y, 0.8 * y + 0.1):
        expected = ((1 + ((1 - target) * z.exp()).sum(1)).log() + (1 + (target * (-z).exp()).sum(1)).log()).mean()
        assert ZLPR()(z, target).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize(("t_p", "t_n"), [(4.0, 1.0), (1.0, 2.0)])
def test_two_way_is_the_formula(t_p, t_n):
    z, y = rows(8, 6, 5), sets(8, 6, 5)
    y[:, 4] = 0  # a class without a sample

    def one(z, y):
        absent, present = z[y == 0] / t_n, -z[y > 0] / t_p
        if len(absent) == 0:
            return 0.0
        return math.log1p(absent.exp().sum().item() ** t_n * present.exp().sum().item() ** t_p)

    samples = [one(z[i], y[i]) for i in range(6) if y[i].any()]
    classes = [one(z[:, k], y[:, k]) for k in range(5) if y[:, k].any()]
    expected = sum(samples) / len(samples) + sum(classes) / len(classes)
    loss, gradient = value_and_grad(TwoWayLoss(t_p, t_n), z, y)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert (gradient[0, :4] > 0).all()  # no label: the way over samples pushes it down all the same
    assert gradient[0, 4] == 0  # nothing to compare with on either way


def test_two_way_with_one_label_over_classes_is_a_softmax():
    z = rows(9, 1, 5)
    loss = TwoWayLoss(positive_temperature=1.0)(z, torch.tensor([2]))
    assert loss.item() == pytest.approx(F.cross_entropy(z, torch.tensor([2])).item(), rel=1e-12)


# Temperature


def test_temperature_minimises_the_held_out_loss():
    torch.manual_seed(0)
    z = rows(10, 400, 5)
    y = torch.zeros(400, 5)
    for _ in range(2):  # one or two labels, drawn from the softmax itself
        y.scatter_(1, torch.multinomial(z.softmax(1), 1), 1.0)
    objective = MultiLabelSoftmax()
    fitted = objective.fit_temperature(3.0 * z, y)
    loss_at = lambda t: MultiLabelSoftmax()(3.0 * z / t, y).item()
    assert all(loss_at(fitted) <= loss_at(fitted * factor) for factor in (0.5, 0.98, 1.02, 2.0))
    slope = (loss_at(fitted * 1.001) - loss_at(fitted * 0.999)) / (0.002 * fitted)
    assert abs(slope) < 1e-5
    assert 2.5 < fitted < 4.0  # labels drawn one by one: the logits are three times too sharp
    torch.testing.assert_close(objective.probabilities(z), (z / fitted).softmax(1), rtol=1e-6, atol=0)
    assert torch.equal(objective.probabilities(z).argmax(1), z.argmax(1))
    torch.testing.assert_close(objective(z, y), MultiLabelSoftmax()(z, y))  # training is not affected
    assert set(objective.state_dict()) == {"temperature"}


def test_temperature_leaves_out_what_says_nothing():
    z, y = rows(11, 30, 4), sets(11, 30, 4)
    expected = MultiLabelSoftmax().fit_temperature(z, y)
    more = torch.cat([z, 10 * rows(12, 5, 4)])
    assert MultiLabelSoftmax().fit_temperature(more, torch.cat([y, torch.zeros(5, 4)])) == expected
    wider = torch.cat([z, torch.full((30, 1), -INF)], 1)
    wider_y = torch.cat([y, torch.zeros(30, 1)], 1)
    assert MultiLabelSoftmax().fit_temperature(wider, wider_y) == pytest.approx(expected, rel=1e-12)


def test_temperature_says_what_is_wrong():
    with pytest.raises(ValueError, match="no sample has a label, so no temperature fits"):
        MultiLabelSoftmax().fit_temperature(rows(0, 2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="some logits are NaN or \\+inf"):
        MultiLabelSoftmax().fit_temperature(torch.tensor([[torch.nan, 0.0]]), torch.tensor([0]))


# What all do alike


@EVERY
def test_gradients_are_exact(record):
    z, y = rows(13, 5, 4), sets(13, 5, 4)
    masked = y.clone()
    masked[2], masked[3, 1] = -100, -100
    for target in (y, masked):
        assert gradcheck(lambda x, t=target: record.cls()(x, t), (z.clone().requires_grad_(),))


@EVERY
def test_ignored_rows_and_pairs_are_as_if_absent(record):
    objective = record.cls()
    z, labels = rows(14, 6, 5), torch.tensor([0, -100, 3, 4, -100, 2])
    kept = labels != -100
    loss, gradient = value_and_grad(objective, z, labels)
    expected, expected_gradient = value_and_grad(objective, z[kept], labels[kept])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[kept], expected_gradient)
    assert (gradient[~kept] == 0).all()
    y = sets(14, 6, 5)
    y[:, 3] = -100
    loss, gradient = value_and_grad(objective, z, y)
    columns = [0, 1, 2, 4]
    expected, expected_gradient = value_and_grad(objective, z[:, columns], y[:, columns])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[:, columns], expected_gradient)
    assert (gradient[:, 3] == 0).all()


@EVERY
def test_impossible_classes_contribute_nothing(record):
    objective = record.cls()
    z, y = rows(15, 6, 5), sets(15, 6, 5)
    y[:, 3] = 0
    columns = [0, 1, 2, 4]
    expected, expected_gradient = value_and_grad(objective, z[:, columns], y[:, columns])
    z[:, 3] = -INF
    loss, gradient = value_and_grad(objective, z, y)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[:, columns], expected_gradient)
    assert (gradient[:, 3] == 0).all()
    y[2] = torch.tensor([0, 1, 1, 1, 0])
    assert objective(z, y) == INF


@EVERY
@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((0, 4), torch.zeros(0, dtype=torch.long)),
        ((3, 4), torch.full((3,), -100)),
        ((3, 4), torch.full((3, 4), -100.0)),
    ],
)
def test_nothing_to_learn_from_gives_zero(record, shape, target):
    loss, gradient = value_and_grad(record.cls(), rows(16, *shape), target)
    assert loss == 0
    assert (gradient == 0).all()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(record, dtype):
    z, y = rows(17, 8, 6).to(dtype), sets(17, 8, 6)
    value, gradient = value_and_grad(record.cls(), z, y)
    wide, wide_gradient = value_and_grad(record.cls(), z.float(), y)
    assert value.dtype == record.cls().probabilities(z).dtype == torch.float32
    assert torch.equal(value, wide)
    assert torch.equal(gradient, wide_gradient.to(dtype))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_huge_logits_are_finite(record, dtype):
    z = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, -1e4]], dtype=dtype)
    for target in (torch.tensor([0, 1]), torch.tensor([1, 2])):
        loss, gradient = value_and_grad(record.cls(), z, target)
        assert loss.isfinite()
        assert gradient.isfinite().all()
    assert loss > 5000


@EVERY
def test_samples_without_a_label(record):
    z = rows(18, 3, 4)
    objective = record.cls()
    loss, gradient = value_and_grad(objective, z, torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1]]))
    assert loss > 0
    if objective.accepts_unknown:
        assert gradient[0].max() > 0
        assert objective(z, torch.tensor([-1, 0, 1])) > 0
    else:
        assert (gradient[0] == 0).all()
        with pytest.raises(ValueError, match="target holds -1 .no known class., which this loss cannot learn from"):
            objective(z, torch.tensor([-1, 0, 1]))


@EVERY
def test_compiles_in_one_graph(record):
    z, y = rows(19, 6, 5), sets(19, 6, 5)
    compiled = torch.compile(record.cls(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(value_and_grad(compiled, z, y), value_and_grad(record.cls(), z, y))


@pytest.mark.parametrize("cls", SIGMOIDS)
def test_reads_its_outputs_by_sigmoids(cls):
    z = torch.tensor([[0.0, math.log(3.0)]])
    objective = cls()
    torch.testing.assert_close(objective.probabilities(z), torch.tensor([[0.5, 0.75]]))
    torch.testing.assert_close(objective.unknown_score(z), torch.tensor([0.25]))
    torch.testing.assert_close(objective.label_score(z, torch.tensor([0])), torch.tensor([[0.5, 0.75]]))
    assert not objective.exclusive


@EVERY
@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(3), torch.tensor(0), r"logits have shape \(3,\)"),
        (torch.zeros(2, 3).long(), torch.tensor([0, 1]), "logits are torch.int64"),
        (torch.zeros(2, 3), torch.zeros(2, 4), r"give class indices \(2,\), or \(2, 3\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "the label 3"),
        (torch.zeros(2, 2), torch.tensor([[0.0, 1.5], [0, 0]]), "holds 1.5 for a sample and a class"),
    ],
)
def test_says_what_is_wrong(record, logits, target, message):
    with pytest.raises(ValueError, match=message):
        record.cls()(logits, target)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (BinaryFocalLoss, {"gamma": -1.0}, "gamma is -1.0: give a finite number of at least 0"),
        (BinaryFocalLoss, {"alpha": 1.5}, "alpha is 1.5: give a number from 0 to 1, or None"),
        (AsymmetricLoss, {"gamma_neg": INF}, "gamma_neg is inf"),
        (AsymmetricLoss, {"gamma_pos": -1.0}, "gamma_pos is -1.0"),
        (AsymmetricLoss, {"clip": 1.0}, "clip is 1.0: give a number from 0 to less than 1"),
        (TwoWayLoss, {"positive_temperature": 0.0}, "positive_temperature is 0.0: give a finite number above 0"),
        (TwoWayLoss, {"negative_temperature": math.nan}, "negative_temperature is nan"),
        (SelfNormalizedCrossEntropy, {"alpha": -0.1}, "alpha is -0.1: give a finite number of at least 0"),
    ],
)
def test_checks_when_it_is_made(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_defaults_are_the_published_ones():
    asl, two_way = AsymmetricLoss(), TwoWayLoss()
    assert (asl.gamma_neg, asl.gamma_pos, asl.clip) == (4.0, 1.0, 0.05)
    assert (two_way.positive_temperature, two_way.negative_temperature) == (4.0, 1.0)
    assert BinaryFocalLoss().gamma == 2.0
    assert repr(asl) == "AsymmetricLoss(gamma_neg=4, gamma_pos=1, clip=0.05, detach_factor=False)"
