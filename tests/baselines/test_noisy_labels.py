import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad

from catchment import CrossEntropy

INF = math.inf
SAMPLES = 12
WEIGHT = torch.tensor([0.5, 2.0, 0.0, 1.3], dtype=torch.float64)


def random_case(kind, *spatial, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(SAMPLES, 4, *spatial, generator=generator, dtype=torch.float64)
    if kind == "probabilities":
        return logits.to(dtype), torch.randn(logits.shape, generator=generator, dtype=torch.float64).softmax(1).to(
            dtype
        )
    target = torch.randint(4, (SAMPLES, *spatial), generator=generator)
    target[::5] = -100
    return logits.to(dtype), target


def value_and_grad(function, logits):
    logits = logits.detach().requires_grad_()
    value = function(logits)
    return value.detach(), grad(value.sum(), logits)[0]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("spatial", [(), (3,), (2, 3)])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch(kind, spatial, reduction, dtype):
    logits, target = random_case(kind, *spatial, dtype=dtype)
    got = value_and_grad(lambda z: CrossEntropy(reduction=reduction)(z, target), logits)
    if kind == "probabilities" and reduction == "mean":  # per pixel, like class indices
        expected = value_and_grad(lambda z: F.cross_entropy(z, target, reduction="none").mean(), logits)
    else:
        expected = value_and_grad(lambda z: F.cross_entropy(z, target, reduction=reduction), logits)
    tolerance = 1e-13 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignore_index", [-100, 1])
def test_equals_torch_with_class_weights(reduction, ignore_index):
    logits, target = random_case("indices", 3)
    target[target == -100] = ignore_index
    ours = CrossEntropy(weight=WEIGHT, ignore_index=ignore_index, reduction=reduction)
    got = value_and_grad(lambda z: ours(z, target), logits)
    expected = value_and_grad(
        lambda z: F.cross_entropy(z, target, WEIGHT, ignore_index=ignore_index, reduction=reduction), logits
    )
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-15)


def test_class_weights_of_class_probabilities_weigh_the_sample():
    logits = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], dtype=torch.float64).log()
    y = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    weight = torch.tensor([1.0, 3.0, 5.0])
    losses = [-0.5 * math.log(0.2) - 0.5 * math.log(0.3), -math.log(0.8)]
    weighted = [2.0 * losses[0], 5.0 * losses[1]]  # 0.5 * 1 + 0.5 * 3, and 5
    none = CrossEntropy(weight=weight, reduction="none")(logits, y)
    assert none.tolist() == pytest.approx(weighted, rel=1e-13)
    assert CrossEntropy(weight=weight)(logits, y).item() == pytest.approx(sum(weighted) / 7.0, rel=1e-13)
    one_hot = F.one_hot(torch.tensor([1, 2]), 3).double()  # where both kinds of target mean the same
    assert CrossEntropy(weight=weight)(logits, one_hot).item() == pytest.approx(
        CrossEntropy(weight=weight)(logits, torch.tensor([1, 2])).item(), rel=1e-13
    )


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((0, 3), torch.zeros(0, dtype=torch.long)),
        ((0, 3), torch.zeros(0, 3)),
        ((2, 3), torch.tensor([-100, -100])),
        ((2, 3, 2), torch.full((2, 2), -100)),
    ],
)
def test_nothing_to_average_gives_zero(shape, target):
    value, gradient = value_and_grad(lambda z: CrossEntropy()(z, target), torch.ones(shape))
    assert value.item() == 0
    assert (gradient == 0).all()
    assert F.cross_entropy(torch.ones(shape), target).isnan()  # the departure from torch


def test_impossible_class_without_probability_contributes_nothing():
    logits = torch.tensor([[0.0, -INF, 1.0]], dtype=torch.float64)
    y = torch.tensor([[0.25, 0.0, 0.75]], dtype=torch.float64)
    value, gradient = value_and_grad(lambda z: CrossEntropy()(z, y), logits)
    expected, expected_gradient = value_and_grad(lambda z: CrossEntropy()(z, y[:, ::2]), logits[:, ::2])
    assert value.item() == pytest.approx(expected.item(), rel=1e-14)
    assert gradient[0, ::2].tolist() == pytest.approx(expected_gradient[0].tolist(), rel=1e-14)
    assert gradient[0, 1] == 0


def test_impossible_label_is_infinite():
    logits = torch.tensor([[0.0, -INF, 1.0]])
    assert CrossEntropy()(logits, torch.tensor([1])).item() == INF
    assert CrossEntropy()(logits, torch.tensor([[0.5, 0.5, 0.0]])).item() == INF


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, target = random_case("indices", dtype=dtype)
    value, gradient = value_and_grad(lambda z: CrossEntropy()(z, target), logits)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, CrossEntropy()(logits.float(), target))
    torch.testing.assert_close(value, F.cross_entropy(logits.float(), target), rtol=1e-6, atol=0)


def test_huge_logits():
    logits = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 0.0]])
    for target in (torch.tensor([0, 0]), torch.tensor([[1.0, 0.0, 0.0]] * 2)):
        value, gradient = value_and_grad(lambda z, y=target: CrossEntropy(reduction="none")(z, y), logits)
        assert value.tolist() == [2e4, 0.0]
        assert gradient.tolist() == [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(3), torch.tensor(0), r"logits have shape \(3,\)"),
        (torch.zeros(2, 3).long(), torch.tensor([0, 1]), "logits are torch.int64"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "the label 3: give 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "no known class"),
        (torch.zeros(2, 3), torch.eye(4)[:2], r"class probabilities \(2, 3\)"),
        (torch.zeros(2, 3), torch.tensor([True, False]), "torch.bool"),
    ],
)
def test_says_what_is_wrong(logits, target, message):
    with pytest.raises(ValueError, match=message):
        CrossEntropy()(logits, target)


def test_checks_when_it_is_made():
    with pytest.raises(ValueError, match="reduction is 'avg'"):
        CrossEntropy(reduction="avg")
    with pytest.raises(ValueError, match="weight has shape"):
        CrossEntropy(weight=torch.ones(2))(torch.zeros(1, 3), torch.tensor([0]))


def test_reads_its_outputs_by_the_softmax():
    objective, logits = CrossEntropy(), torch.tensor([[1.0, 3.0], [4.0, 1.0]]).log()
    torch.testing.assert_close(objective.probabilities(logits), torch.tensor([[0.25, 0.75], [0.8, 0.2]]))
    torch.testing.assert_close(objective.unknown_score(logits), torch.tensor([0.25, 0.2]))
    torch.testing.assert_close(objective.label_score(logits, torch.tensor([0, 0])), torch.tensor([0.75, 0.2]))
    assert objective.label_score(logits, torch.tensor([-1, -100])).isnan().all()
    assert objective.make_head(5, 3)(torch.zeros(2, 5)).shape == (2, 3)
    assert CrossEntropy(weight=torch.ones(3)).state_dict() == {}


def test_gradient_reaches_the_class_probabilities():
    logits, y = random_case("probabilities")
    assert torch.autograd.gradcheck(CrossEntropy(weight=WEIGHT), (logits[:3].requires_grad_(), y[:3].requires_grad_()))
