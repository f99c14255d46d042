"""The abstraction, proved with objectives as unlike as those to come."""

import pytest
import torch
from tiny_objectives import NeedsClassCounts, NeedsIndex, Net, NotExclusive, TakesFeatures, TakesOtherLogits

import catchment as ct
from catchment.objective import label_distance
from catchment.training import TrainingConfig

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])


def test_defaults_are_softmax_its_complement_and_the_given_labels_complement():
    objective = ct.Objective()
    p = LOGITS.softmax(1)
    torch.testing.assert_close(objective.probabilities(LOGITS), p)
    torch.testing.assert_close(objective.unknown_score(LOGITS), 1 - torch.stack([p[0, 0], p[1, 2]]))
    torch.testing.assert_close(objective.label_score(LOGITS, torch.tensor([1, 2])), 1 - torch.stack([p[0, 1], p[1, 2]]))
    assert objective.make_head(5, 3).out_features == 3


def test_label_score_without_a_label_is_nan():
    score = ct.Objective().label_score(LOGITS, torch.tensor([-1, -100]))
    assert score.isnan().all()


def test_no_label_of_a_narrow_dtype_is_taken_for_a_missing_one():
    logits = torch.zeros(2, 256)
    target = torch.tensor([156, 255], dtype=torch.uint8)  # -100 and -1, were they signed
    torch.testing.assert_close(ct.Objective().label_score(logits, target), torch.full((2,), 255 / 256))
    assert not NotExclusive().label_score(logits, target).isnan().any()


def test_half_precision_logits_give_float32_probabilities():
    assert ct.Objective().probabilities(LOGITS.half()).dtype == torch.float32


def test_label_score_per_class_where_classes_do_not_exclude_each_other():
    objective = NotExclusive()
    p = LOGITS.sigmoid()
    score = objective.label_score(LOGITS, torch.tensor([0, -1]))
    torch.testing.assert_close(score[0], torch.stack([1 - p[0, 0], p[0, 1], p[0, 2]]))
    torch.testing.assert_close(score[1], p[1])  # -1: none of the classes, so every class counts against it
    many = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(objective.label_score(LOGITS, many), (p - many).abs())
    assert objective.label_score(LOGITS, torch.tensor([-100, 0]))[0].isnan().all()


@pytest.mark.parametrize("objective", [NeedsIndex(), TakesOtherLogits(), NeedsClassCounts(), TakesFeatures()])
def test_model_gives_each_objective_what_it_asks_for(objective):
    torch.manual_seed(0)
    objective.setup(num_samples=10, class_counts=torch.tensor([5, 3, 2]))
    model = ct.Model(Net(objective), objective)
    batch = {
        "inputs": torch.randn(4, 4),
        "target": torch.tensor([0, 1, 1, 0]),
        "index": torch.tensor([7, 2, 3, 9]),
        "progress": torch.tensor(0.5),
        "noise_robust_logits": torch.randn(4, 3),
    }
    outputs = model.net(batch["inputs"])
    expected = objective(
        *(outputs[name] for name in objective.inputs), batch["target"], **{k: batch[k] for k in objective.needs}
    )
    if isinstance(objective, NeedsIndex):
        objective.targets.zero_()
    torch.testing.assert_close(model(batch), expected)


def test_inference_state_leaves_out_per_sample_state_and_keeps_the_rest():
    index, counts = NeedsIndex(), NeedsClassCounts()
    combined = ct.Combined([(counts, 1.0), (index, 0.5)])
    combined.setup(num_samples=10, class_counts=torch.tensor([5, 3, 2]))
    model = ct.Model(Net(combined), combined)
    assert "objective.terms.1.targets" in model.state_dict()
    state = model.inference_state()
    assert set(state) == {
        "net.body.weight", "net.body.bias", "net.head.weight", "net.head.bias", "objective.terms.0.log_prior",
    }  # fmt: skip


def test_inference_state_loads_into_a_model_set_up_alike_and_no_other():
    def build(counts):
        objective = NeedsClassCounts()
        objective.setup(num_samples=10, class_counts=torch.tensor(counts))
        return ct.Model(Net(objective), objective)

    saved, loaded = build([5, 3, 2]), build([4, 4, 2])
    loaded.load_inference_state(saved.inference_state())
    torch.testing.assert_close(loaded.objective.log_prior, torch.tensor([0.5, 0.3, 0.2]).log())
    torch.testing.assert_close(loaded.net.head.weight, saved.net.head.weight)
    plain = ct.Model(Net(ct.CrossEntropy()), ct.CrossEntropy())
    with pytest.raises(ValueError, match="does not fit"):
        plain.load_inference_state(saved.inference_state())


def test_combined_adds_weighted_terms_and_hands_each_its_inputs():
    combined = ct.Combined([(TakesOtherLogits(), 1.0), (TakesFeatures(), 0.25), (NeedsIndex(), 2.0)])
    assert combined.inputs == ("logits", "features")
    assert combined.needs == ("noise_robust_logits", "progress", "index")
    combined.setup(num_samples=4, class_counts=torch.tensor([2, 1, 1]))
    logits, features, target = torch.randn(4, 3), torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
    other, index, progress = torch.randn(4, 3), torch.arange(4), torch.tensor(0.3)
    loss = combined(logits, features, target, noise_robust_logits=other, index=index, progress=progress)
    alone = NeedsIndex()
    alone.setup(num_samples=4, class_counts=torch.tensor([2, 1, 1]))
    expected = (
        TakesOtherLogits()(logits, target, noise_robust_logits=other, progress=progress)
        + 0.25 * TakesFeatures()(features, target)
        + 2.0 * alone(logits, target, index=index)
    )
    torch.testing.assert_close(loss, expected)


def test_combined_reads_outputs_through_its_first_term():
    combined = ct.Combined([(ct.DrainageLoss(), 1.0), (TakesFeatures(), 0.5)])
    logits = torch.randn(3, 4)
    assert combined.extra_outputs == 1
    assert combined.make_head(6, 3).classifier.out_features == 4
    torch.testing.assert_close(combined.probabilities(logits), ct.closed_probabilities(logits))
    torch.testing.assert_close(combined.unknown_score(logits), ct.open_probabilities(logits)[:, -1])
    target = torch.tensor([0, 1, 2])
    torch.testing.assert_close(combined.label_score(logits, target), ct.DrainageLoss().label_score(logits, target))
    assert not ct.Combined([(NotExclusive(), 1.0)]).exclusive


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "no terms"),
        ([(TakesFeatures(), 1.0)], "must take logits"),
        ([(ct.CrossEntropy(), 1.0), (ct.DrainageLoss(), 1.0)], "DrainageLoss 1: combine objectives that agree"),
    ],
)
def test_combined_refuses_terms_that_do_not_fit(terms, message):
    with pytest.raises(ValueError, match=message):
        ct.Combined(terms)


def test_methods_are_described_completely():
    for method in ct.list_objectives():
        assert issubclass(method.cls, ct.Objective)
        assert method.name == method.name.lower()
        assert method.url.startswith("https://")
        assert all((method.paper, method.formula, method.purpose, method.year))
        for settings in method.presets.values():
            assert set(settings) == {"objective", "training"}
            assert TrainingConfig.from_dict(settings["training"]).learning_rate == settings["training"]["learning_rate"]


def test_the_distance_from_label_sets_takes_truth_values_and_leaves_out_what_is_not_known():
    p = torch.tensor([[0.9, 0.2, 0.5]])
    torch.testing.assert_close(label_distance(p, torch.tensor([[True, False, True]])), torch.tensor([[0.1, 0.2, 0.5]]))
    partly = label_distance(p, torch.tensor([[1, -100, 0]]))
    torch.testing.assert_close(partly, torch.tensor([[0.1, torch.nan, 0.5]]), equal_nan=True)
