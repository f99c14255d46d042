"""Losses for rare classes, against their formulas and torch's cross-entropy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import catchment as ct
from catchment.training import TrainingConfig, train

COUNTS = torch.tensor([1000, 100, 10])
ROWS = 8


def random_case(*spatial):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(ROWS, 3, *spatial, generator=generator, dtype=torch.float64)
    return logits, torch.randint(3, (ROWS, *spatial), generator=generator)


def test_logit_adjustment_is_cross_entropy_of_adjusted_logits():
    logits, target = random_case(2)
    share = (COUNTS.double() / 1110).reshape(1, 3, 1)
    for tau in (0.0, 0.5, 1.0, 2.0):
        loss = ct.LogitAdjustment(tau, class_counts=COUNTS)
        expected = F.cross_entropy(logits + tau * share.log(), target)
        torch.testing.assert_close(loss(logits, target), expected, rtol=1e-12, atol=0)
    y = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).reshape(1, 3, 1).expand(ROWS, 3, 2)
    expected = -(y * (logits + share.log()).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(ct.LogitAdjustment(class_counts=COUNTS)(logits, y), expected, rtol=1e-12, atol=0)


def test_balanced_softmax_is_logit_adjustment_at_tau_1():
    """Worked out: p = n_y e^z_y / sum n_c e^z_c."""
    logits, target = random_case()
    expected = [
        -math.log(n[t] * math.exp(z[t]) / sum(n_c * math.exp(z_c) for n_c, z_c in zip(n, z, strict=True)))
        for z, t in zip(logits.tolist(), target.tolist(), strict=True)
        for n in [COUNTS.tolist()]
    ]
    got = ct.BalancedSoftmax(class_counts=COUNTS, reduction="none")(logits, target)
    assert got.tolist() == pytest.approx(expected, rel=1e-12)
    adjusted = ct.LogitAdjustment(1.0, class_counts=COUNTS, reduction="none")(logits, target)
    torch.testing.assert_close(got, adjusted, rtol=1e-12, atol=1e-14)


def test_a_class_without_samples_is_absent_in_training():
    logits, _ = random_case()
    target = torch.tensor([0, 2] * 4)
    for loss in (ct.LogitAdjustment, ct.BalancedSoftmax):
        got = loss(class_counts=torch.tensor([30, 0, 10]))(logits, target)
        expected = loss(class_counts=torch.tensor([30, 10]))(logits[:, ::2], target // 2)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_class_balanced_weights():
    n = np.array([5000.0, 300.0, 7.0])
    for beta in (0.9, 0.99, 0.999, 0.9999):
        expected = (1 - beta) / (1 - beta**n)
        expected *= 3 / expected.sum()
        np.testing.assert_allclose(ct.class_balanced_weights(torch.from_numpy(n), beta), expected, rtol=1e-11)
    assert ct.class_balanced_weights(COUNTS, 0.0).tolist() == [1.0, 1.0, 1.0]
    towards_frequency = ct.class_balanced_weights(COUNTS, 1 - 1e-12)  # 1 / n_c, scaled: 3 / (1.11 / 10) = 27.027
    assert towards_frequency.tolist() == pytest.approx([0.027027, 0.27027, 2.7027], rel=1e-4)
    assert ct.class_balanced_weights(torch.tensor([0, 1, 1])).tolist() == pytest.approx([0.0, 1.5, 1.5])


def test_class_balanced_loss_is_weighted_cross_entropy():
    logits, target = random_case(2)
    weight = ct.class_balanced_weights(COUNTS, 0.999)
    for reduction in ("mean", "sum", "none"):
        got = ct.ClassBalanced(0.999, class_counts=COUNTS, reduction=reduction)(logits, target)
        expected = F.cross_entropy(logits, target, weight, reduction=reduction)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        ct.ClassBalanced(0.0, class_counts=COUNTS)(logits, target), F.cross_entropy(logits, target)
    )


def ldam_by_hand(logits, target, *, max_margin, scale, weight=None):
    margins = COUNTS.double() ** -0.25
    margins = margins * (max_margin / margins.max())
    moved = logits - margins[target].unsqueeze(1) * F.one_hot(target, 3)
    return F.cross_entropy(scale * moved, target, weight)


@pytest.mark.parametrize(("max_margin", "scale"), [(0.5, 30.0), (0.2, 1.0), (0.0, 4.0)])
def test_ldam_lowers_the_labels_logit_by_its_margin(max_margin, scale):
    logits, target = random_case()
    loss = ct.LDAM(max_margin, scale, class_counts=COUNTS)
    value = loss(logits, target, progress=torch.tensor(0.0))
    expected = ldam_by_hand(logits, target, max_margin=max_margin, scale=scale)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=0)


def test_ldam_reweights_late():
    logits, target = random_case()
    loss = ct.LDAM(beta=0.999, class_counts=COUNTS)
    plain = ldam_by_hand(logits, target, max_margin=0.5, scale=30.0)
    weight = ct.class_balanced_weights(COUNTS, 0.999)
    weighted = ldam_by_hand(logits, target, max_margin=0.5, scale=30.0, weight=weight)
    assert abs(plain - weighted) > 0.1
    for progress, expected in ((0.0, plain), (0.795, plain), (0.8, weighted), (1.0, weighted)):
        got = loss(logits, target, progress=torch.tensor(progress, dtype=torch.float64))
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=0)
    never = ct.LDAM(reweight_from=1.0, class_counts=COUNTS)
    torch.testing.assert_close(never(logits, target, progress=torch.tensor(0.99)), plain, rtol=1e-11, atol=0)


def test_ldam_takes_cosines_and_reads_them_by_its_scale():
    loss = ct.LDAM(scale=30.0)
    head = loss.make_head(5, 3)
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    cosines = head(features)
    expected = F.cosine_similarity(features[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(cosines, expected)
    torch.testing.assert_close(head(7 * features), cosines)  # the length of the features doesn't count
    p = loss.probabilities(cosines)
    torch.testing.assert_close(p, (30 * cosines).softmax(1))
    torch.testing.assert_close(loss.unknown_score(cosines), 1 - p.amax(1))
    torch.testing.assert_close(loss.label_score(cosines, torch.tensor([0, 1, 2, 0])), 1 - p[range(4), [0, 1, 2, 0]])
    assert torch.export.export(head, (features,)).module()(features).shape == (4, 3)


@pytest.mark.parametrize("name", ["logit-adjustment", "balanced-softmax", "ldam", "class-balanced"])
def test_counts_come_from_setup_and_are_saved_with_the_model(name):
    loss = ct.create_objective(name, num_classes=3)
    columns = {"progress": torch.tensor(0.0)} if loss.needs else {}
    with pytest.raises(ValueError, match=r"does not know the class counts: give class_counts=, or call setup\(\)"):
        loss(torch.zeros(1, 3), torch.tensor([0]), **columns)
    loss.setup(num_samples=1110, class_counts=COUNTS)
    assert ct.Model(nn.Linear(1, 3), loss).inference_state()["objective.class_counts"].tolist() == COUNTS.tolist()
    given = ct.create_objective(name, num_classes=3, class_counts=torch.tensor([1, 2, 3]))
    given.setup(num_samples=1110, class_counts=COUNTS)
    assert given.class_counts.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="class_counts are for 3 classes and the logits for 2"):
        loss(torch.zeros(1, 2), torch.tensor([0]), **columns)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ct.LogitAdjustment(-1.0), "tau is -1: give a finite number of at least 0"),
        (lambda: ct.ClassBalanced(1.0), "beta is 1: give a number from 0 to below 1"),
        (lambda: ct.LDAM(max_margin=-0.1), "max_margin is -0.1: give a finite number of at least 0"),
        (lambda: ct.LDAM(scale=0.0), "scale is 0: give a finite number above 0"),
        (lambda: ct.LDAM(reweight_from=1.5), "reweight_from is 1.5"),
        (
            lambda: ct.BalancedSoftmax(class_counts=torch.tensor([-1, 2])),
            r"class_counts are \[-1.0, 2.0\]: give \(C,\)",
        ),
        (lambda: ct.BalancedSoftmax(class_counts=torch.zeros(3)), "not all 0"),
        (lambda: ct.class_balanced_weights(torch.ones(2, 2)), r"give \(C,\) numbers of samples"),
    ],
)
def test_settings_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_adjusted_training_finds_more_of_a_rare_class():
    """Two overlapping Gaussians, 400 samples against 20: recall of the rare one."""
    rng = np.random.default_rng(0)

    def part(counts):
        labels = np.repeat([0, 1], counts)
        inputs = (rng.normal(size=(len(labels), 2)) + 1.5 * labels[:, None]).astype(np.float32)
        return ct.data.Dataset("gaussians", inputs, labels, ("many", "few"))

    training, test = part([400, 20]), part([500, 500])
    recall = {}
    for name in ("cross-entropy", "logit-adjustment", "balanced-softmax", "ldam"):
        torch.manual_seed(0)
        objective = ct.create_objective(name, num_classes=2)
        model = ct.Model(_Net(objective), objective)
        train(model, training, TrainingConfig(epochs=8, learning_rate=0.1, device="cpu"))
        p = objective.probabilities(model.net(torch.from_numpy(test.inputs))["logits"])
        recall[name] = (p[500:].argmax(1) == 1).float().mean().item()
    assert recall["cross-entropy"] < 0.5
    for name in ("logit-adjustment", "balanced-softmax", "ldam"):
        assert recall[name] > recall["cross-entropy"] + 0.2, recall


class _Net(nn.Module):
    def __init__(self, objective):
        super().__init__()
        self.body = nn.Linear(2, 16)
        self.head = objective.make_head(16, 2)

    def forward(self, x):
        features = self.body(x).relu()
        return {"features": features, "logits": self.head(features)}
