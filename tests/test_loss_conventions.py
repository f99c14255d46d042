import math

import pytest
import torch
import torch.nn.functional as F

from catchment.loss_conventions import (
    REDUCTIONS,
    at_least_float32,
    check_reduction,
    prepare_target,
    reduce_loss,
)


def prepare(logits, target, *, num_classes=3, weight=None, ignore_index=-100):
    return prepare_target(logits, target, num_classes=num_classes, weight=weight, ignore_index=ignore_index)


def test_at_least_float32():
    for dtype, expected in [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        x = torch.tensor([0.1, -2.0], dtype=dtype, requires_grad=True)
        wide = at_least_float32(x)
        assert wide.dtype == expected
        assert (wide is x) == (dtype == expected)
        assert torch.equal(wide.detach().to(dtype), x.detach())
    for x in (torch.tensor([1, 2]), torch.tensor([True]), torch.tensor([1j])):
        with pytest.raises(ValueError, match=r"logits are torch\.\w+: give floating-point numbers"):
            at_least_float32(x)


def test_reductions_are_checked():
    for reduction in REDUCTIONS:
        check_reduction(reduction)
    with pytest.raises(ValueError, match="reduction is 'batchmean': choose one of mean, sum, none"):
        check_reduction("batchmean")


def test_labels_and_sample_weights_by_hand():
    target = prepare(
        torch.zeros(4, 3, dtype=torch.float64), torch.tensor([2, -100, 0, 1]), weight=torch.tensor([0.5, 2.0, 3.0])
    )
    assert target.is_index
    assert target.labels.tolist() == [2, 0, 0, 1]
    assert target.ignored.tolist() == [False, True, False, False]
    assert target.weight.tolist() == [3.0, 0.0, 0.5, 2.0]
    assert target.weight.dtype == torch.float64


def test_class_probabilities_and_sample_weights_by_hand():
    y = torch.tensor([[[0.5, 0.0], [0.25, 1.0], [0.25, 0.0]]])  # (1, 3, 2)
    target = prepare(torch.zeros(1, 3, 2), y, weight=torch.tensor([2.0, 4.0, 8.0]))
    assert not target.is_index
    assert target.ignored is None
    assert target.weight.tolist() == [[0.5 * 2 + 0.25 * 4 + 0.25 * 8, 4.0]]
    assert prepare(torch.zeros(1, 3, 2), y).weight.tolist() == [[1.0, 1.0]]
    assert prepare(torch.zeros(1, 3, 2, dtype=torch.float64), y).labels.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_every_integer_type_becomes_an_index(dtype):
    target = prepare(torch.zeros(2, 3), torch.tensor([2, 1], dtype=dtype))
    assert target.labels.dtype == torch.int64
    assert target.labels.tolist() == [2, 1]


def test_a_byte_is_not_mistaken_for_a_negative_label():
    # -100 is 156 and -1 is 255 in uint8
    target = prepare(torch.zeros(2, 300), torch.tensor([156, 255], dtype=torch.uint8), num_classes=300)
    assert target.labels.tolist() == [156, 255]
    assert target.weight.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="the label 255: give 0 to 2"):
        prepare(torch.zeros(1, 3), torch.tensor([255], dtype=torch.uint8))


def test_ignore_index_may_be_any_label():
    for ignore_index in (-1, 0, 2, 255):
        target = prepare(torch.zeros(2, 3), torch.tensor([1, ignore_index]), ignore_index=ignore_index)
        assert target.ignored.tolist() == [False, True]
    with pytest.raises(ValueError, match="label them 255 to leave them out"):
        prepare(torch.zeros(1, 3), torch.tensor([-1]), ignore_index=255)


def test_label_values_are_not_looked_at_off_the_cpu():
    target = prepare(torch.zeros(2, 3, device="meta"), torch.zeros(2, dtype=torch.long, device="meta"))
    assert target.labels.shape == (2,)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reduces_by_hand(reduction):
    logits = torch.zeros(3, 3)
    target = prepare(logits, torch.tensor([0, -100, 2]), weight=torch.tensor([1.0, 5.0, 3.0]))
    loss = torch.tensor([2.0, math.inf, 4.0])  # what an ignored sample holds does not count
    expected = {"none": [2.0, 0.0, 12.0], "sum": 14.0, "mean": 14.0 / 4.0}
    assert reduce_loss(loss, target, reduction).tolist() == pytest.approx(expected[reduction])


def test_mean_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 3, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (20, 4), generator=generator)
    labels[::3, 1] = -100
    weight = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    target = prepare(logits, labels, weight=weight)
    loss = F.cross_entropy(logits, target.labels, reduction="none")
    for reduction in REDUCTIONS:
        expected = F.cross_entropy(logits, labels, weight, reduction=reduction)
        torch.testing.assert_close(reduce_loss(loss, target, reduction), expected, rtol=1e-13, atol=1e-15)


def test_nothing_to_average_is_zero_with_zero_gradient():
    for labels in ([], [-100, -100]):
        loss = torch.ones(len(labels), requires_grad=True)
        target = prepare(torch.zeros(len(labels), 3), torch.tensor(labels, dtype=torch.long))
        value = reduce_loss(loss, target, "mean")
        value.backward()
        assert value.item() == 0
        assert loss.grad.tolist() == [0.0] * len(labels)


def test_weights_far_below_one_still_divide_out():
    target = prepare(torch.zeros(2, 3), torch.tensor([0, 1]), weight=torch.full((3,), 1e-20))
    assert reduce_loss(torch.tensor([1.0, 3.0]), target, "mean").item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(3), torch.tensor([0]), r"logits have shape \(3,\): give \(N, outputs, ...\)"),
        (torch.zeros(2, 3), torch.tensor([0, 1, 2]), r"target has shape \(3,\): give class indices \(2,\)"),
        (torch.zeros(2, 3), torch.eye(2, 3).long(), r"class probabilities as floats with 3 columns"),
        (torch.zeros(2, 3), torch.zeros(2), r"give class probabilities \(2, 3\), or class indices as integers"),
        (torch.zeros(2, 3, 5), torch.zeros(2, 5, 3), r"give class probabilities \(2, 3, 5\)"),
        (torch.zeros(2, 3), torch.tensor([True, False]), r"target is torch.bool: give class indices"),
        (torch.zeros(1, 3), torch.tensor([[1j, 0, 0]]), r"target is torch.complex64: give class indices"),
        (torch.zeros(1, 3), torch.tensor([[1.1, -0.1, 0.0]]), "target holds negative class probabilities"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "holds the label 3: give 0 to 2, or -100 to leave a sample out"),
        (torch.zeros(2, 3), torch.tensor([0, -2]), "holds the label -2: give 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), "-1 .no known class.*drop those samples, or label them -100"),
    ],
)
def test_says_what_is_wrong(logits, target, message):
    with pytest.raises(ValueError, match=message):
        prepare(logits, target)


def test_says_when_class_weights_do_not_fit():
    for weight in (torch.ones(4), torch.ones(3, 1), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"weight has shape .*give one number for each of the 3 classes"):
            prepare(torch.zeros(1, 3), torch.tensor([0]), weight=weight)
