import math

import numpy as np
import pytest
import torch
from torch import nn

import catchment as ct
from catchment.data import Dataset
from catchment.training import evaluation
from catchment.training.evaluation import Predictions, label_score_metrics, predict, validation_metrics, wrong_labels

LOGITS = torch.tensor(
    [[2.0, 0.0, -1.0], [0.0, 1.0, 3.0], [0.5, 0.0, 0.0], [-1.0, 2.0, 0.0], [0.0, 0.0, 0.1], [1.0, 0.0, 4.0]]
)


class Sigmoid(ct.CrossEntropy):
    exclusive = False

    def probabilities(self, logits):
        return logits.sigmoid()


class PassOn(nn.Module):
    """The inputs are the logits, but for dropout in training."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.9)
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        return {"features": x, "logits": self.dropout(x) * self.scale}


def make_model(objective=None):
    return ct.Model(PassOn(), objective or ct.CrossEntropy())


def make_dataset(labels, logits=LOGITS, clean_labels=None):
    labels = np.asarray(labels, dtype=np.int64)
    if clean_labels is not None:
        clean_labels = np.asarray(clean_labels, dtype=np.int64)
    return Dataset("d", logits[: len(labels)].numpy(), labels, ("a", "b", "c"), clean_labels=clean_labels)


def test_predictions_are_in_order_and_in_eval_mode():
    model = make_model().train()
    predictions = predict(model, make_dataset([0, 2, 1, 1, 2, 0]), batch_size=4)
    assert model.net.batches == [4, 2]
    assert torch.equal(predictions.logits, LOGITS)
    p = LOGITS.softmax(1)
    torch.testing.assert_close(predictions.probabilities, p)
    torch.testing.assert_close(predictions.unknown_score, 1 - p.amax(1))
    torch.testing.assert_close(predictions.label_score, 1 - p[range(6), [0, 2, 1, 1, 2, 0]])
    assert not predictions.logits.requires_grad


@pytest.mark.parametrize("batch_size", [1, 2, 5, 6, 1000])
def test_the_batch_size_changes_nothing(batch_size):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
    dataset = Dataset("i", images, np.array([0, 1, 2, 0, 1, 2]), ("a", "b", "c"))
    from catchment.data import InputFormat
    from catchment.nets import create_net

    torch.manual_seed(0)
    objective = ct.DrainageLoss()
    model = ct.Model(create_net("small-cnn", InputFormat.of(dataset), objective), objective)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    whole, split = predict(model, dataset), predict(model, dataset, batch_size=batch_size)
    for name in ("logits", "probabilities", "unknown_score", "label_score"):
        torch.testing.assert_close(getattr(split, name), getattr(whole, name))
    assert whole.logits.shape == (6, 4)
    assert whole.logits.unique(dim=0).shape == (6, 4)  # no two rows are alike, so that their order counts
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())  # BatchNorm too


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored(training):
    model = make_model().train(training)
    predict(model, make_dataset([0, 1]))
    assert [module.training for module in model.modules()] == [training] * 4


def test_the_mode_of_the_model_is_restored_after_an_error_too():
    model = make_model().train()
    model.net.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        predict(model, make_dataset([0, 1]))
    assert model.training


def test_half_precision_logits_are_judged_in_float32():
    model = make_model()
    model.net.forward = lambda x: {"logits": x.bfloat16()}
    predictions = predict(model, make_dataset([0, 1]))
    assert {value.dtype for value in vars(predictions).values()} == {torch.float32}
    assert torch.equal(predictions.logits, LOGITS[:2])  # these are exact in bfloat16


@pytest.mark.parametrize("objective", [ct.CrossEntropy(), Sigmoid()])
def test_samples_without_a_label_have_no_label_score(objective):
    predictions = predict(make_model(objective), make_dataset([0, -1, 2, -100, 1, -1]))
    assert predictions.label_score.isnan().tolist() == [False, True, False, True, False, True]
    assert predictions.unknown_score.isfinite().all()


def test_where_classes_do_not_exclude_each_other_the_given_labels_score_counts():
    labels = [0, 2, 1, 1, 2, 0]
    predictions = predict(make_model(Sigmoid()), make_dataset(labels))
    torch.testing.assert_close(predictions.label_score, 1 - LOGITS.sigmoid()[range(6), labels])


def test_metrics_by_hand():
    model = make_model()
    p = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    dataset = make_dataset([0, 1, 0, 1], logits=p.log())
    result = evaluation.prediction_metrics(model, predict(model, dataset), dataset)
    # right, wrong, right, right; the unknown scores 0.3, 0.4, 0.5, 0.2 rank them right, right, wrong, right
    assert result == pytest.approx({
        "accuracy": 0.75,
        "nll": -(math.log(0.7) + math.log(0.2) + math.log(0.5) + math.log(0.8)) / 4,
        "brier": (0.14 + 1.04 + 0.38 + 0.06) / 4,
        "ece": (0.3 + 0.6 + 0.5 + 0.2) / 4,
        "aurc": (0 + 0 + 1 / 3 + 1 / 4) / 4,
    }, abs=1e-6)  # fmt: skip


def test_metrics_of_classes_that_do_not_exclude_each_other_leave_out_what_needs_a_sum_of_1():
    model = make_model(Sigmoid())
    dataset = make_dataset([0, 2, 1])
    found = evaluation.prediction_metrics(model, predict(model, dataset), dataset)
    assert set(found) == {"accuracy", "ece", "ece_marginal", "aurc"}


def test_metrics_with_unknown_samples_by_hand():
    model = make_model()
    labels = np.array([0, 1, -1, -1, -100, 1])
    score = torch.tensor([0.1, 0.5, 0.4, 0.9, 1.0, 0.2])
    probabilities = torch.eye(3)[[0, 2, 0, 0, 0, 1]] * 0.97 + 0.01
    predictions = Predictions(probabilities.log(), probabilities, score, torch.zeros(6))
    result = evaluation.prediction_metrics(model, predictions, make_dataset(labels))
    assert set(result) == {
        "accuracy", "nll", "brier", "ece", "aurc",
        "unknown_auroc", "unknown_average_precision", "unknown_fpr_at_95_tpr", "unknown_mean_max_confidence",
        *(f"unknown_auroc_{name}" for name in ("msp", "max_logit", "energy", "entropy", "margin")),
    }  # fmt: skip
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["nll"] == pytest.approx(-(2 * math.log(0.98) + math.log(0.01)) / 3)
    assert result["unknown_mean_max_confidence"] == pytest.approx(0.98)
    # unknown 0.4, 0.9 against known 0.1, 0.5, 0.2: five of six pairs are in order; the left-out sample counts nowhere
    assert result["unknown_auroc"] == pytest.approx(5 / 6)
    assert result["unknown_average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert result["unknown_fpr_at_95_tpr"] == pytest.approx(1 / 3)
    # the one error has the highest score of the three known: it comes last
    assert result["aurc"] == pytest.approx((0 + 0 + 1 / 3) / 3)


def test_metrics_of_outputs_beyond_the_classes_by_hand():
    model = make_model(ct.DrainageLoss())
    winner = [3, 0, 1, 3, 3, 2, 0]
    logits = 5 * torch.eye(4)[winner]
    dataset = make_dataset([0, 0, 0, -1, -1, -1, -100], logits=logits)
    predictions = predict(model, dataset)
    result = evaluation.prediction_metrics(model, predictions, dataset)
    assert result["extra_output_known"] == pytest.approx(1 / 3)
    assert result["extra_output_unknown"] == pytest.approx(2 / 3)
    assert result["accuracy"] == pytest.approx(2 / 3)  # drainage is dropped, and the first of equal classes wins
    everything_known = dataset.select(dataset.labels >= 0)
    result = evaluation.prediction_metrics(model, predict(model, everything_known), everything_known)
    assert "extra_output_unknown" not in result
    assert not any(name.startswith("unknown") for name in result)


def test_the_scores_of_any_softmax_classifier_leave_further_outputs_out():
    # max p of the classes: 0.9, 0.5 known, 0.6 unknown; log-sum-exp of the classes: 3, 5 known, 4 unknown
    p = torch.tensor([[0.9, 0.06, 0.04], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])
    shift = torch.tensor([[3.0], [5.0], [4.0]])
    drainage = torch.tensor([[9.0], [-9.0], [0.0]])
    dataset = make_dataset([0, 1, -1], logits=torch.cat([p.log() + shift, drainage], 1))
    model = make_model(ct.DrainageLoss())
    result = evaluation.prediction_metrics(model, predict(model, dataset), dataset)
    assert result["unknown_auroc_msp"] == 0.5
    assert result["unknown_auroc_energy"] == 0.5
    assert result["unknown_auroc"] == 0.5
    sure = dataset.select(np.array([0, 2]))
    result = evaluation.prediction_metrics(model, predict(model, sure), sure)
    assert result["unknown_auroc_msp"] == 1.0  # 1 - 0.6 above 1 - 0.9
    assert result["unknown_auroc_energy"] == 0.0  # -4 below -3


def test_metrics_of_unknown_samples_alone():
    model = make_model(ct.DrainageLoss())
    dataset = make_dataset([-1, -1], logits=torch.tensor([[0.0, 0.0, 0.0, 1.0], [2.0, 0.0, 0.0, 1.0]]))
    assert evaluation.prediction_metrics(model, predict(model, dataset), dataset) == {"extra_output_unknown": 0.5}


def test_metrics_of_a_data_set_without_any_label_are_none():
    dataset = make_dataset([-100, -100])
    assert evaluation.prediction_metrics(make_model(), predict(make_model(), dataset), dataset) == {}


def test_wrong_labels():
    assert wrong_labels(make_dataset([0, 1, 2])) is None
    assert wrong_labels(make_dataset([0, 1, 2], clean_labels=[0, 2, 2])).tolist() == [False, True, False]


def make_predictions(label_score):
    n = len(label_score)
    return Predictions(torch.zeros(n, 3), torch.full((n, 3), 1 / 3), torch.zeros(n), torch.tensor(label_score))


def test_how_well_wrong_labels_are_ranked_by_hand():
    dataset = make_dataset([0, 1, 2, 0, -1, -100], clean_labels=[0, 2, 2, 1, 0, 0])
    result = label_score_metrics(make_predictions([0.3, 0.2, 0.1, 0.9, math.nan, math.nan]), dataset)
    # wrong 0.2, 0.9 against right 0.3, 0.1: three of four pairs are in order; rows without a label count nowhere
    assert result == pytest.approx({"label_score_auroc": 3 / 4, "label_score_average_precision": (1 + 2 / 3) / 2})


@pytest.mark.parametrize(
    ("labels", "clean_labels"),
    [([0, 1, 2], None), ([0, 1, 2], [0, 1, 2]), ([0, 1, 2], [1, 2, 0]), ([0, 1, -1], [0, 1, 2]), ([-1, -100], [0, 0])],
    ids=["not known", "nothing wrong", "all wrong", "wrong only without a label", "no labels"],
)
def test_there_is_no_ranking_without_both_right_and_wrong_labels(labels, clean_labels):
    dataset = make_dataset(labels, clean_labels=clean_labels)
    assert label_score_metrics(make_predictions([0.1, 0.2, 0.3][: len(labels)]), dataset) == {}


def test_validation_numbers_are_of_the_labelled_samples():
    dataset = make_dataset([0, 1, -1, 1, -100, 2])
    p = LOGITS.softmax(1)[[0, 1, 3, 5], [0, 1, 1, 2]]
    assert validation_metrics(make_model(), dataset) == pytest.approx(
        {"validation_accuracy": 0.75, "validation_nll": -p.log().mean().item()}
    )


def test_the_validation_loss_of_an_impossible_label_is_finite():
    dataset = make_dataset([1], logits=torch.tensor([[1e4, 0.0, 0.0]]))
    assert validation_metrics(make_model(), dataset) == pytest.approx(
        {"validation_accuracy": 0.0, "validation_nll": 126 * math.log(2)}  # the smallest normal float32 is 2**-126
    )
